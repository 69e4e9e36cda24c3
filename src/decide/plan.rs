//! The leader's whole decision: the version of the cluster, builds, instances that are given up, then rollouts, then what was asked to be
//! spread better, as one list of commands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use crate::model::{DeploymentId, NEWEST_CLUSTER_VERSION, NodeId, Timestamp};
use crate::state::{Command, State};

use super::{builds, cluster_version, lost, rebalance, rollout};

/// Where ids of new records come from, since deciding has no randomness of its own.
pub type Ids<'a> = dyn FnMut() -> Uuid + 'a;

/// All that a decision depends on.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// What is wanted and what was observed.
    pub state: &'a State,
    /// The time at which is decided.
    pub now: Timestamp,
    /// Nodes, absent or removed, that have stopped what must not run twice: known to the leader alone.
    pub fenced: &'a BTreeSet<NodeId>,
    /// The operator's choices.
    pub options: &'a Options,
}

impl Situation<'_> {
    /// Whether a node answers, as far as the state knows. One that does not gets no work.
    pub(super) fn answers(&self, node: NodeId) -> bool {
        self.state.absence(node).is_none()
    }
}

/// How patient and how parallel the leader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Builds on one node at the same time.
    pub builds_per_node: u32,
    /// Failed instances of one replica that make a new deployment fail.
    pub rollout_attempts: u32,
    /// How long instances without a health check must run before they replace a version that works.
    pub settle: Duration,
    /// How long a deployment may go without progress once it has instances.
    pub progress_deadline: Duration,
    /// How long a deployment may wait for dependencies and room.
    pub room_deadline: Duration,
    /// Pause before the first restart of a failed instance; doubled for each further one.
    pub restart_backoff: Duration,
    /// Longest pause before a restart.
    pub restart_backoff_max: Duration,
    /// How long an instance must have been healthy for its failures before to be forgotten.
    pub restart_reset: Duration,
    /// The newest version of a cluster that this program supports.
    pub cluster_version_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            builds_per_node: 4,
            rollout_attempts: 2,
            settle: Duration::from_secs(2),
            progress_deadline: Duration::from_secs(10 * 60),
            room_deadline: Duration::from_secs(30 * 60),
            restart_backoff: Duration::from_secs(1),
            restart_backoff_max: Duration::from_secs(5 * 60),
            restart_reset: Duration::from_secs(10 * 60),
            cluster_version_max: NEWEST_CLUSTER_VERSION,
        }
    }
}

/// What the leader should propose now, and when it should decide again although nothing changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Commands in the order to propose them. Each stands on its own: one that is refused makes no other one wrong.
    pub commands: Vec<Command>,
    /// Why a deployment is not further than it is, for each that waits for something.
    pub waiting: BTreeMap<DeploymentId, String>,
    /// The earliest time at which the passing of time alone changes the decision.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// Decide again at this time at the latest.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Everything the leader should do in this situation, except forgetting old records ([`super::sweep`]).
pub fn plan(situation: Situation<'_>, ids: &mut Ids<'_>) -> Plan {
    let mut plan = Plan::default();
    plan.commands.extend(cluster_version::raise(situation));
    builds::decide(situation, ids, &mut plan);
    lost::decide(situation, &mut plan);
    rollout::decide(situation, ids, &mut plan);
    rebalance::decide(situation, ids, &mut plan);
    plan
}
