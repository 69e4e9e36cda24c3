//! Answers of a member that somebody took over, to everything that a node asks others: TLS, HTTP/2 and gRPC included.
//!
//! The first byte of the input chooses what is asked, the second how the answer ends, the rest is `length u16 | message`,
//! repeated: the messages of the answer; or it is what comes after TLS in the place of the greeting. Whatever comes, the node is
//! done with it in time, keeps nothing that is not what it asked for, and goes on to lead: the other member is one that its log is
//! sent to.

#![no_main]

mod cluster;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cluster::{Member, certificate, frame, parts, root};
use futures::{StreamExt, stream};
use libfuzzer_sys::fuzz_target;
use narvana::agent::{ExecElsewhere, ExecRequest};
use narvana::artifact::garbage::Roots;
use narvana::artifact::{ArtifactStore, BlobSource, Digest, Fetcher, OtherStores};
use narvana::cluster::{Authority, JoinSecret, key_pin};
use narvana::consensus::{Consensus, Mark, Peer, Transport};
use narvana::engine::ExecSpec;
use narvana::logs::{Elsewhere, LogKey, Start};
use narvana::model::{ClusterId, Cpu, Epoch, JoinToken, Memory, NodeId, NodeResources, NodeRole, Origin, SettingKey};
use narvana::network::Reach;
use narvana::rpc::{FarExec, FarLogs, Newcomer, PeerBlobs, Peers, Request, Tunnels, Witness};
use narvana::state::{Actor, Command, LogEntry, NodeFacts, Outcome};
use narvana::task::OnError;
use narvana::{clock, config, random};
use narvana_proto::v1;
use prost::Message;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// What one question may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// What is read of an answer that may go on for ever.
const LISTENS: Duration = Duration::from_millis(20);
/// The asker gives up a blob after several attempts with pauses; one that is not there yet is waited for this long.
const FETCHES: Duration = Duration::from_millis(500);
const OWN: NodeId = NodeId::FOUNDER;
/// Nothing has it.
const WANTED: Digest = Digest::new([7; 32]);

/// What is asked, beside the greeting.
#[derive(Clone, Copy)]
enum Question {
    Append,
    Vote,
    Snapshot,
    Transfer,
    Propose,
    ReadIndex,
    RollCall,
    LeaveBehind,
    Blob,
    Hold,
    LogRead,
    LogFollow,
    Exec,
    Tunnel,
    Join,
    /// Nothing beyond what a leader sends by itself.
    Follow,
}

const QUESTIONS: [Question; 16] = [
    Question::Append,
    Question::Vote,
    Question::Snapshot,
    Question::Transfer,
    Question::Propose,
    Question::ReadIndex,
    Question::RollCall,
    Question::LeaveBehind,
    Question::Blob,
    Question::Hold,
    Question::LogRead,
    Question::LogFollow,
    Question::Exec,
    Question::Tunnel,
    Question::Join,
    Question::Follow,
];

thread_local! {
    static PLACE: (Runtime, RefCell<Option<Place>>) = (
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
        RefCell::new(None),
    );
}

fuzz_target!(|data: &[u8]| {
    let &[kind, end, ref said @ ..] = data else { return };
    PLACE.with(|(runtime, place)| {
        let mut place = place.borrow_mut();
        runtime.block_on(async {
            if place.is_none() {
                *place = Some(Place::start().await);
            }
            let here = place.as_ref().expect("it was started");
            let question = QUESTIONS.get(usize::from(kind) % (QUESTIONS.len() + 1));
            let answer = match question {
                Some(_) => Answer::Messages { messages: parts(said).map(frame).collect(), end },
                None => Answer::Greeting(said.to_vec()),
            };
            here.other.answers(Some(answer));
            let asked = here.ask(*question.unwrap_or(&Question::RollCall));
            timeout(DEADLINE, asked).await.expect("it is done with the answer in time");
            here.other.answers(None);
            assert!(!here.fatal.is_cancelled(), "the node ended: {:?}", here.consensus.status());
            // It leads all the same, unless it heard of another leader and has to be elected again.
            timeout(DEADLINE, here.leads()).await.expect("it leads again in time");
            assert!(!here.artifacts.contains(WANTED).await, "it kept what it did not ask for");
            // It would end now, as it should: it was told that it is none of the cluster. It ends as well when terms are used up.
            if here.witness.refused().borrow().is_some() || here.consensus.status().term > u64::MAX / 2 {
                *place = None;
            }
        });
    });
});

/// What the other member says next.
#[derive(Clone)]
enum Answer {
    /// In the place of the greeting.
    Greeting(Vec<u8>),
    /// To a call: frames, and how it ends.
    Messages { messages: Vec<Vec<u8>>, end: u8 },
}

/// The other member, at a real port.
#[derive(Clone)]
struct Other {
    acceptor: TlsAcceptor,
    answer: Arc<Mutex<Option<Answer>>>,
}

impl Other {
    fn answers(&self, answer: Option<Answer>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    fn answer(&self) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn listen(self, port: TcpListener) -> io::Result<()> {
        loop {
            let (stream, _) = port.accept().await?;
            tokio::spawn(self.clone().serve(stream));
        }
    }

    async fn serve(self, stream: TcpStream) -> io::Result<()> {
        let mut stream = self.acceptor.accept(stream).await?;
        // Who wants to join shows no certificate, and does not greet.
        let newcomer = stream.get_ref().1.peer_certificates().is_none();
        match self.answer() {
            Some(Answer::Greeting(said)) => {
                stream.write_all(&said).await?;
                return stream.shutdown().await;
            }
            _ if newcomer => {}
            _ => greet(&mut stream).await?,
        }
        let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
        while let Some(Ok((request, sending))) = connection.accept().await {
            tokio::spawn(respond(self.answer(), request, sending));
        }
        Ok(())
    }
}

async fn greet(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let hello = v1::Hello { run: vec![7; 16].into(), began: None };
    let accepted = v1::Verdict { verdict: Some(v1::verdict::Verdict::Accepted(v1::Accepted {})) };
    for message in [hello.encode_to_vec(), accepted.encode_to_vec()] {
        let length = u16::try_from(message.len()).expect("short").to_be_bytes();
        stream.write_all(&[&length[..], &message].concat()).await?;
    }
    stream.flush().await?;
    for _ in 0..2 {
        let length = stream.read_u16().await?;
        stream.read_exact(&mut vec![0; length.into()]).await?;
    }
    Ok(())
}

/// Nobody answers while nothing is to be said: a call would be taken for one of the question.
async fn respond(
    answer: Option<Answer>,
    request: http::Request<h2::RecvStream>,
    mut sending: h2::server::SendResponse<Bytes>,
) {
    let Some(Answer::Messages { messages, end }) = answer else {
        return sending.send_reset(h2::Reason::REFUSED_STREAM);
    };
    tokio::spawn(read_all(request.into_body()));
    let head = http::Response::builder().header("content-type", "application/grpc");
    let Ok(mut body) = sending.send_response(head.body(()).expect("a head"), false) else { return };
    for message in messages {
        if body.send_data(message.into(), false).is_err() {
            return;
        }
    }
    match end % 20 {
        // Cut off.
        18 => body.send_reset(h2::Reason::INTERNAL_ERROR),
        // Without the last words of gRPC.
        19 => drop(body.send_data(Bytes::new(), true)),
        code => {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from(u16::from(code)));
            if end >= 128 {
                trailers.insert("grpc-message", http::HeaderValue::from_static("%6eo%0a%1b[31m"));
            }
            // A refusal for good, after which the node ends.
            if end >= 224 {
                trailers.insert("narvana-refused", http::HeaderValue::from_static("ended"));
            }
            drop(body.send_trailers(trailers));
        }
    }
}

async fn read_all(mut body: h2::RecvStream) {
    while let Some(Ok(data)) = body.data().await {
        drop(body.flow_control().release_capacity(data.len()));
    }
}

/// The node that asks.
struct Place {
    _folder: TempDir,
    consensus: Consensus,
    artifacts: ArtifactStore,
    peers: Peers,
    witness: Witness,
    cluster: ClusterId,
    pin: [u8; 32],
    peer: Peer,
    other: Other,
    fatal: CancellationToken,
}

impl Place {
    async fn start() -> Self {
        let Member { folder, cluster, authority, tls, witness, consensus, supervisor, fatal } =
            Member::start(OWN).await;
        let peers = Peers::new(tls, witness.clone());
        consensus.initialize("127.0.0.1:1").await.expect("a group of one");
        let node = admitted(&consensus).await;
        let other = Other { acceptor: acceptor(cluster, &authority, node), answer: Arc::default() };
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listens");
        let address = port.local_addr().expect("an address");
        supervisor.spawn("other member", OnError::StopNode, other.clone().listen(port));
        let peer = Peer { node, address: address.to_string() };
        command(&consensus, Command::RegisterNode(facts(node, address.port()))).await;
        consensus.add_learner(&peer).await.expect("a learner");
        let artifacts = ArtifactStore::open(folder.path().join("artifacts")).await.expect("opens");
        let pin = key_pin(&root(&authority)).expect("a key");
        Self { _folder: folder, consensus, artifacts, peers, witness, cluster, pin, peer, other, fatal }
    }

    /// Whether it takes changes.
    async fn leads(&self) {
        let entry = |number: u64| {
            let settings = BTreeMap::from([(SettingKey::ServerDomain, format!("d{number}.test"))]);
            entry(Command::SetSettings(settings))
        };
        while self.consensus.propose(entry(self.consensus.latest().index)).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// Asks the other member and hears it out.
    async fn ask(&self, question: Question) {
        let Self { peers, peer, consensus, .. } = self;
        let node = peer.node;
        let ballot = Some(v1::Ballot { term: 1, node: OWN.0, committed: true });
        let last = Some(v1::LogId { term: 1, leader: OWN.0, index: 1 });
        match question {
            Question::Append => {
                let request = v1::AppendRequest { ballot, previous: last, committed: last, entries: Vec::new() };
                let requests = stream::iter([request.clone(), request]).boxed();
                if let Ok(replies) = peers.append(peer, requests).await {
                    drop(timeout(LISTENS, replies.count()).await);
                }
            }
            Question::Vote => {
                let request = v1::VoteRequest { ballot, last, pre_vote: false, transfer: false };
                drop(peers.vote(peer, request).await);
            }
            Question::Snapshot => {
                let part = v1::SnapshotPart { part: Some(v1::snapshot_part::Part::End(v1::SnapshotEnd { chunks: 0 })) };
                drop(peers.snapshot(peer, stream::iter([part]).boxed()).await);
            }
            Question::Transfer => {
                drop(peers.transfer(peer, v1::TransferRequest { ballot, to: node.0, last }).await);
            }
            Question::Propose => drop(peers.propose(peer, v1::ProposeRequest { command: Bytes::new() }).await),
            Question::ReadIndex => drop(peers.read_index(peer).await),
            Question::RollCall => drop(peers.greet(peer, Mark::default()).await),
            Question::LeaveBehind => {
                let (origin, left_behind) = (Origin::Restored, BTreeMap::new());
                let epoch = Epoch { number: 2, origin, begun_at: clock::now(), left_behind };
                drop(peers.leave_behind(peer, &epoch).await);
            }
            Question::Blob => {
                let fetcher = Fetcher::new(self.artifacts.clone(), Arc::new(self.blobs()));
                drop(timeout(FETCHES, fetcher.fetch(WANTED).done()).await);
            }
            Question::Hold => {
                let roots = Roots { sources: BTreeSet::from([WANTED]), manifests: BTreeSet::from([WANTED]) };
                drop(self.blobs().held_by(node, &roots).await);
                self.blobs().holders(WANTED).await;
            }
            Question::LogRead => {
                let lines = FarLogs::new(peers.clone(), consensus.watch());
                let lines = lines.read(node, LogKey::Instance(random::id()), Start::Last(10)).await;
                assert!(lines.map_or(0, |lines| lines.len()) <= 1_000, "more than one asks for");
            }
            Question::LogFollow => {
                let lines = FarLogs::new(peers.clone(), consensus.watch());
                let lines = lines.follow(node, LogKey::Instance(random::id()), Start::At(0));
                drop(timeout(LISTENS, lines.count()).await);
            }
            Question::Exec => {
                let spec = ExecSpec { argv: vec!["id".to_owned()], terminal: None, takes_input: false };
                let request = ExecRequest { instance: random::id(), index: 1, spec, inputs: stream::empty().boxed() };
                if let Ok(outputs) = FarExec::new(peers.clone(), consensus.watch()).run(node, request).await {
                    drop(timeout(LISTENS, outputs.count()).await);
                }
            }
            Question::Tunnel => {
                let tunnels = Tunnels::new(peers.clone(), consensus.watch());
                if let Ok(mut wire) = tunnels.reach(node, random::id(), 80).await {
                    drop(wire.write_all(b"GET / HTTP/1.1\r\n\r\n").await);
                    drop(timeout(LISTENS, wire.read_to_end(&mut Vec::new())).await);
                }
            }
            Question::Join => self.join().await,
            Question::Follow => drop(timeout(FETCHES, self.leads()).await),
        }
    }

    fn blobs(&self) -> PeerBlobs {
        PeerBlobs::new(OWN, self.peers.clone(), self.consensus.watch())
    }

    async fn join(&self) {
        let newcomer = Newcomer::new(self.cluster, self.pin).expect("certificates");
        let Ok(door) = newcomer.reach(&self.peer.address, clock::now).await else { return };
        let request = Request {
            token: random::id(),
            secret: JoinSecret::new(),
            request: random::id(),
            signing_request: vec![0; 16],
            name: "n3".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            cluster_version_max: 1,
        };
        drop(door.knock(request).await);
    }
}

fn acceptor(cluster: ClusterId, authority: &Authority, node: NodeId) -> TlsAcceptor {
    let own = certificate(cluster, authority, node);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root(authority)).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let asks = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(asks.allow_unauthenticated().build().expect("a verifier"));
    // A node that joins finds the authority in the chain.
    let chain = own.chain.into_iter().chain([root(authority)]).collect();
    let mut config = config.with_single_cert(chain, own.key).expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn entry(command: Command) -> LogEntry {
    LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command }
}

async fn command(consensus: &Consensus, command: Command) -> Outcome {
    consensus.propose(entry(command)).await.expect("accepted").outcome
}

/// Lets the other member in.
async fn admitted(consensus: &Consensus) -> NodeId {
    let token = JoinToken {
        id: random::id(),
        digest: [7; 32],
        role: NodeRole::Worker,
        uses_left: 1,
        expires_at: clock::now().plus(Duration::from_secs(3_600)),
        revoked: false,
        created_by: random::id(),
        created_at: clock::now(),
    };
    let (id, digest) = (token.id, token.digest);
    command(consensus, Command::CreateJoinToken(token)).await;
    let admission = Command::AdmitNode {
        token: id,
        digest,
        name: "n2".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        cluster_version_max: *config::cluster_versions().end(),
    };
    match command(consensus, admission).await {
        Outcome::Node(node) => node,
        other => panic!("{other:?}"),
    }
}

fn facts(id: NodeId, port: u16) -> NodeFacts {
    NodeFacts {
        id,
        name: "n2".to_owned(),
        address: "127.0.0.1".to_owned(),
        api_port: 1,
        grpc_port: port,
        ingress_http_port: 0,
        arch: "amd64".to_owned(),
        version: "0.1.0".to_owned(),
        cluster_version_max: *config::cluster_versions().end(),
        engine: Err("it has none".to_owned()),
        resources: NodeResources {
            cpu: Cpu::from_millis(1),
            memory: Memory::from_mebibytes(1),
            disk: Memory::from_mebibytes(1),
        },
        labels: BTreeMap::new(),
        incarnation: random::id(),
    }
}
