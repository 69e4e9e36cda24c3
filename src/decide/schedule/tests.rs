//! One test per filter and score, and the property that matters most.

use proptest::prelude::*;

use super::{Failures, Filter, NO_FAILURES, Room, Want};
use crate::decide::fixture::World;
use crate::model::{Cpu, DeploymentId, Memory, NodeId, Resources};

fn want(name: &str) -> Want<'_> {
    Want {
        deployment: DeploymentId(uuid::Uuid::from_u128(u128::from(name.len() as u64))),
        name,
        resources: Resources { cpu: Cpu::from_millis(500), memory: Memory::from_mebibytes(512) },
        arch: None,
        constraints: &[],
        home: None,
        failures: &NO_FAILURES,
    }
}

#[test]
fn each_filter_refuses_and_says_so() {
    let mut world = World::with_nodes(7);
    world.absent(1);
    world.change_node(2, |node| node.cordoned = true);
    world.change_node(3, |node| node.engine = Err("no socket answers".to_owned()));
    world.change_node(4, |node| node.arch = "arm64".to_owned());
    for node in [6, 7] {
        world.change_node(node, |node| drop(node.labels.insert("disk".to_owned(), "ssd".to_owned())));
    }
    world.change_node(7, |node| node.resources.cpu.millis = 400);
    let constraints = ["disk=ssd".to_owned()];
    let want = Want { arch: Some("amd64"), constraints: &constraints, home: Some(NodeId(7)), ..want("web") };
    let refusal = Room::of(world.situation()).place(&want).expect_err("no node will do");
    let filters: Vec<Filter> = refusal.nodes.iter().map(|(filter, _)| *filter).collect();
    assert_eq!(
        filters,
        [
            Filter::Alive,
            Filter::Cordoned,
            Filter::Engine,
            Filter::Architecture,
            Filter::Constraints,
            Filter::Volumes,
            Filter::Capacity
        ]
    );
    assert_eq!(
        refusal.to_string(),
        "no node can take it: 1 of 7 nodes does not answer: node n1 does not answer; \
         1 of 7 nodes is cordoned: node n2 is cordoned; \
         1 of 7 nodes has no container engine: node n3 has no container engine: no socket answers; \
         1 of 7 nodes has another architecture: node n4 is arm64, the image is for amd64; \
         1 of 7 nodes lacks a label: node n5 has no label disk=ssd; \
         1 of 7 nodes does not hold the volumes: node n6 has not the volumes of web; \
         1 of 7 nodes has no room: node n7 has 0.4 of 4 cores free, 0.5 asked"
            .replace("0.4 of 4 cores", "0.4 of 0.4 cores")
    );
}

#[test]
fn a_node_on_which_it_failed_is_tried_last() {
    let world = World::with_nodes(3);
    let mut room = Room::of(world.situation());
    let failures = Failures::from([(NodeId(1), 1), (NodeId(2), 2)]);
    let once_bitten = Want { failures: &failures, ..want("web") };
    let placed: Vec<u64> = (0..2).map(|_| room.place(&once_bitten).expect("there is room").node.0).collect();
    assert_eq!(placed, [3, 3], "rather beside another replica than there");
    room.block(NodeId(3));
    assert_eq!(room.place(&once_bitten).expect("there is room").node, NodeId(1), "and where it failed less");
    room.block(NodeId(1));
    room.block(NodeId(2));
    // They answer: what is only thought is said to be.
    assert_eq!(
        room.place(&once_bitten).expect_err("nowhere").to_string(),
        "no node can take it: 3 of 3 nodes would be gone: node n1 would be gone, node n2 would be gone, node n3 would be gone"
    );
}

#[test]
fn a_cluster_without_nodes_says_so() {
    let world = World::with_nodes(0);
    let refusal = Room::of(world.situation()).place(&want("web")).expect_err("nowhere to go");
    assert_eq!(refusal.to_string(), "the cluster has no node");
}

#[test]
fn many_refusals_are_counted() {
    let mut world = World::with_nodes(5);
    for node in 1..=5 {
        world.change_node(node, |node| node.resources.memory = Memory::from_mebibytes(100));
    }
    let refusal = Room::of(world.situation()).place(&want("web")).expect_err("too small");
    assert_eq!(
        refusal.to_string(),
        "no node can take it: 5 of 5 nodes have no room: node n1 has 100Mi of 100Mi memory free, 512Mi asked, \
         node n2 has 100Mi of 100Mi memory free, 512Mi asked, node n3 has 100Mi of 100Mi memory free, 512Mi asked, \
         and 2 more"
    );
}

#[test]
fn replicas_spread_over_nodes_then_zones_then_by_room() {
    let mut world = World::with_nodes(4);
    for (node, zone) in [(1, "a"), (2, "a"), (3, "a"), (4, "b")] {
        world.change_node(node, |node| drop(node.labels.insert("zone".to_owned(), zone.to_owned())));
    }
    world.change_node(2, |node| node.resources.memory = Memory::from_mebibytes(8_192));
    world.change_node(2, |node| node.resources.cpu.millis = 8_000);
    let mut room = Room::of(world.situation());
    let placed = room.place_all(&want("web"), 5).expect("there is room");
    let nodes: Vec<u64> = placed.iter().map(|placement| placement.node.0).collect();
    // The first two go to different zones, then each node gets one, then the roomiest a second one.
    assert_eq!(nodes[0], 1);
    assert_eq!(nodes[1], 4, "the zone without a replica");
    assert_eq!(nodes[2..4].iter().copied().collect::<std::collections::BTreeSet<_>>(), [2, 3].into());
    assert_eq!(placed[1].reasons[1], "it runs no other replica of this version of web");
    assert_eq!(placed[1].reasons[2], "its zone b has 0 of them");
    assert!(placed[4].reasons[1].starts_with("it runs 1 other replica"), "{:?}", placed[4].reasons);
}

#[test]
fn the_node_with_most_room_takes_a_new_service() {
    let mut world = World::with_nodes(3);
    world.service("web", |spec| spec.replicas = 2);
    world.deploy("web");
    world.run_until_quiet();
    let mut room = Room::of(world.situation());
    assert_eq!(room.place(&want("api")).expect("room").node, NodeId(3));
}

#[test]
fn all_or_nothing_leaves_no_trace_when_it_is_nothing() {
    let world = World::with_nodes(2);
    let mut room = Room::of(world.situation());
    assert!(room.place_all(&want("web"), 17).is_err());
    let placed = room.place_all(&want("web"), 16).expect("exactly what there is");
    assert_eq!(placed.len(), 16);
}

#[test]
fn instances_of_a_service_with_volumes_go_home_or_nowhere() {
    let mut world = World::with_nodes(2);
    let home = Want { home: Some(NodeId(2)), ..want("db") };
    let placed = Room::of(world.situation()).place(&home).expect("room at home");
    assert_eq!((placed.node, placed.reasons[1].as_str()), (NodeId(2), "it holds the volumes of db"));
    world.change_node(2, |node| node.cordoned = true);
    assert!(Room::of(world.situation()).place(&home).is_err());
}

proptest! {
    #[test]
    fn no_node_is_ever_given_more_than_it_has(
        sizes in prop::collection::vec((500_u64..8_000, 256_u64..8_192), 1..8),
        asks in prop::collection::vec((0_usize..4, 50_u64..3_000, 16_u64..3_000, 1_u32..6), 1..40),
    ) {
        let mut world = World::with_nodes(sizes.len() as u64);
        for (node, (millis, mebibytes)) in (1..).zip(&sizes) {
            world.change_node(node, |node| {
                node.resources.cpu = Cpu::from_millis(*millis);
                node.resources.memory = Memory::from_mebibytes(*mebibytes);
            });
        }
        let names = ["a", "bb", "ccc", "dddd"];
        let mut room = Room::of(world.situation());
        let mut used = std::collections::BTreeMap::<NodeId, (u64, u64)>::new();
        for (service, millis, mebibytes, count) in asks {
            let resources = Resources { cpu: Cpu::from_millis(millis), memory: Memory::from_mebibytes(mebibytes) };
            let want = Want { resources, ..want(names[service]) };
            let Ok(placed) = room.place_all(&want, count) else { continue };
            prop_assert_eq!(placed.len(), count as usize);
            for placement in placed {
                let (cpu, memory) = used.entry(placement.node).or_default();
                *cpu += millis;
                *memory += mebibytes;
            }
        }
        for (node, (cpu, memory)) in used {
            let (millis, mebibytes) = sizes[node.0 as usize - 1];
            prop_assert!(cpu <= millis && memory <= mebibytes, "{} of {}, {} of {}", cpu, millis, memory, mebibytes);
        }
    }
}
