//! Engines that hang, die and come back.

use std::time::Duration;

use narvana::clock;
use narvana::engine::{ContainerState, LogsFrom};

use super::{contract, ends};
use crate::harness::{Harness, until};

pub(super) async fn a_hung_engine_is_unreachable(mut harness: Harness) {
    harness.daemon().hang();
    let ping = tokio::time::timeout(Duration::from_secs(15), harness.engine().ping()).await.expect("within its limit");
    assert!(ping.as_ref().is_err_and(narvana::engine::Error::is_unreachable), "{ping:?}");
    harness.daemon().resume();
    harness.engine().ping().await.expect("it answers again");
}

pub(super) async fn a_killed_engine_ends_streams(mut harness: Harness) {
    let id = harness.run(&harness.spec("quiet", &contract::SLEEP)).await;
    let mut events = harness.engine().events(&harness.labels(), clock::now());
    let mut lines = harness.engine().logs(&id, LogsFrom { follow: true, ..LogsFrom::default() });
    // Both streams have to be open when the engine dies.
    let open = futures::future::join(futures::StreamExt::next(&mut events), futures::StreamExt::next(&mut lines));
    assert!(tokio::time::timeout(Duration::from_millis(500), open).await.is_err(), "nothing happens yet");
    harness.daemon().kill();
    ends(&mut events).await;
    ends(&mut lines).await;
    let listed = harness.engine().list(&harness.labels()).await;
    assert!(listed.as_ref().is_err_and(narvana::engine::Error::is_unreachable), "{listed:?}");
    harness.daemon().start_again();
    let listed =
        until("the same connection works again", || async { harness.engine().list(&harness.labels()).await.ok() })
            .await;
    assert_eq!(listed.len(), 1);
    harness.engine().remove(&id).await.expect("removed");
}

pub(super) async fn a_new_connection_finds_what_runs(harness: Harness) {
    let id = harness.run(&harness.spec("adopted", &contract::SLEEP)).await;
    let before = harness.engine().inspect(&id).await.expect("it runs");
    let again = harness.reconnect().await;
    assert_eq!(again.list(&harness.labels()).await.expect("a list"), std::slice::from_ref(&before));
    assert_eq!(before.state, ContainerState::Running);
    again.remove(&id).await.expect("removed");
}
