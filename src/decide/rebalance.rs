//! Which instances to move so that what runs is spread better: few, and each for a reason that can be measured.
//!
//! Better is, in this order: on a node with the labels it asks for; fewer replicas of the same deployment on one node; fewer
//! in one zone; head-room that differs less between nodes. A move never makes worse what comes earlier in this list, so
//! that moving ends. What runs alone, or is on its way already, is left where it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{DeploymentId, DeploymentStatus, Desired, Instance, InstanceId, NodeId, Placement, Relocation};
use crate::state::{Command, NewInstance};

use super::Situation;
use super::plan::{Ids, Plan};
use super::rollout::works;
use super::schedule::{Room, Standing, Want};

/// A node must have so much more head-room than another one, in millionths of a node, that moving is worth it.
const WORTH_IT: u64 = 150_000;
/// Looks at all instances at most. Each finds what the moves before have made possible; few are needed.
const PASSES_MAX: usize = 8;

/// One instance that had better be elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Which.
    pub instance: InstanceId,
    /// Where it is.
    pub from: NodeId,
    /// Where it had better be, and why there.
    pub to: Placement,
    /// What is wrong with where it is.
    pub reason: String,
}

/// What the moving of one instance makes better, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gain {
    Headroom(u64),
    Zone(u32),
    Spread(u32),
    Labels,
}

/// At most `budget` moves, those that gain most first. All of them have room while nothing has moved yet, since both
/// instances are there until the new one works; what needs room that these moves make is for another time.
pub fn propose(situation: Situation<'_>, budget: usize) -> Vec<Proposal> {
    let mut balance = Balance::of(situation);
    for _ in 0..PASSES_MAX {
        let mut found: Vec<(Gain, usize)> = Vec::new();
        for candidate in 0..balance.candidates.len() {
            found.extend(balance.improvement(candidate).map(|(gain, _)| (gain, candidate)));
        }
        found.sort_unstable_by_key(|(gain, candidate)| (std::cmp::Reverse(*gain), *candidate));
        let mut moved = false;
        for (_, candidate) in found {
            // Moves before this one may have made it pointless.
            let Some((_, to)) = balance.improvement(candidate) else { continue };
            moved |= balance.relocate(candidate, to, budget);
        }
        if !moved {
            break;
        }
    }
    balance.proposals()
}

/// What the leader does when somebody asked for it: once, and first of all that it was begun.
pub(super) fn decide(situation: Situation<'_>, ids: &mut Ids<'_>, plan: &mut Plan) {
    let Some(budget) = situation.state.cluster().map(|cluster| cluster.rebalance).filter(|budget| *budget > 0) else {
        return;
    };
    plan.commands.push(Command::Rebalance { budget: 0 });
    let mut of_deployment: BTreeMap<DeploymentId, Vec<NewInstance>> = BTreeMap::new();
    for proposal in propose(situation, budget as usize) {
        let Some(instance) = situation.state.instance(proposal.instance) else { continue };
        of_deployment.entry(instance.deployment).or_default().push(NewInstance {
            id: InstanceId(ids()),
            slot: instance.slot,
            attempt: 0,
            placement: proposal.to,
            start_after: situation.now,
            relocation: Some(Relocation { from: proposal.instance, reason: proposal.reason }),
        });
    }
    for (deployment, instances) in of_deployment {
        plan.commands.push(Command::AssignInstances { deployment, instances });
    }
}

/// What runs, and where it would be after the moves so far.
struct Balance<'a> {
    situation: Situation<'a>,
    /// As if all moves had been made.
    after: Room,
    /// With both instances of each move.
    held: Room,
    candidates: Vec<Candidate<'a>>,
}

struct Candidate<'a> {
    instance: &'a Instance,
    want: Want<'a>,
    /// Where it would be.
    at: NodeId,
    /// Why there, when that is not where it is.
    to: Option<(Placement, String)>,
}

impl<'a> Balance<'a> {
    fn of(situation: Situation<'a>) -> Self {
        let state = situation.state;
        let room = Room::of(situation);
        let moving: BTreeSet<InstanceId> =
            state.live_instances().filter_map(|instance| Some(instance.relocation.as_ref()?.from)).collect();
        let mut after = room.clone();
        let mut candidates = Vec::new();
        for instance in state.live_instances() {
            let Some(deployment) = state.deployment(instance.deployment) else { continue };
            if moving.contains(&instance.id) || instance.stop_requested.is_some() {
                // It is about to end.
                after.release(instance.placement.node, deployment.id, deployment.spec.resources);
                continue;
            }
            let is_successor = instance
                .relocation
                .as_ref()
                .and_then(|relocation| state.instance(relocation.from))
                .is_some_and(|from| !from.status.state.is_terminal());
            let at_rest = state.service(instance.service).is_some_and(|service| {
                service.desired == Desired::Running
                    && service.serving == Some(deployment.id)
                    && instance.slot < service.spec.replicas
            });
            let newest = state.deployments_of(instance.service).next();
            let rolling_out = newest.is_some_and(|newest| newest.status < DeploymentStatus::Running);
            // A cordoned node keeps what it runs, and who drains one moves it.
            let node = state.node(instance.placement.node).filter(|node| !node.cordoned);
            let may_move = node.is_some_and(|node| situation.answers(node.id))
                && at_rest
                && !rolling_out
                && !is_successor
                && !deployment.spec.runs_alone()
                && works(instance);
            if may_move {
                let want = Want::of(state, deployment);
                candidates.push(Candidate { instance, want, at: instance.placement.node, to: None });
            }
        }
        Self { situation, after, held: room, candidates }
    }

    /// Where one had better be than where it would be, and how much better.
    fn improvement(&mut self, candidate: usize) -> Option<(Gain, NodeId)> {
        let Candidate { instance, want, at, .. } = &self.candidates[candidate];
        let (at, deployment) = (*at, want.deployment);
        self.after.release(at, deployment, want.resources);
        let here = self.after.standing(at, want);
        let best = self.after.find(want).filter(|best| *best != at);
        let found = best.and_then(|best| Some((best, gain(&here?, &self.after.standing(best, want)?)?)));
        self.after.reserve(at, deployment, want.resources);
        let (best, gain) = found?;
        // Going back to where it is takes no room.
        let has_room = best == instance.placement.node || self.held.fits(best, want);
        has_room.then_some((gain, best))
    }

    /// Moves one in thought. False when that is one move too many.
    fn relocate(&mut self, candidate: usize, to: NodeId, budget: usize) -> bool {
        let moved = self.candidates.iter().filter(|candidate| candidate.to.is_some()).count();
        let Candidate { instance, want, at, to: before } = &mut self.candidates[candidate];
        if before.is_none() && moved >= budget {
            return false;
        }
        let (deployment, home) = (want.deployment, instance.placement.node);
        self.after.release(*at, deployment, want.resources);
        let wrong = self.after.standing(*at, want).zip(self.after.standing(to, want));
        let reasons = self.after.reasons_for(to, want);
        self.after.reserve(to, deployment, want.resources);
        if *at != home {
            self.held.release(*at, deployment, want.resources);
        }
        if to != home {
            self.held.reserve(to, deployment, want.resources);
        }
        let reason = wrong.map(|(here, there)| why(self.situation, *at, want, &here, &there)).unwrap_or_default();
        *before = (to != home).then_some((Placement { node: to, reasons }, reason));
        *at = to;
        true
    }

    fn proposals(self) -> Vec<Proposal> {
        let moved = self.candidates.into_iter().filter_map(|candidate| {
            let (to, reason) = candidate.to?;
            Some(Proposal { instance: candidate.instance.id, from: candidate.instance.placement.node, to, reason })
        });
        moved.collect()
    }
}

fn gain(here: &Standing, there: &Standing) -> Option<Gain> {
    if !here.suits {
        return Some(Gain::Labels);
    }
    if there.replicas != here.replicas {
        return here.replicas.checked_sub(there.replicas).map(Gain::Spread);
    }
    if there.in_zone != here.in_zone {
        return here.in_zone.checked_sub(there.in_zone).map(Gain::Zone);
    }
    let more = there.headroom.saturating_sub(here.headroom);
    (more >= WORTH_IT).then_some(Gain::Headroom(more))
}

fn why(situation: Situation<'_>, at: NodeId, want: &Want<'_>, here: &Standing, there: &Standing) -> String {
    let name = situation.state.node(at).map_or_else(|| at.to_string(), |node| node.name.clone());
    let percent = |share: u64| share / 10_000;
    match gain(here, there) {
        Some(Gain::Labels) => format!("node {name} has not the labels that it asks for any more"),
        Some(Gain::Spread(_)) => format!("node {name} runs {} more of {}", here.replicas, want.name),
        Some(Gain::Zone(_)) => format!("the zone of node {name} has {} more of {}", here.in_zone, want.name),
        _ => format!(
            "node {name} has {} % of itself free, and the other one {} % with it",
            percent(here.headroom),
            percent(there.headroom)
        ),
    }
}

#[cfg(test)]
mod tests;
