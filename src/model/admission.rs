//! Who may be a member of the cluster: join tokens, admitted nodes, and which of them do not answer.

use serde::{Deserialize, Serialize};

use super::word::word_enum;
use super::{JoinTokenId, NodeId, Timestamp, UserId};

word_enum! {
    /// What a node may become.
    NodeRole {
        /// Votes when the cluster wants another voter.
        VoterEligible = "voter-eligible",
        /// Holds the state and does all work, and never votes or leads.
        Worker = "worker",
    }
}

/// The right to join, for whoever shows its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Identity; a part of what the operator hands over.
    pub id: JoinTokenId,
    /// SHA-256 of the secret, which is kept nowhere.
    pub digest: [u8; 32],
    /// What nodes that join with it may become.
    pub role: NodeRole,
    /// How many nodes may still join.
    pub uses_left: u32,
    /// From when it is refused.
    pub expires_at: Timestamp,
    /// That it was revoked.
    pub revoked: bool,
    /// Who made it.
    pub created_by: UserId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Why a join token is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenEnd {
    /// Somebody took it back.
    Revoked,
    /// As many nodes joined as it was for.
    Used,
    /// Its time is over.
    Expired,
}

impl TokenEnd {
    /// The word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Used => "used",
            Self::Expired => "expired",
        }
    }
}

impl JoinToken {
    /// Why it is of no use at this time, if it is not.
    pub fn ended(&self, now: Timestamp) -> Option<TokenEnd> {
        if self.revoked {
            Some(TokenEnd::Revoked)
        } else if self.uses_left == 0 {
            Some(TokenEnd::Used)
        } else if self.expires_at <= now {
            Some(TokenEnd::Expired)
        } else {
            None
        }
    }
}

/// A node that was let in. The record stays when the node is removed, so that its id is never taken again and its
/// certificate is refused for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The node.
    pub node: NodeId,
    /// Its name when it came; no two members have the same.
    pub name: String,
    /// Host and port between nodes when it came, or as it said since. Once it has registered, its own record says where it is.
    pub address: String,
    /// What it may become.
    pub role: NodeRole,
    /// The token it came with; none for the founder.
    pub token: Option<JoinTokenId>,
    /// When it was let in.
    pub admitted_at: Timestamp,
    /// When it was removed, if it was: from then on it gets no work, and others take what it had.
    pub removed_at: Option<Timestamp>,
    /// From when every member refuses it, after its removal: as soon as the Raft group can do without it.
    pub fenced_at: Option<Timestamp>,
}

impl Admission {
    /// What is said to it, and of it, once it was removed: what happened, and how its machine comes back.
    pub fn farewell(&self) -> String {
        format!("{} (node {}) was removed from this cluster; {COME_BACK}", self.name, self.node)
    }
}

/// How the machine of a node that is no member any more comes back. It is said in one way wherever that is said.
pub const COME_BACK: &str =
    "its machine comes back as a new node with `narvana node rebuild`, which keeps the old data folder aside";

/// A member that does not answer, as the leader found. There is no such record of one that does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// The node.
    pub node: NodeId,
    /// When the leader gave it up.
    pub since: Timestamp,
}
