//! The node-to-node port.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use narvana_proto::v1::artifacts_server::ArtifactsServer;
use narvana_proto::v1::exec_server::ExecServer;
use narvana_proto::v1::forward_server::ForwardServer;
use narvana_proto::v1::join_server::JoinServer;
use narvana_proto::v1::logs_server::LogsServer;
use narvana_proto::v1::raft_server::RaftServer;
use narvana_proto::v1::tunnel_server::TunnelServer;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;

use super::blobs::BlobService;
use super::caller::{leaders, members};
use super::entrance::{Entrance, OpenTunnels};
use super::exec::ExecService;
use super::forward::ForwardService;
use super::join::JoinService;
use super::logs::LogService;
use super::raft::RaftService;
use super::stream::{Caller, Guest, Link, Stay};
use super::tls::{Distrust, node_called, node_of};
use super::{Admit, MESSAGE_BYTES_MAX, Tls, Witness, hello};
use crate::agent::LocalExec;
use crate::artifact::ArtifactStore;
use crate::consensus::Consensus;
use crate::logs::LogStore;
use crate::model::NodeId;
use crate::network::Crowd;
use crate::task::{OnError, Supervisor};

/// Connections of members from one address. A node has one or two; several nodes may share an address.
const CONNECTIONS_EACH: usize = 32;
/// Connections from one address that are being made.
const HANDSHAKES_EACH: usize = 32;
/// Connections from one address whose other end showed no certificate. A node that joins has one.
const STRANGERS_EACH: usize = 8;
/// All of these.
const STRANGERS_MAX: usize = 64;
/// How long such a connection may last: asking to be let in takes seconds.
const STRANGER_STAYS_MAX: Duration = Duration::from_secs(60);
/// Connections that wait for the server to take them.
const LINKS_WAITING: usize = 16;
/// Pause after a connection could not be accepted, mostly for lack of open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest that a handshake may take; whoever connects gives up shortly after.
const HANDSHAKE_MAX: Duration = Duration::from_millis(1_500);
/// A connection that was silent for this long is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(10);
/// It ends when it gives none within this time.
const PING_ANSWER: Duration = Duration::from_secs(5);
/// Largest message of a caller that is not known yet.
const JOIN_BYTES_MAX: usize = 32 * 1024;
/// Largest message of a tunnel, and of the input of a command.
const TUNNEL_BYTES_MAX: usize = 128 * 1024;
/// Bytes of one stream that may wait here. A snapshot waits for the disk.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Streams of one connection; a tunnel is one.
const STREAMS_MAX: u32 = 1024;
/// Bytes of all streams of a connection: as much as all may have, so that those that wait for an instance or the disk never
/// hold up the others.
const CONNECTION_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;

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
    pub consensus: Consensus,
    /// What other nodes may fetch.
    pub artifacts: ArtifactStore,
    /// Certificates, whenever they change.
    pub tls: watch::Receiver<Arc<Tls>>,
    /// Who may talk to this node.
    pub admit: Admit,
    /// This node.
    pub node: NodeId,
    /// Its logs.
    pub logs: LogStore,
    /// Its instances, for commands in them.
    pub exec: LocalExec,
    /// Counts the connections of other nodes to instances of this one.
    pub tunnels: OpenTunnels,
    /// Which process speaks as which node.
    pub witness: Witness,
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
        let Parts { consensus, artifacts, tls, admit, node, logs, exec, tunnels, witness } = self.parts;
        let stop = supervisor.stopping();
        let receiver = consensus.receiver();
        let forward = ForwardServer::new(ForwardService::new(consensus.clone(), witness.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let entrance = Entrance {
            node,
            consensus: consensus.clone(),
            admit: admit.clone(),
            tunnels,
            supervisor: supervisor.clone(),
        };
        let logs = LogsServer::new(LogService { logs, admit: admit.clone(), stop: stop.clone() });
        let exec = ExecServer::new(ExecService { exec, admit: admit.clone(), stop: stop.clone() })
            .max_decoding_message_size(TUNNEL_BYTES_MAX);
        let tunnel = TunnelServer::new(entrance).max_decoding_message_size(TUNNEL_BYTES_MAX);
        let raft = RaftServer::new(RaftService::new(receiver, admit.clone(), witness.clone(), stop.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let blobs = ArtifactsServer::new(BlobService::new(artifacts, admit.clone(), stop.clone()));
        let join = JoinServer::new(JoinService::new(consensus)).max_decoding_message_size(JOIN_BYTES_MAX);
        let (links, accepted) = mpsc::channel(LINKS_WAITING);
        let greeting = Greeting { tls, admit: admit.clone(), witness: witness.clone() };
        let accept = accept(self.listener, greeting, links, supervisor.clone());
        supervisor.spawn("node port", OnError::StopNode, accept);
        supervisor.spawn("node server", OnError::StopNode, async move {
            tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(PING_AFTER))
                .http2_keepalive_timeout(Some(PING_ANSWER))
                .max_concurrent_streams(Some(STREAMS_MAX))
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .add_service(InterceptedService::new(raft, leaders(admit.clone(), witness.clone())))
                .add_service(InterceptedService::new(forward, members(admit.clone(), witness.clone())))
                .add_service(InterceptedService::new(blobs, members(admit.clone(), witness.clone())))
                .add_service(InterceptedService::new(logs, members(admit.clone(), witness.clone())))
                .add_service(InterceptedService::new(exec, members(admit.clone(), witness.clone())))
                .add_service(InterceptedService::new(tunnel, members(admit, witness)))
                .add_service(join)
                .serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop.cancelled())
                .await
        });
    }
}

/// Lets connections in whose other end proves who it is, or claims nothing. The others are closed and noted.
async fn accept(
    listener: TcpListener,
    greeting: Greeting,
    links: mpsc::Sender<std::io::Result<Accepted>>,
    supervisor: Supervisor,
) -> Result<(), Infallible> {
    let arriving = Crowd::new(HANDSHAKES_EACH);
    let house = House {
        members: Crowd::new(CONNECTIONS_EACH),
        strangers: Crowd::new(STRANGERS_EACH),
        all_strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
    };
    let stop = supervisor.stopping();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of another node");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(arrival) = arriving.enter(from.ip()) else {
            tracing::debug!(%from, "this address makes too many connections");
            continue;
        };
        let (greeting, links, house) = (greeting.clone(), links.clone(), house.clone());
        let admit = greeting.admit.clone();
        supervisor.spawn("node handshake", OnError::Log, async move {
            let shaken = timeout(HANDSHAKE_MAX, greeting.shake_hands(stream, from.ip())).await;
            let shaken = shaken
                .map_err(|_| format!("its handshake took longer than {} ms", HANDSHAKE_MAX.as_millis()))
                .flatten();
            drop(arrival);
            match shaken.and_then(|(stream, caller)| house.enter(stream, caller, admit)) {
                // Nobody takes it when the server stops.
                Ok(link) => drop(links.send(Ok(link)).await),
                Err(reason) => tracing::debug!(%from, %reason, "a connection to the port between nodes was refused"),
            }
            Ok::<(), Infallible>(())
        });
    }
}

/// A connection that somebody else made.
type Accepted = Link<TlsStream<TcpStream>, Guest>;

/// The places there are for connections: those of strangers take none from members, and are few.
#[derive(Clone)]
struct House {
    members: Arc<Crowd>,
    strangers: Arc<Crowd>,
    all_strangers: Arc<Semaphore>,
}

impl House {
    fn enter(&self, stream: TlsStream<TcpStream>, caller: Caller, admit: Admit) -> Result<Accepted, String> {
        let crowd = if caller.node.is_some() { &self.members } else { &self.strangers };
        let place = crowd.enter(caller.from).ok_or("this address has too many connections")?;
        let stay = match caller.node {
            Some(node) => Stay::while_member(move || admit(node).is_ok()),
            None => {
                let permit = Arc::clone(&self.all_strangers).try_acquire_owned();
                let permit = permit.map_err(|_| "too many connect without a certificate")?;
                Stay::at_most(STRANGER_STAYS_MAX, permit)
            }
        };
        Ok(Link { stream, stay, guest: Guest { caller, place } })
    }
}

/// What is looked at before a connection is let in.
#[derive(Clone)]
struct Greeting {
    tls: watch::Receiver<Arc<Tls>>,
    admit: Admit,
    witness: Witness,
}

impl Greeting {
    /// Whoever shows no certificate may come in, and can do nothing but ask to join.
    async fn shake_hands(&self, stream: TcpStream, from: IpAddr) -> Result<(TlsStream<TcpStream>, Caller), String> {
        // Without it each small message waits some 40 ms.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let tls = Arc::clone(&self.tls.borrow());
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(|error| error.to_string())?;
        // Not everybody who tries this port: who asks for a node of this cluster.
        let asks_for_us =
            hello.client_hello().server_name().is_some_and(|name| node_called(tls.cluster, name).is_some());
        let mut stream = hello.into_stream(Arc::clone(&tls.server)).await.map_err(|error| {
            if let Some(distrust) = Distrust::of(&error).filter(|_| asks_for_us) {
                self.witness.rivals().note_stranger(from, distrust);
            }
            error.to_string()
        })?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let Some(certificate) = certificate else {
            return Ok((stream, Caller { node: None, run: None, from }));
        };
        let node = node_of(tls.cluster, certificate).ok_or("its certificate names no node of this cluster")?;
        // One that was removed is told so when it asks for something.
        let admitted = (self.admit)(node).is_ok();
        let said = hello::answer(&mut stream, &self.witness, node, admitted).await;
        let run = said.map_err(|error| format!("node {node}: {error}"))?;
        Ok((stream, Caller { node: Some(node), run: Some(run), from }))
    }
}
