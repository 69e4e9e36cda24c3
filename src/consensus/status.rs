//! How the node stands in its group.

use openraft::ServerState;

use super::Metrics;
use crate::model::NodeId;
use crate::store::LogStore;

/// What this node knows of the group, for the API and metrics. Not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its part in the group.
    pub role: RaftRole,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// Index of the last entry in this node's log.
    pub last_log: Option<u64>,
    /// Index of the last entry that this node knows to be committed.
    pub committed: Option<u64>,
    /// Index of the last entry that is applied here.
    pub applied: Option<u64>,
    /// Index up to which a snapshot exists here.
    pub snapshot: Option<u64>,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who holds the state and does not vote.
    pub learners: Vec<NodeId>,
    /// Entries and bytes in this node's log.
    pub log_size: (u64, u64),
    /// How often the log was synced since the start.
    pub log_syncs: u64,
    /// Why consensus has stopped here, if it has.
    pub failure: Option<String>,
}

/// A node's part in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftRole {
    /// Holds the state, does not vote.
    Learner,
    /// Votes and follows.
    Follower,
    /// Asks to be elected.
    Candidate,
    /// Leads.
    Leader,
    /// Has stopped.
    Stopped,
}

impl Status {
    pub(super) fn new(metrics: &Metrics, log: &LogStore, failure: Option<String>) -> Self {
        let membership = metrics.membership_config.membership();
        let role = match metrics.state {
            ServerState::Learner => RaftRole::Learner,
            ServerState::Follower => RaftRole::Follower,
            ServerState::Candidate => RaftRole::Candidate,
            ServerState::Leader => RaftRole::Leader,
            ServerState::Shutdown => RaftRole::Stopped,
        };
        Self {
            node: NodeId(metrics.id),
            role,
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            last_log: metrics.last_log_index,
            committed: metrics.local_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            log_size: log.size(),
            log_syncs: log.syncs(),
            failure: failure.or_else(|| metrics.running_state.as_ref().err().map(ToString::to_string)),
        }
    }
}
