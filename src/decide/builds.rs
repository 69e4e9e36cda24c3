//! Which node runs which build, and which running build is lost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Build, BuildId, BuildStatus, Lease, Memory, Node, NodeId};
use crate::state::Command;

use super::plan::{Ids, Plan, Situation};
use super::schedule::{Want, listed};

/// Leases queued builds, oldest first, and gives up those whose node was restarted or is gone.
pub(super) fn decide(situation: Situation<'_>, ids: &mut Ids<'_>, plan: &mut Plan) {
    let state = situation.state;
    let mut running: BTreeMap<NodeId, u32> = BTreeMap::new();
    for build in state.live_builds().filter(|build| build.status == BuildStatus::Running) {
        match lost_because(situation, build) {
            Some(reason) => {
                plan.commands.push(Command::LoseBuild { build: build.id, reason, retry: BuildId(ids()) });
            }
            None => {
                let node = build.lease.map(|lease| lease.node);
                *running.entry(node.unwrap_or(NodeId::FOUNDER)).or_default() += 1;
            }
        }
    }
    for build in state.live_builds().filter(|build| build.status == BuildStatus::Queued) {
        match builder(situation, build, &running) {
            Ok(node) => {
                *running.entry(node.id).or_default() += 1;
                let lease = Lease { node: node.id, incarnation: node.incarnation };
                plan.commands.push(Command::LeaseBuild { build: build.id, lease });
            }
            Err(reason) => {
                plan.waiting.insert(build.deployment, reason);
            }
        }
    }
}

fn lost_because(situation: Situation<'_>, build: &Build) -> Option<String> {
    let Some(lease) = build.lease else { return Some("nobody works on it".to_owned()) };
    match situation.state.node(lease.node) {
        None => Some(format!("node {} is no member any more", situation.state.name_of(lease.node))),
        Some(node) if node.incarnation != lease.incarnation => {
            Some(format!("node {} was restarted while it built", node.name))
        }
        Some(node) if !situation.answers(node.id) => Some(format!("node {} does not answer", node.name)),
        Some(_) => None,
    }
}

/// What the image may be for: the processors of the nodes that it may run on, since an image is for that of the node that built it. Those that
/// answer count, or else all. Empty when there is no such node; then the deployment waits for one whatever it is built on.
fn architectures<'a>(situation: Situation<'a>, build: &Build) -> BTreeSet<&'a str> {
    let Some(deployment) = situation.state.deployment(build.deployment) else { return BTreeSet::new() };
    let home = Want::of(situation.state, deployment).home;
    let suits = |node: &&Arc<Node>| {
        let has_all = deployment.spec.constraints.iter().all(|constraint| node.has_label(constraint));
        has_all && home.is_none_or(|home| home == node.id)
    };
    let suitable: Vec<&Arc<Node>> = situation.state.nodes().filter(suits).collect();
    let answering = suitable.iter().filter(|node| situation.answers(node.id));
    let found: BTreeSet<&str> = answering.map(|node| node.arch.as_str()).collect();
    if found.is_empty() { suitable.into_iter().map(|node| node.arch.as_str()).collect() } else { found }
}

/// How good a node is for a build, the least is the best: builds of the same deployment that it lost, builds that run there, its memory.
type Score = (usize, u32, Reverse<Memory>);

/// The node that does not know the build yet and has the fewest; of those the one with the most memory.
fn builder<'a>(situation: Situation<'a>, build: &Build, running: &BTreeMap<NodeId, u32>) -> Result<&'a Node, String> {
    let limit = situation.options.builds_per_node;
    let mut refusals = Vec::new();
    let mut best: Option<(Score, &Node)> = None;
    let lost_by = |node: NodeId| {
        let before = situation.state.builds_of(build.deployment).filter(|other| other.status == BuildStatus::Lost);
        before.filter(|other| other.lease.is_some_and(|lease| lease.node == node)).count()
    };
    let wanted = architectures(situation, build);
    for node in situation.state.nodes() {
        let busy = running.get(&node.id).copied().unwrap_or(0);
        let refusal = match &node.engine {
            _ if !situation.answers(node.id) => "does not answer".to_owned(),
            _ if node.cordoned => "is cordoned".to_owned(),
            Err(reason) => format!("has no container engine: {reason}"),
            Ok(_) if !wanted.is_empty() && !wanted.contains(node.arch.as_str()) => {
                let wanted = Vec::from_iter(wanted.iter().copied()).join(" or ");
                format!("is {}, and the nodes that the service may run on are {wanted}", node.arch)
            }
            Ok(_) if busy >= limit => format!("runs {busy} of at most {limit} builds"),
            Ok(_) => {
                let score = (lost_by(node.id), busy, Reverse(node.resources.memory));
                if best.as_ref().is_none_or(|(least, _)| score < *least) {
                    best = Some((score, node));
                }
                continue;
            }
        };
        refusals.push(format!("node {} {refusal}", node.name));
    }
    match best {
        Some((_, node)) => Ok(node),
        None if refusals.is_empty() => Err("waits for a builder: the cluster has no node".to_owned()),
        None => Err(format!("waits for a builder: {}", listed(&refusals, "; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::World;
    use crate::model::{DeploymentStatus, Source};

    fn world() -> World {
        let mut world = World::with_nodes(1);
        world.service("web", |spec| {
            spec.source = Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() }
        });
        world
    }

    #[test]
    fn a_queued_build_is_leased_and_its_result_makes_the_deployment_built() {
        let mut world = world();
        let deployment = world.deploy("web");
        world.round();
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Building);
        world.finish_build(deployment);
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Built);
        world.round();
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Scheduled);
    }

    #[test]
    fn what_must_run_on_another_processor_is_built_on_one() {
        let mut world = World::with_nodes(2);
        world.service("web", |spec| {
            spec.source = Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() };
            spec.constraints = vec!["site=shed".to_owned()];
        });
        world.change_node(2, |node| {
            node.arch = "arm64".to_owned();
            node.labels.insert("site".to_owned(), "shed".to_owned());
            node.cordoned = true;
        });
        let deployment = world.deploy("web");
        let plan = world.round();
        assert_eq!(
            plan.waiting[&deployment],
            "waits for a builder: node n1 is amd64, and the nodes that the service may run on are arm64; node n2 is cordoned"
        );
        world.uncordon(2);
        world.settle_rounds();
        let build = world.deployment(deployment).build.and_then(|id| world.state.build(id)).expect("a build");
        assert_eq!(build.lease.map(|lease| lease.node), Some(NodeId(2)));
    }

    #[test]
    fn builds_beyond_the_limit_wait_and_say_for_what() {
        let mut world = world();
        world.options.builds_per_node = 1;
        world.service("api", |spec| {
            spec.source = Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() }
        });
        world.deploy("web");
        let second = world.deploy("api");
        let plan = world.round();
        assert_eq!(plan.waiting[&second], "waits for a builder: node n1 runs 1 of at most 1 builds");
        world.settle_rounds();
        assert_eq!(
            world.deployment(second).reason.as_deref(),
            Some("waits for a builder: node n1 runs 1 of at most 1 builds")
        );
    }

    #[test]
    fn the_least_busy_node_builds() {
        let mut world = World::with_nodes(2);
        for name in ["a", "b"] {
            world.service(name, |spec| {
                spec.source = Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() }
            });
            world.deploy(name);
        }
        world.round();
        let nodes: Vec<u64> = world.state.builds().map(|build| build.lease.expect("leased").node.0).collect();
        assert_eq!(nodes, [1, 2]);
    }

    #[test]
    fn nobody_builds_on_a_node_that_cannot() {
        let mut world = world();
        world.change_node(1, |node| node.engine = Err("no socket answers".to_owned()));
        let deployment = world.deploy("web");
        let plan = world.round();
        assert_eq!(
            plan.waiting[&deployment],
            "waits for a builder: node n1 has no container engine: no socket answers"
        );
    }

    #[test]
    fn a_build_of_a_node_that_does_not_answer_is_run_by_another_one() {
        let mut world = World::with_nodes(2);
        world.service("web", |spec| {
            spec.source = Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() }
        });
        let deployment = world.deploy("web");
        world.round();
        world.absent(1);
        world.settle_rounds();
        let builds: Vec<_> = world
            .state
            .builds_of(deployment)
            .map(|build| (build.status, build.lease.map(|lease| lease.node.0)))
            .collect();
        assert_eq!(builds, [(BuildStatus::Lost, Some(1)), (BuildStatus::Running, Some(2))]);
        // What the first one has to say is too late.
        world.returns(1);
        world.settle_rounds();
        world.finish_build(deployment);
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Built);
    }

    #[test]
    fn a_build_that_a_node_could_not_make_is_made_by_another_one() {
        let mut world = World::with_nodes(2);
        world.service("web", |spec| {
            spec.source = Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() }
        });
        let deployment = world.deploy("web");
        world.round();
        let build = world.state.builds_of(deployment).next().expect("one").id;
        let reason = "node 1 could not build it: git is missing".to_owned();
        let retry = world.id();
        world.command(Command::LoseBuild { build, reason, retry });
        world.settle_rounds();
        let nodes: Vec<_> =
            world.state.builds_of(deployment).map(|build| build.lease.map(|lease| lease.node.0)).collect();
        assert_eq!(nodes, [Some(1), Some(2)]);
    }

    #[test]
    fn a_build_of_a_restarted_node_is_lost_and_run_once_more_then_fails() {
        let mut world = world();
        let deployment = world.deploy("web");
        world.round();
        world.restart_node(1);
        world.settle_rounds();
        let builds: Vec<_> = world.state.builds_of(deployment).map(|build| (build.status, build.attempt)).collect();
        assert_eq!(builds, [(BuildStatus::Lost, 1), (BuildStatus::Running, 2)]);
        world.restart_node(1);
        world.settle_rounds();
        assert_eq!(world.deployment(deployment).status, DeploymentStatus::Failed);
        let reason = world.deployment(deployment).reason.clone().expect("a reason");
        assert!(reason.contains("node n1 was restarted while it built"), "{reason}");
    }
}
