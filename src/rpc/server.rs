//! The node-to-node port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use narvana_proto::v1::forward_server::ForwardServer;
use narvana_proto::v1::raft_server::RaftServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;

use super::forward::ForwardService;
use super::raft::RaftService;
use super::stream::{Caller, Link};
use super::{Admission, MESSAGE_BYTES_MAX, Tls};
use crate::consensus::Receiver;
use crate::task::{OnError, Supervisor};

/// Handshakes at the same time. The port is for a few nodes; more than these wait.
const HANDSHAKES: usize = 64;
/// Longest that a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// A connection that is silent for the first time gets a ping, and ends when that is not answered within the second.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Address.
    pub bind: IpAddr,
    /// Port; 0 picks a free one.
    pub port: u16,
}

/// What it serves.
pub struct Parts {
    /// The Raft group.
    pub receiver: Receiver,
    /// Certificates, whenever they change.
    pub tls: watch::Receiver<Arc<Tls>>,
    /// Who may talk to this node.
    pub admission: Admission,
}

/// The server, listening and not yet answering.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    parts: Parts,
}

impl Server {
    /// Takes the port.
    pub async fn bind(options: Options, parts: Parts) -> std::io::Result<Self> {
        let listener = TcpListener::bind((options.bind, options.port)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, parts })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the supervisor stops.
    pub fn run(self, supervisor: &Supervisor) {
        let Parts { receiver, tls, admission } = self.parts;
        let forward = ForwardServer::new(ForwardService::new(receiver.clone(), admission.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let raft = RaftServer::new(RaftService::new(receiver, admission))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let stop = supervisor.stopping();
        supervisor.spawn("node port", OnError::StopNode, async move {
            tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(KEEP_ALIVE.0))
                .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
                .add_service(raft)
                .add_service(forward)
                .serve_with_incoming_shutdown(links(self.listener, tls), stop.cancelled())
                .await
        });
    }
}

/// Connections whose other end proved who it is. The others are closed and noted.
fn links(
    listener: TcpListener,
    tls: watch::Receiver<Arc<Tls>>,
) -> impl Stream<Item = Result<Link, std::io::Error>> + Send {
    TcpListenerStream::new(listener)
        .map(move |accepted| {
            let tls = Arc::clone(&tls.borrow());
            async move {
                match handshake(accepted, &tls).await {
                    Ok(link) => Some(Ok(link)),
                    Err(reason) => {
                        tracing::info!(%reason, "a connection from another machine was refused");
                        None
                    }
                }
            }
        })
        .buffer_unordered(HANDSHAKES)
        .filter_map(std::future::ready)
}

async fn handshake(accepted: std::io::Result<TcpStream>, tls: &Tls) -> Result<Link, String> {
    let stream = accepted.map_err(|error| format!("it cannot be accepted: {error}"))?;
    let from = stream.peer_addr().map_or_else(|_| "an unknown address".to_owned(), |from| from.to_string());
    // Without it each small message waits some 40 ms.
    stream.set_nodelay(true).map_err(|error| format!("from {from}: {error}"))?;
    let accept = TlsAcceptor::from(Arc::clone(&tls.server)).accept(stream);
    let stream = match timeout(HANDSHAKE_MAX, accept).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(format!("from {from}: {error}")),
        Err(_) => return Err(format!("from {from}: its handshake took longer than {} s", HANDSHAKE_MAX.as_secs())),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let node = certificate.and_then(|certificate| tls.node_of(certificate));
    match node {
        Some(node) => Ok(Link { stream, caller: Caller(node) }),
        None => Err(format!("from {from}: its certificate names no node of this cluster")),
    }
}
