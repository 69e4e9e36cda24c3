//! Why things are as they are, in sentences that the API, the command line and the pages show word for word.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::model::{
    AppId, Build, BuildStatus, Deployment, DeploymentId, DeploymentStatus, Desired, Health, Instance, InstanceId,
    InstanceState, Service,
};

use super::drain::{self, Fate};
use super::plan::{Plan, Situation, plan};
use super::rollout::cause_of;
use super::schedule::Room;

/// Sentences, the most important first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// One line each, without a line break.
    pub lines: Vec<String>,
}

impl Explanation {
    fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }
}

/// What a deployment is, what it waits for, and why its instances are where they are.
pub fn explain_deployment(situation: Situation<'_>, id: DeploymentId) -> Option<Explanation> {
    let deployment = situation.state.deployment(id)?;
    let mut explanation = Explanation::default();
    describe_deployment(situation, deployment, &what_if(situation), &mut explanation);
    Some(explanation)
}

/// Where an instance is and why there, what it does, and why it ended.
pub fn explain_instance(situation: Situation<'_>, id: InstanceId) -> Option<Explanation> {
    let instance = situation.state.instance(id)?;
    let mut explanation = Explanation::default();
    let deployment = situation.state.deployment(instance.deployment);
    if let Some(deployment) = deployment {
        explanation.say(format!(
            "instance {} is replica {} of {} version {}, attempt {}",
            instance.id.short(),
            instance.slot,
            deployment.service_name,
            deployment.version,
            instance.attempt.saturating_add(1)
        ));
    }
    describe_instance(situation, instance, &mut explanation);
    explain_restart(situation, instance, &mut explanation);
    explain_successor(situation, instance, &mut explanation);
    Some(explanation)
}

/// Each service of an app: what serves, what is on its way, what it waits for.
pub fn explain_app(situation: Situation<'_>, id: AppId) -> Option<Explanation> {
    let app = situation.state.app(id)?;
    let what_if = what_if(situation);
    let mut explanation = Explanation::default();
    let services: Vec<_> = situation.state.services_of(id).collect();
    if services.is_empty() {
        explanation.say(format!("app {} has no services yet", app.name));
    }
    for service in services {
        describe_service(situation, service, &what_if, &mut explanation);
    }
    Some(explanation)
}

/// The decision as the leader would make it now, for its reasons only.
pub(super) fn what_if(situation: Situation<'_>) -> Plan {
    let mut last = 0_u128;
    let mut ids = || {
        last += 1;
        Uuid::from_u128(last)
    };
    plan(situation, &mut ids)
}

fn describe_service(situation: Situation<'_>, service: &Service, what_if: &Plan, explanation: &mut Explanation) {
    let name = &service.name;
    let shown: Vec<&Deployment> = situation
        .state
        .deployments_of(service.id)
        .map(|deployment| &**deployment)
        .enumerate()
        .filter(|(position, deployment)| *position == 0 || !deployment.status.is_terminal())
        .map(|(_, deployment)| deployment)
        .collect();
    if shown.is_empty() {
        explanation.say(format!("{name} was never deployed; run `narvana deploy` for it"));
        return;
    }
    if service.desired == Desired::Stopped {
        explanation.say(format!("{name} is stopped because a user stopped it"));
    } else if service.serving.is_none() {
        explanation.say(format!("{name} serves nobody: no version of it runs"));
    }
    for deployment in shown {
        describe_deployment(situation, deployment, what_if, explanation);
    }
}

fn describe_deployment(
    situation: Situation<'_>,
    deployment: &Deployment,
    what_if: &Plan,
    explanation: &mut Explanation,
) {
    let what = format!("{} version {}", deployment.service_name, deployment.version);
    let waiting = what_if.waiting.get(&deployment.id);
    match (deployment.told_status(), waiting.or(deployment.reason.as_ref())) {
        (status, Some(reason)) if status.is_terminal() => explanation.say(format!("{what} is {status}: {reason}")),
        (status, Some(reason)) => explanation.say(format!("{what} is {status}; {reason}")),
        (DeploymentStatus::Running, None) if is_scaled_to_nothing(situation, deployment) => {
            explanation.say(format!("{what} is the one that serves, and its service is scaled to 0"));
        }
        (DeploymentStatus::Running, None) if works(situation, deployment) => {
            explanation.say(format!("{what} is running and serves"));
        }
        (DeploymentStatus::Running, None) => {
            explanation.say(format!("{what} is the one that serves, and none of its instances runs now"));
        }
        (status, None) => explanation.say(format!("{what} is {status}")),
    }
    if let Some(build) = deployment.build.and_then(|id| situation.state.build(id)) {
        describe_build(situation, build, explanation);
    }
    let mut newest_ended: BTreeSet<u32> = BTreeSet::new();
    for instance in newest_first(situation, deployment.id) {
        let of_interest =
            !instance.status.state.is_terminal() || (ended_badly(instance) && newest_ended.insert(instance.slot));
        if of_interest {
            describe_instance(situation, instance, explanation);
        }
    }
    for line in &deployment.log_tail {
        explanation.say(format!("  | {line}"));
    }
}

/// Whether any instance of a deployment runs, or none has to.
fn is_scaled_to_nothing(situation: Situation<'_>, deployment: &Deployment) -> bool {
    situation.state.service(deployment.service).is_some_and(|service| service.spec.replicas == 0)
}

/// Whether anything of it runs on a node that answers.
fn works(situation: Situation<'_>, deployment: &Deployment) -> bool {
    let mut instances = situation.state.instances_of(deployment.id);
    instances.any(|it| it.status.state == InstanceState::Running && situation.answers(it.placement.node))
}

fn describe_build(situation: Situation<'_>, build: &Build, explanation: &mut Explanation) {
    let node = build.lease.and_then(|lease| situation.state.node(lease.node)).map(|node| node.name.as_str());
    match (build.status, node, &build.failure) {
        (BuildStatus::Running, Some(node), _) => explanation.say(format!("its build runs on node {node}")),
        (BuildStatus::Failed, _, Some(failure)) => {
            explanation.say(format!(
                "its build failed ({}): {}; {}",
                failure.code.as_str(),
                failure.message,
                failure.next_step
            ));
        }
        _ => {}
    }
}

fn describe_instance(situation: Situation<'_>, instance: &Instance, explanation: &mut Explanation) {
    let node = situation.state.name_of(instance.placement.node);
    let what = format!("replica {} (instance {})", instance.slot, instance.id.short());
    let status = &instance.status;
    let doing = match (status.state, status.health) {
        (InstanceState::Running, Health::Healthy) => "runs and is healthy".to_owned(),
        (InstanceState::Running, Health::Unhealthy) => "runs and is unhealthy".to_owned(),
        (InstanceState::Running, _) => "runs and has not passed its first health check yet".to_owned(),
        (InstanceState::Failed, _) => format!("failed: {}", cause_of(instance)),
        (InstanceState::Lost, _) => format!("is lost: {}", cause_of(instance)),
        (InstanceState::Assigned, _) if instance.start_after > situation.now && !instance.pause().is_zero() => {
            format!("waits until {} after the failure before", instance.start_after)
        }
        (state, _) => format!("is {state}"),
    };
    explanation.say(format!("{what} on node {node} {doing}"));
    if !ended_badly(instance)
        && let Some(reason) = &status.reason
    {
        explanation.say(format!("  its node says: {reason}"));
    }
    if let Some(absence) = situation.state.absence(instance.placement.node).filter(|_| !status.state.is_terminal()) {
        let volumes = situation.state.deployment(instance.deployment).is_some_and(|it| !it.spec.volumes.is_empty());
        let then = match volumes {
            true => "its volumes are there, so it waits for that node",
            false => "another one takes its place once it must have ended there",
        };
        explanation.say(format!("  node {node} does not answer since {}; {then}", absence.since));
    }
    if !instance.placement.reasons.is_empty() {
        explanation.say(format!("  it is there because {}", instance.placement.reasons.join("; ")));
    }
    if let Some(relocation) = &instance.relocation {
        let (from, reason) = (relocation.from.short(), &relocation.reason);
        explanation.say(format!("  it takes the place of instance {from}: {reason}"));
    }
    if let Some(reason) = &instance.stop_requested {
        explanation.say(format!("  it was told to stop: {reason}"));
    } else if !status.state.is_terminal() {
        explain_stay(situation, instance, explanation);
    }
}

/// Why one that runs where it would not be put any more is still there.
fn explain_stay(situation: Situation<'_>, instance: &Instance, explanation: &mut Explanation) {
    let state = situation.state;
    let Some(node) = state.node(instance.placement.node) else { return };
    let Some(deployment) = state.deployment(instance.deployment) else { return };
    let constraints = deployment.spec.constraints.iter().filter(|constraint| !node.has_label(constraint));
    let missing: Vec<&str> = constraints.map(String::as_str).collect();
    if !missing.is_empty() {
        explanation.say(format!(
            "  node {} has no label {} any more; it runs on until it is deployed again, `narvana rebalance` moves it, its node is drained, or it ends",
            node.name,
            missing.join(" and ")
        ));
    }
    let Some(drain) = node.drain else { return };
    let becomes = match drain::fate(situation, &mut Room::of(situation), instance, deployment, drain) {
        Fate::Moves(_) | Fate::EndsFirst(_) => "it is about to go".to_owned(),
        Fate::Moving(successor) => format!("instance {} is to take its place", successor.short()),
        Fate::EndsUntilBack => "it is about to end until the node is back, since its volumes are there".to_owned(),
        Fate::Ends(why) => format!("it ends: {why}"),
        Fate::Waits(why) => format!("it waits to go: {why}"),
        Fate::Stays(why) => format!("it stays, since {why}"),
    };
    explanation.say(format!("  node {} is drained: {becomes}", node.name));
}

/// Whether another one has to take its place.
fn ended_badly(instance: &Instance) -> bool {
    matches!(instance.status.state, InstanceState::Failed | InstanceState::Lost)
}

/// Why there was one after another.
fn explain_restart(situation: Situation<'_>, instance: &Instance, explanation: &mut Explanation) {
    let before = situation
        .state
        .instances_of(instance.deployment)
        .filter(|other| other.slot == instance.slot && other.id != instance.id)
        .filter(|other| (other.created_at, other.id) < (instance.created_at, instance.id))
        .max_by_key(|other| (other.created_at, other.id));
    let Some(before) = before.filter(|before| ended_badly(before) || instance.relocation.is_some()) else { return };
    if ended_badly(before) {
        explanation.say(format!("it replaced instance {}: {}", before.id.short(), cause_of(before)));
    }
    if before.placement.node != instance.placement.node {
        let (from, to) = (before.placement.node, instance.placement.node);
        let name = |node| situation.state.name_of(node);
        explanation.say(format!("it moved from node {} to node {}", name(from), name(to)));
    }
}

/// What came after one that has ended.
fn explain_successor(situation: Situation<'_>, instance: &Instance, explanation: &mut Explanation) {
    if !instance.status.state.is_terminal() {
        return;
    }
    let after = situation
        .state
        .instances_of(instance.deployment)
        .filter(|other| other.slot == instance.slot)
        .filter(|other| (other.created_at, other.id) > (instance.created_at, instance.id))
        .min_by_key(|other| (other.created_at, other.id));
    if let Some(after) = after {
        explanation.say(format!("instance {} came after it", after.id.short()));
    }
}

/// The instances of a deployment, newest first.
fn newest_first(situation: Situation<'_>, deployment: DeploymentId) -> Vec<&Instance> {
    let mut all: Vec<&Instance> = situation.state.instances_of(deployment).map(|instance| &**instance).collect();
    all.sort_by_key(|instance| std::cmp::Reverse((instance.created_at, instance.id)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::World;
    use crate::model::NodeId;

    #[test]
    fn a_running_deployment_says_where_its_replicas_are_and_why() {
        let mut world = World::with_nodes(2);
        world.service("web", |_| {});
        let deployment = world.deploy("web");
        world.run_until_quiet();
        let instance = world.live_instances(deployment)[0].clone();
        let explanation = explain_deployment(world.situation(), deployment).expect("exists");
        assert_eq!(
            explanation.lines,
            [
                "web version 1 is running and serves".to_owned(),
                format!("replica 0 (instance {}) on node n1 runs and is healthy", instance.id.short()),
                "  it is there because node n1 has 4 of 4 cores and 4Gi of 4Gi memory free; 0.5 cores and 256Mi are \
                 asked; it runs no other replica of this version of web"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn a_version_of_which_nothing_runs_does_not_say_that_it_serves() {
        let mut world = World::with_nodes(1);
        world.service("web", |_| {});
        let deployment = world.deploy("web");
        world.run_until_quiet();
        let instance = world.live_instances(deployment)[0].id;
        world.fails(instance, 7);
        let lines = explain_deployment(world.situation(), deployment).expect("exists").lines;
        assert_eq!(lines[0], "web version 1 is the one that serves, and none of its instances runs now");
    }

    #[test]
    fn a_pending_deployment_says_what_it_waits_for_as_of_now() {
        let mut world = World::with_nodes(1);
        world.service("web", |spec| spec.resources.cpu.millis = 5_000);
        let deployment = world.deploy("web");
        let lines = explain_deployment(world.situation(), deployment).expect("exists").lines;
        assert_eq!(lines, ["web version 1 is pending; no node can take it: node n1 has 4 of 4 cores free, 5 asked"]);
        world.change_node(1, |node| node.cordoned = true);
        let lines = explain_deployment(world.situation(), deployment).expect("exists").lines;
        assert_eq!(lines, ["web version 1 is pending; no node can take it: node n1 is cordoned"]);
    }

    #[test]
    fn an_instance_says_what_it_replaced_and_that_it_moved() {
        let mut world = World::with_nodes(2);
        world.service("web", |_| {});
        let deployment = world.deploy("web");
        world.run_until_quiet();
        let first = world.live_instances(deployment)[0].id;
        world.change_node(1, |node| node.cordoned = true);
        world.fails(first, 7);
        world.settle_rounds();
        let second = world.live_instances(deployment)[0].clone();
        assert_eq!(second.placement.node, NodeId(2));
        let lines = explain_instance(world.situation(), second.id).expect("exists").lines.join("\n");
        for expected in [
            "replica 0 of web version 1, attempt 2",
            "on node n2 waits until",
            &format!("it replaced instance {}: it ended with exit code 7", first.short()),
            "it moved from node n1 to node n2",
        ] {
            assert!(lines.contains(expected), "{expected:?} in {lines}");
        }
        let lines = explain_instance(world.situation(), first).expect("exists").lines.join("\n");
        assert!(lines.contains("failed: it ended with exit code 7"), "{lines}");
        assert!(lines.contains(&format!("instance {} came after it", second.id.short())), "{lines}");
    }

    #[test]
    fn an_app_says_it_for_every_service() {
        let mut world = World::with_nodes(1);
        world.service("db", |_| {});
        world.service("web", |_| {});
        world.service("old", |_| {});
        world.deploy("web");
        let old = world.deploy("old");
        world.run_until_quiet();
        world.want("old", Desired::Stopped);
        world.run_until_quiet();
        let lines = explain_app(world.situation(), world.app).expect("exists").lines;
        assert_eq!(lines[0], "db was never deployed; run `narvana deploy` for it");
        assert_eq!(lines[1], "old is stopped because a user stopped it");
        assert_eq!(lines[2], "old version 1 is stopped: the service was stopped");
        assert_eq!(lines[3], "web version 1 is running and serves");
        let failed = explain_deployment(world.situation(), old).expect("exists").lines;
        assert_eq!(failed, ["old version 1 is stopped: the service was stopped"]);
    }

    #[test]
    fn what_does_not_exist_has_no_explanation() {
        let world = World::with_nodes(1);
        assert_eq!(explain_app(world.situation(), AppId(Uuid::nil())), None);
        assert_eq!(explain_deployment(world.situation(), DeploymentId(Uuid::nil())), None);
        assert_eq!(explain_instance(world.situation(), InstanceId(Uuid::nil())), None);
    }
}
