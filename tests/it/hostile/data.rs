//! The files of a node.

use std::path::Path;

use narvana::cluster::{DataDir, TokenText};
use narvana::model::NodeId;
use narvana::store::{self, SealKey, Store, encode_entry};
use openraft::storage::RaftStateMachine;
use openraft::{RaftLogReader, RaftSnapshotBuilder};
use tokio_util::sync::CancellationToken;

use super::live::Live;
use super::{Check, Row};
use Check::Test;

const BACKUP: &str = "src/backup/file.rs";
const DURABILITY: &str = "tests/real/node/durability.rs";
const DAMAGE: &str = "src/store/tests/damage.rs";

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 116,
        sent: "a store of zeros or random bytes, damaged, cut, newer, another node's, or that cannot be written",
        checks: &[
            Test(DAMAGE, "a_flipped_bit_in_any_value_is_an_error_that_says_where"),
            Test(DAMAGE, "a_folder_of_another_node_or_version_or_in_use_is_refused"),
            Test(DAMAGE, "damage_to_the_file_itself_never_reads_as_good_data"),
            Test(DURABILITY, "a_damaged_data_folder_is_named_and_refused_with_its_own_exit_code"),
            Test(DURABILITY, "a_folder_that_cannot_be_written_is_named"),
        ],
    },
    Row {
        number: 117,
        sent: "a key file that is open to others, wrong or missing",
        checks: &[
            Test(DURABILITY, "a_damaged_data_folder_is_named_and_refused_with_its_own_exit_code"),
            Test("src/store/seal.rs", "the_key_file_is_private_and_never_replaced"),
            Test("src/store/seal.rs", "a_value_opens_only_whole_in_its_place_and_on_its_node"),
        ],
    },
    Row {
        number: 118,
        sent: "a backup that is cut, changed, newer, or sealed with another passphrase",
        checks: &[
            Test(BACKUP, "every_flipped_byte_and_every_cut_is_refused_with_what_to_do"),
            Test(BACKUP, "what_is_wrong_is_said_with_its_cause"),
            Test(BACKUP, "what_breaks_off_leaves_nothing"),
        ],
    },
];

/// Every file below a folder, with what is in it.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).expect("a file")));
        }
    }
    found
}

/// The log and the state of a node that has ended, as they are below their seal.
async fn unsealed(data: &Path) -> Vec<u8> {
    let key = SealKey::load(&data.join(store::KEY_FILE)).expect("a key");
    let cluster = DataDir::identity(data).expect("a node").expect("a node").cluster;
    let options = store::Options {
        folder: data.to_owned(),
        cluster,
        node: NodeId::FOUNDER,
        key,
        fatal: CancellationToken::new(),
    };
    let store = Store::open_existing(options).expect("opens");
    let mut plain = Vec::new();
    for entry in store.log().try_get_log_entries(..).await.expect("reads") {
        plain.extend(encode_entry(&entry).expect("encodes"));
    }
    let snapshot = store.machine().get_snapshot_builder().await.build_snapshot().await.expect("built");
    let chunks = snapshot.snapshot.chunks(|chunk| {
        plain.extend_from_slice(chunk);
        Ok::<_, store::Error>(())
    });
    chunks.expect("reads");
    store.close().await.expect("closes");
    plain
}

#[test]
fn what_lets_somebody_in_is_not_kept() {
    let mut live = Live::start();
    let made = live.ask("POST", "/v1/join-tokens", b"{}");
    assert_eq!(made.status, 201, "{}", made.text);
    let text = made.json["token"].as_str().expect("a token").to_owned();
    let token: TokenText = text.parse().expect("a token");
    let login = br#"{"email":"ada@example.org","password":"correct horse"}"#;
    assert_eq!(live.ask_as("", "POST", "/auth/login", login).status, 200);
    live.stop();
    let plain = tokio::runtime::Runtime::new().expect("a runtime").block_on(unsealed(&live.data));
    let has = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
    let files = files(&live.data);
    let session = live.token.clone();
    for (what, secret) in [
        ("the password", &b"correct horse"[..]),
        ("the join token", text.as_bytes()),
        ("its secret", token.secret.expose()),
        ("the token of a session", session.as_bytes()),
    ] {
        assert!(!has(&plain, secret), "{what} is in the log or the state");
        for (path, bytes) in &files {
            assert!(!has(bytes, secret), "{what} is in {path}");
        }
    }
    // What is kept instead is there, so this was the right place to look, and under the seal only.
    for (what, kept) in [
        ("the hash of the password", &b"$argon2id$"[..]),
        ("the digest of the secret", &token.secret.digest()[..]),
        ("the address of a user", b"ada@example.org"),
    ] {
        assert!(has(&plain, kept), "{what} is not in the log and the state");
        for (path, bytes) in &files {
            assert!(!has(bytes, kept), "{what} is in the clear in {path}");
        }
    }
}
