//! What must never run twice at the same time: exclusive services, and those with volumes.

use crate::model::{Deployment, Instance, NodeId};
use crate::state::State;

/// Whether an instance is of a deployment that runs alone.
pub(crate) fn runs_alone(state: &State, instance: &Instance) -> bool {
    state.deployment(instance.deployment).is_some_and(|deployment| deployment.spec.runs_alone())
}

/// Nodes where an instance was that must not run beside those of a deployment, and may, if nobody knows that it has ended: the
/// last one of its service when that ran alone, since it was not made before the one before it had ended; else all of the
/// last version. What an older version did with volumes does not concern one without.
pub(super) fn last_places(state: &State, deployment: &Deployment) -> Vec<NodeId> {
    let instances = state.deployments_of(deployment.service).flat_map(|other| state.instances_of(other.id));
    let Some(newest) = instances.max_by_key(|instance| (instance.created_at, instance.id)) else { return Vec::new() };
    let Some(before) = state.deployment(newest.deployment) else { return Vec::new() };
    if !deployment.spec.runs_alone() && !before.spec.exclusive {
        return Vec::new();
    }
    if before.spec.runs_alone() {
        return vec![newest.placement.node];
    }
    state.instances_of(before.id).map(|instance| instance.placement.node).collect()
}
