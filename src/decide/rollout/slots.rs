//! Replicas: which one has an instance, what follows one that ended, and how one goes to another node.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::decide::alone::last_places;
use crate::decide::drain::{self, Fate};
use crate::decide::plan::{Ids, Options};
use crate::decide::schedule::{Want, failures_of};
use crate::model::{
    Deployment, DeploymentId, Instance, InstanceId, InstanceState, NodeId, Placement, Relocation, Service, Timestamp,
};
use crate::state::{Command, NewInstance, State};

use super::Rollout;
use super::target::works;

/// One replica of a deployment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot<'a> {
    /// The instance that runs or is to run.
    pub(super) current: Option<&'a Instance>,
    /// The one that works until that does, when the replica goes to another node.
    pub(super) leaving: Option<&'a Instance>,
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
            let takes_place = |of: &Instance| instance.relocation.as_ref().is_some_and(|it| it.from == of.id);
            (slot.current, slot.leaving) = match slot.current {
                Some(other) if !takes_place(other) => (Some(other), Some(instance)),
                other => (Some(instance), other),
            };
        }
        if instance.status.state == InstanceState::Failed {
            slot.failures += 1;
            slot.last_failed = Some(instance);
        }
    }
    slots
}

/// How many instances a deployment of a service should have now. The service says so, also for an older specification;
/// but what runs alone has one.
pub(super) fn wanted_replicas(service: &Service, deployment: &Deployment) -> u32 {
    let most = if deployment.spec.runs_alone() { 1 } else { u32::MAX };
    service.spec.replicas.min(most)
}

/// The first instance of a replica.
pub(super) fn first_instance(ids: &mut Ids<'_>, slot: u32, placement: Placement, now: Timestamp) -> NewInstance {
    NewInstance { id: InstanceId(ids()), slot, attempt: 0, placement, start_after: now, relocation: None }
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
        // By the clock of whoever led then: how long the pause was is all that is certain.
        InstanceState::Lost => return (last.attempt, last.start_after.clamp(now, now.plus(last.pause()))),
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
    /// Keeps what serves whole, and has it leave nodes that are drained. Says what it waits for.
    pub(super) fn keep_whole(&mut self, serving: &Deployment) -> Option<String> {
        let slots = slots_of(self.situation.state, serving.id);
        let waiting = self.keep_replicas(serving, &slots);
        self.finish_moves(serving, &slots);
        let held_up = self.leave_drained_nodes(serving, &slots);
        waiting.or(held_up)
    }

    /// Fills the replicas that have no instance and stops those that are too many. Says what it waits for.
    pub(super) fn keep_replicas(&mut self, deployment: &Deployment, slots: &BTreeMap<u32, Slot<'_>>) -> Option<String> {
        let replicas = wanted_replicas(self.service, deployment);
        self.stop_surplus(slots, replicas);
        let missing: Vec<u32> =
            (0..replicas).filter(|number| slots.get(number).is_none_or(|slot| slot.current.is_none())).collect();
        if missing.is_empty() {
            return None;
        }
        if deployment.spec.runs_alone() && self.has_any_instance(deployment) {
            return Some(format!("waits for its instance before to stop: {}", deployment.spec.alone_because()));
        }
        if let Some(waiting) = self.removed_node_may_run_it(deployment) {
            return Some(waiting);
        }
        let want = Want::of(self.situation.state, deployment);
        let mut instances = Vec::new();
        let mut waiting = None;
        for number in &missing {
            let failures = failures_of(self.situation.state, deployment.id, *number);
            match self.room().place(&Want { failures: &failures, ..want }) {
                Ok(placement) => {
                    let newest = slots.get(number).and_then(|slot| slot.newest);
                    let (attempt, start_after) = next_attempt(newest, self.situation.now, self.situation.options);
                    let id = InstanceId((self.ids)());
                    instances.push(NewInstance {
                        id,
                        slot: *number,
                        attempt,
                        placement,
                        start_after,
                        relocation: None,
                    });
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
        let surplus: Vec<InstanceId> = slots
            .range(replicas..)
            .rev()
            .flat_map(|(_, slot)| [slot.current, slot.leaving])
            .flatten()
            .map(|i| i.id)
            .collect();
        if !surplus.is_empty() {
            let reason = format!("the service was scaled to {replicas}");
            self.plan.commands.push(Command::StopInstances { instances: surplus, reason });
        }
    }

    /// Ends the instances whose place is taken by one that works. One that serves nobody anyway need not wait for that.
    fn finish_moves(&mut self, serving: &Deployment, slots: &BTreeMap<u32, Slot<'_>>) {
        for slot in slots.values() {
            let (Some(current), Some(leaving)) = (slot.current, slot.leaving) else { continue };
            let taken = works(current) && self.has_settled(serving, &[current]);
            let useless = !works(leaving) && current.status.state == InstanceState::Running;
            if taken || useless {
                let why = current.relocation.as_ref().map_or("it moves", |relocation| relocation.reason.as_str());
                let reason = format!("{why}; instance {} has taken its place", current.id.short());
                self.plan.commands.push(Command::StopInstances { instances: vec![leaving.id], reason });
            }
        }
    }

    /// Begins what has to happen to instances on nodes that are drained. Says what holds one up.
    fn leave_drained_nodes(&mut self, serving: &Deployment, slots: &BTreeMap<u32, Slot<'_>>) -> Option<String> {
        let (situation, replicas) = (self.situation, wanted_replicas(self.service, serving));
        let (mut moves, mut ends, mut held_up) = (Vec::new(), Vec::new(), None);
        for (number, slot) in slots.range(..replicas) {
            let (Some(current), None) = (slot.current, slot.leaving) else { continue };
            let Some(node) = situation.state.node(current.placement.node) else { continue };
            let Some(drain) = node.drain else { continue };
            let reason = format!("node {} is drained", node.name);
            match drain::fate(situation, self.room(), current, serving, drain) {
                Fate::Moves(placement) => {
                    let (attempt, start_after) = next_attempt(slot.newest, situation.now, situation.options);
                    let relocation = Some(Relocation { from: current.id, reason });
                    let id = InstanceId((self.ids)());
                    moves.push(NewInstance { id, slot: *number, attempt, placement, start_after, relocation });
                }
                Fate::EndsFirst(_) | Fate::EndsUntilBack => ends.push((current.id, reason)),
                Fate::Waits(why) => {
                    held_up.get_or_insert_with(|| format!("replica {number} waits to leave, since {reason}: {why}"));
                }
                Fate::Moving(_) | Fate::Ends(_) | Fate::Stays(_) => {}
            }
        }
        if !moves.is_empty() {
            self.plan.commands.push(Command::AssignInstances { deployment: serving.id, instances: moves });
        }
        for (instance, reason) in ends {
            self.plan.commands.push(Command::StopInstances { instances: vec![instance], reason });
        }
        held_up
    }

    /// A node that was removed may still run what must not run twice, until it must have stopped that.
    pub(super) fn removed_node_may_run_it(&self, deployment: &Deployment) -> Option<String> {
        let state = self.situation.state;
        let may = |node: &NodeId| state.node(*node).is_none() && !self.situation.fenced.contains(node);
        let node = last_places(state, deployment).into_iter().find(may)?;
        let because = match deployment.spec.runs_alone() {
            true => deployment.spec.alone_because(),
            false => "the version before is exclusive",
        };
        let name = state.name_of(node);
        Some(format!("waits until node {name}, which was removed, has certainly stopped it: {because}"))
    }

    fn has_any_instance(&self, deployment: &Deployment) -> bool {
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
