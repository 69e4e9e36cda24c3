//! One test per reason to move, and that moving ends.

use proptest::prelude::*;

use super::*;
use crate::decide::fixture::World;
use crate::model::{Memory, Volume};

const ANY: usize = 1_000;

fn on(world: &World, node: u64) -> usize {
    world.state.live_instances().filter(|instance| instance.placement.node == NodeId(node)).count()
}

fn without_node_two(world: &mut World, names: &[&str]) {
    world.change_node(2, |node| node.cordoned = true);
    for name in names {
        world.deploy(name);
    }
    world.run_until_quiet();
    world.change_node(2, |node| node.cordoned = false);
}

fn rebalance(world: &mut World, budget: u32) {
    // No fixture has a cluster row, since nothing else needs one.
    let row = crate::state::sample_records().into_iter().next().expect("the cluster");
    world.replace(row);
    world.command(Command::Rebalance { budget });
    world.run_until_quiet();
    assert_eq!(world.state.cluster().expect("a cluster").rebalance, 0);
}

#[test]
fn replicas_on_one_node_are_spread_start_first() {
    let mut world = World::with_nodes(2);
    world.service("web", |spec| spec.replicas = 4);
    without_node_two(&mut world, &["web"]);
    let proposals = propose(world.situation(), ANY);
    assert_eq!(proposals.len(), 2, "{proposals:?}");
    assert!(proposals.iter().all(|one| one.from == NodeId(1) && one.to.node == NodeId(2)), "{proposals:?}");
    assert_eq!(proposals[0].reason, "node n1 runs 3 more of web");
    assert_eq!(propose(world.situation(), 1).len(), 1);
    assert_eq!(world.decide().commands, [], "nobody asked for it");
    rebalance(&mut world, 1);
    assert_eq!((on(&world, 1), on(&world, 2)), (3, 1));
    rebalance(&mut world, 10);
    assert_eq!((on(&world, 1), on(&world, 2)), (2, 2));
    assert_eq!(propose(world.situation(), ANY), []);
}

#[test]
fn what_lost_its_label_moves_first() {
    let mut world = World::with_nodes(2);
    for node in [1, 2] {
        world.change_node(node, |node| drop(node.labels.insert("disk".to_owned(), "ssd".to_owned())));
    }
    world.service("web", |spec| spec.constraints = vec!["disk=ssd".to_owned()]);
    world.service("pair", |spec| spec.replicas = 2);
    without_node_two(&mut world, &["web", "pair"]);
    world.change_node(1, |node| drop(node.labels.remove("disk")));
    let proposals = propose(world.situation(), 1);
    assert_eq!(proposals[0].reason, "node n1 has not the labels that it asks for any more");
    rebalance(&mut world, 10);
    assert_eq!(propose(world.situation(), ANY), []);
}

#[test]
fn a_full_node_gives_to_an_empty_one_when_that_is_worth_it() {
    let mut world = World::with_nodes(2);
    let names = ["a", "b", "c", "d"];
    for name in names {
        world.service(name, |spec| spec.resources.cpu.millis = 900);
    }
    without_node_two(&mut world, &names);
    rebalance(&mut world, 10);
    assert_eq!((on(&world, 1), on(&world, 2)), (2, 2));
    // Small differences are left alone.
    world.service("e", |_| {});
    world.deploy("e");
    world.run_until_quiet();
    assert_eq!(propose(world.situation(), ANY), []);
}

#[test]
fn what_runs_alone_and_what_is_cordoned_is_left_where_it_is() {
    let mut world = World::with_nodes(2);
    world.service("db", |spec| {
        spec.resources.cpu.millis = 2_000;
        spec.volumes = vec![Volume { name: "data".to_owned(), path: "/data".to_owned(), size: None }];
    });
    world.service("bot", |spec| {
        spec.resources.cpu.millis = 2_000;
        spec.exclusive = true;
    });
    without_node_two(&mut world, &["db", "bot"]);
    assert_eq!(propose(world.situation(), ANY), []);
    world.service("web", |spec| {
        spec.replicas = 2;
        spec.resources.cpu.millis = 100;
    });
    world.deploy("web");
    world.run_until_quiet();
    world.change_node(1, |node| node.cordoned = true);
    assert_eq!(propose(world.situation(), ANY), []);
}

#[test]
fn a_new_one_that_fails_leaves_all_as_it_was() {
    let mut world = World::with_nodes(2);
    world.service("web", |spec| spec.replicas = 2);
    without_node_two(&mut world, &["web"]);
    let row = crate::state::sample_records().into_iter().next().expect("the cluster");
    world.replace(row);
    world.command(Command::Rebalance { budget: 5 });
    world.settle_rounds();
    let new = world.state.live_instances().find(|instance| instance.relocation.is_some()).expect("begun").id;
    world.fails(new, 1);
    world.run_until_quiet();
    assert_eq!((on(&world, 1), on(&world, 2)), (2, 0), "it is not tried again by itself");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn moving_ends_never_overbooks_and_leaves_nothing_to_propose(
        services in prop::collection::vec((1_u32..4, 1_u64..12), 1..10),
        closed in prop::collection::vec(any::<bool>(), 3),
        budget in 1_u32..6,
    ) {
        let mut world = World::with_nodes(4);
        world.change_node(3, |node| drop(node.labels.insert("zone".to_owned(), "z".to_owned())));
        for (number, shut) in (2..).zip(&closed) {
            world.change_node(number, |node| node.cordoned = *shut);
        }
        for (number, (replicas, size)) in services.iter().enumerate() {
            let name = format!("s{number}");
            world.service(&name, |spec| {
                spec.replicas = *replicas;
                spec.resources.cpu.millis = 50 * size;
                spec.resources.memory = Memory::from_mebibytes(16 * size);
            });
            world.deploy(&name);
        }
        world.run_until_quiet();
        for node in 1..=4 {
            world.change_node(node, |node| node.cordoned = false);
        }
        // What found no room before has it now.
        world.run_until_quiet();
        let before = world.state.live_instances().count();
        for _ in 0..60 {
            if propose(world.situation(), ANY).is_empty() {
                break;
            }
            prop_assert!(propose(world.situation(), budget as usize).len() <= budget as usize);
            rebalance(&mut world, budget);
            for node in world.state.nodes() {
                let on_it = world.state.live_instances().filter(|instance| instance.placement.node == node.id);
                let used: u64 = on_it.map(|i| world.deployment(i.deployment).spec.resources.cpu.millis).sum();
                prop_assert!(used <= node.resources.cpu.millis);
            }
        }
        prop_assert_eq!(propose(world.situation(), ANY), vec![]);
        prop_assert_eq!(world.state.live_instances().count(), before);
    }
}
