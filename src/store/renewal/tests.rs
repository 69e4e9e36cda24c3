//! Renewal: what begins with a state has it, and a death at any step leaves the old store or the new one.

use openraft::storage::RaftStateMachine;

use super::*;
use crate::state::{Record, sample_records};
use crate::store::tests::Node;

fn seed() -> Seed {
    let state = State::from_records(sample_records());
    Seed { state, index: 1_000_000_000_000, term: 5, address: "10.0.0.1:9090".to_owned() }
}

async fn founded(node: &Node) {
    Store::found(node.options(node.folder.path()), &seed()).await.expect("founds");
}

#[tokio::test]
async fn a_store_begins_with_a_state() {
    let node = Node::new();
    founded(&node).await;
    let store = node.open();
    let survey = store.survey().await.expect("looks");
    assert_eq!(survey.state, seed().state);
    assert_eq!((survey.agreed, survey.last, survey.term), (seed().index, seed().index, 5));
    assert_eq!((survey.leader, survey.newest_command), (None, None), "nobody leads, and the log is empty");
    assert_eq!(survey.voters, BTreeSet::from([NodeId(1)]));
    assert_eq!(survey.members, BTreeMap::from([(NodeId(1), "10.0.0.1:9090".to_owned())]));
    let snapshot = store.machine().get_current_snapshot().await.expect("answers").expect("there is one");
    assert_eq!(snapshot.meta.last_log_id.map(|id| id.index), Some(seed().index));
    store.close().await.expect("closes");
}

fn later() -> Seed {
    let records = sample_records().into_iter().filter(|record| !matches!(record, Record::Session(_)));
    Seed { state: State::from_records(records), index: 2_000_000_000_000, term: 9, address: "b:1".to_owned() }
}

#[tokio::test]
async fn another_store_takes_the_place_and_the_old_one_is_kept() {
    let node = Node::new();
    founded(&node).await;
    let folder = node.folder.path();
    Store::renew(node.options(folder), &later(), "before-2").await.expect("renews");
    let store = node.open();
    let survey = store.survey().await.expect("looks");
    assert_eq!((survey.state, survey.last), (later().state, later().index));
    store.close().await.expect("closes");
    assert!(!folder.join(RENEWED).exists() && !folder.join(UNFINISHED).exists());
    let aside = Store::open(node.options(&folder.join("before-2"))).expect("the old one is whole");
    assert_eq!(aside.survey().await.expect("looks").last, seed().index);
    aside.close().await.expect("closes");
}

/// As if the process had died after so many moves.
#[tokio::test]
async fn a_renewal_that_was_cut_off_is_finished_by_whoever_opens_the_store() {
    for moves in 0..=PARTS.len() * 2 {
        let node = Node::new();
        founded(&node).await;
        let folder = node.folder.path();
        let renewed = folder.join(RENEWED);
        Store::found(node.options(&renewed), &later()).await.expect("founds");
        fs::write(renewed.join(ASIDE_FILE), "before-2").expect("writes");
        let aside = folder.join("before-2");
        fs::create_dir(&aside).expect("makes");
        let steps = PARTS
            .iter()
            .flat_map(|part| [(folder.join(part), aside.join(part)), (renewed.join(part), folder.join(part))]);
        for (from, to) in steps.take(moves) {
            fs::rename(from, to).expect("moves");
        }
        let store = node.open();
        assert_eq!(store.survey().await.expect("looks").last, later().index, "after {moves} moves");
        store.close().await.expect("closes");
        assert!(!renewed.exists() && aside.join(RAFT_FILE).exists(), "after {moves} moves");
    }
}

#[tokio::test]
async fn one_that_was_not_decided_is_forgotten() {
    let node = Node::new();
    founded(&node).await;
    let unfinished = node.folder.path().join(UNFINISHED);
    Store::found(node.options(&unfinished), &later()).await.expect("founds");
    let store = node.open();
    assert_eq!(store.survey().await.expect("looks").last, seed().index);
    store.close().await.expect("closes");
    assert!(!unfinished.exists());
}
