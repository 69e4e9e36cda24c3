//! The replicated state: openraft's state machine.
//!
//! In: committed entries, in order. Out: the next state in memory; then the new view for readers; then the answers for
//! whoever proposed. The whole state is in memory, and the synced log already holds everything in it: `state.redb` is
//! brought up to date by a thread of its own (`state_writer`) behind the answers. A crash takes the file back to its last
//! checkpoint, and openraft applies the log from there; so there is a checkpoint before every snapshot, since the log is
//! purged after one.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{mpsc, oneshot, watch};

use super::Error;
use super::database::Database;
use super::failpoint;
use super::fatal::Fatal;
use super::raft_types::{Entry, LogId, Response, SnapshotMeta, StoredMembership, TypeConfig};
use super::snapshot::{Folder, SnapshotFile, SnapshotWriter};
use super::state_writer::{self, Op};
use super::stored::{AppliedV1, LogIdV1, StoredMembershipV1};
use super::twist;
use super::view::View;
use crate::space::{Space, Use};
use crate::state::{Change, Key, Record, State};
use crate::task::blocking;

/// Entries that are applied in one go, so that answers do not wait for a long backlog.
const BATCH_ENTRIES: usize = 512;

/// A checkpoint after this many entries or bytes bounds what is applied again after a crash.
const CHECKPOINT_ENTRIES: u64 = 4096;
const CHECKPOINT_BYTES: u64 = 8 * 1024 * 1024;

/// Applying waits for the file when this many checkpoints are due, which bounds the memory on a slow disk.
const CHECKPOINTS_BEHIND: u64 = 4;

/// Operations that wait for the thread: one checkpoint that is due, and the few that somebody waits for.
const QUEUE_OPS: usize = 16;

type Snapshot = openraft::Snapshot<super::raft_types::LeaderId, u64, super::raft_types::Member, SnapshotFile>;

/// The state of this node. Clones share it.
#[derive(Clone)]
pub struct StateMachine {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Op>,
}

/// What the state machine and the writer share.
pub(super) struct Shared {
    pub(super) database: Database,
    pub(super) fatal: Fatal,
    /// Knows how large the state is.
    space: Space,
    folder: Folder,
    memory: Mutex<Memory>,
    snapshot: Mutex<Option<SnapshotFile>>,
    view: watch::Sender<View>,
}

/// The newest state, and what the file lacks of it.
struct Memory {
    applied: Applied,
    unwritten: Unwritten,
}

/// How far the log is applied, and to what.
#[derive(Clone)]
pub(super) struct Applied {
    pub(super) last: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) state: State,
}

/// Rows that changed since the last checkpoint, the last change of each; `None` deletes one.
#[derive(Default)]
pub(super) struct Unwritten {
    pub(super) rows: BTreeMap<Vec<u8>, Option<Record>>,
    entries: u64,
    bytes: u64,
    /// Whether a checkpoint is on its way.
    asked: bool,
}

impl StateMachine {
    /// Starts the writer of a file with what [`state_writer::load`] found in it.
    pub(super) fn start(
        database: Database,
        applied: Applied,
        (fatal, space): (Fatal, Space),
        folder: Folder,
        snapshot: Option<SnapshotFile>,
    ) -> Result<Self, Error> {
        space.holds_state(applied.state.bytes());
        let view = watch::Sender::new(applied.view());
        let memory = Mutex::new(Memory { applied, unwritten: Unwritten::default() });
        let shared = Arc::new(Shared { database, fatal, space, folder, memory, snapshot: Mutex::new(snapshot), view });
        let (writer, ops) = mpsc::channel(QUEUE_OPS);
        state_writer::start(Arc::clone(&shared), ops)?;
        Ok(Self { shared, writer })
    }

    /// The state as it is published after every batch.
    pub fn view(&self) -> watch::Receiver<View> {
        self.shared.view.subscribe()
    }

    /// Starts a file for a snapshot that another node sends; give it to openraft when it is finished.
    pub fn receive(&self, meta: &SnapshotMeta) -> Result<SnapshotWriter, Error> {
        self.shared.folder.create(meta)
    }

    /// How far the log is applied, and to what.
    pub(super) fn applied(&self) -> Applied {
        self.shared.memory().applied.clone()
    }

    #[cfg(test)]
    pub(super) fn shared_snapshot(&self) -> Option<SnapshotFile> {
        self.shared.current_snapshot().as_ref().map(|snapshot| snapshot.reopen().expect("reopens"))
    }

    /// Brings everything that is applied to the disk.
    pub(super) async fn checkpoint(&self) -> Result<(), Error> {
        self.call(Op::Checkpoint).await
    }

    /// Checkpoint, then close the file. Later calls answer [`Error::Closed`].
    pub(super) async fn close(&self) -> Result<(), Error> {
        self.call(Op::Close).await
    }

    /// Queues an operation for the writer and waits until it is done.
    async fn call(&self, op: impl FnOnce(state_writer::Done) -> Op) -> Result<(), Error> {
        let (done, finished) = oneshot::channel();
        self.writer.send(op(done)).await.map_err(|_| Error::Closed)?;
        finished.await.map_err(|_| Error::Closed)?
    }

    /// Applies entries in memory, publishes, and returns the answers in order. A panic is a defect of ours: the node
    /// stops, and the state before it stays.
    fn apply_in_memory(&self, entries: &[Entry]) -> Result<(Vec<Response>, u64), Error> {
        catch_unwind(AssertUnwindSafe(|| self.shared.apply(entries)))
            .unwrap_or(Err(Error::Defect))
            .inspect_err(|error| self.shared.fatal.report(error))
    }

    /// Keeps the file from falling far behind; `due` says how many checkpoints of work it lacks.
    async fn keep_up(&self, due: u64) -> Result<(), Error> {
        if due >= CHECKPOINTS_BEHIND {
            return self.checkpoint().await;
        }
        if due > 0 && !mem::replace(&mut self.shared.memory().unwritten.asked, true) {
            // Nobody waits for this one. A failure stops the node by itself.
            let (done, _) = oneshot::channel();
            self.writer.send(Op::Checkpoint(done)).await.map_err(|_| Error::Closed)?;
        }
        Ok(())
    }
}

impl Applied {
    fn view(&self) -> View {
        View { index: self.last.map_or(0, |last| last.index), state: self.state.clone() }
    }

    pub(super) fn stored(&self) -> AppliedV1 {
        AppliedV1 { last_applied: self.last.map(LogIdV1::from), membership: StoredMembershipV1::from(&self.membership) }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }

    /// Applies one entry; notes what changes.
    pub(super) fn take(&mut self, entry: &Entry, unwritten: &mut Unwritten) -> Response {
        self.last = Some(entry.log_id);
        unwritten.entries += 1;
        match &entry.payload {
            EntryPayload::Blank => Response::Internal,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Response::Internal
            }
            EntryPayload::Normal(proposal) => {
                unwritten.bytes += proposal.bytes().len() as u64;
                let index = entry.log_id.index;
                let applied = twist::apply(&self.state, index, proposal.entry());
                self.state = applied.state;
                #[cfg(test)]
                super::observed::changes(&applied.changes);
                for change in applied.changes.0 {
                    match change {
                        Change::Put(record) => unwritten.rows.insert(record.key().to_bytes(), Some(record)),
                        Change::Delete(key) => unwritten.rows.insert(Key::to_bytes(&key), None),
                    };
                }
                Response::Command { index, result: applied.result }
            }
        }
    }
}

impl Unwritten {
    /// How many checkpoints are due.
    fn due(&self) -> u64 {
        (self.entries / CHECKPOINT_ENTRIES).max(self.bytes / CHECKPOINT_BYTES)
    }

    /// Adds what came later.
    fn extend(&mut self, later: Self) {
        self.rows.extend(later.rows);
        self.entries += later.entries;
        self.bytes += later.bytes;
    }
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current_snapshot(&self) -> MutexGuard<'_, Option<SnapshotFile>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, entries: &[Entry]) -> Result<(Vec<Response>, u64), Error> {
        let mut memory = self.memory();
        let mut next = memory.applied.clone();
        let mut changed = Unwritten::default();
        let take = |entry| {
            let response = next.take(entry, &mut changed);
            #[cfg(test)]
            super::observed::applied(entry, &response, &next);
            response
        };
        let responses = entries.iter().map(take).collect();
        // Of what is not applied nothing is lost: it is in the log.
        state_writer::supports(&next.state)?;
        failpoint::pass("state.applied");
        memory.applied = next;
        self.space.holds_state(memory.applied.state.bytes());
        memory.unwritten.extend(changed);
        self.view.send_replace(memory.applied.view());
        failpoint::pass("state.published");
        Ok((responses, memory.unwritten.due()))
    }

    /// For the writer: what the file lacks, and how far that brings it. From here on it counts as written; a write that
    /// fails stops the node.
    pub(super) fn take_unwritten(&self) -> Option<(Unwritten, AppliedV1)> {
        let mut memory = self.memory();
        let unwritten = mem::take(&mut memory.unwritten);
        (unwritten.entries > 0).then(|| (unwritten, memory.applied.stored()))
    }

    /// For the writer: the newest state.
    pub(super) fn state(&self) -> State {
        self.memory().applied.state.clone()
    }

    /// For the writer: the file has been given this state instead of its own.
    pub(super) fn replace(&self, applied: Applied, snapshot: SnapshotFile) -> Result<(), Error> {
        #[cfg(test)]
        super::observed::installed(&applied);
        let mut memory = self.memory();
        self.space.holds_state(applied.state.bytes());
        *memory = Memory { applied, unwritten: Unwritten::default() };
        self.view.send_replace(memory.applied.view());
        drop(memory);
        self.keep(snapshot)
    }

    /// A snapshot from elsewhere as a file of our folder.
    pub(super) fn own(&self, received: SnapshotFile) -> Result<SnapshotFile, Error> {
        if self.folder.holds(&received) {
            return Ok(received);
        }
        let mut writer = self.folder.create(received.meta())?;
        received.chunks(|chunk| writer.chunk(chunk))?;
        writer.finish()
    }

    /// Writes a snapshot of a state that was taken earlier.
    fn build(&self, meta: &SnapshotMeta, state: &State) -> Result<SnapshotFile, Error> {
        let snapshot = self.folder.create(meta)?.state(state)?;
        self.keep(snapshot.reopen()?)?;
        failpoint::pass("snapshot.kept");
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
}

/// Writes a snapshot of the state as it was when this was made.
pub struct SnapshotBuilder {
    machine: StateMachine,
    meta: SnapshotMeta,
    state: State,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        // First, since the log may be purged up to the snapshot once it exists.
        self.machine.checkpoint().await?;
        let (meta, state, shared) = (self.meta.clone(), self.state.clone(), Arc::clone(&self.machine.shared));
        let build =
            move || catch_unwind(AssertUnwindSafe(|| shared.build(&meta, &state))).unwrap_or(Err(Error::Defect));
        let fatal = &self.machine.shared.fatal;
        let snapshot = blocking(build).await.inspect_err(|error| fatal.report(error))?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let memory = self.shared.memory();
        Ok((memory.applied.last, memory.applied.membership.clone()))
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
            let (responses, due) = self.apply_in_memory(&batch)?;
            for (responder, response) in responders.into_iter().zip(responses) {
                if let Some(responder) = responder {
                    responder.send(response);
                }
            }
            self.keep_up(due).await?;
        }
    }

    /// A snapshot that does not fit on the disk is put off: openraft asks again, and purges nothing before there is one.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        match self.shared.space.check(Use::Snapshot) {
            Err(full) if !force => {
                tracing::warn!("no snapshot is made until there is space: {full}");
                None
            }
            _ => Some(self.get_snapshot_builder().await),
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let memory = self.shared.memory();
        SnapshotBuilder { machine: self.clone(), meta: memory.applied.meta(), state: memory.applied.state.clone() }
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let snapshot = Box::new(snapshot);
        Ok(self.call(|done| Op::Install { snapshot, done }).await?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let current = self.shared.current_snapshot();
        let Some(snapshot) = current.as_ref() else { return Ok(None) };
        Ok(Some(Snapshot { meta: snapshot.meta().clone(), snapshot: snapshot.reopen()? }))
    }
}
