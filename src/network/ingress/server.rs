//! The side towards clients: accepts connections and serves each in a task of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::counters::add;
use super::proxy::{Client, Proxy};
use crate::network::{Crowd, Entered, Watched};
use crate::task::{OnError, Supervisor};

/// After an error of `accept`, mostly "too many open files", which only time heals.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Room for a request head and for one read of a body.
const BUFFER_BYTES: usize = 64 * 1024;

/// Accepts until the supervisor stops. The listening socket closes at that moment.
pub(super) async fn accept(listener: TcpListener, proxy: Arc<Proxy>, supervisor: Supervisor) -> Result<(), Infallible> {
    let stopping = supervisor.stopping();
    let room = Arc::new(Semaphore::new(proxy.limits.connections));
    let crowd = Crowd::new(proxy.limits.connections_per_address);
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(entered) = crowd.enter(peer.ip()) else {
                    tracing::debug!(%peer, "this address has too many connections");
                    continue;
                };
                let task = connection(stream, peer, Arc::clone(&proxy), stopping.clone(), (permit, entered));
                supervisor.spawn("ingress connection", OnError::Log, task);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    proxy: Arc<Proxy>,
    stopping: CancellationToken,
    _room: (OwnedSemaphorePermit, Entered),
) -> Result<(), Infallible> {
    let _open = OpenConnection::new(&proxy);
    // Without it a small answer waits for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "the client left at once");
        return Ok(());
    }
    let address = peer.ip().to_canonical().to_string();
    let address = HeaderValue::try_from(address).expect("an IP address is made of visible ASCII");
    let stream = Watched::new(stream, proxy.limits.request_head_bytes);
    let client = Client { address, framing: stream.verdict(), tunnel: Mutex::new(None) };
    if let Err(error) = serve(stream, &client, &proxy, stopping).await {
        // The client's doing, or its network's: of no interest to the operator unless they look.
        tracing::debug!(%peer, %error, "a client connection ended");
    }
    let tunnel = client.tunnel.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(tunnel) = tunnel {
        tunnel.run().await;
    }
    Ok(())
}

async fn serve(
    stream: Watched<TcpStream>,
    client: &Client,
    proxy: &Proxy,
    stopping: CancellationToken,
) -> hyper::Result<()> {
    let limits = &proxy.limits;
    let service = service_fn(async |request| Ok::<_, Infallible>(proxy.serve(client, request).await));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_head)
        .max_header_size(limits.request_head_bytes)
        .max_buf_size(BUFFER_BYTES.max(limits.request_head_bytes))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        end = connection.as_mut() => return end,
        () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Counts a client connection as open until it is dropped.
struct OpenConnection {
    proxy: Arc<Proxy>,
}

impl OpenConnection {
    fn new(proxy: &Arc<Proxy>) -> Self {
        add(&proxy.counters.connections);
        add(&proxy.counters.connections_open);
        Self { proxy: Arc::clone(proxy) }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.proxy.counters.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}
