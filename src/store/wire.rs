//! What nodes send each other of the log and of snapshots: the same frozen encodings as on disk, unsealed.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Error;
use super::envelope::{self, Unreadable};
use super::raft_types::{Entry, LogId, SnapshotMeta, StoredMembership};
use super::stored::{EntryV1, LogIdV1, SnapshotHeaderV1, StoredMembershipV1};
use crate::state::{Outcome, Rejection};

/// What the state made of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Log index of the command; 0 when it was refused.
    pub index: u64,
    /// The answer.
    pub result: Result<Outcome, Rejection>,
}

/// An entry of the log, encoded.
///
/// # Errors
/// It is too large to be decoded again.
pub fn encode_entry(entry: &Entry) -> Result<Bytes, Error> {
    let bytes = envelope::encode(&EntryV1::from(entry));
    Ok(bytes.map_err(|source| Error::Encoding { what: "entry", source })?.into())
}

/// An entry of another node's log.
///
/// # Errors
/// Bytes that are anything else, or that hold a command that this program does not know.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, Unreadable> {
    Entry::try_from(envelope::decode::<EntryV1>(bytes)?)
}

/// What the state answered to a command, encoded.
pub fn encode_answer(answer: &Answer) -> Result<Bytes, Error> {
    Ok(envelope::encode(answer).map_err(|source| Error::Encoding { what: "answer", source })?.into())
}

/// What the state of another node answered to a command.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, Unreadable> {
    envelope::decode(bytes)
}

/// What a snapshot contains, encoded.
pub fn encode_meta(meta: &SnapshotMeta) -> Result<Bytes, Error> {
    let header = SnapshotHeaderV1 {
        last_log_id: meta.last_log_id.map(LogIdV1::from),
        membership: StoredMembershipV1::from(&meta.last_membership),
    };
    Ok(envelope::encode(&header).map_err(|source| Error::Encoding { what: "snapshot head", source })?.into())
}

/// What another node's snapshot contains.
pub fn decode_meta(bytes: &[u8]) -> Result<SnapshotMeta, Unreadable> {
    let header: SnapshotHeaderV1 = envelope::decode(bytes)?;
    Ok(SnapshotMeta {
        last_log_id: header.last_log_id.map(LogId::from),
        last_membership: StoredMembership::try_from(header.membership)?,
    })
}
