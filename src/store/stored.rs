//! The stored forms of openraft's types and of the store's own records. Frozen: a change is a new struct with a new
//! schema version. openraft's types change between its releases, so they are converted at the edge, never stored.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::envelope::{self, Unreadable};
use super::raft_types::{Entry, LeaderId, LogId, Member, Membership, Payload, Proposal, StoredMembership, Vote};
use crate::model::{ClusterId, NodeId};

/// A position in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogIdV1 {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VoteV1 {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

/// Who votes (one set, or two while changing) and where every member is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MembershipV1 {
    pub voters: Vec<BTreeSet<u64>>,
    pub members: BTreeMap<u64, MemberV1>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberV1 {
    pub address: String,
}

/// A membership and the entry that brought it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredMembershipV1 {
    pub log_id: Option<LogIdV1>,
    pub membership: MembershipV1,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PayloadV1 {
    Blank,
    /// A command in its own envelope.
    Command(Bytes),
    Membership(MembershipV1),
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntryV1 {
    pub log_id: LogIdV1,
    pub payload: PayloadV1,
}

/// How far the rows are applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AppliedV1 {
    pub last_applied: Option<LogIdV1>,
    pub membership: StoredMembershipV1,
}

/// Whose folder this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdentityV1 {
    pub cluster: ClusterId,
    pub node: NodeId,
}

/// How far the log had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PositionV1 {
    pub vote: Option<VoteV1>,
    pub last: Option<LogIdV1>,
    pub purged: Option<LogIdV1>,
}

/// The head of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotHeaderV1 {
    pub last_log_id: Option<LogIdV1>,
    pub membership: StoredMembershipV1,
}

/// Some rows, each in its own envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotChunkV1 {
    pub rows: Vec<Bytes>,
}

/// The end of a snapshot: what must have come before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotTrailerV1 {
    pub chunks: u64,
    pub rows: u64,
    /// Over all chunks, as they were before sealing.
    pub sha256: [u8; 32],
}

impl From<LogId> for LogIdV1 {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        Self::new(LeaderId { term: id.term, node_id: id.node }, id.index)
    }
}

impl From<&Vote> for VoteV1 {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<VoteV1> for Vote {
    fn from(vote: VoteV1) -> Self {
        Self { leader_id: LeaderId { term: vote.term, node_id: vote.node }, committed: vote.committed }
    }
}

impl From<&Membership> for MembershipV1 {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            members: membership
                .nodes()
                .map(|(id, member)| (*id, MemberV1 { address: member.address.clone() }))
                .collect(),
        }
    }
}

impl TryFrom<MembershipV1> for Membership {
    type Error = Unreadable;

    fn try_from(stored: MembershipV1) -> Result<Self, Unreadable> {
        let members: BTreeMap<u64, Member> =
            stored.members.into_iter().map(|(id, member)| (id, Member { address: member.address })).collect();
        Self::new(stored.voters, members)
            .map_err(|error| Unreadable::Contents { kind: envelope::Kind::Entry, reason: error.to_string() })
    }
}

impl From<&StoredMembership> for StoredMembershipV1 {
    fn from(membership: &StoredMembership) -> Self {
        Self { log_id: membership.log_id().map(LogIdV1::from), membership: membership.membership().into() }
    }
}

impl TryFrom<StoredMembershipV1> for StoredMembership {
    type Error = Unreadable;

    fn try_from(stored: StoredMembershipV1) -> Result<Self, Unreadable> {
        Ok(Self::new(stored.log_id.map(LogId::from), stored.membership.try_into()?))
    }
}

impl From<&Entry> for EntryV1 {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            Payload::Blank => PayloadV1::Blank,
            Payload::Normal(proposal) => PayloadV1::Command(proposal.bytes().clone()),
            Payload::Membership(membership) => PayloadV1::Membership(membership.into()),
        };
        Self { log_id: entry.log_id.into(), payload }
    }
}

impl TryFrom<EntryV1> for Entry {
    type Error = Unreadable;

    fn try_from(stored: EntryV1) -> Result<Self, Unreadable> {
        let payload = match stored.payload {
            PayloadV1::Blank => Payload::Blank,
            PayloadV1::Command(bytes) => Payload::Normal(Proposal::from_bytes(bytes)?),
            PayloadV1::Membership(membership) => Payload::Membership(membership.try_into()?),
        };
        Ok(Self { log_id: stored.log_id.into(), payload })
    }
}
