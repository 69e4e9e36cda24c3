//! The only thread that writes `state.redb`: the rows that changed, and how far they bring the state, in one synced
//! transaction per checkpoint; and whole states that come as snapshots.
//!
//! A write that fails is not tried again: every waiting and later operation fails, and the node is told to stop.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use redb::{ReadableTable, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::database::{ByteTable, Commit, Database, Failure};
use super::failpoint;
use super::machine::{Applied, Shared};
use super::raft_types::{LogId, StoredMembership};
use super::snapshot::SnapshotFile;
use super::stored::AppliedV1;
use super::{Error, STATE_FILE, envelope};
use crate::config::cluster_versions;
use crate::model::check_cluster_version;
use crate::planted::{self, Bug};
use crate::state::{Record, Replacement, State};
use crate::task;

const ROWS: ByteTable = ByteTable::new("rows");
/// How long the rows are kept from the disk by the planted bug.
const PLANTED_DELAY: Duration = Duration::from_millis(1_500);

pub(super) type Done = oneshot::Sender<Result<(), Error>>;

/// Work for the thread.
pub(super) enum Op {
    /// Brings everything that is applied to the disk.
    Checkpoint(Done),
    /// Replaces the whole state by what this snapshot says it is.
    Install { snapshot: Box<SnapshotFile>, done: Done },
    /// Checkpoint, then close the file.
    Close(Done),
}

/// Starts the writer. It ends when it is closed, when a write fails, or when nobody can send to it any more.
pub(super) fn start(shared: Arc<Shared>, ops: mpsc::Receiver<Op>) -> Result<(), Error> {
    task::worker("raft-state", ops, move |op, _| take(&shared, op)).map_err(|source| Error::Io {
        path: "raft-state".into(),
        doing: "start the thread",
        source,
    })
}

fn take(shared: &Shared, op: Op) -> ControlFlow<()> {
    let (result, done, last) = match op {
        Op::Checkpoint(done) => (checkpoint(shared), done, false),
        Op::Install { snapshot, done } => (install(shared, *snapshot), done, false),
        Op::Close(done) => (checkpoint(shared).and_then(|()| shared.database.close()), done, true),
    };
    let failed = result.as_ref().inspect_err(|error| shared.fatal.report(error)).is_err();
    // Nobody waits for a checkpoint that was merely due.
    let _ = done.send(result);
    // Whoever asks after the last one is told that the file is closed, because the queue is gone.
    if failed || last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn checkpoint(shared: &Shared) -> Result<(), Error> {
    let Some((unwritten, applied)) = shared.take_unwritten() else { return Ok(()) };
    failpoint::pass("checkpoint.begun");
    let database = &shared.database;
    note_too_early(database, &applied)?;
    database.write("rows", Commit::Checkpoint, |transaction| {
        let mut table = transaction.open_table(ROWS)?;
        for (key, record) in &unwritten.rows {
            match record {
                None => drop(table.remove(key.as_slice())?),
                Some(record) => {
                    let sealed = database.seal("rows", key, record)?;
                    table.insert(key.as_slice(), sealed.as_slice())?;
                }
            }
        }
        drop(table);
        database.put_meta(transaction, "applied", Some(&applied))
    })?;
    failpoint::pass("checkpoint.synced");
    Ok(())
}

/// Brings the position to the disk a good while before the rows, when that bug is planted.
fn note_too_early(database: &Database, applied: &AppliedV1) -> Result<(), Error> {
    if planted::is(Bug::SplitCheckpoint) {
        database.write("rows", Commit::Checkpoint, |transaction| {
            database.put_meta(transaction, "applied", Some(applied))
        })?;
        planted::pause(PLANTED_DELAY);
    }
    Ok(())
}

fn install(shared: &Shared, received: SnapshotFile) -> Result<(), Error> {
    failpoint::pass("install.begun");
    let snapshot = shared.own(received)?;
    let meta = snapshot.meta().clone();
    let before = shared.state();
    let mut next = Applied { last: meta.last_log_id, membership: meta.last_membership, state: State::default() };
    shared.database.write("rows", Commit::Checkpoint, |transaction| {
        next.state = replace_rows(&shared.database, transaction, &snapshot, before.replacement())?;
        supports(&next.state)?;
        shared.database.put_meta(transaction, "applied", Some(&next.stored()))
    })?;
    failpoint::pass("install.written");
    shared.replace(next, snapshot)?;
    failpoint::pass("install.kept");
    Ok(())
}

/// Row by row: in memory is what differs from the state before, in the file everything is written anew.
fn replace_rows(
    database: &Database,
    transaction: &WriteTransaction,
    snapshot: &SnapshotFile,
    mut next: Replacement<'_>,
) -> Result<State, Failure> {
    transaction.delete_table(ROWS)?;
    let mut table = transaction.open_table(ROWS)?;
    snapshot.rows::<Failure>(|row| {
        let record: Record =
            envelope::decode(row).map_err(|source| Error::unreadable("snapshot", "rows", "row".to_owned(), source))?;
        let key = record.key().to_bytes();
        let sealed = database.seal_bytes("rows", &key, row);
        table.insert(key.as_slice(), sealed.as_slice())?;
        next.row(record);
        Ok(())
    })?;
    Ok(next.finish())
}

/// Refuses a state at a version of the cluster that this program does not support: it would misread what follows.
pub(super) fn supports(state: &State) -> Result<(), Error> {
    Ok(check_cluster_version(state.cluster_version(), &cluster_versions())?)
}

/// The state in the file; verifies every row.
pub(super) fn load(database: &Database) -> Result<Applied, Error> {
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
    supports(&state)?;
    Ok(Applied { last, membership, state })
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
const KINDS: [&str; 20] = [
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
    "join token",
    "admission",
    "absence",
    "epoch",
    "recipe",
    "input",
];

fn key_name(key: &[u8]) -> String {
    let kind = key.first().and_then(|kind| KINDS.get(usize::from(*kind)));
    format!("key of kind {}", kind.unwrap_or(&"unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_row_has_its_name() {
        let mut kinds = Vec::new();
        for record in crate::state::sample_records() {
            let key = record.key();
            assert_eq!(key_name(&key.to_bytes()), format!("key of kind {}", key.kind()));
            kinds.push(key.kind());
        }
        assert!(KINDS.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    }
}
