//! The cluster at a glance.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::consensus::RaftRole;

use super::extract::Reader;
use super::gate::Gate;
use super::node::{NodeView, member_view};
use super::{Error, health};

/// Longest wait for a majority, so that the answer comes soon when there is none.
const QUORUM_WAIT: Duration = Duration::from_secs(1);

/// The cluster, as this node sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = ClusterStatus)]
pub(super) struct StatusView {
    cluster_id: String,
    /// Of the program on this node.
    version: &'static str,
    /// The node that answers.
    node_id: u64,
    /// Its part in the group: `leader`, `follower`, `candidate`, `learner` or `stopped`.
    role: &'static str,
    /// Whether a majority answers, so that changes can be made.
    has_quorum: bool,
    /// The node that leads.
    leader: Option<u64>,
    term: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    /// Index of the last entry that this node has applied.
    applied_index: u64,
    committed_index: Option<u64>,
    /// Bytes of the replicated state's rows, encoded.
    state_bytes: u64,
    /// Size at which changes that make the state grow are refused (setting `max_state_size`).
    state_limit_bytes: u64,
    /// Why consensus has stopped here, if it has.
    failure: Option<String>,
    nodes: Vec<NodeView>,
}

/// The cluster at a glance
///
/// With `?consistency=stale` it works without a majority too.
#[utoipa::path(get, path = "/v1/status", tag = "cluster", responses((status = 200, body = StatusView)))]
pub(super) async fn show(State(gate): State<Gate>, Reader(caller): Reader) -> Result<Json<StatusView>, Error> {
    let status = gate.status();
    let (state_bytes, state_limit_bytes) = gate.state_size();
    Ok(Json(StatusView {
        cluster_id: gate.cluster()?.id.to_string(),
        version: health::VERSION,
        node_id: status.node.0,
        role: role(status.role),
        has_quorum: matches!(timeout(QUORUM_WAIT, gate.has_quorum()).await, Ok(Ok(_))),
        leader: status.leader.map(|node| node.0),
        term: status.term,
        voters: status.voters.iter().map(|node| node.0).collect(),
        learners: status.learners.iter().map(|node| node.0).collect(),
        applied_index: gate.applied_index(),
        committed_index: status.committed,
        state_bytes,
        state_limit_bytes,
        failure: status.failure.clone(),
        nodes: caller.members().map(|member| member_view(member, &caller, &status)).collect(),
    }))
}

pub(super) fn role(role: RaftRole) -> &'static str {
    match role {
        RaftRole::Learner => "learner",
        RaftRole::Follower => "follower",
        RaftRole::Candidate => "candidate",
        RaftRole::Leader => "leader",
        RaftRole::Stopped => "stopped",
    }
}
