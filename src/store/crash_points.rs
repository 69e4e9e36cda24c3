//! Power cuts at every sync: whatever the disk makes of what was not synced, nothing that was acknowledged is lost, the
//! log and the state fit together, and the store opens by itself.
//!
//! A workload runs on a disk that remembers everything. Then, for every sync and every fate of what it should have
//! brought to the disk, the files are made as the crash would leave them, opened, and compared with a model. What was
//! being written at that time may be there or not; nothing else is left open.
//!
//! `NARVANA_LONG_TESTS=1` runs a long workload with many seeds (`scripts/long-tests.sh`).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use futures::stream;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use tempfile::TempDir;

use super::crash_disk::{Contents, CrashDisk, Dice, Event, FILES, Fate, Others, Platter, is_long};
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
}

/// The log as it should be after an operation.
#[derive(Clone, Default)]
struct LogModel {
    vote: Option<(u64, bool)>,
    purged: u64,
    /// Term and encoded command.
    entries: BTreeMap<u64, (u64, Vec<u8>)>,
}

impl LogModel {
    fn last(&self) -> u64 {
        self.entries.last_key_value().map_or(self.purged, |(index, _)| *index)
    }
}

/// Everything the check needs to know of a run.
pub(super) struct Run {
    start: Contents,
    events: Vec<Event<Said>>,
    /// By the number of operations.
    history: Vec<LogModel>,
    /// The state at every index that was ever committed.
    states: BTreeMap<u64, State>,
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
struct Workload {
    node: Node,
    disk: CrashDisk<Said>,
    store: Store,
    history: Vec<LogModel>,
    states: BTreeMap<u64, State>,
    term: u64,
    committed: u64,
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

fn bytes_of(entry: &Entry) -> Vec<u8> {
    let EntryPayload::Normal(proposal) = &entry.payload else { panic!("a command: {entry:?}") };
    proposal.bytes().to_vec()
}

fn after(state: &State, entry: &Entry) -> State {
    let EntryPayload::Normal(proposal) = &entry.payload else { panic!("a command: {entry:?}") };
    state::apply(state, entry.log_id.index, proposal.entry()).state
}

impl Workload {
    fn new(seed: u64) -> (Self, Contents) {
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
            applied: 0,
            entries: BTreeMap::new(),
            snapshot: 0,
            dice: Dice(seed),
        };
        (workload, start)
    }

    async fn run(mut self, steps: usize, start: Contents) -> Finished {
        self.vote().await;
        for _ in 0..steps {
            match self.dice.roll(16) {
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
        self.store.log().save_committed(self.log_id(self.committed)).await.expect("queued");
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

/// What must hold after a crash at some point.
#[derive(Clone, Default)]
pub(super) struct Promise {
    acknowledged: usize,
    asked: usize,
    state_synced: u64,
    applied: u64,
}

impl Promise {
    fn take(&mut self, said: &Said) {
        match *said {
            Said::Asked(count) => self.asked = count,
            Said::Acknowledged(count) => self.acknowledged = count,
            Said::StateSynced(index) => self.state_synced = index,
            Said::Applied(index) => self.applied = index,
        }
    }

    pub(super) async fn check(&self, store: &Store, run: &Run) -> Result<(), String> {
        let found = self.found_log(store).await;
        let possible = &run.history[self.acknowledged..=self.asked];
        let same = |model: &&LogModel| {
            model.vote == found.vote && model.purged == found.purged && model.entries == found.entries
        };
        if !possible.iter().any(|model| same(&model)) {
            return Err(format!(
                "the log has vote {:?}, is purged to {} and ends at {}, which it never did since the last answer",
                found.vote,
                found.purged,
                found.last()
            ));
        }
        let mut machine = store.machine();
        let applied = machine.applied_state().await.expect("reads").0.map_or(0, |id| id.index);
        if applied < self.state_synced || applied < found.purged {
            return Err(format!("applied to {applied}, synced to {}, purged to {}", self.state_synced, found.purged));
        }
        let view = machine.view().borrow().clone();
        if view.index != applied || run.states.get(&applied) != Some(&view.state) {
            return Err(format!("the state at {applied} is another one"));
        }
        let mut state = view.state;
        for index in applied + 1..=self.applied {
            let Some((term, _)) = found.entries.get(&index) else {
                return Err(format!("{index} cannot be applied again"));
            };
            let entries = store.log().try_get_log_entries(index..=index).await.expect("reads");
            let [again] = entries.as_slice() else { return Err(format!("{index} is not there")) };
            assert_eq!(again.log_id.leader_id.term, *term);
            state = after(&state, again);
        }
        if applied < self.applied && run.states[&self.applied] != state {
            return Err(format!("applied again up to {}, the state is another one", self.applied));
        }
        Ok(())
    }

    /// A log that was purged has a snapshot that reaches as far.
    async fn check_snapshot(store: &Store) -> Result<(), String> {
        let purged = store.log().purged().map_or(0, |id| id.index);
        let Some(snapshot) = store.machine().shared_snapshot() else {
            return (purged == 0).then_some(()).ok_or_else(|| "purged without a snapshot".to_owned());
        };
        snapshot.chunks(|_| Ok::<_, Error>(())).map_err(|error| error.to_string())?;
        let index = snapshot.meta().last_log_id.map_or(0, |id| id.index);
        (index >= purged).then_some(()).ok_or_else(|| format!("purged behind the snapshot at {index}"))
    }

    async fn found_log(&self, store: &Store) -> LogModel {
        let mut log = store.log();
        let vote = log.read_vote().await.expect("reads");
        let purged = log.get_log_state().await.expect("reads").last_purged_log_id;
        let entries = log.try_get_log_entries(..).await.expect("reads");
        LogModel {
            vote: vote.map(|vote| (vote.leader_id.term, vote.committed)),
            purged: purged.map_or(0, |id| id.index),
            entries: entries
                .iter()
                .map(|entry| (entry.log_id.index, (entry.log_id.leader_id.term, bytes_of(entry))))
                .collect(),
        }
    }
}

/// A folder as a crash left it.
pub(super) fn left(others: &Others) -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    // Their contents are on the recording disk.
    for file in FILES {
        fs::write(folder.path().join(file), b"").expect("made");
    }
    for (path, bytes) in others.iter() {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("folder");
        fs::write(&path, bytes.as_slice()).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("as it was");
    }
    folder
}

/// Opens what a crash left and checks it; then cuts the power in every sync of that start too.
async fn recovers(
    node: &Node,
    crashed: Contents,
    others: &Others,
    promise: &Promise,
    run: &Run,
    dice: &mut Dice,
    (was_power_cut, again): (bool, bool),
) -> Result<usize, String> {
    let folder = left(others);
    // It is not synced while the node runs, only at its start.
    let position = folder.path().join(POSITION_FILE);
    if was_power_cut && position.exists() && dice.roll(3) == 0 {
        let length = fs::metadata(&position).expect("there").len();
        fs::write(position, vec![7; usize::try_from(length).expect("short")]).expect("written");
    }
    let disk = CrashDisk::<Said>::new(folder.path(), crashed.clone());
    let store =
        Store::open_on(&disk, node.options(folder.path())).map_err(|error| format!("does not open: {error}"))?;
    promise.check(&store, run).await?;
    Promise::check_snapshot(&store).await?;
    drop(store);
    let mut points = 1;
    if again {
        let mut platter = Platter::new(crashed);
        for event in disk.take().1 {
            if let Event::Sync { others, .. } = &event {
                let fate = Fate::ALL[dice.roll(Fate::ALL.len())];
                let second = platter.crashed(fate, dice);
                let check = Box::pin(recovers(node, second, others, promise, run, dice, (fate != Fate::Kept, false)));
                points += check.await.map_err(|error| format!("second crash, {fate:?}: {error}"))?;
            }
            platter.take(event);
        }
    }
    Ok(points)
}

/// Cuts the power at every sync of a run; returns at how many points.
async fn cut_everywhere(seed: u64, steps: usize, seeds: u64) -> usize {
    let (workload, start) = Workload::new(seed);
    let Finished { node, mut run, .. } = workload.run(steps, start).await;
    let mut platter = Platter::new(run.start.clone());
    let mut promise = Promise::default();
    let (mut points, mut syncs) = (0, 0);
    for event in std::mem::take(&mut run.events) {
        match &event {
            Event::Mark(said) => promise.take(said),
            Event::Sync { others, .. } => {
                syncs += 1;
                for (number, fate) in (0..seeds).flat_map(|number| Fate::ALL.map(|fate| (number, fate))) {
                    if number > 0 && matches!(fate, Fate::Lost | Fate::Kept) {
                        continue;
                    }
                    let mut dice = Dice(seed << 32 | syncs << 8 | number);
                    let crashed = platter.crashed(fate, &mut dice);
                    let how = (fate != Fate::Kept, dice.roll(4) == 0);
                    let checked = recovers(&node, crashed, others, &promise, &run, &mut dice, how).await;
                    points +=
                        checked.unwrap_or_else(|error| panic!("seed {seed}, sync {syncs}, {fate:?} {number}: {error}"));
                }
            }
            Event::Write { .. } | Event::Length { .. } => {}
        }
        platter.take(event);
    }
    points
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_sync_loses_nothing_that_was_acknowledged() {
    let (runs, steps, seeds) = if is_long() { (2, 100, 2) } else { (1, 16, 1) };
    let began = std::time::Instant::now();
    let mut points = 0;
    for seed in 1..=runs {
        points += cut_everywhere(seed, steps, seeds).await;
    }
    println!("{points} crash points in {:?}", began.elapsed());
    assert!(points >= if is_long() { 5_000 } else { 200 }, "{points}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_cut_short_on_purpose_is_not_taken_for_one_that_lost_its_end() {
    let node = Node::new();
    let disk = CrashDisk::<Said>::new(node.folder.path(), Contents::default());
    let store = Store::open_on(&disk, node.options(node.folder.path())).expect("opens");
    let mut log = store.log();
    let (done, written) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
    log.append((1..=5).map(|index| entry(1, index)), IOFlushed::signal(done)).await.expect("queued");
    written.await.expect("answered").expect("written");
    let mut platter = Platter::new(disk.take().0);
    log.truncate_after(Some(entry(1, 2).log_id)).await.expect("truncated");
    let mut lengths = Vec::new();
    for event in disk.take().1 {
        if let Event::Sync { others, .. } = &event {
            // The process dies between the sync and what it would have noted then.
            let folder = left(others);
            let disk = CrashDisk::<Said>::new(folder.path(), platter.crashed(Fate::Kept, &mut Dice(1)));
            let store = Store::open_on(&disk, node.options(folder.path())).expect("opens");
            lengths.push(store.log().size().0);
        }
        platter.take(event);
    }
    assert_eq!(lengths.last(), Some(&2), "{lengths:?}");
}
