//! How far the log had come, noted beside it: what tells a log that lost its end from one that never had it.
//!
//! redb goes back to the last commit that is whole. After a power cut that is right: what is torn was never answered. A
//! damaged page in the last commit looks the same, and would take answered entries and the vote away in silence. So
//! after every commit the position is written into a small file in place, unsynced, before anybody gets an answer. It
//! survives the death of the process, and after a power cut it is at most too old, or torn: the position is a lower bound of
//! what the log must hold. A clean stop syncs it, so then it is exact. A start syncs it too: a log
//! with contents and no noted position was damaged. One hole is left: a power cut that tears the position, together with a
//! damaged page of the last commit, is warned of and taken for the power cut alone.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::envelope;
use super::seal::{Sealer, sync_folder_of};
use super::stored::PositionV1;
use super::{Error, POSITION_FILE};

/// The sealed value is padded to one size, so that writing it never makes the file longer.
const VALUE_BYTES: usize = 128;

/// The open file.
pub(super) struct PositionFile {
    path: PathBuf,
    file: File,
    sealer: Arc<Sealer>,
}

impl PositionFile {
    /// Opens the file, or makes it.
    pub(super) fn open(folder: &Path, sealer: Arc<Sealer>) -> Result<Self, Error> {
        let path = folder.join(POSITION_FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|source| Error::Io { path: path.clone(), doing: "open", source })?;
        Ok(Self { path, file, sealer })
    }

    /// What was noted last. Nothing in a new folder.
    pub(super) fn read(&self) -> Result<Option<PositionV1>, Error> {
        let length = self.file.metadata().map_err(|source| self.io("inspect", source))?.len();
        if length == 0 {
            return Ok(None);
        }
        let mut sealed = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(4 * VALUE_BYTES)];
        self.file.read_exact_at(&mut sealed, 0).map_err(|source| self.io("read", source))?;
        let damaged = |what: &str| Error::Damaged {
            file: POSITION_FILE,
            table: "position",
            key: "the only value".to_owned(),
            what: what.to_owned(),
        };
        let plain = self.sealer.open(POSITION_FILE, b"", &sealed);
        let plain = plain.map_err(|_| damaged("the value was not written in this place by this node"))?;
        let (length, rest) = plain.split_first().ok_or_else(|| damaged("it is empty"))?;
        let value = rest.get(..usize::from(*length)).ok_or_else(|| damaged("its length is impossible"))?;
        envelope::decode(value).map(Some).map_err(|source| Error::Unreadable {
            file: POSITION_FILE,
            table: "position",
            key: "the only value".to_owned(),
            source,
        })
    }

    /// Notes a position. It is with the system when this returns, not on the disk.
    pub(super) fn note(&self, position: &PositionV1) -> Result<(), Error> {
        let value = envelope::encode(position).map_err(|source| Error::Encoding { what: "position", source })?;
        let mut plain = [0; VALUE_BYTES];
        plain[0] = u8::try_from(value.len()).expect("three log positions are short");
        plain[1..=value.len()].copy_from_slice(&value);
        let sealed = self.sealer.seal(POSITION_FILE, b"", &plain);
        self.file.write_all_at(&sealed, 0).map_err(|source| self.io("write", source))
    }

    /// Brings it and its name to the disk. After that a power cut can tear what was noted, and cannot take the file away:
    /// notes never make it longer.
    pub(super) fn settle(&self) -> Result<(), Error> {
        self.sync()?;
        sync_folder_of(&self.path)
    }

    /// Brings it to the disk.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| self.io("sync", source))
    }

    /// The error for a file that should have something in it.
    pub(super) fn missing(&self) -> Error {
        Error::Missing { path: self.path.clone() }
    }

    fn io(&self, doing: &'static str, source: std::io::Error) -> Error {
        Error::Io { path: self.path.clone(), doing, source }
    }
}

impl PositionV1 {
    /// Whether a log that was found here holds everything up to the noted position.
    pub(super) fn is_reached_by(&self, found: &Self) -> bool {
        let place = |id: &Option<super::stored::LogIdV1>| id.map(super::raft_types::LogId::from);
        let vote = |vote: &Option<super::stored::VoteV1>| vote.map(|vote| (vote.term, vote.node, vote.committed));
        place(&self.last) <= place(&found.last)
            && place(&self.purged) <= place(&found.purged)
            && vote(&self.vote) <= vote(&found.vote)
    }
}
