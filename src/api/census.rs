//! Counting what there is, for metrics and overviews. Only numbers: nothing in it belongs to anybody.

use std::collections::BTreeMap;

use crate::model::Health;
use crate::state::State;

/// How many there are of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) nodes: usize,
    pub(super) users: usize,
    pub(super) apps: usize,
    pub(super) services: usize,
    pub(super) deployments_by_status: BTreeMap<&'static str, usize>,
    pub(super) builds_by_status: BTreeMap<&'static str, usize>,
    pub(super) instances_by_status: BTreeMap<&'static str, usize>,
    pub(super) instances_healthy: usize,
    /// Size of the state, and what it may have.
    pub(super) bytes: u64,
    pub(super) bytes_max: u64,
}

impl Census {
    pub(super) fn of(state: &State) -> Self {
        let mut census = Self {
            nodes: state.nodes().count(),
            users: state.users().count(),
            apps: state.apps().count(),
            services: state.services().count(),
            bytes: state.bytes(),
            bytes_max: state.bytes_max(),
            ..Self::default()
        };
        for deployment in state.deployments() {
            *census.deployments_by_status.entry(deployment.told_status().as_str()).or_default() += 1;
        }
        for build in state.builds() {
            *census.builds_by_status.entry(build.status.as_str()).or_default() += 1;
        }
        for instance in state.instances() {
            *census.instances_by_status.entry(instance.status.state.as_str()).or_default() += 1;
        }
        census.instances_healthy =
            state.live_instances().filter(|instance| instance.status.health == Health::Healthy).count();
        census
    }
}
