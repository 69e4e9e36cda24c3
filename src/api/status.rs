//! The cluster at a glance.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::auth::Loss;
use crate::clock;
use crate::consensus::{MissingVoter, Quorum, RaftRole};
use crate::rpc::Rival;
use crate::state::Upgrade;

use super::authority::{self, RotationView};
use super::extract::Glance;
use super::gate::Gate;
use super::node::{NodeView, member_view};
use super::{Error, health};

/// Longest wait for a majority, so that the answer comes soon when there is none.
const QUORUM_WAIT: Duration = Duration::from_secs(1);
/// Longest wait until all nodes have said what they have, or are known not to answer.
const COPIES_WAIT: Duration = Duration::from_secs(4);

/// Services that would be down for long named for each node at most; `GET /v1/nodes/{node}/moves` has all.
const LOSS_EXAMPLES_MAX: usize = 10;

/// What goes on without a quorum.
const GOES_ON: &[&str] = &[
    "applications that run",
    "the ingress of every node, to what it knew last",
    "reads with ?consistency=stale",
    "logs of what runs on the node that is asked",
];
/// What does not.
const WAITS: &[&str] = &[
    "every change, log-ins included",
    "new instances and builds",
    "moving instances away from nodes that do not answer",
    "reads of what is certain",
];

/// The voters, as one node sees them.
#[derive(Serialize, ToSchema)]
#[schema(as = Quorum)]
pub(super) struct QuorumView {
    /// Voters that have to agree.
    needed: usize,
    /// Voters that answer this node, itself included.
    answering: usize,
    /// Those that do not answer this node.
    missing: Vec<MissingVoterView>,
}

/// A voter that does not answer.
#[derive(Serialize, ToSchema)]
#[schema(as = MissingVoter)]
pub(super) struct MissingVoterView {
    node_id: u64,
    name: String,
    /// Host and port between nodes.
    address: String,
    /// Since when it does not answer: as it is on record, else since this node heard it last, or may have.
    since: String,
}

fn quorum(quorum: Quorum) -> QuorumView {
    let missing = |voter: &MissingVoter| MissingVoterView {
        node_id: voter.node.0,
        name: voter.name.clone(),
        address: voter.address.clone(),
        since: voter.since.to_string(),
    };
    QuorumView {
        needed: quorum.needed,
        answering: quorum.answering(),
        missing: quorum.missing.iter().map(missing).collect(),
    }
}

/// A version of the cluster that some members support and others do not yet.
#[derive(Serialize, ToSchema)]
#[schema(as = Upgrade)]
pub(super) struct UpgradeView {
    /// The version.
    to: u32,
    /// Members whose program has to be upgraded, or that have to come up once, before the cluster is at it.
    waits_for: Vec<HeldBackView>,
}

/// A member that an upgrade waits for.
#[derive(Serialize, ToSchema)]
#[schema(as = HeldBack)]
pub(super) struct HeldBackView {
    node_id: u64,
    name: String,
    /// Of its program; absent when the node has never come up.
    version: Option<String>,
    /// The newest cluster version that it supports.
    cluster_version_max: Option<u32>,
}

fn upgrade(upgrade: Upgrade) -> UpgradeView {
    let waits_for = upgrade.waits_for.into_iter().map(|member| {
        let (version, cluster_version_max) = member.program.unzip();
        HeldBackView { node_id: member.node.0, name: member.name, version, cluster_version_max }
    });
    UpgradeView { to: upgrade.to, waits_for: waits_for.collect() }
}

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
    /// The voters, as this node sees them.
    quorum: QuorumView,
    /// What goes on although there is no quorum; nothing when there is one.
    goes_on: &'static [&'static str],
    /// What waits for a quorum; nothing when there is one.
    waits: &'static [&'static str],
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
    /// Certificates of the cluster's authority, PEM: with them a client trusts every node's API. Two while it is rotated.
    authority: String,
    /// What the members may write: raised when the program of every member supports more.
    cluster_version: u32,
    /// The later version that members are being upgraded to, until the cluster is at it.
    upgrade: Option<UpgradeView>,
    /// The rotation of the authority, while that goes on.
    rotation: Option<RotationView>,
    /// Why consensus has stopped here, if it has.
    failure: Option<String>,
    nodes: Vec<NodeView>,
    /// What would go down with one node, for each with which something would; in the caller's organisations, or in all for
    /// administrators.
    if_lost: Vec<LossView>,
    /// Services whose image or uploaded source is on no node that answers, as `app/service`: they start again when one comes
    /// back that has it, or when they are deployed again. Some seconds old at most; absent when the nodes do not say in time.
    without_copies: Option<Vec<String>>,
    /// Who acts in this cluster's name beside it, as the node that answers knows: nodes of before a restored backup or a
    /// recovery that cannot be told to end, and the other way round. Nobody, mostly.
    rivals: Vec<RivalView>,
}

/// Somebody who acts in this cluster's name and is not of it.
#[derive(Serialize, ToSchema)]
#[schema(as = Rival)]
pub(super) struct RivalView {
    /// Host and port between nodes, or the host alone.
    address: String,
    /// What was seen, and what to do.
    why: String,
}

/// Services that would go down with a node, as `app/service`.
#[derive(Serialize, ToSchema)]
#[schema(as = Loss)]
pub(super) struct LossView {
    node_id: u64,
    node_name: String,
    /// How many would be down until they have started elsewhere.
    back_elsewhere: usize,
    /// How many would be down until the node is back or something is done.
    down_for_long: usize,
    /// Some of those that would be down for long, with the reason.
    examples: Vec<LossExample>,
}

/// A service that would be down for long.
#[derive(Serialize, ToSchema)]
pub(super) struct LossExample {
    /// `app/service`.
    service: String,
    why: String,
}

fn loss(loss: Loss) -> LossView {
    let examples = loss.down_for_long.iter().take(LOSS_EXAMPLES_MAX);
    LossView {
        node_id: loss.node.id.0,
        node_name: loss.node.name.clone(),
        back_elsewhere: loss.back_elsewhere.len(),
        down_for_long: loss.down_for_long.len(),
        examples: examples.map(|(service, why)| LossExample { service: service.clone(), why: why.clone() }).collect(),
    }
}

/// The cluster at a glance
///
/// As the node that answers knows it, so that it works without a majority too; `has_quorum` says whether a majority confirms
/// that this is the newest.
#[utoipa::path(get, path = "/v1/status", tag = "cluster", responses((status = 200, body = StatusView)))]
pub(super) async fn show(State(gate): State<Gate>, Glance(caller): Glance) -> Result<Json<StatusView>, Error> {
    let (has_quorum, without_copies) =
        tokio::join!(timeout(QUORUM_WAIT, gate.has_quorum()), timeout(COPIES_WAIT, gate.without_copies()));
    let has_quorum = matches!(has_quorum, Ok(Ok(_)));
    let (sight, cluster) = (gate.sight(), gate.cluster()?);
    let status = &sight.status;
    let (state_bytes, state_limit_bytes) = gate.state_size();
    Ok(Json(StatusView {
        cluster_id: cluster.id.to_string(),
        version: health::VERSION,
        node_id: status.node.0,
        role: role(status.role),
        has_quorum,
        quorum: quorum(gate.quorum()),
        goes_on: if has_quorum { &[] } else { GOES_ON },
        waits: if has_quorum { &[] } else { WAITS },
        leader: status.leader.map(|node| node.0),
        term: status.term,
        voters: status.voters.iter().map(|node| node.0).collect(),
        learners: status.learners.iter().map(|node| node.0).collect(),
        applied_index: gate.applied_index(),
        committed_index: status.committed,
        state_bytes,
        state_limit_bytes,
        authority: cluster.trusted(),
        cluster_version: cluster.cluster_version,
        upgrade: gate.upgrade().map(upgrade),
        rotation: authority::rotation(&cluster, &caller),
        failure: status.failure.clone(),
        if_lost: caller.losses(&gate.options().decide, clock::now()).into_iter().map(loss).collect(),
        without_copies: without_copies.ok().map(|ids| ids.into_iter().filter_map(|id| caller.path_of(id)).collect()),
        rivals: gate
            .options()
            .rivals
            .now()
            .into_iter()
            .map(|Rival { address, why }| RivalView { address, why })
            .collect(),
        nodes: caller.members().map(|member| member_view(member, &caller, &sight)).collect(),
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
