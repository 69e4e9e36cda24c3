//! The replicated log and the vote: openraft's log storage over `raft.redb`.
//!
//! Everything that changes goes through one bounded queue to the writer thread (`log_writer`), in order. What is
//! not on disk yet, and the recent past, is in memory, so that an entry can be read as soon as `append` returns and
//! applying or replicating it touches no disk.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use redb::TableDefinition;
use tokio::sync::{mpsc, oneshot};

use super::database::Database;
use super::failpoint;
use super::fatal::Fatal;
use super::log_writer::{self, Op};
use super::position::PositionFile;
use super::raft_types::{Entry, LogId, TypeConfig, Vote};
use super::stored::{EntryV1, LogIdV1, PositionV1, VoteV1};
use super::{Error, RAFT_FILE};
use crate::planted::{self, Bug};
use crate::task::blocking;

pub(super) const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");

/// Operations that wait for the writer. openraft itself has at most a few in flight; the bound only keeps a stuck
/// disk from filling the memory.
const QUEUE_OPS: usize = 1024;

/// Entries that stay in memory after they were written, for applying and replicating.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// One read for replication returns about this much at most.
const READ_BYTES: u64 = 4 * 1024 * 1024;

/// What an entry without a command counts for in the accounts below.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// The log of this node. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Op>,
}

/// What the writer and the readers share.
pub(super) struct Shared {
    pub(super) database: Database,
    pub(super) fatal: Fatal,
    /// Transactions that reached the disk since the start.
    pub(super) syncs: AtomicU64,
    memory: Mutex<Memory>,
}

/// The log as openraft sees it now: what is queued counts as written.
#[derive(Default)]
pub(super) struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// What of that is on disk.
    committed_on_disk: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The last of those that are on disk. While entries are being taken away it may be one of them.
    last_on_disk: Option<LogId>,
    /// Sizes of the entries in the log; the first belongs to `first`.
    sizes: VecDeque<u32>,
    first: u64,
    bytes: u64,
    /// The newest entries, without a gap up to the last.
    cache: VecDeque<Cached>,
    cached_bytes: usize,
    /// Counts appends; an entry leaves the cache only after its append was written.
    appended: u64,
    flushed: u64,
}

struct Cached {
    entry: Entry,
    append: u64,
}

impl LogStore {
    /// Starts the writer of a file with what [`Memory::load`] found in it.
    pub(super) fn start(database: Database, memory: Memory, file: PositionFile, fatal: Fatal) -> Result<Self, Error> {
        let position = memory.position();
        file.note(&position)?;
        file.settle()?;
        let shared = Arc::new(Shared { database, fatal, syncs: AtomicU64::new(0), memory: Mutex::new(memory) });
        let (queue, ops) = mpsc::channel(QUEUE_OPS);
        log_writer::start(Arc::clone(&shared), file, position, ops)?;
        Ok(Self { shared, queue })
    }

    /// Entries and bytes that the log holds.
    pub fn size(&self) -> (u64, u64) {
        let memory = self.shared.memory();
        (memory.sizes.len() as u64, memory.bytes)
    }

    /// How often the log was synced since the start. Fewer than the writes, when those share a sync.
    pub fn syncs(&self) -> u64 {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    /// Brings to the disk how far the log is committed, if that has changed: so far a node that starts alone goes.
    pub async fn note_committed(&self) -> Result<(), Error> {
        let is_noted = {
            let memory = self.shared.memory();
            memory.committed == memory.committed_on_disk
        };
        if is_noted { Ok(()) } else { self.call(Op::Committed).await }
    }

    /// Writes what is queued, then closes the file. Later calls answer [`Error::Closed`].
    pub(super) async fn close(&self) -> Result<(), Error> {
        self.call(Op::Close).await
    }

    /// Queues an operation and waits until it is on disk.
    async fn call(&self, op: impl FnOnce(oneshot::Sender<Result<(), Error>>) -> Op) -> Result<(), Error> {
        let (done, written) = oneshot::channel();
        self.queue.send(op(done)).await.map_err(|_| Error::Closed)?;
        written.await.map_err(|_| Error::Closed)?
    }

    /// The vote and the last entry of the log, as they are on disk.
    pub fn held(&self) -> (Option<Vote>, Option<LogId>) {
        let memory = self.shared.memory();
        (memory.vote, memory.last_on_disk)
    }

    /// Up to where the log is known to be agreed on.
    pub(super) fn committed(&self) -> Option<LogId> {
        self.shared.memory().committed
    }

    /// Up to where the log is gone.
    #[cfg(test)]
    pub(super) fn purged(&self) -> Option<LogId> {
        self.shared.memory().purged
    }

    /// The file answers every later write with an error, as a failing disk would.
    #[cfg(test)]
    pub(super) fn break_now(&self) {
        self.shared.database.break_now();
    }

    async fn read(&self, wanted: Range<u64>) -> Result<Vec<Entry>, Error> {
        let (on_disk, in_memory) = self.shared.memory().split(wanted);
        if on_disk.is_empty() {
            return Ok(in_memory);
        }
        let shared = Arc::clone(&self.shared);
        let read = blocking(move || read_entries(&shared.database, on_disk)).await;
        let mut entries = read.inspect_err(|error| self.shared.fatal.report(error))?;
        entries.extend(in_memory);
        Ok(entries)
    }
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the writer: how far the log is known to be committed.
    pub(super) fn committed(&self) -> Option<LogId> {
        self.memory().committed
    }

    /// Told by the writer: this is on disk.
    pub(super) fn note_committed(&self, committed: Option<LogId>) {
        self.memory().committed_on_disk = committed;
    }

    /// Told by the writer: the log on disk ends here now.
    pub(super) fn note_last(&self, last: Option<LogId>) {
        self.memory().last_on_disk = last;
    }

    /// Told by the writer: every append up to this one is on disk.
    pub(super) fn flushed(&self, append: u64) {
        let mut memory = self.memory();
        memory.flushed = memory.flushed.max(append);
        memory.shrink_cache();
    }
}

impl Memory {
    /// Reads the whole log, verifying every value.
    pub(super) fn load(database: &Database) -> Result<Self, Error> {
        let mut memory = Self {
            vote: database.meta::<VoteV1>("vote")?.map(Vote::from),
            committed: database.meta::<LogIdV1>("committed")?.map(LogId::from),
            committed_on_disk: database.meta::<LogIdV1>("committed")?.map(LogId::from),
            purged: database.meta::<LogIdV1>("purged")?.map(LogId::from),
            ..Self::default()
        };
        memory.last = memory.purged;
        // From the first row, not from the purge marker: a gap after the marker must be seen.
        for entry in read_entries(database, 0..u64::MAX)? {
            let expected = memory.last.map(|last| last.index + 1);
            if expected.is_some_and(|index| index != entry.log_id.index) {
                let key = format!("log index {}", entry.log_id.index);
                return Err(database.damaged("log", key, "the entry before it is missing"));
            }
            memory.push(entry, 0);
            memory.shrink_cache();
        }
        memory.last_on_disk = memory.last;
        Ok(memory)
    }

    /// Whether nothing was ever written: no vote, no entry.
    pub(super) fn is_pristine(&self) -> bool {
        self.vote.is_none() && self.last.is_none()
    }

    /// Up to where the log is gone.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Refuses a log that ends before the position that was noted for it. `is_exact` says that the position was synced
    /// after the last write.
    pub(super) fn check(&self, database: &Database, noted: &PositionFile, is_exact: bool) -> Result<(), Error> {
        let found = self.position();
        if planted::is(Bug::CutDamagedLog) {
            return Ok(());
        }
        let noted = match noted.read() {
            Ok(None) if !self.is_pristine() => return Err(noted.missing()),
            Ok(noted) => noted,
            // A power cut may tear it; the sync of a clean stop does not.
            Err(error @ (Error::Damaged { .. } | Error::Unreadable { .. })) if !is_exact => {
                tracing::warn!(%error, "the noted position is of no use; the log itself is whole");
                None
            }
            Err(error) => return Err(error),
        };
        match noted {
            Some(noted) if !noted.is_reached_by(&found) => {
                let what = "it ends before the last entry or vote that was answered";
                Err(database.damaged("log", "the last entries".to_owned(), what))
            }
            Some(noted) if is_exact && noted != found => {
                let what = "it has more than there was at the last stop";
                Err(database.damaged("log", "the last entries".to_owned(), what))
            }
            _ => Ok(()),
        }
    }

    fn position(&self) -> PositionV1 {
        PositionV1 {
            vote: self.vote.as_ref().map(VoteV1::from),
            last: self.last.map(LogIdV1::from),
            purged: self.purged.map(LogIdV1::from),
        }
    }

    fn push(&mut self, entry: Entry, append: u64) {
        if self.sizes.is_empty() {
            self.first = entry.log_id.index;
        }
        let size = entry_bytes(&entry);
        self.sizes.push_back(u32::try_from(size).unwrap_or(u32::MAX));
        self.bytes += size as u64;
        self.cached_bytes += size;
        self.last = Some(entry.log_id);
        self.cache.push_back(Cached { entry, append });
    }

    /// Drops old entries from memory that are safe on disk.
    fn shrink_cache(&mut self) {
        while self.cached_bytes > CACHE_BYTES
            && let Some(oldest) = self.cache.pop_front_if(|oldest| oldest.append <= self.flushed)
        {
            self.cached_bytes -= entry_bytes(&oldest.entry);
        }
    }

    /// The part of the range that must be read from disk, and the entries of the rest.
    fn split(&self, wanted: Range<u64>) -> (Range<u64>, Vec<Entry>) {
        let next = self.next_index();
        let start = wanted.start.max(self.first).min(next);
        let end = wanted.end.min(next).max(start);
        let cached_from = self.cache.front().map_or(next, |oldest| oldest.entry.log_id.index);
        let on_disk = start..end.min(cached_from).max(start);
        let skip = on_disk.end.saturating_sub(cached_from);
        let take = end - on_disk.end;
        let in_memory = self
            .cache
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
            .take(usize::try_from(take).unwrap_or(usize::MAX))
            .map(|cached| cached.entry.clone())
            .collect();
        (on_disk, in_memory)
    }

    fn next_index(&self) -> u64 {
        self.first + self.sizes.len() as u64
    }

    /// Forgets every entry from `index` on.
    fn truncate(&mut self, index: u64, last: Option<LogId>) {
        while self.next_index() > index
            && let Some(size) = self.sizes.pop_back()
        {
            self.bytes -= u64::from(size);
        }
        while let Some(newest) = self.cache.pop_back_if(|newest| newest.entry.log_id.index >= index) {
            self.cached_bytes -= entry_bytes(&newest.entry);
        }
        // Truncating behind the end changes nothing.
        self.last = self.last.min(last);
    }

    /// Forgets every entry up to `upto`.
    fn purge(&mut self, upto: LogId) {
        while self.first <= upto.index
            && let Some(size) = self.sizes.pop_front()
        {
            self.bytes -= u64::from(size);
            self.first += 1;
        }
        while let Some(oldest) = self.cache.pop_front_if(|oldest| oldest.entry.log_id.index <= upto.index) {
            self.cached_bytes -= entry_bytes(&oldest.entry);
        }
        if self.sizes.is_empty() {
            self.first = upto.index + 1;
        }
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(Some(upto));
    }

    /// The end of a read that starts at `start`, so that it stays small; at least one entry.
    fn limit(&self, start: u64, end: u64) -> u64 {
        let skip = usize::try_from(start.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut count = 0;
        for size in self.sizes.iter().skip(skip) {
            bytes += u64::from(*size);
            if count > 0 && bytes > READ_BYTES {
                break;
            }
            count += 1;
        }
        end.min(start + count)
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => proposal.bytes().len() + ENTRY_OVERHEAD_BYTES,
        _ => ENTRY_OVERHEAD_BYTES,
    }
}

fn read_entries(database: &Database, range: Range<u64>) -> Result<Vec<Entry>, Error> {
    database.read("log", |transaction| {
        let table = match transaction.open_table(LOG) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let mut entries = Vec::new();
        for row in table.range(range)? {
            let (key, sealed) = row?;
            let index = key.value();
            let name = || format!("log index {index}");
            if planted::is(Bug::CutDamagedLog) && !is_readable(database, index, sealed.value()) {
                break;
            }
            let stored: EntryV1 = database.unseal("log", &index.to_be_bytes(), name, sealed.value())?;
            let entry =
                Entry::try_from(stored).map_err(|source| Error::unreadable(RAFT_FILE, "log", name(), source))?;
            entries.push(entry);
        }
        Ok(entries)
    })
}

/// For the planted bug only: whoever reads an entry otherwise gets the error.
fn is_readable(database: &Database, index: u64, sealed: &[u8]) -> bool {
    database.unseal::<EntryV1>("log", &index.to_be_bytes(), String::new, sealed).is_ok()
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(half_open(&range)).await?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let end = self.shared.memory().limit(start, end);
        Ok(self.read(start..end).await?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.memory().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let memory = self.shared.memory();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let stored = VoteV1::from(vote);
        self.call(|done| Op::Vote(stored, done)).await?;
        self.shared.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // For the next start: it goes to disk with the next thing that must, or when the log is looked after.
        self.shared.memory().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let append = {
            let mut memory = self.shared.memory();
            memory.appended += 1;
            let append = memory.appended;
            for entry in &entries {
                memory.push(entry.clone(), append);
            }
            append
        };
        self.queue.send(Op::Append { entries, append, callback }).await.map_err(|_| Error::Closed)?;
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let index = last.map_or(0, |last| last.index + 1);
        self.shared.memory().truncate(index, last);
        Ok(self.call(|done| Op::Truncate { last: last.map(LogIdV1::from), done }).await?)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.shared.memory().purge(upto);
        self.call(|done| Op::Purge { upto: upto.into(), done }).await?;
        failpoint::pass("log.purged");
        Ok(())
    }
}
