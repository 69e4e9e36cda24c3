//! The side towards the engine: accepts connections and serves each in a task of its own.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Shared, exchange};
use crate::task::{OnError, Supervisor};

/// Connections at once: an engine opens a few for each image it moves. More wait.
const CONNECTIONS_MAX: usize = 256;
/// How long the head of a request may take, also how long a connection may idle.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Room for the head of a request.
const BUFFER_BYTES: usize = 64 * 1024;
/// After an error of `accept`, mostly "too many open files", which only time heals.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the supervisor stops. The listening socket closes at that moment.
pub(super) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    supervisor: Supervisor,
) -> Result<(), Infallible> {
    let stopping = supervisor.stopping();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
            Ok((stream, _)) => {
                let task = connection(stream, Arc::clone(&shared), stopping.clone(), permit);
                supervisor.spawn("registry connection", OnError::Log, task);
            }
            Err(error) => {
                tracing::warn!(%error, "the registry cannot accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    shared: Arc<Shared>,
    stopping: CancellationToken,
    _room: OwnedSemaphorePermit,
) -> Result<(), Infallible> {
    // Without it a small answer waits for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the engine left at once");
        return Ok(());
    }
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(exchange::answer(shared, request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(BUFFER_BYTES);
    let mut served = pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopping.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the registry ended");
    }
    Ok(())
}
