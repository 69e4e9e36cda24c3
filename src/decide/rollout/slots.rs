//! Replicas: which one has an instance, and what follows one that ended.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::decide::plan::{Ids, Options};
use crate::decide::schedule::{Want, volume_home};
use crate::model::{Deployment, DeploymentId, Instance, InstanceId, InstanceState, Placement, Service, Timestamp};
use crate::state::{Command, NewInstance, State};

use super::Rollout;

/// One replica of a deployment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot<'a> {
    /// The instance that runs or is to run.
    pub(super) current: Option<&'a Instance>,
    /// The last one that was made.
    pub(super) newest: Option<&'a Instance>,
    /// The last one that failed.
    pub(super) last_failed: Option<&'a Instance>,
    /// How many failed by themselves.
    pub(super) failures: u32,
}

/// The replicas of a deployment that ever had an instance.
pub(super) fn slots_of(state: &State, deployment: DeploymentId) -> BTreeMap<u32, Slot<'_>> {
    let mut instances: Vec<&Instance> = state.instances_of(deployment).map(|instance| &**instance).collect();
    instances.sort_by_key(|instance| (instance.created_at, instance.id));
    let mut slots: BTreeMap<u32, Slot<'_>> = BTreeMap::new();
    for instance in instances {
        let slot = slots.entry(instance.slot).or_default();
        slot.newest = Some(instance);
        if !instance.status.state.is_terminal() && instance.stop_requested.is_none() {
            slot.current = Some(instance);
        }
        if instance.status.state == InstanceState::Failed {
            slot.failures += 1;
            slot.last_failed = Some(instance);
        }
    }
    slots
}

/// How many instances a deployment of a service should have now. The service says so, also for an older specification;
/// but volumes are for one.
pub(super) fn wanted_replicas(service: &Service, deployment: &Deployment) -> u32 {
    let most = if deployment.spec.volumes.is_empty() { u32::MAX } else { 1 };
    service.spec.replicas.min(most)
}

/// The first instance of a replica.
pub(super) fn first_instance(ids: &mut Ids<'_>, slot: u32, placement: Placement, now: Timestamp) -> NewInstance {
    NewInstance { id: InstanceId(ids()), slot, attempt: 0, placement, start_after: now }
}

/// Which attempt comes after the last instance of a replica, and when it may start. One that failed is followed after a
/// pause that doubles each time; one that was told to stop did nothing wrong. Nor did one whose node was lost: the next
/// takes its place with what it had behind it, the rest of a pause included.
fn next_attempt(newest: Option<&Instance>, now: Timestamp, options: &Options) -> (u32, Timestamp) {
    let Some(last) = newest else { return (0, now) };
    let ended = last.status.finished_at.unwrap_or(now).min(now);
    let worked_long = last.status.healthy_at.is_some_and(|since| ended.since(since) >= options.restart_reset);
    match last.status.state {
        InstanceState::Failed => {}
        InstanceState::Lost if worked_long => return (0, now),
        InstanceState::Lost => return (last.attempt, last.start_after.max(now)),
        _ => return (0, now),
    }
    let attempt = if worked_long { 1 } else { last.attempt.saturating_add(1) };
    (attempt, ended.plus(backoff(attempt, options)).max(now))
}

fn backoff(attempt: u32, options: &Options) -> Duration {
    let factor = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    options.restart_backoff.saturating_mul(factor).min(options.restart_backoff_max)
}

impl Rollout<'_, '_> {
    /// Fills the replicas that have no instance and stops those that are too many. Says what it waits for.
    pub(super) fn keep_replicas(&mut self, deployment: &Deployment) -> Option<String> {
        let replicas = wanted_replicas(self.service, deployment);
        let slots = slots_of(self.situation.state, deployment.id);
        self.stop_surplus(&slots, replicas);
        let missing: Vec<u32> =
            (0..replicas).filter(|number| slots.get(number).is_none_or(|slot| slot.current.is_none())).collect();
        if missing.is_empty() {
            return None;
        }
        if !deployment.spec.volumes.is_empty() && self.volumes_in_use(deployment) {
            return Some("waits for its instance before to stop: its volumes are for one at a time".to_owned());
        }
        if let Some(waiting) = self.home_may_run_it(deployment) {
            return Some(waiting);
        }
        let want = Want::of(self.situation.state, deployment);
        let mut instances = Vec::new();
        let mut waiting = None;
        for number in &missing {
            match self.room().place(&want) {
                Ok(placement) => {
                    let newest = slots.get(number).and_then(|slot| slot.newest);
                    let (attempt, start_after) = next_attempt(newest, self.situation.now, self.situation.options);
                    let id = InstanceId((self.ids)());
                    instances.push(NewInstance { id, slot: *number, attempt, placement, start_after });
                }
                Err(refusal) => {
                    let short = missing.len() - instances.len();
                    waiting = Some(format!("{short} of {replicas} replicas wait for room: {refusal}"));
                    break;
                }
            }
        }
        if !instances.is_empty() {
            self.plan.commands.push(Command::AssignInstances { deployment: deployment.id, instances });
        }
        waiting
    }

    /// Stops the replicas with the highest numbers first.
    fn stop_surplus(&mut self, slots: &BTreeMap<u32, Slot<'_>>, replicas: u32) {
        let surplus: Vec<InstanceId> =
            slots.range(replicas..).rev().filter_map(|(_, slot)| slot.current).map(|instance| instance.id).collect();
        if !surplus.is_empty() {
            let reason = format!("the service was scaled to {replicas}");
            self.plan.commands.push(Command::StopInstances { instances: surplus, reason });
        }
    }

    /// Volumes go with the node that held them. One that was removed may still run what had them, until it must have
    /// stopped that.
    pub(super) fn home_may_run_it(&self, deployment: &Deployment) -> Option<String> {
        let state = self.situation.state;
        let home = volume_home(state, deployment.service).filter(|_| !deployment.spec.volumes.is_empty())?;
        let may = state.node(home).is_none() && !self.situation.fenced.contains(&home);
        may.then(|| {
            format!(
                "waits until node {home}, which was removed, has certainly stopped it: its volumes are for one at a time"
            )
        })
    }

    fn volumes_in_use(&self, deployment: &Deployment) -> bool {
        let state = self.situation.state;
        state
            .deployments_of(deployment.service)
            .flat_map(|other| state.instances_of(other.id))
            .any(|instance| !instance.status.state.is_terminal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_limit() {
        let options = Options::default();
        let pauses: Vec<u64> = [1, 2, 3, 9, 10, 40, u32::MAX].map(|n| backoff(n, &options).as_secs()).to_vec();
        assert_eq!(pauses, [1, 2, 4, 256, 300, 300, 300]);
    }
}
