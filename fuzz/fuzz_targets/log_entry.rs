//! Entries of the log, as a node reads them from its disk or gets them from another node.
//!
//! The first byte of the input chooses: a command alone; a whole entry with its position; several commands, applied in
//! order to a state; or bytes in the place of a sealed value. What decodes comes back equal from its own encoding, no
//! command breaks the state, and what was not sealed by this node is refused.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use narvana::model::NodeId;
use narvana::state::{self, State};
use narvana::store::{ENTRY_BYTES_MAX, Error, Options, Payload, Proposal, SealKey, Store, decode_entry, encode_entry};
use redb::TableDefinition;
use tokio_util::sync::CancellationToken;

const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => command(rest),
        1 => entry(rest),
        2 => commands_in_order(rest),
        _ => in_place_of_a_sealed_value(rest),
    }
});

/// The command in these bytes, after it was encoded and decoded again.
fn command(bytes: &[u8]) {
    let Ok(read) = Proposal::from_bytes(bytes.to_vec().into()) else { return };
    let Ok(written) = Proposal::new(read.entry().clone()) else {
        assert!(bytes.len() > ENTRY_BYTES_MAX / 2, "a small command that was read cannot be written");
        return;
    };
    let again = Proposal::from_bytes(written.bytes().clone()).expect("what was written can be read");
    assert_eq!(again.entry(), read.entry());
    let once_more = Proposal::new(again.entry().clone()).expect("as before");
    assert_eq!(once_more.bytes(), written.bytes(), "one value has one encoding");
    // Nothing of a command is in what openraft logs.
    assert_eq!(format!("{read:?}"), format!("command of {} bytes", bytes.len()));
}

fn entry(bytes: &[u8]) {
    let Ok(read) = decode_entry(bytes) else { return };
    let written = encode_entry(&read).expect("an entry that was read can be written");
    let again = decode_entry(&written).expect("what was written can be read");
    assert_eq!(again.log_id, read.log_id);
    match (&again.payload, &read.payload) {
        (Payload::Blank, Payload::Blank) => {}
        (Payload::Normal(one), Payload::Normal(other)) => {
            assert_eq!(one.entry(), other.entry());
            command(one.bytes());
        }
        (Payload::Membership(one), Payload::Membership(other)) => assert_eq!(one, other),
        _ => panic!("the payload is of another kind"),
    }
    assert_eq!(encode_entry(&again).expect("as before"), written, "one value has one encoding");
}

/// The state that the samples of all commands lead to.
fn state_of_samples() -> &'static State {
    static STATE: OnceLock<State> = OnceLock::new();
    STATE.get_or_init(|| {
        let entries = state::sample_entries();
        entries.iter().zip(1..).fold(State::default(), |state, (entry, index)| state::apply(&state, index, entry).state)
    })
}

/// `length u16 | command`, repeated. A first length of an odd number begins with nothing instead of the samples.
fn commands_in_order(mut bytes: &[u8]) {
    let mut state = match bytes.first() {
        Some(first) if first % 2 == 1 => State::default(),
        _ => state_of_samples().clone(),
    };
    let mut index = 1_000;
    while let Some((head, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*head)).min(rest.len());
        let (command, rest) = rest.split_at(length);
        bytes = rest;
        let Ok(proposal) = Proposal::from_bytes(command.to_vec().into()) else { continue };
        index += 1;
        let applied = state::apply(&state, index, proposal.entry());
        let again = state::apply(&state, index, proposal.entry());
        assert!(applied.state == again.state && applied.changes == again.changes && applied.result == again.result);
        let wrong = state::violations(&applied.state);
        assert!(wrong.is_empty(), "{} broke {wrong:?}", proposal.entry().command.name());
        state = applied.state;
    }
}

/// A store that was closed, whose log is empty.
struct Closed {
    folder: tempfile::TempDir,
    key: SealKey,
}

impl Closed {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = SealKey::create(&folder.path().join("node.key")).expect("a key");
        let closed = Self { folder, key };
        let store = closed.open().expect("opens");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(store.close()).expect("closes");
        closed
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
}

fn in_place_of_a_sealed_value(bytes: &[u8]) {
    static CLOSED: OnceLock<Closed> = OnceLock::new();
    let closed = CLOSED.get_or_init(Closed::new);
    let file = redb::Database::open(closed.folder.path().join("raft.redb")).expect("opens");
    let transaction = file.begin_write().expect("writes");
    transaction.open_table(LOG).expect("a table").insert(1, bytes).expect("inserts");
    transaction.commit().expect("commits");
    drop(file);
    match closed.open() {
        Ok(_) => panic!("a value that nobody sealed was taken"),
        Err(Error::Damaged { file: "raft.redb", table: "log", .. }) => {}
        Err(error) => panic!("refused for another reason: {error}"),
    }
}
