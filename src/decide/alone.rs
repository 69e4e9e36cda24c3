//! What must never run twice at the same time: exclusive services, and those with volumes.

use crate::model::{Deployment, Instance, NodeId};
use crate::state::State;

/// Whether an instance is of a deployment that runs alone.
pub(crate) fn runs_alone(state: &State, instance: &Instance) -> bool {
    state.deployment(instance.deployment).is_some_and(|deployment| deployment.spec.runs_alone())
}

/// Nodes where an instance was that must not run beside those of a deployment, and may, if nobody knows that it has ended:
/// the instances of its service from the newest back to one that ran alone, which was not made before all before it had
/// ended. What an older version did with volumes does not concern one without.
pub(super) fn last_places(state: &State, deployment: &Deployment) -> Vec<NodeId> {
    let instances = state.deployments_of(deployment.service).flat_map(|other| state.instances_of(other.id));
    let mut instances: Vec<&Instance> = instances.map(|instance| &**instance).collect();
    instances.sort_by_key(|instance| std::cmp::Reverse((instance.created_at, instance.id)));
    let newest = instances.first().and_then(|newest| state.deployment(newest.deployment));
    if !deployment.spec.runs_alone() && !newest.is_some_and(|before| before.spec.exclusive) {
        return Vec::new();
    }
    let last = instances.iter().position(|instance| runs_alone(state, instance)).unwrap_or(instances.len());
    instances.into_iter().take(last + 1).map(|instance| instance.placement.node).collect()
}
