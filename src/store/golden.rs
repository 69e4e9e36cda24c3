//! Golden bytes: the stored form of one sample of every variant of every stored type, checked in.
//!
//! A line that is there must never change: it is what existing folders hold. A new variant needs a new line, which the
//! failing test writes out. A changed line means that a stored type was edited: make a new schema version instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::Path;

use super::backup::{BackupHeader, BackupTrailerV1};
use super::envelope::{self, Stored};
use super::stored::*;
use super::wire::Answer;
use crate::model::{ClusterId, NodeId, Timestamp};
use crate::state::{Outcome, Rejection, sample_entries, sample_records};

/// Checks the samples of one type against `golden/<name>.hex`: lines of `sample hex`.
/// Answers what is missing.
fn check<T: Stored + PartialEq + Debug>(name: &str, samples: &[(String, T)]) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/golden").join(format!("{name}.hex"));
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let golden: BTreeMap<&str, &str> = golden.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut missing = String::new();
    for (sample, value) in samples {
        let bytes = envelope::encode(value).expect("a sample encodes");
        match golden.get(sample.as_str()) {
            None => missing.push_str(&format!("{sample} {}\n", hex::encode(&bytes))),
            Some(golden) => {
                assert_eq!(hex::encode(&bytes), *golden, "the stored form of {name}, {sample} has changed");
                let stored = hex::decode(golden).expect("hex");
                assert_eq!(&envelope::decode::<T>(&stored).expect("golden bytes decode"), value);
            }
        }
    }
    let names: BTreeSet<&str> = samples.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), samples.len(), "every sample of {name} has a name of its own");
    let gone: Vec<_> = golden.keys().filter(|name| !names.contains(**name)).collect();
    assert!(gone.is_empty(), "samples of {name} without a value: {gone:?}");
    if missing.is_empty() {
        return None;
    }
    let wanted = std::env::temp_dir().join(format!("{name}.hex"));
    fs::write(&wanted, &missing).expect("write");
    Some(format!("{} lacks new samples: append the lines of {}", path.display(), wanted.display()))
}

fn log_id() -> LogIdV1 {
    LogIdV1 { term: 7, node: 2, index: 300 }
}

fn membership() -> MembershipV1 {
    MembershipV1 {
        voters: vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 500])],
        members: BTreeMap::from([
            (1, MemberV1 { address: "10.0.0.1:9090".to_owned() }),
            (500, MemberV1 { address: "[::1]:9090".to_owned() }),
        ]),
    }
}

fn stored_membership() -> StoredMembershipV1 {
    StoredMembershipV1 { log_id: Some(log_id()), membership: membership() }
}

#[test]
fn commands() {
    let samples: Vec<_> = sample_entries()
        .into_iter()
        .enumerate()
        .map(|(number, entry)| (format!("{number:03}-{}", entry.command.name()), entry))
        .collect();
    assert_eq!(check("command-v1", &samples), None);
}

#[test]
fn records() {
    let samples: Vec<_> = sample_records()
        .into_iter()
        .enumerate()
        .map(|(number, record)| (format!("{number:03}-{}", record.key().kind().replace(' ', "-")), record))
        .collect();
    let missing = check("record-v1", &samples);
    // The keys are stored too.
    let mut keys = String::new();
    for (name, record) in &samples {
        keys.push_str(&format!("{name} {}\n", hex::encode(record.key().to_bytes())));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/golden/record-keys.hex");
    let stored = fs::read_to_string(&golden).unwrap_or_default();
    if keys != stored {
        let wanted = std::env::temp_dir().join("record-keys.hex");
        fs::write(&wanted, &keys).expect("write");
        assert!(keys.starts_with(&stored), "the stored form of a key has changed: {}", wanted.display());
        panic!("{} lacks new keys: take them from {}; {missing:?}", golden.display(), wanted.display());
    }
    assert_eq!(missing, None);
}

#[test]
fn openraft_and_store() {
    let named = |name: &str| name.to_owned();
    let mut missing = Vec::new();
    missing.extend(check("log-id-v1", &[(named("log-id"), log_id())]));
    missing.extend(check(
        "vote-v1",
        &[
            (named("given"), VoteV1 { term: 7, node: 2, committed: false }),
            (named("committed"), VoteV1 { term: 300, node: 70_000, committed: true }),
        ],
    ));
    missing.extend(check(
        "entry-v1",
        &[
            (named("blank"), EntryV1 { log_id: log_id(), payload: PayloadV1::Blank }),
            (named("command"), EntryV1 { log_id: log_id(), payload: PayloadV1::Command(vec![1, 2, 3].into()) }),
            (named("membership"), EntryV1 { log_id: log_id(), payload: PayloadV1::Membership(membership()) }),
        ],
    ));
    missing.extend(check(
        "applied-v1",
        &[
            (named("some"), AppliedV1 { last_applied: Some(log_id()), membership: stored_membership() }),
            (
                named("none"),
                AppliedV1 {
                    last_applied: None,
                    membership: StoredMembershipV1 {
                        log_id: None,
                        membership: MembershipV1 { voters: vec![], members: BTreeMap::new() },
                    },
                },
            ),
        ],
    ));
    let cluster = ClusterId(uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
    missing.extend(check("identity-v1", &[(named("identity"), IdentityV1 { cluster, node: NodeId(9) })]));
    missing.extend(check(
        "snapshot-header-v1",
        &[(named("header"), SnapshotHeaderV1 { last_log_id: Some(log_id()), membership: stored_membership() })],
    ));
    missing.extend(check(
        "snapshot-chunk-v1",
        &[(named("chunk"), SnapshotChunkV1 { rows: vec![vec![1, 2].into(), vec![].into()] })],
    ));
    missing.extend(check(
        "snapshot-trailer-v1",
        &[(named("trailer"), SnapshotTrailerV1 { chunks: 2, rows: 300, sha256: [7; 32] })],
    ));
    missing.extend(check(
        "position-v1",
        &[
            (named("none"), PositionV1::default()),
            (
                named("some"),
                PositionV1 {
                    vote: Some(VoteV1 { term: 300, node: 70_000, committed: true }),
                    last: Some(log_id()),
                    purged: Some(log_id()),
                },
            ),
        ],
    ));
    let header = BackupHeader {
        cluster,
        created_at: Timestamp(1_750_000_000_000),
        index: 300,
        term: 7,
        version: "0.1.0".to_owned(),
        bytes: 70_000,
    };
    missing.extend(check("backup-header-v1", &[(named("header"), header)]));
    missing.extend(check(
        "backup-trailer-v1",
        &[(named("trailer"), BackupTrailerV1 { chunks: 2, rows: 300, sha256: [7; 32] })],
    ));
    let refused = Rejection::Conflict("the name is taken".to_owned());
    missing.extend(check(
        "answer-v1",
        &[
            (named("done"), Answer { index: 300, result: Ok(Outcome::Done) }),
            (named("refused"), Answer { index: 0, result: Err(refused) }),
        ],
    ));
    assert!(missing.is_empty(), "{missing:#?}");
}
