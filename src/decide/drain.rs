//! What becomes of instances on a node that is to be emptied.
//!
//! One judgement for the leader, for whoever asks before they drain, and for whoever follows a drain. Most instances move
//! start-first: another one works before they end. What runs alone cannot, so it stays unless the operator says otherwise:
//! an exclusive service then ends before it starts elsewhere, and one with volumes ends and waits for its node, since its
//! data is there.

use crate::model::{Deployment, DeploymentStatus, Drain, Instance, InstanceId, Node, NodeId, Placement};

use super::Situation;
use super::schedule::{Room, Want, failures_of};

/// What becomes of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Another one is started there, and it ends when that works.
    Moves(Placement),
    /// That one is on its way.
    Moving(InstanceId),
    /// It ends, and then another one is started there.
    EndsFirst(Placement),
    /// It ends, and starts again when its node takes work again.
    EndsUntilBack,
    /// It was told to end.
    Ends(String),
    /// It goes as soon as something else has happened.
    Waits(String),
    /// It stays: nobody said that it may be stopped.
    Stays(String),
}

/// What becomes of each instance of a node that is drained, in the order in which is decided.
pub fn outlook(situation: Situation<'_>, node: NodeId) -> Vec<(InstanceId, Fate)> {
    let Some(drain) = situation.state.node(node).and_then(|node| node.drain) else { return Vec::new() };
    let on_it = situation.state.live_instances().filter(|instance| instance.placement.node == node);
    let mut on_it: Vec<&Instance> = on_it.map(|instance| &**instance).collect();
    on_it.sort_by_key(|instance| (instance.service, instance.slot, instance.id));
    let mut room = Room::of(situation);
    let fates = on_it.into_iter().filter_map(|instance| {
        let deployment = situation.state.deployment(instance.deployment)?;
        Some((instance.id, fate(situation, &mut room, instance, deployment, drain)))
    });
    fates.collect()
}

/// The same for a node that is not drained, or not in this way.
pub fn outlook_if(situation: Situation<'_>, node: NodeId, drain: Drain) -> Vec<(InstanceId, Fate)> {
    let Some(row) = situation.state.node(node) else { return Vec::new() };
    let state = situation.state.with(Node { cordoned: true, drain: Some(drain), ..Node::clone(row) });
    outlook(Situation { state: &state, ..situation }, node)
}

/// What becomes of one instance of a node that is drained. Room that it takes elsewhere before it ends is reserved.
pub(super) fn fate(
    situation: Situation<'_>,
    room: &mut Room,
    instance: &Instance,
    deployment: &Deployment,
    drain: Drain,
) -> Fate {
    let (state, node, spec) = (situation.state, instance.placement.node, &deployment.spec);
    if let Some(reason) = &instance.stop_requested {
        return Fate::Ends(reason.clone());
    }
    if !situation.answers(node) {
        return Fate::Waits("its node does not answer: it is given up when it can be".to_owned());
    }
    match deployment.told_status() {
        DeploymentStatus::Running => {}
        status if status.is_rolling_out() => {
            let version = deployment.version;
            return Fate::Waits(format!("version {version} is {status}; it goes once that serves, or ends with it"));
        }
        status => return Fate::Ends(format!("version {} is {status}", deployment.version)),
    }
    let is_successor = |other: &Instance| {
        let wanted = !other.status.state.is_terminal() && other.stop_requested.is_none();
        wanted && other.relocation.as_ref().is_some_and(|relocation| relocation.from == instance.id)
    };
    if let Some(successor) = state.instances_of(deployment.id).find(|other| is_successor(other)) {
        return Fate::Moving(successor.id);
    }
    if !spec.volumes.is_empty() {
        return match drain.stop_volumes {
            true => Fate::EndsUntilBack,
            false => Fate::Stays("its volumes are on this node".to_owned()),
        };
    }
    if spec.exclusive && !drain.stop_exclusive {
        return Fate::Stays("it is exclusive: it would have to end before it starts elsewhere".to_owned());
    }
    // Its own place does not count when its replicas are spread.
    room.release(node, deployment.id, spec.resources);
    let failures = failures_of(state, deployment.id, instance.slot);
    let placed = room.place(&Want { failures: &failures, ..Want::of(state, deployment) });
    room.reserve(node, deployment.id, spec.resources);
    match placed {
        Err(refusal) => Fate::Waits(refusal.to_string()),
        Ok(placement) if spec.exclusive => {
            room.release(placement.node, deployment.id, spec.resources);
            Fate::EndsFirst(placement)
        }
        Ok(placement) => Fate::Moves(placement),
    }
}

#[cfg(test)]
mod tests;
