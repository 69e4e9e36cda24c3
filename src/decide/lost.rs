//! Instances on nodes that do not answer: which are given up, and when.
//!
//! One that may run twice is given up at once: a second one elsewhere does no harm, and the node ends it when it is back. One
//! that runs alone (`alone`) is never in two places, so it is given up when its node must have stopped it (`isolation`).

use std::collections::BTreeMap;

use crate::model::{InstanceId, NodeId};
use crate::state::Command;

use super::alone::runs_alone;
use super::plan::{Plan, Situation};

/// Instances in one command at most; a command is one entry of the log, and those have a limit.
const AT_ONCE: usize = 1_000;

pub(super) fn decide(situation: Situation<'_>, plan: &mut Plan) {
    if situation.state.absences().next().is_none() {
        return;
    }
    let mut lost: BTreeMap<NodeId, Vec<InstanceId>> = BTreeMap::new();
    for instance in situation.state.live_instances() {
        let node = instance.placement.node;
        if !situation.answers(node) && (!runs_alone(situation.state, instance) || situation.fenced.contains(&node)) {
            lost.entry(node).or_default().push(instance.id);
        }
    }
    for (node, instances) in lost {
        let name = situation.state.name_of(node);
        for instances in instances.chunks(AT_ONCE) {
            let reason = format!("node {name} does not answer");
            plan.commands.push(Command::LoseInstances { instances: instances.to_vec(), reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::decide::explain::{explain_deployment, explain_instance};
    use crate::decide::fixture::{World, has_data};
    use crate::model::{DeploymentId, DeploymentStatus, InstanceState, NodeId, Timestamp};
    use crate::state::Command;

    #[test]
    fn an_instance_without_volumes_moves_at_once_and_did_nothing_wrong() {
        let mut world = World::with_nodes(2);
        world.service("web", |_| {});
        let deployment = world.deploy("web");
        world.run_until_quiet();
        let first = world.live_instances(deployment)[0].clone();
        assert_eq!(first.placement.node, NodeId(1));
        world.absent(1);
        world.settle_rounds();
        let second = world.live_instances(deployment)[0].clone();
        assert_eq!((second.placement.node, second.attempt, second.pause()), (NodeId(2), 0, Duration::ZERO));
        assert_eq!(world.state.instance(first.id).expect("kept").status.state, InstanceState::Lost);
        let lines = explain_instance(world.situation(), second.id).expect("exists").lines.join("\n");
        assert!(
            lines.contains(&format!("it replaced instance {}: node n1 does not answer", first.id.short())),
            "{lines}"
        );
        assert!(lines.contains("it moved from node n1 to node n2"), "{lines}");
        let lines = explain_instance(world.situation(), first.id).expect("exists").lines.join("\n");
        assert!(lines.contains("on node n1 is lost: node n1 does not answer"), "{lines}");
        assert!(!lines.contains("its node says"), "{lines}");
    }

    #[test]
    fn accidents_of_nodes_fail_no_deployment() {
        let mut world = World::with_nodes(2);
        world.service("web", |_| {});
        let deployment = world.deploy("web");
        world.settle_rounds();
        for round in 0..6 {
            let node = world.live_instances(deployment)[0].placement.node.0;
            world.absent(node);
            world.settle_rounds();
            assert_ne!(world.live_instances(deployment)[0].placement.node.0, node, "round {round}");
            world.returns(node);
        }
        world.run_until_quiet();
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Running);
    }

    #[test]
    fn a_pause_after_failures_is_not_shortened_by_an_accident() {
        let mut world = World::with_nodes(2);
        world.service("web", |_| {});
        let deployment = world.deploy("web");
        world.run_until_quiet();
        for _ in 0..4 {
            let failing = world.live_instances(deployment)[0].id;
            world.fails(failing, 1);
            world.settle_rounds();
        }
        let before = world.live_instances(deployment)[0].clone();
        assert!(before.start_after > world.now);
        world.absent(before.placement.node.0);
        world.settle_rounds();
        let after = world.live_instances(deployment)[0].clone();
        assert_eq!(after.attempt, before.attempt);
        let longer = after.start_after.since(before.start_after);
        assert!(after.start_after >= before.start_after && longer < Duration::from_secs(1), "{longer:?}");
        assert_ne!(after.placement.node, before.placement.node);
    }

    #[test]
    fn an_instance_with_volumes_is_lost_late_and_waits_for_its_node() {
        let mut world = World::with_nodes(2);
        world.service("db", has_data);
        let deployment = world.deploy("db");
        world.run_until_quiet();
        let first = world.live_instances(deployment)[0].clone();
        world.absent(1);
        world.settle_rounds();
        assert_eq!(world.live_instances(deployment)[0].id, first.id, "its node may still run it");
        let lines = explain_instance(world.situation(), first.id).expect("exists").lines.join("\n");
        assert!(lines.contains("its volumes are there, so it waits for that node"), "{lines}");
        world.fenced.insert(NodeId(1));
        world.settle_rounds();
        assert_eq!(world.live_instances(deployment), []);
        assert_eq!(
            world.reason(deployment),
            "1 of 1 replicas wait for room: no node can take it: 1 of 2 nodes does not answer: node n1 does not answer; \
             1 of 2 nodes does not hold the volumes: node n2 has not the volumes of db"
        );
        let lines = explain_deployment(world.situation(), deployment).expect("exists").lines.join("\n");
        assert!(lines.contains("is lost: node n1 does not answer"), "{lines}");
        world.returns(1);
        world.run_until_quiet();
        let second = world.live_instances(deployment)[0].clone();
        assert_eq!((second.placement.node, second.attempt), (NodeId(1), 0));
    }

    #[test]
    fn an_exclusive_instance_moves_once_its_node_must_have_ended_it() {
        let mut world = World::with_nodes(2);
        world.service("bot", |spec| spec.exclusive = true);
        let deployment = world.deploy("bot");
        world.run_until_quiet();
        let first = world.live_instances(deployment)[0].clone();
        world.absent(first.placement.node.0);
        world.settle_rounds();
        assert_eq!(world.live_instances(deployment)[0].id, first.id, "its node may still run it");
        world.fenced.insert(first.placement.node);
        world.run_until_quiet();
        let second = world.live_instances(deployment)[0].clone();
        assert_ne!(second.placement.node, first.placement.node, "nothing of it is bound to a node");
        // The same when its node is removed: what it ran is lost at once, and still waited for.
        world.returns(first.placement.node.0);
        world.fenced.clear();
        world.command(Command::RemoveNode(second.placement.node));
        world.settle_rounds();
        assert_eq!(world.live_instances(deployment), []);
        assert_eq!(
            world.reason(deployment),
            format!(
                "waits until node n{}, which was removed, has certainly stopped it: it is exclusive",
                second.placement.node
            )
        );
        world.fenced.insert(second.placement.node);
        world.run_until_quiet();
        assert_eq!(world.live_instances(deployment)[0].placement.node, first.placement.node);
    }

    #[test]
    fn a_deployment_does_not_fail_while_it_waits_for_a_node() {
        let mut world = World::with_nodes(2);
        world.service("db", has_data);
        let deployment = world.deploy("db");
        world.settle_rounds();
        world.absent(1);
        world.fenced.insert(NodeId(1));
        world.settle_rounds();
        world.pass(3_600);
        world.settle_rounds();
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Starting);
        world.returns(1);
        world.run_until_quiet();
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Running);
    }

    #[test]
    fn when_the_node_of_its_volumes_is_removed_it_begins_anew_elsewhere_once_that_has_stopped() {
        let mut world = World::with_nodes(2);
        world.service("db", has_data);
        let deployment = world.deploy("db");
        world.run_until_quiet();
        world.command(Command::RemoveNode(NodeId(1)));
        world.settle_rounds();
        assert_eq!(world.live_instances(deployment), []);
        assert_eq!(
            world.reason(deployment),
            "waits until node n1, which was removed, has certainly stopped it: its volumes are for one at a time"
        );
        world.fenced.insert(NodeId(1));
        world.run_until_quiet();
        assert_eq!(world.live_instances(deployment)[0].placement.node, NodeId(2));
    }

    /// Makes an instance on one node and, by a leader whose clock is an hour behind, the next one on another.
    fn moved_by_a_leader_whose_clock_is_behind(world: &mut World, name: &str) -> (DeploymentId, NodeId, NodeId) {
        let deployment = world.deploy(name);
        world.run_until_quiet();
        let first = world.live_instances(deployment)[0].placement.node;
        world.now = Timestamp(world.now.0 - 3_600_000);
        world.command(Command::RemoveNode(first));
        world.fenced.insert(first);
        world.run_until_quiet();
        world.fenced.clear();
        let second = world.live_instances(deployment)[0].placement.node;
        assert_ne!(first, second);
        (deployment, first, second)
    }

    #[test]
    fn which_instance_was_the_last_does_not_hang_on_the_clocks_of_leaders() {
        let mut world = World::with_nodes(3);
        world.service("bot", |spec| spec.exclusive = true);
        let (deployment, _, second) = moved_by_a_leader_whose_clock_is_behind(&mut world, "bot");
        world.command(Command::RemoveNode(second));
        world.settle_rounds();
        assert_eq!(world.live_instances(deployment), [], "the node that was removed may still run it");
        world.fenced.insert(second);
        world.run_until_quiet();
        assert_eq!(world.live_instances(deployment).len(), 1);
    }

    #[test]
    fn where_volumes_are_does_not_hang_on_the_clocks_of_leaders() {
        let mut world = World::with_nodes(3);
        world.service("db", has_data);
        let (deployment, _, second) = moved_by_a_leader_whose_clock_is_behind(&mut world, "db");
        let running = world.live_instances(deployment)[0].id;
        world.change_node(second.0, |node| node.cordoned = true);
        world.fails(running, 1);
        world.settle_rounds();
        assert_eq!(world.live_instances(deployment), [], "its volumes are on the node that is cordoned");
        assert!(world.reason(deployment).contains("has not the volumes of db"), "{}", world.reason(deployment));
    }

    #[test]
    fn a_pause_is_as_long_when_the_clock_of_the_leader_is_behind() {
        let mut world = World::with_nodes(1);
        world.service("web", |_| {});
        let deployment = world.deploy("web");
        world.run_until_quiet();
        world.now = Timestamp(world.now.0 - 3_600_000);
        let running = world.live_instances(deployment)[0].id;
        world.fails(running, 1);
        world.settle_rounds();
        assert_eq!(world.live_instances(deployment)[0].pause(), Duration::from_secs(1));
    }

    /// The version that may still run on a removed node counts also when only one of the two runs alone.
    #[test]
    fn what_ran_on_a_removed_node_is_waited_for_when_either_version_is_exclusive() {
        for (before, after) in [(true, false), (false, true)] {
            let mut world = World::with_nodes(2);
            world.service("bot", |spec| spec.exclusive = before);
            let first = world.deploy("bot");
            world.run_until_quiet();
            let node = world.live_instances(first)[0].placement.node;
            world.change_spec("bot", |spec| spec.exclusive = after);
            world.command(Command::RemoveNode(node));
            let second = world.deploy("bot");
            world.settle_rounds();
            assert_eq!(world.live_instances(second), [], "from {before} to {after}");
            world.fenced.insert(node);
            world.run_until_quiet();
            assert_eq!(world.live_instances(second).len(), 1, "from {before} to {after}");
        }
    }

    /// The version in between did not wait for the one before it to end.
    #[test]
    fn every_version_back_to_one_that_ran_alone_counts() {
        let mut world = World::with_nodes(3);
        world.service("bot", |_| {});
        let first = world.deploy("bot");
        world.run_until_quiet();
        let gone = world.live_instances(first)[0].placement.node;
        world.command(Command::RemoveNode(gone));
        world.deploy("bot");
        world.run_until_quiet();
        world.change_spec("bot", |spec| spec.exclusive = true);
        let third = world.deploy("bot");
        world.settle_rounds();
        assert_eq!(world.live_instances(third), []);
        world.fenced.insert(gone);
        world.run_until_quiet();
        assert_eq!(world.live_instances(third).len(), 1);
    }

    #[test]
    fn an_accident_is_no_reason_to_pause_whatever_the_clocks() {
        let mut world = World::with_nodes(3);
        world.service("web", |_| {});
        let (deployment, ..) = moved_by_a_leader_whose_clock_is_behind(&mut world, "web");
        let running = world.live_instances(deployment)[0].placement.node;
        world.absent(running.0);
        world.settle_rounds();
        assert_eq!(world.live_instances(deployment)[0].pause(), Duration::ZERO);
    }
}
