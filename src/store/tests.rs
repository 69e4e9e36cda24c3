//! The store as a whole: openraft's own suite, restarts, crashes and damage.

mod damage;
mod snapshots;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder, StorageError};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::database::ByteTable;
use super::*;
use crate::model::{Cluster, NEWEST_CLUSTER_VERSION, SettingKey};
use crate::state::{Actor, Command, LogEntry, NodeFacts, Record, sample_entries, sample_records};
use crate::{clock, random};

/// A data folder that can be opened again, as the same node or another.
pub(super) struct Node {
    pub(super) folder: TempDir,
    cluster: ClusterId,
    key: SealKey,
}

impl Node {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let key = SealKey::create(&folder.path().join(KEY_FILE)).expect("key");
        Self { folder, cluster: random::id(), key }
    }

    pub(super) fn options(&self, folder: &Path) -> Options {
        Options {
            folder: folder.to_owned(),
            cluster: self.cluster,
            node: NodeId(1),
            key: self.key.clone(),
            fatal: CancellationToken::new(),
        }
    }

    pub(super) fn open(&self) -> Store {
        Store::open(self.options(self.folder.path())).expect("opens")
    }

    fn reopen(&self) -> Result<Store, Error> {
        Store::open(self.options(self.folder.path()))
    }

    /// What a crash at this moment would leave: the files as they are, with nothing closed.
    fn crashed(&self) -> (TempDir, Store) {
        let copy = tempfile::tempdir().expect("folder");
        copy_all(self.folder.path(), copy.path());
        let store = Store::open(self.options(copy.path())).expect("opens after a crash");
        (copy, store)
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for item in fs::read_dir(from).expect("list") {
        let item = item.expect("item");
        let target = to.join(item.file_name());
        if item.file_type().expect("type").is_dir() {
            copy_all(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).expect("copy");
        }
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn setting(value: &str) -> Proposal {
    Proposal::new(LogEntry {
        proposed_at: clock::now(),
        actor: Actor::System,
        request: None,
        command: Command::SetSettings(BTreeMap::from([(SettingKey::ServerDomain, value.to_owned())])),
    })
    .expect("small")
}

fn entry(index: u64, value: &str) -> Entry {
    Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(setting(value)) }
}

/// Appends and waits until it is on disk.
async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    let (done, written) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.expect("queued");
    written.await.expect("answered").expect("written");
}

async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) {
    machine.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await.expect("applied");
}

async fn entries(log: &mut LogStore) -> Vec<u64> {
    log.try_get_log_entries(..).await.expect("reads").into_iter().map(|entry| entry.log_id.index).collect()
}

fn domain(store: &Store) -> String {
    store.machine().view().borrow().state.setting(SettingKey::ServerDomain).to_owned()
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let node = Node::new();
        let store = node.open();
        Ok((node.folder, store.log(), store.machine()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_finds_nothing_to_object_to() {
    Suite::test_all(Builder).await.expect("the suite passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_brings_back_log_vote_and_state() {
    let node = Node::new();
    let store = node.open();
    let (mut log, mut machine) = (store.log(), store.machine());
    let vote = Vote::new_committed(3, 1);
    log.save_vote(&vote).await.expect("saved");
    append(&mut log, vec![entry(1, "a.test"), entry(2, "b.test"), entry(3, "c.test")]).await;
    log.save_committed(Some(log_id(1, 2))).await.expect("queued");
    apply(&mut machine, vec![entry(1, "a.test"), entry(2, "b.test")]).await;
    log.purge(log_id(1, 1)).await.expect("purged");
    store.close().await.expect("closes");
    assert!(matches!(log.save_vote(&vote).await, Err(error) if error.to_string().contains("closed")));

    let store = node.open();
    let mut log = store.log();
    assert_eq!(log.read_vote().await.expect("reads"), Some(vote));
    assert_eq!(log.read_committed().await.expect("reads"), Some(log_id(1, 2)));
    assert_eq!(entries(&mut log).await, [2, 3]);
    let state = log.get_log_state().await.expect("reads");
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 1)), Some(log_id(1, 3))));
    assert_eq!(store.machine().applied_state().await.expect("reads").0, Some(log_id(1, 2)));
    assert_eq!(domain(&store), "b.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_takes_back_unsynced_state_but_no_entry() {
    let node = Node::new();
    let store = node.open();
    let (mut log, mut machine) = (store.log(), store.machine());
    append(&mut log, (1..=20).map(|index| entry(index, "a.test")).collect()).await;
    apply(&mut machine, (1..=5).map(|index| entry(index, "a.test")).collect()).await;
    machine.checkpoint().await.expect("synced");
    append(&mut log, (21..=40).map(|index| entry(index, "b.test")).collect()).await;
    apply(&mut machine, (6..=40).map(|index| entry(index, "b.test")).collect()).await;
    assert_eq!(domain(&store), "b.test");

    let (_copy, crashed) = node.crashed();
    let mut log = crashed.log();
    assert_eq!(entries(&mut log).await, (1..=40).collect::<Vec<_>>(), "every entry that was answered is there");
    let mut machine = crashed.machine();
    let applied = machine.applied_state().await.expect("reads").0.expect("applied").index;
    assert!((5..=40).contains(&applied), "at the checkpoint or later: {applied}");
    let replayed = log.try_get_log_entries(applied + 1..).await.expect("reads");
    apply(&mut machine, replayed).await;
    assert_eq!(domain(&crashed), "b.test");
    assert!(crashed.machine().view().borrow().state == store.machine().view().borrow().state);
}

/// A closed folder with something in every table.
async fn filled() -> Node {
    let node = Node::new();
    let store = node.open();
    let (mut log, mut machine) = (store.log(), store.machine());
    log.save_vote(&Vote::new(2, 1)).await.expect("saved");
    append(&mut log, (1..=4).map(|index| entry(index, "a.test")).collect()).await;
    log.save_committed(Some(log_id(1, 4))).await.expect("queued");
    apply(&mut machine, (1..=4).map(|index| entry(index, "a.test")).collect()).await;
    log.purge(log_id(1, 1)).await.expect("purged");
    store.close().await.expect("closes");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_the_log_is_committed_reaches_the_disk_once_it_is_looked_after() {
    let node = Node::new();
    let store = node.open();
    let mut log = store.log();
    append(&mut log, vec![entry(1, "a.test"), entry(2, "b.test")]).await;
    log.save_committed(Some(log_id(1, 2))).await.expect("queued");
    let before = log.syncs();
    log.note_committed().await.expect("noted");
    log.note_committed().await.expect("there is nothing new");
    assert_eq!(log.syncs(), before + 1);
    let (_folder, after) = node.crashed();
    assert_eq!(after.log().read_committed().await.expect("reads"), Some(log_id(1, 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_can_be_read_before_they_are_on_disk_and_after_the_cache_let_go() {
    let node = Node::new();
    let store = node.open();
    let mut log = store.log();
    let large = "x".repeat(100_000);
    let mut waiting = Vec::new();
    for index in 1..=200 {
        let (done, written) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
        log.append(vec![entry(index, &large)], IOFlushed::signal(done)).await.expect("queued");
        assert_eq!(log.try_get_log_entries(index..=index).await.expect("reads").len(), 1);
        waiting.push(written);
    }
    for written in waiting {
        written.await.expect("answered").expect("written");
    }
    // 20 MB do not fit the cache.
    assert_eq!(entries(&mut log).await, (1..=200).collect::<Vec<_>>());
    let some = log.limited_get_log_entries(1, 150).await.expect("reads");
    assert!(!some.is_empty() && some.len() < 100, "{}", some.len());
    log.truncate_after(Some(log_id(1, 3))).await.expect("truncated");
    append(&mut log, vec![entry(4, "new.test")]).await;
    assert_eq!(entries(&mut log).await, [1, 2, 3, 4]);
    store.close().await.expect("closes");
    assert_eq!(entries(&mut node.open().log()).await, [1, 2, 3, 4]);
    tokio::time::timeout(Duration::from_secs(5), store.close()).await.expect("answers").expect_err("closed already");
}

#[tokio::test]
async fn a_version_of_the_cluster_that_this_program_does_not_support_is_not_applied() {
    let node = Node::new();
    let store = node.open();
    let (mut log, mut machine) = (store.log(), store.machine());
    let newer = NEWEST_CLUSTER_VERSION + 1;
    let first = sample_entries().into_iter().filter_map(|entry| match entry.command {
        command @ Command::InitCluster(_) => Some(command),
        Command::RegisterNode(facts) => Some(Command::RegisterNode(NodeFacts { cluster_version_max: newer, ..facts })),
        _ => None,
    });
    let commands = first.chain([Command::RaiseClusterVersion { to: newer }]);
    let all: Vec<Entry> = (1..)
        .zip(commands)
        .map(|(index, command)| {
            let proposal = LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command };
            let payload = EntryPayload::Normal(Proposal::new(proposal).expect("small"));
            Entry { log_id: log_id(1, index), payload }
        })
        .collect();
    append(&mut log, all.clone()).await;
    let (known, raise) = all.split_at(2);
    apply(&mut machine, known.to_vec()).await;
    let before = domain(&store);
    let refused = machine.apply(stream::iter(raise.iter().cloned().map(|entry| Ok((entry, None))))).await;
    assert!(refused.is_err());
    let damage = store.fatal().damage().expect("the node stops");
    assert!(matches!(damage, Error::Unsupported(_)) && damage.is_unusable_folder(), "{damage}");
    assert!(damage.to_string().contains(&format!("supports up to {NEWEST_CLUSTER_VERSION}")), "{damage}");
    assert_eq!(store.machine().view().borrow().state.cluster_version(), 1);
    // Nothing is lost: a newer program finds the entry, and everything before it.
    let (_folder, crashed) = node.crashed();
    assert_eq!(entries(&mut crashed.log()).await, [1, 2, 3]);
    assert_eq!(domain(&crashed), before);
}
