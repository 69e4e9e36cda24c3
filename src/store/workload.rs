//! The workload of the tests that cut the power, flip bits and fail syncs: it drives a store as openraft would, on a disk
//! that remembers everything, and keeps a model of what the store must hold.

use std::collections::BTreeMap;

use futures::stream;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, RaftSnapshotBuilder};

use super::crash_disk::{Contents, CrashDisk, Dice, Event, Others};
use super::crash_points::Promise;
use super::tests::Node;
use super::*;
use crate::model::{RequestId, SettingKey};
use crate::state::{self, Actor, Command, LogEntry, Request, State};
use crate::{clock, random};

/// What the workload tells between the events.
pub(super) enum Said {
    /// So many operations of the log were asked for.
    Asked(usize),
    /// And so many were acknowledged.
    Acknowledged(usize),
    /// The state is synced up to this index, or further.
    StateSynced(u64),
    /// This index was answered as applied.
    Applied(u64),
    /// The log was told that it is agreed on up to this index.
    Committed(u64),
    /// And has that on disk.
    CommittedNoted(u64),
}

/// The log as it should be after an operation.
#[derive(Clone, Default)]
pub(super) struct LogModel {
    pub(super) vote: Option<(u64, bool)>,
    pub(super) purged: u64,
    /// Term and encoded command.
    pub(super) entries: BTreeMap<u64, (u64, Vec<u8>)>,
}

impl LogModel {
    pub(super) fn last(&self) -> u64 {
        self.entries.last_key_value().map_or(self.purged, |(index, _)| *index)
    }
}

/// Everything the check needs to know of a run.
pub(super) struct Run {
    pub(super) start: Contents,
    pub(super) events: Vec<Event<Said>>,
    /// By the number of operations.
    pub(super) history: Vec<LogModel>,
    /// The state at every index that was ever committed.
    pub(super) states: BTreeMap<u64, State>,
}

/// A run that is over.
pub(super) struct Finished {
    pub(super) node: Node,
    pub(super) run: Run,
    /// What held at its end.
    pub(super) promise: Promise,
    /// The folder at that time, and after a clean stop.
    pub(super) killed: (Contents, Others),
    pub(super) closed: (Contents, Others),
}

impl Finished {
    /// A short run.
    pub(super) async fn new(seed: u64) -> Self {
        let (workload, start) = Workload::new(seed);
        workload.run(40, start).await
    }
}

/// Drives the store as openraft would.
pub(super) struct Workload {
    node: Node,
    disk: CrashDisk<Said>,
    store: Store,
    history: Vec<LogModel>,
    states: BTreeMap<u64, State>,
    term: u64,
    committed: u64,
    /// Up to where the log was told so.
    saved: u64,
    applied: u64,
    /// Entries by index, as they were last appended.
    entries: BTreeMap<u64, Entry>,
    snapshot: u64,
    dice: Dice,
}

pub(super) fn entry(term: u64, index: u64) -> Entry {
    let value = format!("i{index}-t{term}.test");
    let proposal = Proposal::new(LogEntry {
        proposed_at: clock::now(),
        actor: Actor::System,
        request: Some(Request { id: random::id::<RequestId>(), fingerprint: [0; 32] }),
        command: Command::SetSettings(BTreeMap::from([(SettingKey::ServerDomain, value)])),
    });
    let log_id = LogId::new(LeaderId { term, node_id: 1 }, index);
    Entry { log_id, payload: EntryPayload::Normal(proposal.expect("small")) }
}

pub(super) fn bytes_of(entry: &Entry) -> Vec<u8> {
    let EntryPayload::Normal(proposal) = &entry.payload else { panic!("a command: {entry:?}") };
    proposal.bytes().to_vec()
}

pub(super) fn after(state: &State, entry: &Entry) -> State {
    let EntryPayload::Normal(proposal) = &entry.payload else { panic!("a command: {entry:?}") };
    state::apply(state, entry.log_id.index, proposal.entry()).state
}

impl Workload {
    pub(super) fn new(seed: u64) -> (Self, Contents) {
        let node = Node::new();
        let disk = CrashDisk::new(node.folder.path(), Contents::default());
        let store = Store::open_on(&disk, node.options(node.folder.path())).expect("opens");
        // An `init` that is cut off starts over, so what counts begins with two files that exist.
        let (start, _) = disk.take();
        let workload = Self {
            node,
            disk,
            store,
            history: vec![LogModel::default()],
            states: BTreeMap::from([(0, State::default())]),
            term: 0,
            committed: 0,
            saved: 0,
            applied: 0,
            entries: BTreeMap::new(),
            snapshot: 0,
            dice: Dice(seed),
        };
        (workload, start)
    }

    pub(super) async fn run(mut self, steps: usize, start: Contents) -> Finished {
        self.vote().await;
        for _ in 0..steps {
            match self.dice.roll(17) {
                16 => self.note_committed().await,
                0..5 => self.append().await,
                5 | 6 => self.commit(true).await,
                7..10 => self.commit(false).await,
                10 => self.vote().await,
                11 => self.truncate().await,
                12 => self.checkpoint().await,
                13 | 14 => self.compact().await,
                _ => self.install().await,
            }
        }
        let killed = self.disk.folder();
        let (_, events) = self.disk.take();
        self.store.close().await.expect("closes");
        let closed = self.disk.folder();
        let run = Run { start, events, history: self.history, states: self.states };
        let mut promise = Promise::default();
        run.events.iter().for_each(|event| {
            if let Event::Mark(said) = event {
                promise.take(said)
            }
        });
        Finished { node: self.node, run, promise, killed, closed }
    }

    fn now(&self) -> &LogModel {
        self.history.last().expect("there is one from the start")
    }

    /// Notes what the next operation of the log makes of it.
    fn ask(&mut self, change: impl FnOnce(&mut LogModel)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.history.push(next);
        self.disk.mark(Said::Asked(self.history.len() - 1));
    }

    fn acknowledged(&self) {
        self.disk.mark(Said::Acknowledged(self.history.len() - 1));
    }

    async fn vote(&mut self) {
        self.term += 1;
        for committed in [false, true] {
            let vote = Vote { leader_id: LeaderId { term: self.term, node_id: 1 }, committed };
            self.ask(|model| model.vote = Some((vote.leader_id.term, committed)));
            self.store.log().save_vote(&vote).await.expect("saved");
            self.acknowledged();
        }
    }

    /// Some appends at once, so that several share a transaction.
    async fn append(&mut self) {
        let mut waiting = Vec::new();
        for _ in 0..=self.dice.roll(3) {
            let first = self.now().last() + 1;
            let last = first + self.dice.roll(4) as u64;
            let entries: Vec<Entry> = (first..=last).map(|index| entry(self.term, index)).collect();
            self.entries.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
            self.ask(|model| {
                let rows =
                    entries.iter().map(|entry| (entry.log_id.index, (entry.log_id.leader_id.term, bytes_of(entry))));
                model.entries.extend(rows);
            });
            let (done, written) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
            self.store.log().append(entries, IOFlushed::signal(done)).await.expect("queued");
            waiting.push(written);
        }
        for written in waiting {
            written.await.expect("answered").expect("written");
        }
        self.acknowledged();
    }

    fn log_id(&self, index: u64) -> Option<LogId> {
        self.entries.get(&index).map(|entry| entry.log_id)
    }

    /// Commits what is in the log, or some of it, and applies it.
    async fn commit(&mut self, all: bool) {
        let open = self.now().last().saturating_sub(self.committed);
        let count =
            if all || open == 0 { open } else { 1 + self.dice.roll(usize::try_from(open).expect("few")) as u64 };
        let fresh = self.applied + 1..=self.committed + count;
        self.committed += count;
        if let Some(committed) = self.log_id(self.committed) {
            self.disk.mark(Said::Committed(self.committed));
            self.store.log().save_committed(Some(committed)).await.expect("queued");
            self.saved = self.committed;
        }
        let entries: Vec<Entry> = fresh.map(|index| self.entries[&index].clone()).collect();
        if entries.is_empty() {
            return;
        }
        for entry in &entries {
            let state = after(&self.states[&(entry.log_id.index - 1)], entry);
            self.states.insert(entry.log_id.index, state);
        }
        let batch = stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
        self.store.machine().apply(batch).await.expect("applied");
        self.applied = self.committed;
        self.disk.mark(Said::Applied(self.applied));
    }

    /// As it is done once a second.
    async fn note_committed(&mut self) {
        self.store.log().note_committed().await.expect("noted");
        self.disk.mark(Said::CommittedNoted(self.saved));
    }

    /// Another leader wrote something else behind what is committed.
    async fn truncate(&mut self) {
        self.vote().await;
        let open = usize::try_from(self.now().last() - self.committed).expect("few");
        let keep = self.committed + self.dice.roll(open + 1) as u64;
        self.ask(|model| drop(model.entries.split_off(&(keep + 1))));
        self.store.log().truncate_after(self.log_id(keep)).await.expect("truncated");
        self.acknowledged();
    }

    async fn checkpoint(&mut self) {
        self.store.machine().checkpoint().await.expect("synced");
        self.disk.mark(Said::StateSynced(self.applied));
    }

    /// A snapshot, and a purge up to somewhere before it.
    async fn compact(&mut self) {
        if self.applied == 0 {
            return;
        }
        let mut machine = self.store.machine();
        machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
        self.disk.mark(Said::StateSynced(self.applied));
        self.snapshot = self.applied;
        let purged = self.now().purged;
        let upto = purged + self.dice.roll(usize::try_from(self.snapshot - purged).expect("few") + 1) as u64;
        self.purge(upto).await;
    }

    async fn purge(&mut self, upto: u64) {
        let Some(log_id) = self.log_id(upto).filter(|_| upto > self.now().purged) else { return };
        self.ask(|model| {
            model.purged = upto;
            model.entries = model.entries.split_off(&(upto + 1));
        });
        self.store.log().purge(log_id).await.expect("purged");
        self.acknowledged();
    }

    /// A leader that is far ahead sends its snapshot.
    async fn install(&mut self) {
        self.commit(true).await;
        let leader = Node::new();
        let donor = leader.open();
        donor.log().save_vote(&Vote::new(self.term, 1)).await.expect("saved");
        let ahead: Vec<Entry> = (self.applied + 1..=self.applied + 5).map(|index| entry(self.term, index)).collect();
        let known = self.entries.range(..=self.applied).map(|(_, entry)| entry.clone());
        let all: Vec<Entry> = known.chain(ahead.iter().cloned()).collect();
        for entry in ahead {
            let index = entry.log_id.index;
            self.states.insert(index, after(&self.states[&(index - 1)], &entry));
            self.entries.insert(index, entry);
        }
        let mut machine = donor.machine();
        machine.apply(stream::iter(all.into_iter().map(|entry| Ok((entry, None))))).await.expect("applied");
        let sent = machine.get_snapshot_builder().await.build_snapshot().await.expect("built");

        let mut machine = self.store.machine();
        let mut received = machine.receive(&sent.meta).expect("starts");
        sent.snapshot.chunks(|chunk| received.chunk(chunk)).expect("copied");
        let received = received.finish().expect("whole");
        self.disk.mark(Said::Asked(self.history.len() - 1));
        let index = sent.meta.last_log_id.expect("has entries").index;
        (self.applied, self.committed, self.snapshot) = (index, index, index);
        machine.install_snapshot(&sent.meta, received).await.expect("installed");
        self.disk.mark(Said::StateSynced(index));
        self.disk.mark(Said::Applied(index));
        self.purge(index).await;
    }
}
