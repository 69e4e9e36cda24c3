//! Where an instance should run: filters, then scores.
//!
//! Filters: the node answers, is not cordoned, has a container engine, has the architecture (when it is known), has
//! the labels asked for, holds the service's volumes, and has room by reservation. Scores: fewest replicas of the
//! same deployment on the node, then in its zone (label `zone`), then the most head-room.

mod refusal;
mod room;
#[cfg(test)]
mod tests;

pub(super) use refusal::listed;
pub use refusal::{Filter, Refusal};
pub use room::Room;
pub(super) use room::Standing;

use crate::model::{Build, Deployment, DeploymentId, NodeId, Resources, ServiceId};
use crate::state::State;

/// What an instance asks of its node.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// What it belongs to. Each deployment is spread for itself: the replicas of another version are about to go.
    pub deployment: DeploymentId,
    /// The service's name, for reasons.
    pub name: &'a str,
    /// What is reserved for it.
    pub resources: Resources,
    /// The architecture of its image, when it is known.
    pub arch: Option<&'a str>,
    /// Labels its node must have, `key=value`.
    pub constraints: &'a [String],
    /// The node that holds its volumes, when it has some and ran before.
    pub home: Option<NodeId>,
}

impl<'a> Want<'a> {
    /// What each instance of a deployment asks.
    pub fn of(state: &'a State, deployment: &'a Deployment) -> Self {
        // The volumes of a removed node are gone with it.
        let home = volume_home(state, deployment.service)
            .filter(|home| !deployment.spec.volumes.is_empty() && state.node(*home).is_some());
        Self {
            deployment: deployment.id,
            name: &deployment.service_name,
            resources: deployment.spec.resources,
            arch: built_for(state, deployment),
            constraints: &deployment.spec.constraints,
            home,
        }
    }
}

/// The node where the newest instance of a service was, whichever deployment it ran: that is where its volumes are.
pub(super) fn volume_home(state: &State, service: ServiceId) -> Option<NodeId> {
    newest_instance(state, service).map(|instance| instance.placement.node)
}

pub(super) fn newest_instance(state: &State, service: ServiceId) -> Option<&crate::model::Instance> {
    state
        .deployments_of(service)
        .filter(|deployment| !deployment.spec.volumes.is_empty())
        .flat_map(|deployment| state.instances_of(deployment.id))
        .map(|instance| &**instance)
        .max_by_key(|instance| (instance.created_at, instance.id))
}

/// An image runs on the architecture of the node that built it; of an image from elsewhere nothing is known.
fn built_for<'a>(state: &'a State, deployment: &Deployment) -> Option<&'a str> {
    let image = &deployment.artifact.as_ref()?.image;
    let build = deployment.build.and_then(|id| state.build(id)).map(|build| &**build);
    // A rollback has no build of its own, but the artifact of one.
    let made_it = |build: &&Build| build.artifact.as_ref().is_some_and(|artifact| artifact.image == *image);
    let build = build.or_else(|| {
        state
            .deployments_of(deployment.service)
            .filter_map(|other| state.build(other.build?))
            .map(|build| &**build)
            .find(made_it)
    })?;
    state.node(build.lease?.node).map(|node| node.arch.as_str())
}
