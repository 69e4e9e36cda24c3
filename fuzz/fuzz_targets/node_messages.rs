//! Messages of a member that somebody took over, at the real port of a node: TLS, HTTP/2 and gRPC included.
//!
//! The first byte of the input chooses what is called, the rest is `length u16 | message`, repeated, sent as one stream;
//! or it is said in place of the greeting that begins a connection. Whatever comes, the node answers or hangs up, and after
//! it other members are heard as before. A node that ends because it was told so, or because what its leader sent cannot be
//! applied, is replaced.

#![no_main]

mod cluster;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::{Member, certificate, frame, parts, root};
use h2::client::SendRequest;
use libfuzzer_sys::fuzz_target;
use narvana::agent::LocalExec;
use narvana::artifact::ArtifactStore;
use narvana::cluster::{Authority, peer_name};
use narvana::consensus::{Mark, Peer, Transport};
use narvana::logs::{self, LogStore};
use narvana::model::{ClusterId, NodeId, NodeRole};
use narvana::rpc::{OpenTunnels, Options, Parts, Peers, Server, Witness};
use narvana_proto::v1;
use prost::Message;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const OWN: NodeId = NodeId(1);
const CALLER: NodeId = NodeId(2);
const WITNESS: NodeId = NodeId(3);
/// What a call may take. Proposals without a leader take some seconds to be refused.
const DEADLINE: Duration = Duration::from_secs(15);
/// What an answer is read for: a tunnel or a followed log would go on.
const LISTENS: Duration = Duration::from_millis(20);

const CALLS: [&str; 16] = [
    "Raft/Append",
    "Raft/Vote",
    "Raft/Snapshot",
    "Raft/Transfer",
    "Forward/Propose",
    "Forward/ReadIndex",
    "Forward/LeaveBehind",
    "Forward/RollCall",
    "Artifacts/Read",
    "Artifacts/Hold",
    "Logs/Read",
    "Logs/Follow",
    "Exec/Run",
    "Tunnel/Open",
    "Join/Admit",
    "Join/Greet",
];

thread_local! {
    static PLACE: (Runtime, RefCell<Option<Node>>) = (
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
        RefCell::new(None),
    );
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    PLACE.with(|(runtime, place)| {
        let mut place = place.borrow_mut();
        runtime.block_on(async {
            if place.is_none() {
                *place = Some(Node::start().await);
            }
            let node = place.as_mut().expect("it was started");
            match CALLS.get(usize::from(*kind) % (CALLS.len() + 1)) {
                Some(call) => node.call(call, rest).await,
                None => node.greet(rest).await,
            }
            if !node.hears().await {
                assert!(node.ended(), "the node lives and does not answer any more");
                *place = None;
            }
        });
    });
});

struct Node {
    _folder: TempDir,
    cluster: ClusterId,
    authority: Authority,
    peer: Peer,
    connection: Option<SendRequest<Bytes>>,
    other: Peers,
    fatal: CancellationToken,
    witness: Witness,
}

impl Node {
    async fn start() -> Self {
        let Member { folder, cluster, authority, tls, witness, consensus, supervisor, fatal } =
            Member::start(OWN).await;
        let logs = LogStore::open(folder.path().join("logs"), logs::Options::default(), supervisor.clone());
        let parts = Parts {
            artifacts: ArtifactStore::open(folder.path().join("artifacts")).await.expect("opens"),
            tls,
            admit: Arc::new(|_| Ok(NodeRole::VoterEligible)),
            node: OWN,
            logs: logs.await.expect("opens"),
            exec: LocalExec::new(OWN, consensus.watch(), watch::channel(None).1, supervisor.clone()),
            tunnels: OpenTunnels::default(),
            witness: witness.clone(),
            consensus: consensus.clone(),
        };
        let bind = Options { bind: Ipv4Addr::LOCALHOST.into(), port: 0 };
        let server = Server::bind(bind, parts).await.expect("listens");
        let address = server.address().to_string();
        server.run(&supervisor);
        consensus.initialize(&address).await.expect("a group of one");
        let other = Peers::new(cluster::tls(cluster, &authority, WITNESS), cluster::witness(Mark::default()));
        let peer = Peer { node: OWN, address };
        Self { _folder: folder, cluster, authority, peer, connection: None, other, fatal, witness }
    }

    /// Whether another member is heard.
    async fn hears(&self) -> bool {
        let asked = self.other.greet(&self.peer, Mark::default());
        matches!(timeout(DEADLINE, asked).await, Ok(Ok(_)))
    }

    /// Whether it was told to end, or found that it has to.
    fn ended(&self) -> bool {
        self.fatal.is_cancelled() || self.witness.refused().borrow().is_some()
    }

    async fn dial(&self) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root(&self.authority)).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let own = certificate(self.cluster, &self.authority, CALLER);
        let mut config = config.with_client_auth_cert(own.chain, own.key).expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(peer_name(self.cluster, OWN)).expect("a name");
        let stream = TcpStream::connect(&self.peer.address).await.expect("connects");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("shakes hands")
    }

    /// A connection on which the greeting is over.
    async fn connect(&self) -> Option<SendRequest<Bytes>> {
        let mut stream = self.dial().await;
        let hello = v1::Hello { run: vec![7; 16].into(), began: None };
        let accepted = v1::Verdict { verdict: Some(v1::verdict::Verdict::Accepted(v1::Accepted {})) };
        for message in [hello.encode_to_vec(), accepted.encode_to_vec()] {
            let length = u16::try_from(message.len()).expect("short").to_be_bytes();
            stream.write_all(&[&length[..], &message].concat()).await.ok()?;
        }
        stream.flush().await.ok()?;
        for _ in 0..2 {
            let length = stream.read_u16().await.ok()?;
            stream.read_exact(&mut vec![0; length.into()]).await.ok()?;
        }
        let (client, connection) = h2::client::handshake(stream).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// Sends all messages as one stream and reads the answer for a while.
    async fn call(&mut self, path: &str, messages: &[u8]) {
        let connection = match self.connection.take() {
            Some(connection) => connection.ready().await.ok(),
            None => None,
        };
        let connection = match connection {
            Some(connection) => connection,
            None => match self.connect().await {
                Some(connection) => connection.ready().await.expect("a new connection"),
                None => return,
            },
        };
        let mut client = connection.clone();
        self.connection = Some(connection);
        let request = http::Request::post(format!("https://node/narvana.v1.{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let Ok((answer, mut sending)) = client.send_request(request, false) else { return };
        for message in parts(messages) {
            if sending.send_data(frame(message).into(), false).is_err() {
                break;
            }
        }
        drop(sending.send_data(Bytes::new(), true));
        let answer = timeout(DEADLINE, answer).await.expect("an answer in time");
        let Ok(answer) = answer else { return };
        let mut body = answer.into_body();
        let listening = async {
            while let Some(Ok(data)) = body.data().await {
                drop(body.flow_control().release_capacity(data.len()));
            }
        };
        drop(timeout(LISTENS, listening).await);
    }

    /// Says this at the beginning of a connection, where members say who they are, and hears until it is hung up on.
    async fn greet(&self, said: &[u8]) {
        let mut stream = self.dial().await;
        drop(stream.write_all(said).await);
        drop(stream.shutdown().await);
        let mut rest = Vec::new();
        let ended = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection stays open");
    }
}
