//! The server: one port for plain HTTP and HTTPS.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::network::Crowd;
use crate::task::{OnError, Supervisor};

use super::connection::{Connection, Limits};
use super::{Options, Parts, router};

/// Pause after a connection could not be accepted: the cause, mostly too many open files, does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The API cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: free the port, or choose another with --api-port")]
pub struct StartError {
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// A server that listens and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    options: Options,
    stopping: CancellationToken,
}

impl Server {
    /// Listens. Whoever connects waits until [`Server::run`].
    pub async fn bind(options: Options, parts: Parts) -> Result<Self, StartError> {
        let address = SocketAddr::new(options.bind, options.port);
        let failed = |source| StartError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stopping = CancellationToken::new();
        let router = router(parts, options.clone(), stopping.clone());
        Ok(Self { listener, address, router, options, stopping })
    }

    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the supervisor stops: then nobody is let in, event streams end, and what is being answered is
    /// answered within the grace.
    pub fn run(self, supervisor: &Supervisor) {
        let tasks = supervisor.clone();
        supervisor.spawn("api", OnError::StopNode, self.accept(tasks));
    }

    async fn accept(self, supervisor: Supervisor) -> Result<(), Infallible> {
        let stop = supervisor.stopping();
        let free = Arc::new(Semaphore::new(self.options.connections_max));
        let crowd = Crowd::new(self.options.connections_per_address);
        let limits = Limits {
            header_wait: self.options.header_wait,
            write_wait: self.options.body_wait,
            head_bytes: self.options.head_bytes_max,
        };
        let tls = self.options.tls.clone().map(tokio_rustls::TlsAcceptor::from);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer): (TcpStream, SocketAddr) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Over the limit the newest is turned away at once, rather than every one slowed down.
            let Ok(place) = free.clone().try_acquire_owned() else { continue };
            let Some(entered) = crowd.enter(peer.ip()) else {
                tracing::debug!(%peer, "this address has too many connections");
                continue;
            };
            let connection = Connection {
                stream,
                peer,
                tls: tls.clone(),
                router: self.router.clone(),
                limits,
                stopping: self.stopping.clone(),
            };
            supervisor.spawn("api connection", OnError::Log, async move {
                let _room = (place, entered);
                connection.serve().await;
                Ok::<(), Infallible>(())
            });
        }
        self.stopping.cancel();
        Ok(())
    }
}
