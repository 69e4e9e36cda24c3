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

pub(super) async fn what_runs_on_a_hung_engine_is_ended_without_it(mut harness: Harness) {
    let id = harness.run(&harness.spec("alone", &["sh", "-c", "sleep 1000 & sleep 1000"])).await;
    let other = harness.run(&harness.spec("other", &contract::SLEEP)).await;
    harness.daemon().hang();
    let killed = harness.engine().kill_without_engine(&id).await.expect("the kernel does it");
    assert!(killed >= 2, "{killed}");
    until("they have ended", || async {
        (harness.engine().kill_without_engine(&id).await.expect("nothing is left") == 0).then_some(())
    })
    .await;
    harness.daemon().resume();
    until("its engine knows", || async {
        let seen = harness.engine().inspect(&id).await.ok()?;
        (seen.state == ContainerState::Exited && seen.exit_code == Some(137)).then_some(())
    })
    .await;
    assert_eq!(harness.engine().inspect(&other).await.expect("it runs").state, ContainerState::Running);
    for id in [id, other] {
        harness.engine().remove(&id).await.expect("removed");
    }
}

pub(super) async fn a_new_connection_finds_what_runs(harness: Harness) {
    let id = harness.run(&harness.spec("adopted", &contract::SLEEP)).await;
    let before = harness.engine().inspect(&id).await.expect("it runs");
    let again = harness.reconnect().await;
    assert_eq!(again.list(&harness.labels()).await.expect("a list"), std::slice::from_ref(&before));
    assert_eq!(before.state, ContainerState::Running);
    again.remove(&id).await.expect("removed");
}
