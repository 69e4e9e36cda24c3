//! What a node keeps on disk for the Raft group: the log and the vote, the replicated state, and snapshots.
//!
//! Runs here: one thread that writes the log and one that writes the state; everything else runs on its caller's time.
//! In: openraft's calls ([`LogStore`], [`StateMachine`]). Out: the state as a [`View`] after every batch, and [`Fatal`]
//! when the disk cannot be trusted any more. Two redb files and a folder, all sealed with the node's key:
//!
//! | what | when it reaches the disk |
//! |---|---|
//! | `raft.redb`: log, vote, committed and purged positions | synced, one transaction for all that is queued |
//! | `state.redb`: a row for every record, how far it is applied, the membership | at checkpoints, synced |
//! | `snapshots/`: the newest snapshot | synced, then renamed to its final name |
//! | `position`: how far the log had come | after every transaction of the log; synced at a stop |
//! | `clean`: the last run closed everything | at the end of a stop; removed at start |
//! | `renewed`: a store that takes the place of this one (`renewal`) | complete, then renamed |
//!
//! Absent on purpose: who leads, who votes and what to propose (`consensus`), and any meaning of the rows (`state`).

mod backup;
mod database;
pub(crate) mod disk;
mod envelope;
mod error;
mod failpoint;
mod fatal;
mod log;
mod log_writer;
mod machine;
mod position;
mod raft_types;
mod renewal;
mod seal;
mod snapshot;
mod state_writer;
mod stored;
mod twist;
mod view;
mod wire;

#[cfg(test)]
mod bit_flips;
#[cfg(test)]
pub(crate) mod crash_disk;
#[cfg(test)]
mod crash_points;
#[cfg(test)]
mod failing_sync;
#[cfg(test)]
mod golden;
#[cfg(test)]
pub(crate) mod observed;
#[cfg(test)]
mod test_runtime;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::model::{ClusterId, NodeId};
use crate::space::Space;
use database::Database;
use disk::{Disk, FileSystem};
use position::PositionFile;
use seal::{Sealer, sync_folder_of};
use stored::IdentityV1;

pub use backup::{BackupHeader, BackupReader, BackupUnreadable, write_backup};
pub use envelope::{Kind, Unencodable, Unreadable};
pub use error::Error;
pub use failpoint::{FAILPOINTS, INSTALL_FAILPOINTS, RENEWAL_FAILPOINTS};
pub use fatal::Fatal;
pub use log::LogStore;
pub use machine::{SnapshotBuilder, StateMachine};
pub use raft_types::{
    ENTRY_BYTES_MAX, Entry, LeaderId, LogId, Member, Membership, Payload, Proposal, Response, SnapshotMeta,
    StoredMembership, TypeConfig, Vote,
};
pub use renewal::{Seed, Survey};
pub use seal::SealKey;
pub use snapshot::{Chunks, SnapshotFile, SnapshotWriter};
pub use view::View;
pub use wire::{Answer, decode_answer, decode_entry, decode_meta, encode_answer, encode_entry, encode_meta};

const RAFT_FILE: &str = "raft.redb";
const STATE_FILE: &str = "state.redb";
const SNAPSHOT_FOLDER: &str = "snapshots";
const POSITION_FILE: &str = "position";
const CLEAN_FILE: &str = "clean";

/// Name of the key file in the data folder.
pub const KEY_FILE: &str = "node.key";

/// Where the store is and whose it is.
pub struct Options {
    /// The node's data folder.
    pub folder: PathBuf,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The node it belongs to.
    pub node: NodeId,
    /// What seals it.
    pub key: SealKey,
    /// Cancelled when the store fails while it runs.
    pub fatal: CancellationToken,
}

/// The open store of a node. Clones share it.
#[derive(Clone)]
pub struct Store {
    folder: PathBuf,
    log: LogStore,
    machine: StateMachine,
    fatal: Fatal,
    space: Space,
}

/// Whose node the store in a folder is of, without its key: of the two files the one that can be read. Takes them for itself meanwhile.
pub fn owner(folder: &Path) -> Result<(ClusterId, NodeId), Error> {
    let found = Database::owner(folder, RAFT_FILE).or_else(|_| Database::owner(folder, STATE_FILE))?;
    Ok((found.cluster, found.node))
}

impl Store {
    /// Opens the store of a node that exists. One whose files are gone is refused: under the same id, an empty log and no vote
    /// would take back what the node promised.
    pub fn open_existing(options: Options) -> Result<Self, Error> {
        renewal::finish_renewal(&options.folder)?;
        for file in [STATE_FILE, RAFT_FILE] {
            let path = options.folder.join(file);
            if !path.exists() {
                return Err(Error::Missing { path });
            }
        }
        Self::open(options)
    }

    /// Opens the store, or makes a new one in a folder that has none. Verifies the files and every value in them,
    /// so a damaged store is found before the node votes. Blocks for as long as that takes.
    pub fn open(options: Options) -> Result<Self, Error> {
        Self::open_on(&FileSystem, options)
    }

    pub(crate) fn open_on(disk: &dyn Disk, options: Options) -> Result<Self, Error> {
        let Options { folder, cluster, node, key, fatal } = options;
        fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder.clone(), doing: "create", source })?;
        renewal::finish_renewal(&folder)?;
        let fatal = Fatal::new(fatal);
        let identity = IdentityV1 { cluster, node };
        let sealer = Arc::new(Sealer::new(&key, cluster, node));
        let was_closed = folder.join(CLEAN_FILE).exists();
        // The state first: it is the file that always exists once the other one has contents.
        expect_files(&folder)?;
        if !was_closed && folder.join(STATE_FILE).exists() {
            tracing::warn!("the last run did not end by itself; what it left is checked");
        }
        let state = Database::open(disk, &folder, STATE_FILE, identity, Arc::clone(&sealer))?;
        let raft = Database::open(disk, &folder, RAFT_FILE, identity, Arc::clone(&sealer))?;
        let position = PositionFile::open(&folder, Arc::clone(&sealer))?;
        let memory = log::Memory::load(&raft)?;
        let applied = state_writer::load(&state)?;
        if memory.is_pristine() && applied.last.is_some() {
            return Err(Error::Missing { path: folder.join(RAFT_FILE) });
        }
        memory.check(&raft, &position, was_closed)?;
        // Older is as good, since the log brings it up to date again; but only as far as the log goes back.
        if applied.last < memory.purged() {
            let what = "it is older than the log reaches back".to_owned();
            return Err(Error::Damaged { file: STATE_FILE, table: "meta", key: "applied".to_owned(), what });
        }
        failpoint::pass("open.checked");
        remove_clean_mark(&folder)?;

        let (snapshots, newest) = snapshot::Folder::open(folder.join(SNAPSHOT_FOLDER), sealer)?;
        // The threads hold the files, so they start when nothing can be refused any more.
        let space = Space::of(&folder);
        let machine = StateMachine::start(state, applied, (fatal.clone(), space.clone()), snapshots, newest)?;
        let log = LogStore::start(raft, memory, position, fatal.clone())?;
        Ok(Self { folder, log, machine, fatal, space })
    }

    /// The log, for openraft.
    pub fn log(&self) -> LogStore {
        self.log.clone()
    }

    /// The state, for openraft.
    pub fn machine(&self) -> StateMachine {
        self.machine.clone()
    }

    /// The space that is left for it.
    pub fn space(&self) -> Space {
        self.space.clone()
    }

    /// Whether and why the store failed.
    pub fn fatal(&self) -> &Fatal {
        &self.fatal
    }

    /// Makes every later write of the log fail.
    #[cfg(test)]
    pub(crate) fn break_now(&self) {
        self.log.break_now();
    }

    /// Writes everything, closes both files and marks the folder as closed properly. Call it after openraft stopped.
    pub async fn close(&self) -> Result<(), Error> {
        let machine = self.machine.close().await;
        failpoint::pass("close.state");
        let log = self.log.close().await;
        failpoint::pass("close.log");
        machine.and(log)?;
        if self.fatal.reason().is_some() {
            return Err(Error::Closed);
        }
        let mark = self.folder.join(CLEAN_FILE);
        fs::write(&mark, b"").map_err(|source| Error::Io { path: mark.clone(), doing: "create", source })?;
        failpoint::pass("close.marked");
        sync_folder_of(&mark)
    }
}

/// Without its log and vote a node could vote twice in one term; so a state without them is an error, not a start.
fn expect_files(folder: &Path) -> Result<(), Error> {
    let path = folder.join(STATE_FILE);
    let raft = folder.join(RAFT_FILE);
    if raft.exists() && !path.exists() {
        return Err(Error::Missing { path });
    }
    // It is made after the log's file, so without that one it is left over.
    if folder.join(POSITION_FILE).exists() && !raft.exists() { Err(Error::Missing { path: raft }) } else { Ok(()) }
}

fn remove_clean_mark(folder: &Path) -> Result<(), Error> {
    let mark = folder.join(CLEAN_FILE);
    match fs::remove_file(&mark) {
        Ok(()) => sync_folder_of(&mark),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { path: mark, doing: "remove", source }),
    }
}
