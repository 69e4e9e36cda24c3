//! Snapshots: what is taken from another node, what is not, and what a crash leaves of them.

use super::*;

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
