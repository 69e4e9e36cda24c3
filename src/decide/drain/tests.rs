//! One test per rule of a drain, and what must hold whatever happens meanwhile.

use proptest::prelude::*;

use super::*;
use crate::decide::explain::explain_instance;
use crate::decide::fixture::World;
use crate::model::{DeploymentId, HealthCheck, Probe, Timestamp, Volume};
use crate::state::Command;

const DRAIN: Drain = Drain { since: Timestamp(0), stop_exclusive: false, stop_volumes: false };

fn one_of_two() -> (World, DeploymentId, Instance) {
    let mut world = World::with_nodes(2);
    world.service("web", |_| {});
    let deployment = world.deploy("web");
    world.run_until_quiet();
    let first = Instance::clone(&world.live_instances(deployment)[0]);
    assert_eq!(first.placement.node, NodeId(1));
    (world, deployment, first)
}

/// Instances that get requests.
fn serving(world: &World) -> usize {
    crate::decide::routes(&world.state, NodeId(1)).routes["web-shop.localhost"].backends.len()
}

#[test]
fn the_new_one_works_before_the_old_one_ends() {
    let (mut world, deployment, first) = one_of_two();
    world.drain(1, false, false);
    world.settle_rounds();
    let [old, new] = &world.live_instances(deployment)[..] else { panic!("both are there") };
    let (old, new) = if old.id == first.id { (old.id, new.id) } else { (new.id, old.id) };
    assert_eq!(world.state.instance(new).expect("made").placement.node, NodeId(2));
    assert_eq!(outlook(world.situation(), NodeId(1)), [(old, Fate::Moving(new))]);
    world.comes_up(new);
    world.settle_rounds();
    assert_eq!(serving(&world), 2, "it has not shown yet that it goes on");
    world.pass(2);
    world.settle_rounds();
    assert_eq!(serving(&world), 1);
    let reason = world.state.instance(old).expect("kept").stop_requested.clone();
    assert_eq!(reason, Some(format!("node n1 is drained; instance {} has taken its place", new.short())));
    let lines = explain_instance(world.situation(), new).expect("exists").lines.join("\n");
    assert!(lines.contains(&format!("it takes the place of instance {}: node n1 is drained", old.short())), "{lines}");
    assert!(lines.contains("it moved from node n1 to node n2"), "{lines}");
    world.run_until_quiet();
    assert_eq!(outlook(world.situation(), NodeId(1)), []);
    assert_eq!(world.live_instances(deployment).len(), 1);
    // Back to work: nothing moves by itself.
    world.uncordon(1);
    world.run_until_quiet();
    assert_eq!(world.live_instances(deployment)[0].id, new);
}

#[test]
fn without_room_it_stays_and_says_so_until_there_is_some() {
    let (mut world, deployment, first) = one_of_two();
    world.change_node(2, |node| node.resources.cpu.millis = 100);
    world.drain(1, false, false);
    world.run_until_quiet();
    assert_eq!(world.live_instances(deployment)[0].id, first.id);
    let refusal = "no node can take it: 1 of 2 nodes is cordoned: node n1 is drained; 1 of 2 nodes has no room: node n2 \
                   has 0.1 of 0.1 cores free, 0.5 asked";
    assert_eq!(outlook(world.situation(), NodeId(1)), [(first.id, Fate::Waits(refusal.to_owned()))]);
    assert_eq!(world.reason(deployment), format!("replica 0 waits to leave, since node n1 is drained: {refusal}"));
    world.change_node(2, |node| node.resources.cpu.millis = 4_000);
    world.run_until_quiet();
    assert_eq!(world.live_instances(deployment)[0].placement.node, NodeId(2));
    assert_eq!(world.deployment(deployment).reason, None);
}

#[test]
fn what_runs_alone_stays_unless_it_may_be_stopped() {
    let mut world = World::with_nodes(2);
    world.service("db", |spec| {
        spec.volumes = vec![Volume { name: "data".to_owned(), path: "/data".to_owned(), size: None }];
    });
    world.service("bot", |spec| spec.exclusive = true);
    world.change_node(2, |node| node.cordoned = true);
    let (db, bot) = (world.deploy("db"), world.deploy("bot"));
    world.run_until_quiet();
    world.change_node(2, |node| node.cordoned = false);
    let [db_before, bot_before] = [db, bot].map(|id| world.live_instances(id)[0].id);
    world.drain(1, false, false);
    assert_eq!(world.decide().commands, []);
    let found = outlook(world.situation(), NodeId(1));
    assert!(
        matches!(&found[..], [(_, Fate::Stays(volumes)), (_, Fate::Stays(exclusive))]
        if volumes.contains("volumes") && exclusive.contains("exclusive")),
        "{found:?}"
    );

    world.drain(1, true, true);
    let found = outlook(world.situation(), NodeId(1));
    assert!(matches!(&found[..], [(_, Fate::EndsUntilBack), (_, Fate::EndsFirst(there))] if there.node == NodeId(2)));
    world.settle_rounds();
    assert_eq!((world.live_instances(db).len(), world.live_instances(bot).len()), (0, 0), "told to end first");
    assert!(world.reason(bot).contains("waits for its instance before to stop: it is exclusive"));
    world.run_until_quiet();
    assert_eq!(world.live_instances(bot)[0].placement.node, NodeId(2));
    assert_ne!(world.live_instances(bot)[0].id, bot_before);
    assert!(world.reason(db).contains("node n1 is drained"), "{}", world.reason(db));
    assert_eq!(outlook(world.situation(), NodeId(1)), []);
    world.uncordon(1);
    world.run_until_quiet();
    let after = world.live_instances(db)[0].clone();
    assert_eq!(after.placement.node, NodeId(1), "where its data is");
    assert_ne!(after.id, db_before);
}

#[test]
fn an_exclusive_one_is_not_stopped_without_a_place_to_go() {
    let mut world = World::with_nodes(1);
    world.service("bot", |spec| spec.exclusive = true);
    let bot = world.deploy("bot");
    world.run_until_quiet();
    world.drain(1, true, true);
    world.run_until_quiet();
    assert_eq!(world.live_instances(bot).len(), 1);
    assert!(world.reason(bot).contains("node n1 is drained"), "{}", world.reason(bot));
}

#[test]
fn a_new_one_that_fails_costs_the_old_one_nothing() {
    let (mut world, deployment, first) = one_of_two();
    world.drain(1, false, false);
    for attempt in 0..3 {
        world.settle_rounds();
        let live = world.live_instances(deployment);
        let new = live.iter().find(|instance| instance.id != first.id).expect("tried again");
        assert_eq!(new.attempt, attempt);
        world.now = world.now.max(new.start_after);
        let new = new.id;
        world.fails(new, 1);
        assert_eq!(serving(&world), 1);
    }
    // Nobody wants it to go any more: what serves goes on, and nothing more is tried.
    world.uncordon(1);
    assert_eq!(world.decide().commands, []);
    assert_eq!(world.live_instances(deployment)[0].id, first.id);
}

#[test]
fn one_that_serves_nobody_is_not_waited_for() {
    let (mut world, deployment, first) = one_of_two();
    world.report(first.id, |status| status.health = crate::model::Health::Unhealthy);
    world.drain(1, false, false);
    world.settle_rounds();
    let new = world.live_instances(deployment).iter().find(|i| i.id != first.id).expect("made").id;
    world.report(new, |status| {
        status.state = crate::model::InstanceState::Running;
        status.health = crate::model::Health::Starting;
    });
    world.settle_rounds();
    assert_eq!(world.live_instances(deployment)[0].id, new);
}

#[test]
fn a_rollout_goes_on_beside_a_drain() {
    let (mut world, first, _) = one_of_two();
    let check = HealthCheck { probe: Probe::Tcp { port: None }, interval_seconds: 1, timeout_seconds: 1, retries: 3 };
    world.change_spec("web", |spec| spec.health_check = Some(check));
    world.change_node(2, |node| node.cordoned = true);
    let second = world.deploy("web");
    world.settle_rounds();
    world.change_node(2, |node| node.cordoned = false);
    let coming = world.live_instances(second)[0].id;
    assert_eq!(world.live_instances(second)[0].placement.node, NodeId(1));
    world.drain(1, false, false);
    world.settle_rounds();
    let found = outlook(world.situation(), NodeId(1));
    let of_second = found.iter().find(|(id, _)| *id == coming).expect("is there");
    assert!(matches!(&of_second.1, Fate::Waits(why) if why.contains("version 2 is scheduled")), "{found:?}");
    world.run_until_quiet();
    assert_eq!(world.live_instances(first), []);
    assert_eq!(world.live_instances(second)[0].placement.node, NodeId(2));
    assert_eq!(world.state.live_instances().count(), 1);
}

#[test]
fn asking_changes_nothing_and_says_what_happens_then() {
    let mut world = World::with_nodes(4);
    world.service("web", |spec| spec.replicas = 5);
    world.service("api", |spec| spec.resources.cpu.millis = 1_500);
    world.deploy("web");
    world.deploy("api");
    world.run_until_quiet();
    let asked = outlook_if(world.situation(), NodeId(1), DRAIN);
    assert_eq!(world.decide().commands, []);
    world.drain(1, false, false);
    let plan = world.round();
    let mut begun = Vec::new();
    for command in plan.commands {
        let Command::AssignInstances { instances, .. } = command else { continue };
        begun.extend(
            instances.into_iter().map(|new| (new.relocation.expect("a move").from, Fate::Moves(new.placement))),
        );
    }
    assert!(!begun.is_empty());
    assert_eq!(asked, begun);
    assert_eq!(outlook_if(world.situation(), NodeId(9), DRAIN), []);
}

/// What happens between two rounds of the leader.
#[derive(Clone, Debug)]
enum Event {
    Drain(u64),
    Uncordon(u64),
    /// An instance comes up or ends.
    Step(usize),
    /// A new one fails before it ever worked.
    FailNew,
    Pass(u64),
    Round,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (1_u64..4).prop_map(Event::Drain),
        1 => (1_u64..4).prop_map(Event::Uncordon),
        6 => (0_usize..8).prop_map(Event::Step),
        1 => Just(Event::FailNew),
        3 => (1_u64..4).prop_map(Event::Pass),
        6 => Just(Event::Round),
    ]
}

fn step(world: &mut World, choice: usize) {
    let now = world.now;
    let movable = world.state.live_instances().filter(|instance| {
        instance.stop_requested.is_some()
            || (instance.status.state < crate::model::InstanceState::Running && instance.start_after <= now)
    });
    let movable: Vec<_> = movable.cloned().collect();
    let Some(instance) = movable.get(choice % movable.len().max(1)) else { return };
    match instance.stop_requested {
        Some(_) => world.report(instance.id, |status| status.state = crate::model::InstanceState::Stopped),
        None => world.comes_up(instance.id),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn a_drain_never_costs_a_visitor_anything_and_ends(
        replicas in 1_u32..4,
        check in any::<bool>(),
        events in prop::collection::vec(event(), 1..80),
    ) {
        let mut world = World::with_nodes(3);
        world.service("web", |spec| {
            spec.replicas = replicas;
            let probe = Probe::Tcp { port: None };
            spec.health_check =
                check.then_some(HealthCheck { probe, interval_seconds: 1, timeout_seconds: 1, retries: 3 });
        });
        let deployment = world.deploy("web");
        world.run_until_quiet();
        for event in events {
            match event {
                Event::Drain(node) => world.drain(node, true, true),
                Event::Uncordon(node) => world.uncordon(node),
                Event::Step(choice) => step(&mut world, choice),
                Event::FailNew => {
                    let young = world.state.live_instances().find(|instance| {
                        instance.relocation.is_some() && instance.status.state < crate::model::InstanceState::Running
                    });
                    if let Some(young) = young.map(|instance| instance.id) {
                        world.fails(young, 1);
                    }
                }
                Event::Pass(seconds) => world.pass(seconds),
                Event::Round => {
                    let blocked: Vec<NodeId> =
                        world.state.nodes().filter(|node| node.cordoned).map(|node| node.id).collect();
                    for command in world.round().commands {
                        let Command::AssignInstances { instances, .. } = command else { continue };
                        prop_assert!(instances.iter().all(|new| !blocked.contains(&new.placement.node)));
                    }
                }
            }
            prop_assert!(serving(&world) >= replicas as usize, "{} serve", serving(&world));
        }
        // One node takes everything: there is room on each.
        for node in 1..=3 {
            if node == 2 { world.uncordon(node) } else { world.drain(node, false, false) }
        }
        for _ in 0..40 {
            world.run_until_quiet();
            world.pass(30);
        }
        prop_assert!(world.live_instances(deployment).iter().all(|instance| instance.placement.node == NodeId(2)));
        prop_assert_eq!(world.state.live_instances().count(), replicas as usize);
        prop_assert_eq!(serving(&world), replicas as usize);
    }
}
