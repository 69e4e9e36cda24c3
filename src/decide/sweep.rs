//! Which records have ended, are old enough, and are needed by nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{
    Deployment, DeploymentId, Instance, InstanceId, InstanceState, Service, SettingKey, SourceId, parse_duration,
};
use crate::state::Command;

use super::plan::Situation;
use super::schedule::newest_instance;

/// Failed instances of one replica that are kept as evidence.
const FAILED_KEPT: usize = 3;
/// Records forgotten with one command at most: keeps the entry small and applying it quick.
const FORGOTTEN_AT_ONCE: usize = 200;
/// Used when the setting cannot be read, which its own check prevents.
const RETENTION_FALLBACK: Duration = Duration::from_secs(30 * 86_400);

/// The next records to forget, or nothing. Looks at every record: for a slow timer, not for every change.
pub fn sweep(situation: Situation<'_>) -> Option<Command> {
    let mut broom = Broom::default();
    for service in situation.state.services() {
        broom.sweep_service(situation, service);
        if broom.is_full() {
            break;
        }
    }
    for session in situation.state.sessions().filter(|session| session.expires_at <= situation.now) {
        if broom.is_full() {
            break;
        }
        broom.sessions.push(session.id);
    }
    let Broom { instances, deployments, sources, sessions } = broom;
    let nothing = instances.is_empty() && deployments.is_empty() && sources.is_empty() && sessions.is_empty();
    (!nothing).then_some(Command::Sweep { instances, deployments, sources, sessions })
}

#[derive(Default)]
struct Broom {
    instances: Vec<InstanceId>,
    deployments: Vec<DeploymentId>,
    sources: Vec<SourceId>,
    sessions: Vec<crate::model::SessionId>,
}

impl Broom {
    fn is_full(&self) -> bool {
        self.instances.len() + self.deployments.len() + self.sources.len() + self.sessions.len() >= FORGOTTEN_AT_ONCE
    }

    fn sweep_service(&mut self, situation: Situation<'_>, service: &Service) {
        let state = situation.state;
        let volume_evidence = newest_instance(state, service.id).map(|instance| (instance.id, instance.deployment));
        let kept = kept_deployments(situation, service);
        let mut sources_needed: BTreeSet<SourceId> = service.source.into_iter().collect();
        for deployment in state.deployments_of(service.id) {
            let needed = kept.contains(&deployment.id)
                || volume_evidence.is_some_and(|(_, home)| home == deployment.id)
                || state.instances_of(deployment.id).any(|instance| !instance.status.state.is_terminal());
            if needed {
                sources_needed.extend(deployment.source);
                let surplus = surplus_instances(situation, deployment);
                let evidence = volume_evidence.map(|(instance, _)| instance);
                self.instances.extend(surplus.into_iter().filter(|id| Some(*id) != evidence));
            } else {
                self.instances.extend(state.instances_of(deployment.id).map(|instance| instance.id));
                self.deployments.push(deployment.id);
            }
            if self.is_full() {
                return;
            }
        }
        let unused = state.sources_of(service.id).map(|source| source.id).filter(|id| !sources_needed.contains(id));
        self.sources.extend(unused);
    }
}

/// What is alive, young, among the newest, or the last thing that can be gone back to.
fn kept_deployments(situation: Situation<'_>, service: &Service) -> BTreeSet<DeploymentId> {
    let state = situation.state;
    let least = state.setting(SettingKey::CleanupMinDeploymentsKept).parse().unwrap_or(usize::MAX);
    let retention = parse_duration(state.setting(SettingKey::CleanupDeploymentRetention)).unwrap_or(RETENTION_FALLBACK);
    let way_back = state
        .deployments_of(service.id)
        .find(|deployment| deployment.artifact.is_some() && service.serving != Some(deployment.id));
    let is_young = |deployment: &Deployment| {
        deployment.finished_at.is_none_or(|finished| situation.now.since(finished) < retention)
    };
    state
        .deployments_of(service.id)
        .enumerate()
        .filter(|(position, deployment)| {
            *position < least
                || !deployment.status.is_terminal()
                || service.serving == Some(deployment.id)
                || way_back.is_some_and(|back| back.id == deployment.id)
                || is_young(deployment)
        })
        .map(|(_, deployment)| deployment.id)
        .collect()
}

/// Ended instances but for the newest of each replica and its newest failed ones. While a deployment comes up, all of
/// them count.
fn surplus_instances(situation: Situation<'_>, deployment: &Deployment) -> Vec<InstanceId> {
    if deployment.status.is_rolling_out() {
        return Vec::new();
    }
    let mut slots: BTreeMap<u32, Vec<&Instance>> = BTreeMap::new();
    for instance in situation.state.instances_of(deployment.id).filter(|i| i.status.state.is_terminal()) {
        slots.entry(instance.slot).or_default().push(instance);
    }
    let mut surplus = Vec::new();
    for mut ended in slots.into_values() {
        ended.sort_by_key(|instance| std::cmp::Reverse((instance.created_at, instance.id)));
        let mut failed_kept = 0;
        for (position, instance) in ended.into_iter().enumerate() {
            let failed = matches!(instance.status.state, InstanceState::Failed | InstanceState::Lost);
            if failed && failed_kept < FAILED_KEPT {
                failed_kept += 1;
            } else if position > 0 {
                surplus.push(instance.id);
            }
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::{World, has_data};
    use crate::model::{DeploymentStatus, UploadedSource};

    const DAY: u64 = 86_400;

    /// Sweeps until nothing is left to sweep; every command must be accepted.
    fn sweep_all(world: &mut World) {
        for _ in 0..50 {
            match sweep(world.situation()) {
                Some(command) => drop(world.command(command)),
                None => return,
            }
        }
        panic!("there is always more to forget");
    }

    fn versions(world: &World) -> Vec<u64> {
        let service = world.service_row("web").id;
        world.state.deployments_of(service).map(|deployment| deployment.version).collect()
    }

    #[test]
    fn a_young_cluster_has_nothing_to_forget() {
        let mut world = World::with_nodes(1);
        world.service("web", |_| {});
        world.deploy("web");
        world.run_until_quiet();
        assert_eq!(sweep(world.situation()), None);
    }

    #[test]
    fn of_a_replica_that_crashes_on_and_on_the_newest_three_failures_stay() {
        let mut world = World::with_nodes(1);
        world.service("web", |_| {});
        let deployment = world.deploy("web");
        world.run_until_quiet();
        for _ in 0..7 {
            let instance = world.live_instances(deployment)[0].id;
            world.fails(instance, 1);
            world.run_until_quiet();
        }
        sweep_all(&mut world);
        let mut attempts: Vec<u32> = world.state.instances_of(deployment).map(|instance| instance.attempt).collect();
        attempts.sort_unstable();
        assert_eq!(attempts, [4, 5, 6, 7], "three that failed and the one that runs");
    }

    #[test]
    fn old_deployments_go_but_for_the_newest_few_and_the_one_that_serves() {
        let mut world = World::with_nodes(1);
        world.service("web", |_| {});
        for _ in 0..8 {
            world.deploy("web");
            world.run_until_quiet();
        }
        sweep_all(&mut world);
        assert_eq!(versions(&world), [8, 7, 6, 5, 4, 3, 2, 1], "all of them are young");
        world.pass(31 * DAY);
        sweep_all(&mut world);
        assert_eq!(versions(&world), [8, 7, 6, 5, 4]);
    }

    #[test]
    fn what_serves_and_a_way_back_stay_however_many_failed_since() {
        let mut world = World::with_nodes(1);
        world.service("web", |_| {});
        for _ in 0..3 {
            world.deploy("web");
            world.run_until_quiet();
        }
        world.change_spec("web", |spec| {
            spec.source = crate::model::Source::Git { repo: "github.com/o/r".to_owned(), reference: String::new() };
        });
        for _ in 0..6 {
            let deployment = world.deploy("web");
            let build = world.deployment(deployment).build.expect("has a build");
            world.command(Command::CancelBuild(build));
        }
        world.pass(31 * DAY);
        sweep_all(&mut world);
        assert_eq!(versions(&world), [9, 8, 7, 6, 5, 3, 2], "five newest, the serving one, the newest that could run");
        assert_eq!(world.state.builds().count(), 5, "builds go with their deployments");
    }

    #[test]
    fn where_volumes_are_is_never_forgotten() {
        let mut world = World::with_nodes(2);
        world.service("web", has_data);
        let first = world.deploy("web");
        world.run_until_quiet();
        let home = world.live_instances(first)[0].placement.node;
        world.want("web", crate::model::Desired::Stopped);
        world.run_until_quiet();
        world.change_node(home.0, |node| node.cordoned = true);
        for _ in 0..7 {
            let deployment = world.deploy("web");
            world.settle_rounds();
            world.pass(3_600);
            world.settle_rounds();
            assert_eq!(world.deployment(deployment).status, DeploymentStatus::Failed);
        }
        world.pass(31 * DAY);
        sweep_all(&mut world);
        let service = world.service_row("web").id;
        assert_eq!(crate::decide::schedule::volume_home(&world.state, service), Some(home));
    }

    #[test]
    fn sources_that_no_deployment_names_and_expired_sessions_go() {
        let mut world = World::with_nodes(1);
        let service = world.service("web", |spec| spec.source = crate::model::Source::Upload);
        let mut sources = Vec::new();
        for _ in 0..2 {
            let (id, created_at) = (world.id(), world.now);
            let source = UploadedSource { id, service, sha256: "ab".repeat(32), bytes: 1, created_at };
            world.command(Command::AttachSource(source));
            sources.push(id);
        }
        world.pass(2 * DAY);
        sweep_all(&mut world);
        let left: Vec<_> = world.state.sources().map(|source| source.id).collect();
        assert_eq!(left, sources[1..]);
        assert_eq!(world.state.sessions().count(), 0);
    }
}
