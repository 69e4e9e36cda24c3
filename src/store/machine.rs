//! The replicated state: openraft's state machine over `state.redb`.
//!
//! In: committed entries, in order. Out: the rows they change and the point they bring the state to, in one
//! transaction; then the new view for readers; then the answers for whoever proposed. The whole state is in memory,
//! the file is what it is loaded from.
//!
//! Transactions are not synced one by one. A crash takes the file back to its last checkpoint, and openraft applies
//! the log from there; so there is a checkpoint before every snapshot, since the log is purged after one.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use redb::{ReadableTable, WriteTransaction};
use tokio::sync::watch;

use super::database::{ByteTable, Commit, Database, Failure};
use super::fatal::Fatal;
use super::raft_types::{Entry, LogId, Response, SnapshotMeta, StoredMembership, TypeConfig};
use super::snapshot::{Folder, SnapshotFile, SnapshotWriter};
use super::stored::{AppliedV1, LogIdV1, StoredMembershipV1};
use super::view::View;
use super::{Error, STATE_FILE, envelope};
use crate::state::{self, Change, Key, Record, State};

const ROWS: ByteTable = ByteTable::new("rows");

/// One transaction takes at most this many entries, so that answers do not wait for a long backlog.
const BATCH_ENTRIES: usize = 512;

/// A checkpoint after this many entries or bytes bounds what is applied again after a crash, and how far the file
/// grows: pages of unsynced transactions cannot be reused.
const CHECKPOINT_ENTRIES: u64 = 4096;
const CHECKPOINT_BYTES: u64 = 8 * 1024 * 1024;

type Snapshot = openraft::Snapshot<super::raft_types::LeaderId, u64, super::raft_types::Member, SnapshotFile>;

/// The state of this node. Clones share it.
#[derive(Clone)]
pub struct StateMachine {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    fatal: Fatal,
    folder: Folder,
    applied: Mutex<Applied>,
    snapshot: Mutex<Option<SnapshotFile>>,
    view: watch::Sender<View>,
}

/// The newest state, and what the file lacks of it after a crash.
#[derive(Clone)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
    state: State,
    unsynced_entries: u64,
    unsynced_bytes: u64,
}

impl StateMachine {
    /// Loads the state, verifying every row.
    pub(super) fn open(
        database: Database,
        fatal: Fatal,
        folder: Folder,
        snapshot: Option<SnapshotFile>,
    ) -> Result<Self, Error> {
        let applied = load(&database)?;
        let view = watch::Sender::new(applied.view());
        let shared =
            Shared { database, fatal, folder, applied: Mutex::new(applied), snapshot: Mutex::new(snapshot), view };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The state as it is published after every batch.
    pub fn view(&self) -> watch::Receiver<View> {
        self.shared.view.subscribe()
    }

    /// Starts a file for a snapshot that another node sends; give it to openraft when it is finished.
    pub fn receive(&self, meta: &SnapshotMeta) -> Result<SnapshotWriter, Error> {
        self.shared.folder.create(meta)
    }

    /// Whether nothing was ever applied.
    pub(super) fn is_pristine(&self) -> bool {
        self.shared.applied().last.is_none()
    }

    /// Brings everything that is applied to the disk.
    pub(super) async fn checkpoint(&self) -> Result<(), Error> {
        self.shared.run(|shared| shared.checkpoint()).await
    }

    /// Checkpoint, then close the file. Later calls answer [`Error::Closed`].
    pub(super) async fn close(&self) -> Result<(), Error> {
        self.checkpoint().await?;
        self.shared.run(|shared| shared.database.close()).await
    }
}

impl Applied {
    fn view(&self) -> View {
        View { index: self.last.map_or(0, |last| last.index), state: self.state.clone() }
    }

    fn stored(&self) -> AppliedV1 {
        AppliedV1 { last_applied: self.last.map(LogIdV1::from), membership: StoredMembershipV1::from(&self.membership) }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }
}

fn load(database: &Database) -> Result<Applied, Error> {
    let stored = database.meta::<AppliedV1>("applied")?;
    let (last, membership) = match stored {
        None => (None, StoredMembership::default()),
        Some(stored) => {
            let membership = StoredMembership::try_from(stored.membership).map_err(|source| Error::Unreadable {
                file: STATE_FILE,
                table: "meta",
                key: "applied".to_owned(),
                source,
            })?;
            (stored.last_applied.map(LogId::from), membership)
        }
    };
    let state = database.read("rows", |transaction| {
        let table = match transaction.open_table(ROWS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(State::default()),
            table => table?,
        };
        let mut failure = None;
        let rows = table.iter()?.map_while(|row| match read_row(database, row) {
            Ok(record) => Some(record),
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        let state = State::from_records(rows);
        failure.map_or(Ok(state), Err)
    })?;
    Ok(Applied { last, membership, state, unsynced_entries: 0, unsynced_bytes: 0 })
}

type Row<'a> = (redb::AccessGuard<'a, &'static [u8]>, redb::AccessGuard<'a, &'static [u8]>);

fn read_row(database: &Database, row: Result<Row<'_>, redb::StorageError>) -> Result<Record, Failure> {
    let (key, sealed) = row?;
    let key = key.value();
    let name = || key_name(key);
    let record: Record = database.unseal("rows", key, name, sealed.value())?;
    if record.key().to_bytes() != key {
        return Err(database.damaged("rows", name(), "the row belongs under another key").into());
    }
    Ok(record)
}

/// The kinds of rows by the first byte of their keys, for messages about rows that cannot be read.
const KINDS: [&str; 14] = [
    "cluster",
    "org",
    "membership",
    "user",
    "session",
    "app",
    "service",
    "source",
    "deployment",
    "build",
    "instance",
    "node",
    "setting",
    "request",
];

fn key_name(key: &[u8]) -> String {
    let kind = key.first().and_then(|kind| KINDS.get(usize::from(*kind)));
    format!("key of kind {}", kind.unwrap_or(&"unknown"))
}

impl Shared {
    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current_snapshot(&self) -> MutexGuard<'_, Option<SnapshotFile>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs disk work where it may block. Every failure here stops the node.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or(Err(Error::Defect)).inspect_err(|error| self.fatal.report(error))
    }

    /// Applies entries in memory, writes what they changed, publishes, and returns the answers in order.
    fn apply(&self, entries: &[Entry]) -> Result<Vec<Response>, Error> {
        let mut applied = self.applied();
        let mut next = applied.clone();
        let mut changes = BTreeMap::new();
        let responses = entries.iter().map(|entry| next.take(entry, &mut changes)).collect();
        let due = next.unsynced_entries >= CHECKPOINT_ENTRIES || next.unsynced_bytes >= CHECKPOINT_BYTES;
        self.write_changes(&next, &changes, if due { Commit::Checkpoint } else { Commit::Lazy })?;
        if due {
            next.unsynced_entries = 0;
            next.unsynced_bytes = 0;
        }
        *applied = next;
        self.view.send_replace(applied.view());
        Ok(responses)
    }

    /// Rows, and how far they go, in one transaction.
    fn write_changes(
        &self,
        next: &Applied,
        changes: &BTreeMap<Vec<u8>, Option<Record>>,
        commit: Commit,
    ) -> Result<(), Error> {
        self.database.write("rows", commit, |transaction| {
            let mut table = transaction.open_table(ROWS)?;
            for (key, record) in changes {
                match record {
                    None => drop(table.remove(key.as_slice())?),
                    Some(record) => {
                        let sealed = self.database.seal("rows", key, record)?;
                        table.insert(key.as_slice(), sealed.as_slice())?;
                    }
                }
            }
            drop(table);
            self.database.put_meta(transaction, "applied", Some(&next.stored()))
        })
    }

    fn checkpoint(&self) -> Result<(), Error> {
        // Held while syncing, so that nothing is applied between the sync and the account of it.
        let mut applied = self.applied();
        if applied.unsynced_entries > 0 {
            self.database.write("rows", Commit::Checkpoint, |_| Ok(()))?;
            applied.unsynced_entries = 0;
            applied.unsynced_bytes = 0;
        }
        Ok(())
    }

    /// Writes a snapshot of a state that was taken earlier.
    fn build(&self, meta: &SnapshotMeta, state: &State) -> Result<SnapshotFile, Error> {
        // First, since the log may be purged up to the snapshot once it exists.
        self.checkpoint()?;
        let mut writer = self.folder.create(meta)?;
        for record in state.records() {
            let row = envelope::encode(&record).map_err(|source| Error::Encoding { what: "row", source })?;
            writer.row(row)?;
        }
        let snapshot = writer.finish()?;
        self.keep(snapshot.reopen()?)?;
        Ok(snapshot)
    }

    /// Makes a snapshot the current one, unless a newer one came first.
    fn keep(&self, snapshot: SnapshotFile) -> Result<(), Error> {
        let mut current = self.current_snapshot();
        if current.as_ref().is_none_or(|current| current.meta().last_log_id <= snapshot.meta().last_log_id) {
            self.folder.keep_only(&snapshot)?;
            *current = Some(snapshot);
        }
        Ok(())
    }

    /// Replaces the whole state.
    fn install(&self, meta: &SnapshotMeta, received: SnapshotFile) -> Result<(), Error> {
        let snapshot = if self.folder.holds(&received) { received } else { self.copy(&received)? };
        let mut applied = self.applied();
        let mut next = Applied {
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
            state: State::default(),
            unsynced_entries: 0,
            unsynced_bytes: 0,
        };
        self.database.write("rows", Commit::Checkpoint, |transaction| {
            next.state = self.replace_rows(transaction, &snapshot)?;
            self.database.put_meta(transaction, "applied", Some(&next.stored()))
        })?;
        *applied = next;
        self.view.send_replace(applied.view());
        drop(applied);
        self.keep(snapshot)
    }

    fn copy(&self, received: &SnapshotFile) -> Result<SnapshotFile, Error> {
        let mut writer = self.folder.create(received.meta())?;
        received.chunks(|chunk| writer.chunk(chunk))?;
        writer.finish()
    }

    fn replace_rows(&self, transaction: &WriteTransaction, snapshot: &SnapshotFile) -> Result<State, Failure> {
        transaction.delete_table(ROWS)?;
        let mut table = transaction.open_table(ROWS)?;
        let mut records = Vec::new();
        snapshot.rows::<Failure>(|row| {
            let record: Record = envelope::decode(row).map_err(|source| Error::Unreadable {
                file: "snapshot",
                table: "rows",
                key: "row".into(),
                source,
            })?;
            let key = record.key().to_bytes();
            let sealed = self.database.seal_bytes("rows", &key, row);
            table.insert(key.as_slice(), sealed.as_slice())?;
            records.push(record);
            Ok(())
        })?;
        Ok(State::from_records(records))
    }
}

impl Applied {
    /// Applies one entry; collects what changes, the last change of a row winning.
    fn take(&mut self, entry: &Entry, changes: &mut BTreeMap<Vec<u8>, Option<Record>>) -> Response {
        self.last = Some(entry.log_id);
        self.unsynced_entries += 1;
        match &entry.payload {
            EntryPayload::Blank => Response::Internal,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Response::Internal
            }
            EntryPayload::Normal(proposal) => {
                self.unsynced_bytes += proposal.bytes().len() as u64;
                let index = entry.log_id.index;
                let applied = state::apply(&self.state, index, proposal.entry());
                self.state = applied.state;
                for change in applied.changes.0 {
                    match change {
                        Change::Put(record) => changes.insert(record.key().to_bytes(), Some(record)),
                        Change::Delete(key) => changes.insert(Key::to_bytes(&key), None),
                    };
                }
                Response::Command { index, result: applied.result }
            }
        }
    }
}

/// Writes a snapshot of the state as it was when this was made.
pub struct SnapshotBuilder {
    shared: Arc<Shared>,
    meta: SnapshotMeta,
    state: State,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (meta, state) = (self.meta.clone(), self.state.clone());
        let snapshot = self.shared.run(move |shared| shared.build(&meta, &state)).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.shared.applied();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let mut batch = Vec::new();
            let mut responders: Vec<Option<ApplyResponder<TypeConfig>>> = Vec::new();
            while batch.len() < BATCH_ENTRIES
                && let Some(item) = entries.next().await
            {
                let (entry, responder) = item?;
                batch.push(entry);
                responders.push(responder);
            }
            if batch.is_empty() {
                return Ok(());
            }
            let responses = self.shared.run(move |shared| shared.apply(&batch)).await?;
            for (responder, response) in responders.into_iter().zip(responses) {
                if let Some(responder) = responder {
                    responder.send(response);
                }
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let applied = self.shared.applied();
        SnapshotBuilder { shared: Arc::clone(&self.shared), meta: applied.meta(), state: applied.state.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let meta = meta.clone();
        Ok(self.shared.run(move |shared| shared.install(&meta, snapshot)).await?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let current = self.shared.current_snapshot();
        let Some(snapshot) = current.as_ref() else { return Ok(None) };
        Ok(Some(Snapshot { meta: snapshot.meta().clone(), snapshot: snapshot.reopen()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_row_has_its_name() {
        let mut kinds = Vec::new();
        for record in state::sample_records() {
            let key = record.key();
            assert_eq!(key_name(&key.to_bytes()), format!("key of kind {}", key.kind()));
            kinds.push(key.kind());
        }
        assert!(KINDS.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    }
}
