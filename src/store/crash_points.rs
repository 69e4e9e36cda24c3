//! Power cuts at every sync: whatever the disk makes of what was not synced, nothing that was acknowledged is lost, the
//! log and the state fit together, and the store opens by itself.
//!
//! A workload runs on a disk that remembers everything. Then, for every sync and every fate of what it should have
//! brought to the disk, the files are made as the crash would leave them, opened, and compared with a model. What was
//! being written at that time may be there or not; nothing else is left open.
//!
//! `NARVANA_LONG_TESTS=1` runs a long workload with many seeds (`scripts/long-tests.sh`).

use std::os::unix::fs::PermissionsExt;

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use tempfile::TempDir;

use super::crash_disk::{Contents, CrashDisk, Dice, Event, FILES, Fate, Others, Platter, is_long};
use super::tests::Node;
use super::workload::{Finished, LogModel, Run, Said, Workload, after, bytes_of, entry};
use super::*;

/// What must hold after a crash at some point.
#[derive(Clone, Default)]
pub(super) struct Promise {
    acknowledged: usize,
    asked: usize,
    state_synced: u64,
    applied: u64,
    committed: u64,
    committed_noted: u64,
}

impl Promise {
    pub(super) fn take(&mut self, said: &Said) {
        match *said {
            Said::Asked(count) => self.asked = count,
            Said::Acknowledged(count) => self.acknowledged = count,
            Said::StateSynced(index) => self.state_synced = index,
            Said::Applied(index) => self.applied = index,
            Said::Committed(index) => self.committed = index,
            Said::CommittedNoted(index) => self.committed_noted = index,
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
        let committed = store.log().read_committed().await.expect("reads").map_or(0, |id| id.index);
        if !(self.committed_noted..=self.committed).contains(&committed) {
            return Err(format!(
                "the log is agreed on up to {committed}; it was told {}, and {} was noted",
                self.committed, self.committed_noted
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
