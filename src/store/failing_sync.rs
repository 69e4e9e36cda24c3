//! A sync that fails ends the store at once, and is not repeated: after it nobody knows what is on the disk.

use std::collections::BTreeSet;

use futures::stream;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};

use super::crash_disk::{Contents, CrashDisk, FILES};
use super::tests::Node;
use super::workload::{Said, entry};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_ends_the_store_and_is_not_repeated() {
    let mut named = BTreeSet::new();
    for syncs in 0..8 {
        let node = Node::new();
        let disk = CrashDisk::<Said>::new(node.folder.path(), Contents::default());
        let store = Store::open_on(&disk, node.options(node.folder.path())).expect("opens");
        let (mut log, mut machine) = (store.log(), store.machine());
        disk.fail_after(syncs);
        let mut acknowledged = 0;
        loop {
            let next = entry(1, acknowledged + 1);
            let (done, written) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
            log.append(vec![next.clone()], IOFlushed::signal(done)).await.expect("queued");
            if written.await.expect("answered").is_err() {
                break;
            }
            acknowledged += 1;
            let applied = machine.apply(stream::iter([Ok((next, None))])).await;
            if applied.is_err() || machine.checkpoint().await.is_err() {
                break;
            }
        }
        let reason = store.fatal().reason().expect("it is told").to_owned();
        named.extend(FILES.into_iter().filter(|file| reason.starts_with(file)));
        store.close().await.expect_err("it is not closed properly");
        drop((store, log, machine));
        assert_eq!(disk.retries(), 0, "after {syncs} syncs: {reason}");
        assert!(!node.folder.path().join(CLEAN_FILE).exists());
    }
    assert_eq!(named.len(), 2, "both files were met: {named:?}");
}
