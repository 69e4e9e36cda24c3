//! Snapshots, as a follower receives them and as a node finds them on its disk.
//!
//! The first byte of the input chooses: chunks as another node sends them; rows, put into chunks that are well-formed; a
//! file of any bytes in the folder of snapshots; or a snapshot of this node with some bytes changed. A stream is refused
//! while it comes or it can be installed, and then the state has its rows, after another start too. What this node did
//! not write is never read as a snapshot, and the node starts without it.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use narvana::model::NodeId;
use narvana::state::State;
use narvana::store::{
    Error, LeaderId, LogId, Options, SealKey, SnapshotFile, SnapshotMeta, Store, StoredMembership, Vote,
};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// The head of a chunk's envelope: format 1, kind 9, version 1.
const CHUNK_HEAD: [u8; 5] = [1, 0, 9, 0, 1];

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    // Only now and then, since it takes a hundred times as long.
    let restart = kind & 0x80 != 0;
    match kind % 4 {
        0 => received(&parts(rest), restart),
        1 => received(&chunks_of_rows(&parts(rest)), restart),
        2 => found_in_the_folder(rest),
        _ => changed(rest),
    }
});

/// `length u16 | bytes`, repeated.
fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<2>() {
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes(*head)).min(rest.len()));
        parts.push(part);
        bytes = rest;
    }
    parts
}

/// One chunk for all rows up to an empty one.
fn chunks_of_rows<'a>(rows: &[&'a [u8]]) -> Vec<Vec<u8>> {
    rows.split(|row| row.is_empty())
        .map(|rows| {
            let mut chunk = CHUNK_HEAD.to_vec();
            push_length(&mut chunk, rows.len());
            for row in rows {
                push_length(&mut chunk, row.len());
                chunk.extend_from_slice(row);
            }
            chunk
        })
        .collect()
}

/// Lengths as the stored form has them.
fn push_length(into: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short @ 0..=250) => into.push(short),
        _ => {
            into.push(251);
            into.extend_from_slice(&u16::try_from(length).expect("cut from lengths of two bytes").to_le_bytes());
        }
    }
}

/// A node that lives as long as the process, or until it is started again.
struct Follower {
    folder: TempDir,
    key: SealKey,
    runtime: Runtime,
}

impl Follower {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = SealKey::create(&folder.path().join("node.key")).expect("a key");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let follower = Self { folder, key, runtime };
        // Without a vote it has never been in a group, and a state would be a contradiction.
        let store = follower.open().expect("opens");
        follower.runtime.block_on(store.log().save_vote(&Vote::new(1, 1))).expect("saved");
        follower.close(store);
        follower
    }

    fn open(&self) -> Result<Store, Error> {
        Store::open(Options {
            folder: self.folder.path().to_owned(),
            cluster: "00000000-0000-0000-0000-000000000001".parse().expect("an id"),
            node: NodeId(1),
            key: self.key.clone(),
            fatal: CancellationToken::new(),
        })
    }

    fn snapshots(&self) -> PathBuf {
        self.folder.path().join("snapshots")
    }

    fn current(&self, store: &Store) -> Option<SnapshotFile> {
        let mut machine = store.machine();
        self.runtime.block_on(machine.get_current_snapshot()).expect("answers").map(|current| current.snapshot)
    }

    fn state(store: &Store) -> State {
        store.machine().view().borrow().state.clone()
    }

    fn close(&self, store: Store) {
        self.runtime.block_on(store.close()).expect("closes");
    }
}

thread_local! {
    static RECEIVER: (Follower, std::cell::RefCell<Option<Store>>, std::cell::Cell<u64>) =
        (Follower::new(), std::cell::RefCell::new(None), std::cell::Cell::new(1));
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).expect("the folder").count()
}

fn received(chunks: &[impl AsRef<[u8]>], restart: bool) {
    RECEIVER.with(|(follower, open, index)| {
        let mut open = open.borrow_mut();
        let store = open.take().unwrap_or_else(|| follower.open().expect("opens"));
        let before = files(&follower.snapshots());
        index.set(index.get() + 1);
        let last_log_id = Some(LogId::new(LeaderId { term: 1, node_id: 2 }, index.get()));
        let meta = SnapshotMeta { last_log_id, last_membership: StoredMembership::default() };
        let mut writer = store.machine().receive(&meta).expect("begins");
        let refused = chunks.iter().any(|chunk| writer.chunk(chunk.as_ref()).is_err());
        if refused {
            drop(writer);
            assert_eq!(files(&follower.snapshots()), before, "a stream that was refused is still there");
        } else {
            let file = writer.finish().expect("it is whole");
            if !install(follower, &store, &meta, file, chunks) {
                *open = Some(started_as_it_was(follower, store));
                return;
            }
        }
        *open = Some(if restart { started_again(follower, store) } else { store });
    });
}

/// Says whether it was installed. The state of a cluster at another version is not, and stops the node.
fn install(
    follower: &Follower,
    store: &Store,
    meta: &SnapshotMeta,
    file: SnapshotFile,
    chunks: &[impl AsRef<[u8]>],
) -> bool {
    let mut found = Vec::new();
    file.chunks::<Error>(|chunk| {
        found.push(chunk.to_vec());
        Ok(())
    })
    .expect("what was just written can be read");
    assert!(found.iter().map(Vec::as_slice).eq(chunks.iter().map(AsRef::as_ref)), "it has other chunks");
    let installed = follower.runtime.block_on(store.machine().install_snapshot(meta, file));
    if let Some(Error::Unsupported(_)) = store.fatal().damage() {
        assert!(installed.is_err());
        return false;
    }
    installed.expect("what was received is installed");
    assert!(store.fatal().reason().is_none());
    let state = Follower::state(store);
    assert!(State::from_records(state.records()) == state, "the rows do not make the state");
    true
}

/// A node that stopped because of a version starts again with what it had.
fn started_as_it_was(follower: &Follower, store: Store) -> Store {
    let state = Follower::state(&store);
    // It was not closed well, which is what this is about.
    let _failed = follower.runtime.block_on(store.close());
    drop(store);
    // Nobody waits for the threads of a store that failed.
    let begun = std::time::Instant::now();
    let store = loop {
        match follower.open() {
            Err(Error::InUse { .. }) if begun.elapsed().as_secs() < 10 => std::thread::yield_now(),
            opened => break opened.expect("it starts again"),
        }
    };
    assert!(Follower::state(&store) == state, "the state is another one after a start");
    store
}

fn started_again(follower: &Follower, store: Store) -> Store {
    let state = Follower::state(&store);
    let built = follower.runtime.block_on(async {
        let mut machine = store.machine();
        machine.get_snapshot_builder().await.build_snapshot().await
    });
    built.expect("built");
    follower.close(store);
    let store = follower.open().expect("it starts again");
    assert!(Follower::state(&store) == state, "the state is another one after a start");
    store
}

/// A closed node with a state and a snapshot of it.
struct Owner {
    follower: Follower,
    snapshot: Vec<u8>,
    state: State,
}

impl Owner {
    fn get() -> &'static Self {
        static OWNER: OnceLock<Owner> = OnceLock::new();
        OWNER.get_or_init(Self::new)
    }

    fn new() -> Self {
        let follower = Follower::new();
        let store = follower.open().expect("opens");
        let rows = golden_rows();
        let last_log_id = Some(LogId::new(LeaderId { term: 1, node_id: 2 }, 7));
        let meta = SnapshotMeta { last_log_id, last_membership: StoredMembership::default() };
        let mut writer = store.machine().receive(&meta).expect("begins");
        for row in &rows {
            let [chunk] = &chunks_of_rows(&[row])[..] else { panic!("one chunk") };
            writer.chunk(chunk).expect("takes it");
        }
        let file = writer.finish().expect("whole");
        follower.runtime.block_on(store.machine().install_snapshot(&meta, file)).expect("installed");
        let state = Follower::state(&store);
        assert_eq!(state.records().count(), rows.len());
        follower.close(store);
        let owner = Self { snapshot: fs::read(only_file(&follower.snapshots())).expect("reads"), follower, state };
        fs::remove_file(only_file(&owner.follower.snapshots())).expect("removes");
        owner
    }
}

/// One row of every kind, from the golden files.
fn golden_rows() -> Vec<Vec<u8>> {
    include_str!("../../src/store/golden/record-v1.hex")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(_, row)| {
            let digits = row.as_bytes().chunks(2);
            digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).expect("hex"), 16).expect("hex")).collect()
        })
        .collect()
}

fn only_file(folder: &Path) -> PathBuf {
    let mut files = fs::read_dir(folder).expect("the folder").map(|file| file.expect("an entry").path());
    let file = files.next().expect("a snapshot");
    assert!(files.next().is_none(), "more than one snapshot");
    file
}

/// Starts the node with a file of snapshots, and answers what it then has as its snapshot's chunks.
fn start_with(bytes: &[u8]) -> Option<Result<(), Error>> {
    let owner = Owner::get();
    let folder = owner.follower.snapshots();
    let path = folder.join("00000000000000000007-00000000000000000001-01020304.snapshot");
    fs::write(&path, bytes).expect("writes");
    let store = match owner.follower.open() {
        Ok(store) => store,
        Err(Error::Newer { .. }) => {
            fs::remove_file(&path).expect("it is still there");
            return None;
        }
        Err(error) => panic!("it does not start: {error}"),
    };
    assert!(Follower::state(&store) == owner.state, "the state is another one");
    let read = owner.follower.current(&store).map(|snapshot| snapshot.chunks(|_| Ok(())));
    owner.follower.close(store);
    if read.is_some() {
        fs::remove_file(&path).expect("it is still there");
    }
    assert_eq!(files(&folder), 0, "what is no snapshot is still there");
    read
}

fn found_in_the_folder(bytes: &[u8]) {
    assert!(start_with(bytes).is_none_or(|read| read.is_err()), "any bytes were read as a snapshot");
}

/// `position u16 | byte`, repeated; one more byte cuts the file or makes it longer.
fn changed(bytes: &[u8]) {
    let original = &Owner::get().snapshot;
    let mut snapshot = original.clone();
    let changes = bytes.chunks_exact(3);
    if let [cut] = changes.remainder() {
        snapshot.truncate(snapshot.len() - usize::from(*cut).min(snapshot.len()));
    }
    for change in changes {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
        if let Some(byte) = snapshot.get_mut(at) {
            *byte ^= change[2];
        }
    }
    match start_with(&snapshot) {
        Some(Ok(())) => assert!(snapshot == *original, "a changed snapshot was read as a whole one"),
        Some(Err(_)) | None => assert!(snapshot != *original, "an unchanged snapshot was refused"),
    }
}
