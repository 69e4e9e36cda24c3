//! What must never run twice at the same time: exclusive services, and those with volumes.

use crate::model::{Instance, NodeId, ServiceId};
use crate::state::State;

/// Whether an instance is of a deployment that runs alone.
pub(crate) fn runs_alone(state: &State, instance: &Instance) -> bool {
    state.deployment(instance.deployment).is_some_and(|deployment| deployment.spec.runs_alone())
}

/// The node of the newest instance of a service that ran alone, whichever version it ran. Nothing older can still run: the
/// newest was not made before the one before it had ended.
pub(super) fn last_place(state: &State, service: ServiceId) -> Option<NodeId> {
    let alone = state.deployments_of(service).filter(|deployment| deployment.spec.runs_alone());
    let instances = alone.flat_map(|deployment| state.instances_of(deployment.id));
    instances.max_by_key(|instance| (instance.created_at, instance.id)).map(|instance| instance.placement.node)
}
