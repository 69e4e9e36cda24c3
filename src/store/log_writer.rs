//! The only thread that writes `raft.redb`: it drains what is queued into one transaction, syncs once, then answers.
//!
//! A failed write is never retried, since nobody knows what reached the disk: every waiting and later operation fails,
//! and the node is told to stop.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::storage::IOFlushed;
use redb::WriteTransaction;
use tokio::sync::{mpsc, oneshot};

use super::Error;
use super::database::{Commit, Failure};
use super::failpoint;
use super::log::{LOG, Shared};
use super::position::PositionFile;
use super::raft_types::{Entry, LogId, TypeConfig};
use super::stored::{EntryV1, LogIdV1, PositionV1, VoteV1};
use crate::planted::{self, Bug};
use crate::task;

/// One transaction takes at most this many operations, so that the first of them does not wait for ever.
const BATCH_OPS: usize = 256;
/// How long an entry is kept from the disk by the planted bug.
const PLANTED_DELAY: Duration = Duration::from_millis(300);

type Done = oneshot::Sender<Result<(), Error>>;

/// A change of the log or the vote.
pub(super) enum Op {
    Append {
        entries: Vec<Entry>,
        append: u64,
        callback: IOFlushed<TypeConfig>,
    },
    Vote(VoteV1, Done),
    /// Everything behind `last` goes.
    Truncate {
        last: Option<LogIdV1>,
        done: Done,
    },
    Purge {
        upto: LogIdV1,
        done: Done,
    },
    /// How far the log is committed, which openraft says without anything else to write.
    Committed(Done),
    Close(Done),
}

/// Starts the writer. It ends when it is closed, or when nobody can send to it any more.
pub(super) fn start(
    shared: Arc<Shared>,
    file: PositionFile,
    position: PositionV1,
    ops: mpsc::Receiver<Op>,
) -> Result<(), Error> {
    let mut writer = Writer { shared, file, position, failed: false };
    task::worker("raft-log", ops, move |first, ops| writer.take(first, ops)).map_err(|source| Error::Io {
        path: "raft-log".into(),
        doing: "start the thread",
        source,
    })
}

struct Writer {
    shared: Arc<Shared>,
    /// Where `position` is noted.
    file: PositionFile,
    /// What is on disk.
    position: PositionV1,
    /// Whoever still asks is told so, until nobody can.
    failed: bool,
}

impl Writer {
    fn take(&mut self, first: Op, ops: &mut mpsc::Receiver<Op>) -> ControlFlow<()> {
        if self.failed {
            refuse(first);
            return ControlFlow::Continue(());
        }
        let mut batch = drain(first, ops);
        acknowledge_too_early(&mut batch);
        if let Some(Op::Close(_)) = batch.last() {
            self.finish(batch);
            return ControlFlow::Break(());
        }
        failpoint::pass("log.begun");
        let written = self.write(&batch);
        self.failed = written.is_err();
        if self.failed {
            ops.close();
        }
        self.answer(batch, written);
        failpoint::pass("log.answered");
        ControlFlow::Continue(())
    }

    /// One transaction for the whole batch.
    fn write(&mut self, batch: &[Op]) -> Result<(), Error> {
        let next = self.position_after(batch)?;
        let committed = batch.iter().any(|op| !matches!(op, Op::Append { .. })).then(|| self.shared.committed());
        let database = &self.shared.database;
        database.write("log", commit(), |transaction| {
            for op in batch {
                match op {
                    Op::Append { entries, .. } => self.append(transaction, entries)?,
                    Op::Vote(vote, _) => database.put_meta(transaction, "vote", Some(vote))?,
                    Op::Truncate { last, .. } => {
                        let from = last.map_or(0, |last| last.index + 1);
                        transaction.open_table(LOG)?.retain_in(from.., |_, _| false)?;
                    }
                    Op::Purge { upto, .. } => {
                        failpoint::pass("log.purging");
                        transaction.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
                        database.put_meta(transaction, "purged", Some(upto))?;
                    }
                    Op::Committed(_) | Op::Close(_) => {}
                }
            }
            // What a node knows that starts while nobody else is there. With every append it would dirty one more page each
            // time, so that it follows once a second.
            if let Some(committed) = committed {
                database.put_meta(transaction, "committed", committed.map(LogIdV1::from).as_ref())?;
            }
            Ok(())
        })?;
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        if let Some(committed) = committed {
            self.shared.note_committed(committed);
        }
        failpoint::pass("log.committed");
        self.position = next;
        self.shared.note_last(next.last.map(LogId::from));
        self.file.note(&next)?;
        failpoint::pass("log.noted");
        Ok(())
    }

    /// Where the log is after these operations. One that takes entries away is noted before it is done: the position
    /// must never be ahead of the log.
    fn position_after(&self, batch: &[Op]) -> Result<PositionV1, Error> {
        let mut next = self.position;
        for op in batch {
            match op {
                Op::Append { entries, .. } => {
                    next.last = entries.last().map(|entry| entry.log_id.into()).or(next.last);
                }
                Op::Vote(vote, _) => next.vote = Some(*vote),
                Op::Truncate { last, .. } => {
                    next.last = earlier(next.last, *last);
                    let before = earlier(self.position.last, *last);
                    self.file.note(&PositionV1 { last: before, ..self.position })?;
                }
                Op::Purge { upto, .. } => {
                    next.purged = later(next.purged, Some(*upto));
                    next.last = later(next.last, Some(*upto));
                }
                Op::Committed(_) | Op::Close(_) => {}
            }
        }
        Ok(next)
    }

    fn append(&self, transaction: &WriteTransaction, entries: &[Entry]) -> Result<(), Failure> {
        let mut table = transaction.open_table(LOG)?;
        for entry in entries {
            let index = entry.log_id.index;
            let sealed = self.shared.database.seal("log", &index.to_be_bytes(), &EntryV1::from(entry))?;
            table.insert(index, sealed.as_slice())?;
        }
        Ok(())
    }

    fn answer(&self, batch: Vec<Op>, written: Result<(), Error>) {
        if let Err(error) = &written {
            self.shared.fatal.report(error);
        }
        // The first one gets the error itself, the others its text.
        let mut error = written.err();
        let mut text = error.as_ref().map(ToString::to_string);
        let mut result = || match error.take() {
            Some(first) => Err(first),
            None => match &mut text {
                Some(reason) => Err(Error::Disk { file: super::RAFT_FILE, reason: reason.clone() }),
                None => Ok(()),
            },
        };
        for op in batch {
            match op {
                Op::Append { append, callback, .. } => {
                    let result = result();
                    if result.is_ok() {
                        self.shared.flushed(append);
                    }
                    callback.io_completed(result.map_err(Into::into));
                }
                Op::Vote(_, done)
                | Op::Truncate { done, .. }
                | Op::Purge { done, .. }
                | Op::Committed(done)
                | Op::Close(done) => {
                    // Nobody waits when the caller was cancelled.
                    let _ = done.send(result());
                }
            }
        }
    }

    fn finish(&mut self, batch: Vec<Op>) {
        let written = self.write(&batch).and_then(|()| self.file.sync()).and_then(|()| self.shared.database.close());
        self.answer(batch, written);
    }
}

/// Entries are on the disk when they are answered. Under simulated time nothing comes between two steps of this thread, so that
/// the planted bug is a sync too few.
fn commit() -> Commit {
    #[cfg(test)]
    if planted::is(Bug::AckBeforeSync) {
        return Commit::Unsynced;
    }
    Commit::Synced
}

/// Answers appends a good while before they are written, when that bug is planted.
fn acknowledge_too_early(batch: &mut [Op]) {
    if !planted::is(Bug::AckBeforeSync) {
        return;
    }
    for op in batch.iter_mut() {
        if let Op::Append { callback, .. } = op {
            std::mem::replace(callback, IOFlushed::noop()).io_completed(Ok(()));
        }
    }
    planted::pause(PLANTED_DELAY);
}

fn earlier(one: Option<LogIdV1>, other: Option<LogIdV1>) -> Option<LogIdV1> {
    one.map(LogId::from).min(other.map(LogId::from)).map(LogIdV1::from)
}

fn later(one: Option<LogIdV1>, other: Option<LogIdV1>) -> Option<LogIdV1> {
    one.map(LogId::from).max(other.map(LogId::from)).map(LogIdV1::from)
}

/// Everything that waits already, up to a bound; a close is always the last.
fn drain(first: Op, ops: &mut mpsc::Receiver<Op>) -> Vec<Op> {
    let mut batch = vec![first];
    while batch.len() < BATCH_OPS
        && !matches!(batch.last(), Some(Op::Close(_)))
        && let Ok(op) = ops.try_recv()
    {
        batch.push(op);
    }
    batch
}

/// After a failure.
fn refuse(op: Op) {
    match op {
        Op::Append { callback, .. } => callback.io_completed(Err(Error::Closed.into())),
        Op::Vote(_, done)
        | Op::Truncate { done, .. }
        | Op::Purge { done, .. }
        | Op::Committed(done)
        | Op::Close(done) => {
            // Nobody waits when the caller was cancelled.
            let _ = done.send(Err(Error::Closed));
        }
    }
}
