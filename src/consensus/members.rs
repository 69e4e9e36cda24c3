//! Who belongs to the group. Which nodes that should be is decided elsewhere; here it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::timeout;

use super::{Consensus, Peer, leader_of};
use crate::model::NodeId;
use crate::store::Member;

/// Longest wait for a change. It is committed twice, by the old voters and by the new ones.
const CHANGE_MAX: Duration = Duration::from_secs(30);

/// Longest wait for a successor before a stop; an election takes as long.
const STEP_ASIDE_MAX: Duration = Duration::from_secs(2);

/// Pause before a change is tried again that another one was in the way of.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// The members were not changed, or it is not known.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// This node does not lead. Ask the leader named here.
    #[error("this node does not lead the cluster")]
    NoLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
        /// Where that node is reached between nodes.
        address: Option<String>,
    },
    /// It makes no sense.
    #[error("the members cannot be changed like that: {0}")]
    Refused(String),
    /// It may or may not have happened; looking at the members tells.
    #[error("it is not known whether the members were changed: too few of them answered in time")]
    Unknown,
}

impl Consensus {
    /// Adds a member that holds the state and does not vote, or notes a new address of one. Returns when that is
    /// committed, not when the member has caught up.
    pub async fn add_learner(&self, peer: &Peer) -> Result<(), MemberError> {
        let member = BTreeMap::from([(peer.node.0, Member { address: peer.address.clone() })]);
        self.change_members(ChangeMembers::SetNodes(member)).await
    }

    /// Makes exactly these members the voters. Who voted before stays as a learner.
    pub async fn set_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), MemberError> {
        let voters = voters.iter().map(|node| node.0).collect();
        self.change_members(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Makes these no members at all. Voters have to be replaced first.
    pub async fn remove_learners(&self, nodes: &BTreeSet<NodeId>) -> Result<(), MemberError> {
        let nodes = nodes.iter().map(|node| node.0).collect();
        self.change_members(ChangeMembers::RemoveNodes(nodes)).await
    }

    /// Steps aside for another voter. Returns when that one leads.
    pub async fn hand_over(&self, to: NodeId) -> Result<(), MemberError> {
        let status = self.status();
        if status.leader != Some(self.node) {
            return Err(MemberError::NoLeader { leader: status.leader, address: None });
        }
        // openraft takes any id, and refuses writes from then on.
        if to == self.node || !status.voters.contains(&to) {
            return Err(MemberError::Refused(format!("node {to} is not another voter")));
        }
        self.raft.trigger().transfer_leader(to.0).await.map_err(|_| MemberError::Unknown)?;
        let leads = self.raft.wait(Some(CHANGE_MAX)).current_leader(to.0, "leadership was handed over").await;
        leads.map(drop).map_err(|_| MemberError::Unknown)
    }

    /// Steps aside, as before this node stops, for the voter that answers and has the most; nothing happens when it does not lead, or
    /// nobody else can. Without this, nothing is decided until the others have elected somebody.
    pub async fn step_aside(&self) {
        if self.status().leader != Some(self.node) {
            return;
        }
        let quorum = self.quorum();
        let answers = |node: &u64| quorum.missing.iter().all(|missing| missing.node.0 != *node);
        let successor = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched().clone();
            let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
            let matched = metrics.replication.unwrap_or_default();
            let others = matched.into_iter().filter(|(node, _)| *node != self.node.0 && voters.contains(node));
            others.filter(|(node, _)| answers(node)).max_by_key(|(_, last)| *last)
        };
        let Some((successor, _)) = successor else { return };
        match timeout(STEP_ASIDE_MAX, self.hand_over(NodeId(successor))).await {
            Ok(Ok(())) => tracing::info!(leader = successor, "handed leadership over"),
            Ok(Err(error)) => tracing::warn!(%error, "the others have to elect a leader"),
            Err(_) => tracing::warn!("nobody took leadership in time; the others elect a leader"),
        }
    }

    /// Waits for a change that is not finished yet, since the members change one at a time, and for a leader.
    async fn change_members(&self, change: ChangeMembers<u64, Member>) -> Result<(), MemberError> {
        let keep_as_learners = true;
        let change = async {
            loop {
                match self.raft.change_membership(change.clone(), keep_as_learners).await {
                    Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                        ChangeMembershipError::InProgress(_),
                    ))) => tokio::time::sleep(BUSY_PAUSE).await,
                    // Also this node itself, shortly after it was elected.
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))
                        if forward.leader_id.is_none() =>
                    {
                        tokio::time::sleep(BUSY_PAUSE).await;
                    }
                    changed => return changed,
                }
            }
        };
        match timeout(CHANGE_MAX, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                let (leader, address) = leader_of(&forward);
                Err(MemberError::NoLeader { leader, address })
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(MemberError::Refused(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(_) | RaftError::APIError(_))) | Err(_) => Err(MemberError::Unknown),
        }
    }
}
