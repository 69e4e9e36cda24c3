//! One test per rule of a rollout.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::decide::fixture::{World, has_data};
use crate::model::{
    DeploymentId, DeploymentStatus, Desired, Exit, Health, HealthCheck, InstanceState, Memory, NodeId, Probe,
    Timestamp, Volume,
};
use crate::state::Command;

fn one_service() -> World {
    let mut world = World::with_nodes(1);
    world.service("web", |_| {});
    world
}

/// A service that runs version 1, and version 2 with an instance assigned.
fn second_version(change: impl FnOnce(&mut crate::model::ServiceSpec)) -> (World, DeploymentId, DeploymentId) {
    let mut world = World::with_nodes(1);
    world.service("web", change);
    let first = world.deploy("web");
    world.run_until_quiet();
    assert_eq!(world.deployment(first).status, DeploymentStatus::Running);
    let second = world.deploy("web");
    world.settle_rounds();
    (world, first, second)
}

fn tcp_check() -> HealthCheck {
    HealthCheck { probe: Probe::Tcp { port: None }, interval_seconds: 1, timeout_seconds: 1, retries: 3 }
}

fn volume() -> Volume {
    Volume { name: "data".to_owned(), path: "/data".to_owned(), size: None }
}

#[test]
fn a_first_deployment_goes_through_its_states_and_serves() {
    let mut world = one_service();
    let deployment = world.deploy("web");
    assert_eq!(world.deployment(deployment).status, DeploymentStatus::Built);
    world.round();
    assert_eq!(world.deployment(deployment).status, DeploymentStatus::Scheduled);
    let instance = world.live_instances(deployment)[0].id;
    world.report(instance, |status| status.state = InstanceState::Pulling);
    world.round();
    assert_eq!(world.deployment(deployment).status, DeploymentStatus::Starting);
    world.comes_up(instance);
    world.round();
    assert_eq!(world.deployment(deployment).status, DeploymentStatus::Running, "at once, since nothing serves yet");
    assert_eq!(world.service_row("web").serving, Some(deployment));
    assert_eq!(world.decide().commands, []);
}

#[test]
fn a_deployment_waits_for_what_it_depends_on_and_says_so() {
    let mut world = World::with_nodes(1);
    world.service("db", |_| {});
    world.service("web", |spec| spec.depends_on = BTreeSet::from(["db".to_owned()]));
    let web = world.deploy("web");
    world.settle_rounds();
    assert_eq!(world.deployment(web).status, DeploymentStatus::Built);
    assert_eq!(world.reason(web), "waits for db, which it depends on and which was never deployed; deploy db");
    let db = world.deploy("db");
    world.settle_rounds();
    assert_eq!(world.reason(web), "waits for db, which it depends on: version 1 is scheduled");
    world.run_until_quiet();
    assert_eq!(world.deployment(db).status, DeploymentStatus::Running);
    assert_eq!(world.deployment(web).status, DeploymentStatus::Running);
    assert_eq!(world.deployment(web).reason, None);
}

#[test]
fn without_room_for_all_replicas_none_is_assigned_and_the_wait_has_an_end() {
    let mut world = World::with_nodes(1);
    world.service("web", |spec| {
        spec.replicas = 3;
        spec.resources.cpu.millis = 1_500;
    });
    let deployment = world.deploy("web");
    world.settle_rounds();
    assert_eq!(world.state.instances().count(), 0);
    assert_eq!(world.reason(deployment), "no node can take it: node n1 has 1 of 4 cores free, 1.5 asked");
    let wake_at = world.decide().wake_at.expect("wakes for the deadline");
    world.now = wake_at;
    world.settle_rounds();
    assert_eq!(world.deployment(deployment).status, DeploymentStatus::Failed);
    assert!(world.reason(deployment).starts_with("it could not be started within 30m: no node can take it"));
}

/// What is wrong with one node, such as its way to a registry, is not held against the service: also one with volumes has none there.
#[test]
fn what_never_worked_on_a_node_is_tried_on_another_one() {
    for volumes in [false, true] {
        let mut world = World::with_nodes(2);
        world.service("web", |spec| {
            if volumes {
                has_data(spec);
            }
        });
        let deployment = world.deploy("web");
        world.settle_rounds();
        let first = world.live_instances(deployment)[0].clone();
        world.report(first.id, |status| {
            status.state = InstanceState::Failed;
            status.reason = Some("cannot pull image".to_owned());
            status.finished_at = Some(first.created_at);
        });
        world.settle_rounds();
        let second = world.live_instances(deployment)[0].clone();
        assert_ne!(second.placement.node, first.placement.node, "volumes: {volumes}");
        world.run_until_quiet();
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Running);
    }
}

#[test]
fn the_old_version_serves_until_the_new_one_works() {
    let (mut world, first, second) = second_version(|spec| spec.health_check = Some(tcp_check()));
    assert_eq!(world.live_instances(first).len(), 1, "start first");
    let new = world.live_instances(second)[0].id;
    world.report(new, |status| {
        status.state = InstanceState::Running;
        status.health = Health::Starting;
    });
    world.settle_rounds();
    assert_eq!(world.service_row("web").serving, Some(first));
    world.comes_up(new);
    world.settle_rounds();
    assert_eq!(world.service_row("web").serving, Some(second), "at once, since its health check passed");
    assert_eq!(world.deployment(first).status, DeploymentStatus::Stopping);
    let old = world.state.instances_of(first).next().expect("still there");
    assert_eq!(old.stop_requested.as_deref(), Some("replaced by version 2"));
    world.run_until_quiet();
    assert_eq!(world.deployment(first).status, DeploymentStatus::Stopped);
    assert_eq!(world.reason(first), "replaced by version 2");
}

#[test]
fn without_a_health_check_a_new_version_must_run_a_little_before_it_takes_over() {
    let (mut world, first, second) = second_version(|_| {});
    let new = world.live_instances(second)[0].id;
    world.comes_up(new);
    world.settle_rounds();
    assert_eq!(world.service_row("web").serving, Some(first));
    assert_eq!(world.decide().wake_at, Some(world.now.plus(world.options.settle)));
    world.pass(2);
    world.settle_rounds();
    assert_eq!(world.service_row("web").serving, Some(second));
}

#[test]
fn a_clock_that_was_set_back_holds_no_rollout_up_until_it_is_there_again() {
    let (mut world, _, second) = second_version(|_| {});
    let new = world.live_instances(second)[0].id;
    world.comes_up(new);
    world.now = Timestamp(world.now.0 - 3_600_000);
    world.settle_rounds();
    assert_eq!(world.service_row("web").serving, Some(second));
    assert_eq!(world.deployment(second).status, DeploymentStatus::Running);
}

#[test]
fn a_clock_that_is_a_little_behind_has_a_new_version_run_a_little_all_the_same() {
    let (mut world, first, second) = second_version(|_| {});
    let new = world.live_instances(second)[0].id;
    world.comes_up(new);
    world.now = Timestamp(world.now.0 - 500);
    world.settle_rounds();
    assert_eq!(world.service_row("web").serving, Some(first));
    world.pass(3);
    world.settle_rounds();
    assert_eq!(world.service_row("web").serving, Some(second));
}

#[test]
fn one_that_crashes_at_once_never_takes_over_and_says_why() {
    let (mut world, first, second) = second_version(|_| {});
    for _ in 0..2 {
        let new = world.live_instances(second)[0].id;
        world.comes_up(new);
        world.settle_rounds();
        world.pass(1);
        world.fails(new, 3);
        world.settle_rounds();
    }
    assert_eq!(world.deployment(second).status, DeploymentStatus::Failed);
    assert_eq!(
        world.reason(second),
        "replica 0 failed twice: it ended with exit code 3; its last log lines tell more: fix it and deploy again; \
         version 1 goes on serving"
    );
    assert_eq!(world.deployment(second).log_tail, ["boom"]);
    world.run_until_quiet();
    assert_eq!(world.deployment(first).status, DeploymentStatus::Running);
    assert_eq!(world.live_instances(first).len(), 1);
    assert_eq!(world.live_instances(second).len(), 0);
}

#[test]
fn running_out_of_memory_says_which_limit_to_raise() {
    let mut world = one_service();
    world.options.rollout_attempts = 1;
    let deployment = world.deploy("web");
    world.settle_rounds();
    let instance = world.live_instances(deployment)[0].id;
    world.report(instance, |status| {
        status.state = InstanceState::Failed;
        status.exit = Some(Exit { code: 137, out_of_memory: true });
    });
    world.settle_rounds();
    assert_eq!(
        world.reason(deployment),
        "replica 0 failed once: it used more memory than it may; give it more than 256Mi in resources.memory and \
         deploy again"
    );
}

#[test]
fn no_progress_for_too_long_is_a_failure() {
    let (mut world, first, second) = second_version(|spec| spec.health_check = Some(tcp_check()));
    let new = world.live_instances(second)[0].id;
    world.report(new, |status| {
        status.state = InstanceState::Pulling;
        status.reason = Some("fetching localhost/web:2".to_owned());
    });
    world.settle_rounds();
    world.now = world.decide().wake_at.expect("wakes for the deadline");
    world.settle_rounds();
    assert_eq!(world.deployment(second).status, DeploymentStatus::Failed);
    assert_eq!(
        world.reason(second),
        "replica 0 made no progress for 10m: it is still pulling (fetching localhost/web:2); version 1 goes on serving"
    );
    world.run_until_quiet();
    assert_eq!(world.service_row("web").serving, Some(first));
    assert_eq!(world.state.live_instances().count(), 1, "the stuck instance was told to stop");
}

#[test]
fn a_newer_deployment_replaces_one_that_is_still_coming_up() {
    let (mut world, first, second) = second_version(|_| {});
    let third = world.deploy("web");
    world.settle_rounds();
    assert_eq!(world.deployment(second).status, DeploymentStatus::Stopping);
    assert_eq!(world.reason(second), "replaced by version 3");
    world.run_until_quiet();
    assert_eq!(world.deployment(second).status, DeploymentStatus::Stopped);
    assert_eq!(world.deployment(first).status, DeploymentStatus::Stopped);
    assert_eq!(world.service_row("web").serving, Some(third));
}

#[test]
fn stopping_a_service_ends_what_serves_and_what_comes_up() {
    let (mut world, first, second) = second_version(|_| {});
    world.want("web", Desired::Stopped);
    world.settle_rounds();
    assert_eq!(world.deployment(first).status, DeploymentStatus::Stopping);
    world.run_until_quiet();
    for deployment in [first, second] {
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Stopped);
        assert_eq!(world.reason(deployment), "the service was stopped");
    }
    assert_eq!(world.service_row("web").serving, None);
    assert_eq!(world.state.live_instances().count(), 0);
}

#[test]
fn scaling_takes_effect_at_once_highest_replicas_first() {
    let mut world = one_service();
    let deployment = world.deploy("web");
    world.run_until_quiet();
    world.scale("web", 3);
    world.run_until_quiet();
    let slots: Vec<u32> = world.live_instances(deployment).iter().map(|instance| instance.slot).collect();
    assert_eq!(slots, [0, 1, 2]);
    world.scale("web", 1);
    let plan = world.round();
    let (two, one) = {
        let mut all: Vec<_> = world.state.instances_of(deployment).cloned().collect();
        all.sort_by_key(|instance| instance.slot);
        (all[2].id, all[1].id)
    };
    let reason = "the service was scaled to 1".to_owned();
    assert_eq!(plan.commands, [Command::StopInstances { instances: vec![two, one], reason }]);
    world.scale("web", 0);
    world.run_until_quiet();
    assert_eq!(world.state.live_instances().count(), 0);
    assert_eq!(world.deployment(deployment).status, DeploymentStatus::Running, "with nothing to run");
    world.scale("web", 1);
    world.run_until_quiet();
    assert_eq!(world.live_instances(deployment).len(), 1);
}

#[test]
fn a_service_scaled_to_nothing_can_be_deployed() {
    let mut world = World::with_nodes(1);
    world.service("web", |spec| spec.replicas = 0);
    let deployment = world.deploy("web");
    world.run_until_quiet();
    assert_eq!(world.deployment(deployment).status, DeploymentStatus::Running);
}

#[test]
fn a_failed_instance_is_replaced_after_a_pause_that_doubles_until_it_worked_long() {
    let mut world = one_service();
    let deployment = world.deploy("web");
    world.run_until_quiet();
    for (attempt, pause) in [(1, 1_000), (2, 2_000), (3, 4_000)] {
        let instance = world.live_instances(deployment)[0].id;
        world.fails(instance, 1);
        world.settle_rounds();
        let next = &world.live_instances(deployment)[0];
        assert_eq!((next.attempt, next.pause()), (attempt, Duration::from_millis(pause)));
        world.run_until_quiet();
    }
    world.pass(600);
    let instance = world.live_instances(deployment)[0].id;
    world.fails(instance, 1);
    world.settle_rounds();
    assert_eq!(world.live_instances(deployment)[0].attempt, 1, "ten good minutes make the past forgotten");
    assert_eq!(world.deployment(deployment).status, DeploymentStatus::Running, "it serves whatever its instances do");
}

#[test]
fn missing_replicas_without_room_are_said_and_said_no_more_once_there_is_room() {
    let mut world = one_service();
    let deployment = world.deploy("web");
    world.run_until_quiet();
    world.scale("web", 9);
    world.settle_rounds();
    assert_eq!(world.live_instances(deployment).len(), 8);
    assert_eq!(
        world.reason(deployment),
        "1 of 9 replicas wait for room: no node can take it: node n1 has 0 of 4 cores free, 0.5 asked"
    );
    assert_eq!(world.decide().commands, [], "the same reason is recorded once");
    world.change_node(1, |node| node.resources.cpu.millis = 8_000);
    world.run_until_quiet();
    assert_eq!(world.live_instances(deployment).len(), 9);
    assert_eq!(world.deployment(deployment).reason, None);
}

#[test]
fn with_volumes_the_old_version_makes_way_and_the_new_one_goes_where_they_are() {
    let mut world = World::with_nodes(3);
    world.service("db", |spec| spec.volumes = vec![volume()]);
    let first = world.deploy("db");
    world.run_until_quiet();
    let home = world.live_instances(first)[0].placement.node;
    // Now another node has more room.
    world.change_node(home.0, |node| node.resources.memory = Memory::from_mebibytes(1_024));
    let second = world.deploy("db");
    world.settle_rounds();
    assert_eq!(world.deployment(second).status, DeploymentStatus::Built);
    assert!(world.reason(second).starts_with("waits for the instances of the version before to stop"));
    assert_eq!(world.live_instances(first).len(), 0, "told to stop");
    assert_eq!(world.live_instances(second).len(), 0, "not before the old one has ended");
    world.obey();
    world.settle_rounds();
    let new = world.live_instances(second);
    assert_eq!(new[0].placement.node, home);
    assert_eq!(world.live_instances(first).len(), 0, "not refilled meanwhile");
    world.run_until_quiet();
    assert_eq!(world.service_row("db").serving, Some(second));
}

#[test]
fn with_volumes_a_failed_version_gives_its_place_back_to_the_old_one() {
    let mut world = World::with_nodes(1);
    world.service("db", |spec| spec.volumes = vec![volume()]);
    let first = world.deploy("db");
    world.run_until_quiet();
    let second = world.deploy("db");
    world.settle_rounds();
    world.obey();
    world.settle_rounds();
    for _ in 0..2 {
        let new = world.live_instances(second)[0].id;
        world.fails(new, 1);
        world.settle_rounds();
    }
    assert_eq!(world.deployment(second).status, DeploymentStatus::Failed);
    world.run_until_quiet();
    assert_eq!(world.service_row("db").serving, Some(first));
    assert_eq!(world.live_instances(first).len(), 1);
}

#[test]
fn with_volumes_nothing_is_stopped_for_a_version_that_cannot_be_placed() {
    let mut world = World::with_nodes(1);
    world.service("db", |spec| spec.volumes = vec![volume()]);
    let first = world.deploy("db");
    world.run_until_quiet();
    world.change_spec("db", |spec| spec.resources.cpu.millis = 5_000);
    let second = world.deploy("db");
    world.settle_rounds();
    assert_eq!(world.reason(second), "no node can take it: node n1 has 4 of 4 cores free, 5 asked");
    assert_eq!(world.live_instances(first).len(), 1);
}

#[test]
fn a_refusal_says_when_stopping_the_old_version_would_help() {
    let mut world = World::with_nodes(1);
    world.service("web", |spec| spec.resources.cpu.millis = 3_000);
    world.deploy("web");
    world.run_until_quiet();
    let second = world.deploy("web");
    world.settle_rounds();
    assert_eq!(
        world.reason(second),
        "no node can take it: node n1 has 1 of 4 cores free, 3 asked; there would be room if the version that runs \
         were stopped first"
    );
}

#[test]
fn replicas_of_a_rollout_follow_the_service() {
    let (mut world, _, second) = second_version(|_| {});
    world.scale("web", 2);
    world.settle_rounds();
    assert_eq!(world.live_instances(second).len(), 2);
    world.run_until_quiet();
    assert_eq!(world.service_row("web").serving, Some(second));
}

#[test]
fn a_node_that_does_not_answer_gets_nothing() {
    let mut world = World::with_nodes(2);
    world.absent(1);
    world.service("web", |spec| spec.replicas = 2);
    let deployment = world.deploy("web");
    world.run_until_quiet();
    assert!(world.live_instances(deployment).iter().all(|instance| instance.placement.node == NodeId(2)));
}

#[test]
fn deleting_a_service_in_the_middle_of_a_rollout_leaves_nothing_to_decide() {
    let (mut world, _, _) = second_version(|_| {});
    let service = world.service_row("web").id;
    world.command(Command::DeleteService(service));
    assert_eq!(world.decide().commands, []);
}

#[test]
fn with_volumes_a_version_that_began_with_no_replicas_makes_room_when_it_gets_one() {
    let mut world = World::with_nodes(1);
    world.service("db", |spec| spec.volumes = vec![volume()]);
    world.deploy("db");
    world.run_until_quiet();
    world.scale("db", 0);
    let second = world.deploy("db");
    // It begins with nothing to run, and the instance of the version before is still there.
    world.round();
    world.scale("db", 1);
    world.run_until_quiet();
    assert_eq!(world.deployment(second).status, DeploymentStatus::Running, "{}", world.reason(second));
    assert_eq!(world.live_instances(second).len(), 1);
}

#[test]
fn the_round_that_promotes_a_version_gives_the_one_before_nothing_more() {
    let (mut world, first, second) = second_version(|spec| spec.health_check = Some(tcp_check()));
    let [new] = &world.live_instances(second)[..] else { panic!("one instance") };
    let new = new.id;
    world.comes_up(new);
    let old = world.live_instances(first)[0].id;
    world.fails(old, 137);
    let plan = world.round();
    assert!(plan.commands.contains(&Command::Promote(second)));
    assert_eq!(world.live_instances(first), []);
}

#[test]
fn each_version_is_spread_for_itself() {
    let mut world = World::with_nodes(3);
    world.absent(3);
    world.service("web", |spec| spec.replicas = 3);
    let first = world.deploy("web");
    world.run_until_quiet();
    assert_eq!(world.live_instances(first).len(), 3, "on two nodes");
    world.returns(3);
    let second = world.deploy("web");
    world.run_until_quiet();
    let nodes: BTreeSet<NodeId> = world.live_instances(second).iter().map(|i| i.placement.node).collect();
    assert_eq!(nodes, BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]), "where those before were does not matter");
}
