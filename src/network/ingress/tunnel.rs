//! A connection after its upgrade: bytes in both directions until one side is done.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};

use super::link::Link;
use super::upstream::Lease;

/// How long the second direction may go on after the first has ended: enough for a closing handshake.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Two connections to be joined once both have been upgraded.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) instance: OnUpgrade,
    /// Drives the instance's side to its upgrade.
    pub(super) link: Link,
    /// The tunnel counts as a request in flight.
    pub(super) lease: Lease,
}

impl Tunnel {
    /// Runs until both directions have ended.
    pub(super) async fn run(self) {
        let Self { client, instance, mut link, lease } = self;
        let mut instance = std::pin::pin!(instance);
        let instance = std::future::poll_fn(|context| {
            link.drive(context);
            instance.as_mut().poll(context)
        });
        match tokio::try_join!(client, instance) {
            Ok((client, instance)) => join(TokioIo::new(client), TokioIo::new(instance)).await,
            Err(error) => tracing::debug!(%error, "an upgrade did not come about"),
        }
        drop(lease);
    }
}

async fn join(client: impl AsyncRead + AsyncWrite, instance: impl AsyncRead + AsyncWrite) {
    let (client_in, client_out) = split(client);
    let (instance_in, instance_out) = split(instance);
    let mut up = std::pin::pin!(pump(client_in, instance_out));
    let mut down = std::pin::pin!(pump(instance_in, client_out));
    // A second direction that does not end in time is cut by dropping it.
    let cut = tokio::select! {
        () = &mut up => tokio::time::timeout(LAST_WORDS, down).await.is_err(),
        () = &mut down => tokio::time::timeout(LAST_WORDS, up).await.is_err(),
    };
    if cut {
        tracing::debug!("cut an upgraded connection of which only one side had ended");
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    if let Err(error) = copy(&mut from, &mut to).await {
        tracing::debug!(%error, "an upgraded connection broke off");
    }
    // It may be gone already; then there is nobody left to tell.
    let _ = to.shutdown().await;
}
