//! The store as a whole: openraft's own suite, restarts, crashes and damage.

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

#[tokio::test(flavor = "multi_thread")]
async fn after_snapshot_purge_and_crash_the_state_is_the_same() {
    let node = Node::new();
    let store = node.open();
    let (mut log, mut machine) = (store.log(), store.machine());
    append(&mut log, (1..=30).map(|index| entry(index, &format!("d{index}.test"))).collect()).await;
    apply(&mut machine, (1..=30).map(|index| entry(index, &format!("d{index}.test"))).collect()).await;
    let snapshot = machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(1, 30)));
    log.purge(log_id(1, 30)).await.expect("purged");
    assert_eq!(log.size(), (0, 0));

    let (_copy, crashed) = node.crashed();
    assert_eq!(domain(&crashed), "d30.test");
    assert!(crashed.machine().view().borrow().state == store.machine().view().borrow().state);
    let current = crashed.machine().get_current_snapshot().await.expect("reads").expect("is there");
    assert_eq!(current.meta, snapshot.meta);

    // On another node, which had a state of its own.
    let other = Node::new();
    let receiver = other.open();
    receiver.log().save_vote(&Vote::new_committed(1, 1)).await.expect("saved");
    let mut machine = receiver.machine();
    apply(&mut machine, vec![entry(1, "other.test")]).await;
    machine.install_snapshot(&current.meta, current.snapshot).await.expect("installed");
    assert_eq!(domain(&receiver), "d30.test");
    let (_copy, crashed) = other.crashed();
    assert_eq!(domain(&crashed), "d30.test");
    assert_eq!(crashed.machine().applied_state().await.expect("reads").0, Some(log_id(1, 30)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_with_rows_that_are_none_is_refused_while_it_comes() {
    let node = Node::new();
    let store = node.open();
    let meta = SnapshotMeta { last_log_id: Some(log_id(1, 9)), last_membership: StoredMembership::default() };
    let row = envelope::encode(&sample_records()[0]).expect("encodes");
    let newer = [&row[..4], &[9], &row[5..]].concat();
    for bad in [newer, row[..row.len() - 1].to_vec(), Vec::new()] {
        let rows = vec![row.clone().into(), bad.into()];
        let chunk = envelope::encode(&stored::SnapshotChunkV1 { rows }).expect("encodes");
        let mut writer = store.machine().receive(&meta).expect("begins");
        let error = writer.chunk(&chunk).expect_err("refused");
        assert!(matches!(error, Error::Unreadable { file: "snapshot", .. }), "{error}");
    }
    assert!(store.fatal().reason().is_none());
    assert_eq!(fs::read_dir(node.folder.path().join(SNAPSHOT_FOLDER)).expect("list").count(), 0);
}

/// All its rows can be read: what they mean cannot be known.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_cluster_at_another_version_stops_the_node_and_changes_nothing() {
    for version in [0, NEWEST_CLUSTER_VERSION + 1] {
        let node = Node::new();
        let store = node.open();
        let (mut log, mut machine) = (store.log(), store.machine());
        log.save_vote(&Vote::new_committed(1, 1)).await.expect("saved");
        append(&mut log, vec![entry(1, "a.test")]).await;
        apply(&mut machine, vec![entry(1, "a.test")]).await;
        let rows = sample_records().into_iter().filter_map(|record| match record {
            Record::Cluster(cluster) => {
                let other = Cluster { cluster_version: version, ..(*cluster).clone() };
                Some(envelope::encode(&Record::Cluster(Arc::new(other))).expect("encodes").into())
            }
            _ => None,
        });
        let chunk = envelope::encode(&stored::SnapshotChunkV1 { rows: rows.collect() }).expect("encodes");
        let meta = SnapshotMeta { last_log_id: Some(log_id(1, 9)), last_membership: StoredMembership::default() };
        let mut writer = machine.receive(&meta).expect("begins");
        writer.chunk(&chunk).expect("its rows are rows");
        let file = writer.finish().expect("it is whole");
        let installed = machine.install_snapshot(&meta, file).await;
        assert!(installed.is_err());
        let damage = store.fatal().damage().expect("the node stops");
        assert!(matches!(damage, Error::Unsupported(_)) && damage.is_unusable_folder(), "{damage}");
        assert_eq!(domain(&store), "a.test");
        let (_folder, crashed) = node.crashed();
        assert_eq!(entries(&mut crashed.log()).await, [1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_or_damaged_snapshot_is_not_taken() {
    let node = Node::new();
    let store = node.open();
    let mut machine = store.machine();
    store.log().save_vote(&Vote::new_committed(1, 1)).await.expect("saved");
    apply(&mut machine, vec![entry(1, "a.test")]).await;
    let built = machine.get_snapshot_builder().await.build_snapshot().await.expect("built").snapshot;
    let mut unfinished = machine.receive(built.meta()).expect("starts");
    built.chunks(|chunk| unfinished.chunk(chunk)).expect("copied");
    let folder = node.folder.path().join(SNAPSHOT_FOLDER);
    let files = || fs::read_dir(&folder).expect("list").map(|item| item.expect("item").path()).collect::<Vec<_>>();
    assert_eq!(files().len(), 2);
    drop(unfinished);
    assert_eq!(files().len(), 1, "what broke off is gone");
    // As after a crash.
    std::mem::forget(machine.receive(built.meta()).expect("starts"));
    assert_eq!(files().len(), 2);
    store.close().await.expect("closes");

    let store = node.open();
    assert_eq!(files().len(), 1, "what was not finished is gone");
    assert!(store.machine().get_current_snapshot().await.expect("reads").is_some());
    let path = files().remove(0);
    let good = fs::read(&path).expect("read");
    store.close().await.expect("closes");

    // Cut anywhere, or flipped anywhere: never handed out as whole.
    let read_all = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("write");
        let sealer = Arc::new(Sealer::new(&node.key, node.cluster, NodeId(1)));
        SnapshotFile::open(&path, sealer)?.chunks(|_| Ok::<_, Error>(()))
    };
    read_all(&good).expect("the whole file reads");
    for length in (0..good.len()).step_by(7) {
        read_all(&good[..length]).expect_err("cut");
    }
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        read_all(&flipped).expect_err("flipped");
    }
    fs::write(&path, &good[..good.len() / 3]).expect("write");
    let store = node.open();
    assert!(store.machine().get_current_snapshot().await.expect("reads").is_none());
    assert_eq!(domain(&store), "a.test", "the state does not depend on it");
}

const LOG_TABLE: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");

fn values(path: &Path, table: ByteTable) -> Vec<(Vec<u8>, Vec<u8>)> {
    let redb = redb::Database::open(path).expect("opens");
    let transaction = redb.begin_read().expect("begins");
    let table = transaction.open_table(table).expect("table");
    let rows = table.iter().expect("iterates").map(|row| row.expect("row"));
    rows.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).collect()
}

fn put(path: &Path, table: ByteTable, key: &[u8], value: &[u8]) {
    let redb = redb::Database::open(path).expect("opens");
    let transaction = redb.begin_write().expect("begins");
    transaction.open_table(table).expect("table").insert(key, value).expect("inserts");
    transaction.commit().expect("commits");
}

fn log_values(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    let redb = redb::Database::open(path).expect("opens");
    let transaction = redb.begin_read().expect("begins");
    let table = transaction.open_table(LOG_TABLE).expect("table");
    let rows = table.iter().expect("iterates").map(|row| row.expect("row"));
    rows.map(|(key, value)| (key.value(), value.value().to_vec())).collect()
}

fn put_log(path: &Path, index: u64, value: Option<&[u8]>) {
    let redb = redb::Database::open(path).expect("opens");
    let transaction = redb.begin_write().expect("begins");
    let mut table = transaction.open_table(LOG_TABLE).expect("table");
    match value {
        Some(value) => drop(table.insert(index, value).expect("inserts")),
        None => drop(table.remove(index).expect("removes")),
    }
    drop(table);
    transaction.commit().expect("commits");
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
async fn a_flipped_bit_in_any_value_is_an_error_that_says_where() {
    let node = filled().await;
    let mut checked = 0;
    for (file, table) in [(RAFT_FILE, "meta"), (STATE_FILE, "meta"), (STATE_FILE, "rows")] {
        let path = node.folder.path().join(file);
        let table_of = ByteTable::new(table);
        for (key, value) in values(&path, table_of) {
            for at in [0, value.len() / 2, value.len() - 1] {
                let mut flipped = value.clone();
                flipped[at] ^= 1;
                put(&path, table_of, &key, &flipped);
                let error = node.reopen().err().unwrap_or_else(|| panic!("{file} {table} {key:?} byte {at} was taken"));
                let text = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
                assert!(text.contains(file), "{text}");
                if !matches!(error, Error::Newer { .. } | Error::Foreign { .. }) {
                    assert!(text.contains(table), "{text}");
                }
                checked += 1;
            }
            put(&path, table_of, &key, &value);
        }
    }
    let path = node.folder.path().join(RAFT_FILE);
    for (index, value) in log_values(&path) {
        let mut flipped = value.clone();
        flipped[value.len() / 2] ^= 0x80;
        put_log(&path, index, Some(&flipped));
        let Err(error @ Error::Damaged { .. }) = node.reopen() else { panic!("entry {index} was taken") };
        assert!(error.to_string().contains(&format!("log index {index}")), "{error}");
        put_log(&path, index, Some(&value));
        checked += 1;
    }
    assert!(checked > 30, "{checked}");
    drop(node.open());
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_values_and_gaps_are_errors() {
    let node = filled().await;
    let raft = node.folder.path().join(RAFT_FILE);
    let log = log_values(&raft);
    put_log(&raft, 2, Some(&log[&3]));
    put_log(&raft, 3, Some(&log[&2]));
    assert!(matches!(node.reopen(), Err(Error::Damaged { table: "log", .. })));
    put_log(&raft, 2, Some(&log[&2]));
    put_log(&raft, 3, None);
    let Err(error @ Error::Damaged { table: "log", .. }) = node.reopen() else { panic!("a gap was taken") };
    assert!(error.to_string().contains("missing"), "{error}");
    put_log(&raft, 3, Some(&log[&3]));

    let meta = ByteTable::new("meta");
    let of = |key: &str| values(&raft, meta).into_iter().find(|(k, _)| k == key.as_bytes()).expect("is there").1;
    let (committed, purged) = (of("committed"), of("purged"));
    put(&raft, meta, b"committed", &purged);
    assert!(matches!(node.reopen(), Err(Error::Damaged { table: "meta", .. })));
    put(&raft, meta, b"committed", &committed);
    drop(node.open());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_node_or_version_or_in_use_is_refused() {
    let node = filled().await;
    let store = node.open();
    assert!(matches!(node.reopen(), Err(Error::InUse { .. })));
    store.close().await.expect("closes");

    let other =
        |cluster, number| Store::open(Options { cluster, node: NodeId(number), ..node.options(node.folder.path()) });
    assert!(matches!(other(node.cluster, 2), Err(Error::Foreign { found_node: NodeId(1), .. })));
    assert!(matches!(other(random::id(), 1), Err(Error::Foreign { .. })));
    let wrong_key = SealKey::create(&node.folder.path().join("other.key")).expect("key");
    let opened = Store::open(Options { key: wrong_key, ..node.options(node.folder.path()) });
    assert!(matches!(opened, Err(Error::Damaged { .. })));

    let state = node.folder.path().join(STATE_FILE);
    put(&state, ByteTable::new("meta"), b"format", &2_u16.to_be_bytes());
    assert!(matches!(node.reopen(), Err(Error::Newer { found: 2, supported: 1, .. })));
    put(&state, ByteTable::new("meta"), b"format", &1_u16.to_be_bytes());

    let raft = node.folder.path().join(RAFT_FILE);
    let aside = node.folder.path().join("aside");
    fs::rename(&raft, &aside).expect("rename");
    assert!(matches!(node.reopen(), Err(Error::Missing { .. })), "a state without its log and vote");
    fs::rename(&aside, &raft).expect("rename");
    fs::rename(&state, &aside).expect("rename");
    assert!(matches!(node.reopen(), Err(Error::Missing { .. })), "a log without its state");
    fs::rename(&aside, &state).expect("rename");
    assert_eq!(domain(&node.open()), "a.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_the_file_itself_never_reads_as_good_data() {
    let node = filled().await;
    let good = fs::read(node.folder.path().join(STATE_FILE)).expect("read");
    let expected = "a.test";
    for step in 0..200 {
        let copy = tempfile::tempdir().expect("folder");
        copy_all(node.folder.path(), copy.path());
        let mut flipped = good.clone();
        let at = (step * 7919 + 13) % flipped.len();
        flipped[at] ^= 1 << (step % 8);
        fs::write(copy.path().join(STATE_FILE), &flipped).expect("write");
        // As after a crash, which is when the checksums are verified.
        let _ = fs::remove_file(copy.path().join(CLEAN_FILE));
        if let Ok(store) = Store::open(node.options(copy.path())) {
            assert_eq!(domain(&store), expected, "byte {at}");
            assert_eq!(store.machine().applied_state().await.expect("reads").0, Some(log_id(1, 4)), "byte {at}");
        }
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_does_not_fit_is_put_off_and_one_that_must_be_is_not() {
    let node = filled().await;
    let store = node.open();
    let mut machine = store.machine();
    assert!(machine.try_create_snapshot_builder(false).await.is_some());
    store.space().holds_state(1 << 60);
    assert!(machine.try_create_snapshot_builder(false).await.is_none());
    assert!(machine.try_create_snapshot_builder(true).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_the_position_that_every_start_syncs_is_refused() {
    let node = filled().await;
    let position = node.folder.path().join(POSITION_FILE);
    let good = fs::read(&position).expect("read");
    for was_clean in [true, false] {
        if !was_clean {
            fs::remove_file(node.folder.path().join(CLEAN_FILE)).expect("removed");
        }
        fs::remove_file(&position).expect("removed");
        assert!(matches!(node.reopen(), Err(Error::Missing { path }) if path == position), "gone, {was_clean}");
        fs::write(&position, b"").expect("written");
        assert!(matches!(node.reopen(), Err(Error::Missing { path }) if path == position), "empty, {was_clean}");
        fs::write(&position, &good).expect("written");
    }
    drop(node.open());
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
