//! The stored form of every value: `format u8 | kind u16 | schema version u16 | bincode bytes`, integers big-endian.
//!
//! Decoding refuses a format, kind or version that this program does not know, bytes that are left over, and values
//! larger than [`DECODED_BYTES_MAX`]. A struct that was stored once is never edited: a new shape is a new schema
//! version, and the golden files under `golden/` hold every shape that was ever released.
//!
//! The schema version of a command and of a row is the cluster version that it came with (`model::CLUSTER_VERSIONS`). So an
//! older program sees in the head that it cannot read the rest, and what would make it able to.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::stored;
use crate::config::cluster_versions;
use crate::model::{Unsupported, check_cluster_version};
use crate::state::{LogEntry, Record};

/// The only envelope format so far.
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 5;

/// Decoding claims no more memory than this: a damaged length must not exhaust it. Well above the largest row.
pub(super) const DECODED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a stored value is. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// A command with its proposer and time.
    Command = 1,
    /// An entry of the log.
    Entry = 2,
    /// A vote.
    Vote = 3,
    /// A position in the log.
    LogId = 4,
    /// How far the state has been applied, and the membership at that point.
    Applied = 5,
    /// A row of the state.
    Record = 6,
    /// Whose folder this is.
    Identity = 7,
    /// The head of a snapshot.
    SnapshotHeader = 8,
    /// Rows in a snapshot.
    SnapshotChunk = 9,
    /// The end of a snapshot.
    SnapshotTrailer = 10,
    /// How far the log had come.
    Position = 11,
    /// What the state made of a command, on its way to the node that asked.
    Answer = 12,
    /// The head of a backup.
    BackupHeader = 13,
    /// The end of a backup.
    BackupTrailer = 14,
}

/// A type with a stored form.
pub(super) trait Stored: Serialize + DeserializeOwned {
    /// What it is.
    const KIND: Kind;
    /// The shape that this program writes.
    const VERSION: u16;

    /// The schema version of this value.
    fn version(&self) -> u16 {
        Self::VERSION
    }

    /// Refuses a schema version that this program does not read.
    fn check(found: u16) -> Result<(), Unreadable> {
        match found == Self::VERSION {
            true => Ok(()),
            false => Err(Unreadable::Version { kind: Self::KIND, found, supported: Self::VERSION }),
        }
    }
}

/// Why bytes cannot be read as the value they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Shorter than the head.
    #[error("{0} bytes are too few for a stored value")]
    Short(usize),
    /// Written in a format of another program or a newer version.
    #[error("format {0} is unknown; a newer version of narvana wrote it")]
    Format(u8),
    /// Another kind of value.
    #[error("kind {found} was found where {expected:?} belongs")]
    Kind {
        /// As stored.
        found: u16,
        /// As it should be.
        expected: Kind,
    },
    /// A shape that this program does not know.
    #[error("schema version {found} of {kind:?} is unknown, this program reads up to {supported}; upgrade narvana")]
    Version {
        /// Of what.
        kind: Kind,
        /// As stored.
        found: u16,
        /// The newest that is known here.
        supported: u16,
    },
    /// It came with a version of the cluster that this program does not support.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The contents do not fit the type.
    #[error("{kind:?} cannot be decoded: {reason}")]
    Contents {
        /// Of what.
        kind: Kind,
        /// The decoder's words.
        reason: String,
    },
}

/// A value cannot be encoded, or is too large to be decoded again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} cannot be encoded: {reason}")]
pub struct Unencodable {
    kind: Kind,
    reason: String,
}

/// A value in its envelope.
pub(super) fn encode<T: Stored>(value: &T) -> Result<Vec<u8>, Unencodable> {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(FORMAT);
    bytes.extend_from_slice(&(T::KIND as u16).to_be_bytes());
    bytes.extend_from_slice(&value.version().to_be_bytes());
    let unencodable = |reason: String| Unencodable { kind: T::KIND, reason };
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())
        .map_err(|error| unencodable(error.to_string()))?;
    if bytes.len() > DECODED_BYTES_MAX / 2 {
        return Err(unencodable(format!("{} bytes are more than can be read back", bytes.len())));
    }
    Ok(bytes)
}

/// The kind that an envelope names, if it is one.
pub(super) fn kind_of(bytes: &[u8]) -> Option<u16> {
    let (head, _) = bytes.split_at_checked(HEADER_BYTES)?;
    Some(u16::from_be_bytes([head[1], head[2]]))
}

/// The value in an envelope.
pub(super) fn decode<T: Stored>(bytes: &[u8]) -> Result<T, Unreadable> {
    let Some((head, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(Unreadable::Short(bytes.len()));
    };
    if head[0] != FORMAT {
        return Err(Unreadable::Format(head[0]));
    }
    let kind = u16::from_be_bytes([head[1], head[2]]);
    if kind != T::KIND as u16 {
        return Err(Unreadable::Kind { found: kind, expected: T::KIND });
    }
    T::check(u16::from_be_bytes([head[3], head[4]]))?;
    let contents = |reason: String| Unreadable::Contents { kind: T::KIND, reason };
    let config = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();
    let (value, used) = bincode::serde::decode_from_slice(body, config).map_err(|error| contents(error.to_string()))?;
    if used != body.len() {
        return Err(contents(format!("{} bytes are left over", body.len() - used)));
    }
    Ok(value)
}

macro_rules! stored {
    ($($type:ty => $kind:ident, $version:literal;)*) => {$(
        impl Stored for $type {
            const KIND: Kind = Kind::$kind;
            const VERSION: u16 = $version;
        }
    )*};
}

stored! {
    stored::EntryV1 => Entry, 1;
    stored::VoteV1 => Vote, 1;
    stored::LogIdV1 => LogId, 1;
    stored::AppliedV1 => Applied, 1;
    stored::IdentityV1 => Identity, 1;
    stored::SnapshotHeaderV1 => SnapshotHeader, 1;
    stored::SnapshotChunkV1 => SnapshotChunk, 1;
    stored::SnapshotTrailerV1 => SnapshotTrailer, 1;
    stored::PositionV1 => Position, 1;
    super::wire::Answer => Answer, 1;
    super::backup::BackupHeader => BackupHeader, 1;
    super::backup::BackupTrailerV1 => BackupTrailer, 1;
}

impl Stored for LogEntry {
    const KIND: Kind = Kind::Command;
    const VERSION: u16 = 1;

    fn version(&self) -> u16 {
        u16::try_from(self.command.since()).expect("versions are counted by hand")
    }

    fn check(found: u16) -> Result<(), Unreadable> {
        Ok(check_cluster_version(u32::from(found), &cluster_versions())?)
    }
}

impl Stored for Record {
    const KIND: Kind = Kind::Record;
    const VERSION: u16 = 1;

    fn version(&self) -> u16 {
        u16::try_from(self.since()).expect("versions are counted by hand")
    }

    fn check(found: u16) -> Result<(), Unreadable> {
        Ok(check_cluster_version(u32::from(found), &cluster_versions())?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::stored::{LogIdV1, VoteV1};
    use super::*;
    use crate::model::{NEWEST_CLUSTER_VERSION, SettingKey, Timestamp};
    use crate::state::{Actor, Command};

    #[test]
    fn a_value_comes_back_and_nothing_else_is_taken_for_it() {
        let value = LogIdV1 { term: 3, node: 1, index: 77 };
        let bytes = encode(&value).expect("encodes");
        assert_eq!(decode::<LogIdV1>(&bytes), Ok(value));

        assert_eq!(decode::<LogIdV1>(&bytes[..4]), Err(Unreadable::Short(4)));
        assert_eq!(decode::<VoteV1>(&bytes), Err(Unreadable::Kind { found: 4, expected: Kind::Vote }));
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            decode::<LogIdV1>(&bytes)
        };
        assert_eq!(with(0, 9), Err(Unreadable::Format(9)));
        assert_eq!(with(4, 2), Err(Unreadable::Version { kind: Kind::LogId, found: 2, supported: 1 }));
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decode::<LogIdV1>(&longer), Err(Unreadable::Contents { .. })));
        assert!(matches!(decode::<LogIdV1>(&bytes[..bytes.len() - 1]), Err(Unreadable::Contents { .. })));
    }

    #[test]
    fn commands_and_rows_of_a_later_cluster_version_ask_for_a_newer_program() {
        let reset = Command::ResetSetting(SettingKey::PublicIp);
        let since = u8::try_from(reset.since()).expect("small");
        let actor = Actor::System;
        let entry = LogEntry { proposed_at: Timestamp(0), actor, request: None, command: reset };
        let mut bytes = encode(&entry).expect("encodes");
        assert_eq!(&bytes[3..5], [0, since], "its head says which version it came with");
        assert_eq!(decode::<LogEntry>(&bytes), Ok(entry));
        // What follows cannot be known: the head is enough.
        bytes[4] = 200;
        bytes.truncate(HEADER_BYTES + 1);
        let newest = NEWEST_CLUSTER_VERSION;
        let unsupported = Err(Unreadable::Unsupported(Unsupported::ProgramTooOld { needed: 200, newest }));
        assert_eq!(decode::<LogEntry>(&bytes).map(drop), unsupported);
        bytes[2] = Kind::Record as u8;
        assert_eq!(decode::<Record>(&bytes).map(drop), unsupported);
    }

    #[test]
    fn a_damaged_length_claims_no_memory() {
        let mut bytes = vec![FORMAT, 0, Kind::SnapshotChunk as u8, 0, 1];
        bytes.extend_from_slice(&[253, 255, 255, 255, 255, 255, 255, 255, 127]);
        assert!(matches!(decode::<stored::SnapshotChunkV1>(&bytes), Err(Unreadable::Contents { .. })));
    }
}
