//! Where an instance should run: filters, then scores.
//!
//! Filters: the node answers, is not cordoned, has a container engine, has the architecture (when it is known), has
//! the labels asked for, holds the service's volumes, and has room by reservation. Scores: fewest replicas of the
//! same deployment on the node, then in its zone (label `zone`), then the most head-room. Before them all: how often the same
//! replica failed there and never worked, since what is wrong may be wrong with the node.

mod refusal;
mod room;
#[cfg(test)]
mod tests;

pub(super) use refusal::listed;
pub use refusal::{Filter, Refusal};
pub use room::Room;
pub(super) use room::Standing;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Build, Deployment, DeploymentId, Instance, InstanceState, NodeId, Resources, ServiceId};
use crate::state::State;

/// On which nodes the instances of a replica failed that never were healthy, and how many.
pub type Failures = BTreeMap<NodeId, u32>;

/// Nothing is known against any node.
pub static NO_FAILURES: Failures = Failures::new();

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
    /// What is known against nodes.
    pub failures: &'a Failures,
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
            failures: &NO_FAILURES,
        }
    }
}

/// [`Want::failures`] of one replica of a deployment: since it worked last, wherever.
pub(super) fn failures_of(state: &State, deployment: DeploymentId, slot: u32) -> Failures {
    let of_slot: Vec<&Arc<Instance>> =
        state.instances_of(deployment).filter(|instance| instance.slot == slot).collect();
    let worked = of_slot.iter().filter(|instance| instance.status.healthy_at.is_some());
    let since = worked.map(|instance| instance.created_at).max();
    let mut failures = Failures::new();
    for instance in of_slot {
        if instance.status.state == InstanceState::Failed && Some(instance.created_at) > since {
            *failures.entry(instance.placement.node).or_default() += 1;
        }
    }
    failures
}

/// The node where the newest instance of a service was, whichever deployment it ran: that is where its volumes are.
pub(super) fn volume_home(state: &State, service: ServiceId) -> Option<NodeId> {
    newest_instance(state, service).map(|instance| instance.placement.node)
}

/// The newest instance of a service that has volumes, and may have made them: one that failed before it had a container has not, when
/// the service never served.
pub(super) fn newest_instance(state: &State, service: ServiceId) -> Option<&Instance> {
    let made_none = |instance: &Instance| {
        let status = &instance.status;
        status.state == InstanceState::Failed && status.container.is_none() && status.started_at.is_none()
    };
    let served = state.service(service).is_some_and(|service| service.serving.is_some());
    state
        .deployments_of(service)
        .filter(|deployment| !deployment.spec.volumes.is_empty())
        .flat_map(|deployment| state.instances_of(deployment.id))
        .map(|instance| &**instance)
        .filter(|instance| served || !made_none(instance))
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
