//! The types that the replicated log is made of: openraft's, filled in with ours.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::impls::leader_id_adv;

use super::Error;
use super::envelope;
use crate::state::{LogEntry, Outcome, Rejection};

/// The largest command, encoded. Large things (sources, artifacts) never enter the log, so this is generous.
pub const ENTRY_BYTES_MAX: usize = 1024 * 1024;

openraft::declare_raft_types!(
    /// What openraft is told about our log.
    pub TypeConfig:
        D = Proposal,
        R = Response,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

#[cfg(not(test))]
type Runtime = openraft_rt_tokio::TokioRuntime;
#[cfg(test)]
type Runtime = super::test_runtime::TestRuntime;

/// Who leads in which term.
pub type LeaderId = leader_id_adv::LeaderId<u64, u64>;
/// A position in the log, with the leader that wrote it.
pub type LogId = openraft::LogId<LeaderId>;
/// The vote of a node.
pub type Vote = openraft::Vote<LeaderId>;
/// Who votes and who only listens.
pub type Membership = openraft::Membership<u64, Member>;
/// A membership and the log position that brought it.
pub type StoredMembership = openraft::StoredMembership<LeaderId, u64, Member>;
/// What an entry of the log carries.
pub type Payload = openraft::EntryPayload<Proposal, u64, Member>;
/// An entry of the log.
pub type Entry = openraft::Entry<LeaderId, Payload>;
/// What a snapshot contains, without the contents.
pub type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Member>;

/// Where a member of the Raft group is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Host and port between nodes, as other nodes reach it.
    pub address: String,
}

impl Member {
    /// The members of a group of one.
    pub fn alone(id: u64, address: &str) -> BTreeMap<u64, Self> {
        BTreeMap::from([(id, Self { address: address.to_owned() })])
    }
}

/// A command on its way through the log, together with its encoded form: it is encoded once, by whoever proposes it.
#[derive(Clone)]
pub struct Proposal {
    entry: Arc<LogEntry>,
    bytes: Bytes,
}

impl Proposal {
    /// Encodes a command. Refuses one that is larger than [`ENTRY_BYTES_MAX`].
    pub fn new(entry: LogEntry) -> Result<Self, Error> {
        let bytes = envelope::encode(&entry).map_err(|source| Error::Encoding { what: "command", source })?;
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(Error::TooLarge { bytes: bytes.len(), limit: ENTRY_BYTES_MAX });
        }
        Ok(Self { entry: Arc::new(entry), bytes: bytes.into() })
    }

    /// Decodes a command that was read from the log of this or another node.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, envelope::Unreadable> {
        Ok(Self { entry: Arc::new(envelope::decode(&bytes)?), bytes })
    }

    /// The command.
    pub fn entry(&self) -> &LogEntry {
        &self.entry
    }

    /// The command, encoded.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

// Commands carry secrets, and openraft logs what it handles: neither form shows the contents.
impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.bytes.len())
    }
}

/// What applying an entry answered.
#[derive(Debug)]
pub enum Response {
    /// The entry was a command.
    Command {
        /// Its place in the log.
        index: u64,
        /// What the state made of it.
        result: Result<Outcome, Rejection>,
    },
    /// The entry was openraft's own: a blank one or a membership.
    Internal,
}
