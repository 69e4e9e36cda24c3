//! The port between nodes: callers without a certificate, with a wrong one, and members that send what makes no sense.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use narvana::cluster::{Authority, NodeCertificate, PEER_LIFE, SigningRequest, peer_name};
use narvana::consensus::{Mark, Peer, Transport, TransportError};
use narvana::model::{Cluster, ClusterId, Digest, Incarnation, InstanceState, InstanceStatus, NodeId, Secret};
use narvana::rpc::{Hello, Peers, Tls, Witness};
use narvana::state::{Actor, Command, LogEntry};
use narvana::store::{self, KEY_FILE, Proposal, SealKey, Store};
use narvana::{clock, random};
use narvana_proto::v1;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use sha2::Digest as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::joining;
use super::live::Live;
use super::{Check, Row};
use Check::{Live as Do, Test};

const RPC: &str = "src/rpc/tests/admission.rs";
const WITNESS: &str = "src/rpc/witness.rs";
const SNAPSHOTS: &str = "src/store/tests/snapshots.rs";
/// A member that the node has not heard of yet: it may be the leader that brings the entries in which it is.
const NEWER: NodeId = NodeId(1 << 40);
/// All callers are one process: another one in its place would be told to wait.
const RUN: Incarnation = Incarnation(uuid::Uuid::from_u128(7));
/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) const ROWS: &[Row] = &[
    Row { number: 35, sent: "calls without a certificate", checks: &[Do(no_certificate)] },
    Row { number: 36, sent: "a certificate of another authority", checks: &[Do(another_authority)] },
    Row {
        number: 37,
        sent: "a worker that campaigns and leads",
        checks: &[Test(RPC, "only_members_are_heard_and_only_in_their_own_name")],
    },
    Row {
        number: 38,
        sent: "messages in the name of another node",
        checks: &[Test(RPC, "only_members_are_heard_and_only_in_their_own_name"), Do(another_name)],
    },
    Row {
        number: 39,
        sent: "a certificate for another cluster, by this one's authority",
        checks: &[Do(another_cluster)],
    },
    Row {
        number: 40,
        sent: "a certificate of a node that was removed, never let in, or whose place another process has",
        checks: &[
            Do(never_let_in),
            Do(removed),
            Test("tests/real/node/membership.rs", "a_removed_node_stops_what_it_runs_and_can_do_nothing"),
            Test(WITNESS, "a_process_takes_the_place_of_one_that_has_ended_and_no_other"),
        ],
    },
    Row { number: 41, sent: "lengths of 4 GiB", checks: &[Do(lengths)] },
    Row {
        number: 42,
        sent: "snapshots whose parts are wrong, missing or too many (chunks have no offsets: they come in order)",
        checks: &[
            Do(snapshots),
            Test(SNAPSHOTS, "a_half_written_or_damaged_snapshot_is_not_taken"),
            Test(SNAPSHOTS, "a_snapshot_with_rows_that_are_none_is_refused_while_it_comes"),
        ],
    },
    Row { number: 43, sent: "entries and commands of an unknown kind or version", checks: &[Do(entries)] },
    Row { number: 44, sent: "compressed messages (nothing is compressed between nodes)", checks: &[Do(compressed)] },
    Row {
        number: 45,
        sent: "reports about another node's instances, and about ones that do not exist",
        checks: &[Do(reports)],
    },
    Row {
        number: 46,
        sent: "a process that is not the node's, and a node that goes back",
        checks: &[
            Test(WITNESS, "a_copy_of_a_node_that_lives_is_refused_and_the_node_is_not"),
            Test(WITNESS, "a_folder_that_went_back_is_refused_also_after_a_start"),
            Test(WITNESS, "what_a_leader_was_told_counts_at_once_and_only_for_its_term"),
        ],
    },
];

/// What somebody has who took a member over: its authority's key, and with it any name.
struct Port {
    address: String,
    cluster: Arc<Cluster>,
    term: u64,
    runtime: tokio::runtime::Runtime,
}

impl Port {
    fn of(live: &Live) -> Self {
        let copy = tempfile::tempdir().expect("a folder");
        let folder = copy.path().join("data");
        let copied = std::process::Command::new("cp").arg("-a").arg(&live.data).arg(&folder).status();
        assert!(copied.expect("cp runs").success());
        let identity = std::fs::read(folder.join("identity.json")).expect("a node");
        let identity: serde_json::Value = serde_json::from_slice(&identity).expect("JSON");
        let options = store::Options {
            cluster: identity["cluster"].as_str().expect("an id").parse().expect("an id"),
            node: NodeId::FOUNDER,
            key: SealKey::load(&folder.join(KEY_FILE)).expect("the key"),
            fatal: tokio_util::sync::CancellationToken::new(),
            folder,
        };
        let store = Store::open(options).expect("opens");
        let cluster = store.machine().view().borrow().state.cluster().expect("a cluster").clone();
        let status = live.ask("GET", "/v1/status?consistency=stale", b"");
        let term = status.json["term"].as_u64().unwrap_or_else(|| panic!("{}", status.text));
        Self { address: live.grpc(), cluster, term, runtime: tokio::runtime::Runtime::new().expect("a runtime") }
    }

    fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cluster.ca_certificate.as_bytes()).expect("PEM")
    }

    fn founder(&self) -> Peer {
        Peer { node: NodeId::FOUNDER, address: self.address.clone() }
    }

    fn certificate(&self, cluster: ClusterId, node: NodeId, signer: (&str, &Secret)) -> NodeCertificate {
        let (certificate, key) = signer;
        Authority::peer_certificate(certificate, key, (cluster, node), clock::now(), PEER_LIFE).expect("signs")
    }

    fn own(&self, node: NodeId) -> NodeCertificate {
        self.certificate(self.cluster.id, node, (&self.cluster.ca_certificate, &self.cluster.ca_key))
    }

    /// Of a leader as new as the node itself: what an older one sends is not read.
    fn ballot(&self, node: NodeId) -> Option<v1::Ballot> {
        Some(v1::Ballot { term: self.term, node: node.0, committed: true })
    }

    /// Connections with this certificate, by the program's own client.
    fn peers(&self, own: &NodeCertificate) -> Peers {
        let tls = Tls::new(self.cluster.id, &[self.root()], own).expect("certificates");
        let hello = Hello { run: RUN, began: Mark::default() };
        let witness = Witness::new(hello, []);
        witness.take_part();
        Peers::new(watch::Sender::new(Arc::new(tls)).subscribe(), witness)
    }

    fn ask<T>(&self, asked: impl Future<Output = Result<T, TransportError>>) -> Result<T, TransportError> {
        self.runtime.block_on(async { tokio::time::timeout(DEADLINE, asked).await.expect("an answer") })
    }

    /// TLS and nothing else.
    async fn dial(&self, own: Option<NodeCertificate>) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let mut config = match own {
            Some(own) => config.with_client_auth_cert(own.chain, own.key).expect("a certificate"),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(peer_name(self.cluster.id, NodeId::FOUNDER)).expect("a name");
        let stream = TcpStream::connect(&self.address).await.expect("connects");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("shakes hands")
    }

    /// The same, and what members say to each other first.
    async fn dial_as(&self, node: NodeId) -> TlsStream<TcpStream> {
        self.dial_with(self.own(node)).await
    }

    async fn dial_with(&self, own: NodeCertificate) -> TlsStream<TcpStream> {
        let mut stream = self.dial(Some(own)).await;
        let hello = v1::Hello { run: RUN.0.as_bytes().to_vec().into(), began: None };
        let accepted = v1::Verdict { verdict: Some(v1::verdict::Verdict::Accepted(v1::Accepted {})) };
        for message in [hello.encode_to_vec(), accepted.encode_to_vec()] {
            let length = u16::try_from(message.len()).expect("short").to_be_bytes();
            stream.write_all(&[&length[..], &message].concat()).await.expect("writes");
        }
        stream.flush().await.expect("writes");
        let mut verdict = Vec::new();
        for _ in 0..2 {
            let length = stream.read_u16().await.expect("it answers");
            verdict = vec![0; length.into()];
            stream.read_exact(&mut verdict).await.expect("it answers");
        }
        assert_eq!(v1::Verdict::decode(&*verdict).expect("a verdict"), accepted);
        stream
    }
}

/// Sends bytes as the body of a call, and answers its status.
async fn call(stream: TlsStream<TcpStream>, path: &str, body: &[u8]) -> String {
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::select! {
        status = call_over(client, path, body) => status,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

fn request(path: &str) -> http::Request<()> {
    http::Request::post(format!("https://node{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request")
}

async fn call_over(client: h2::client::SendRequest<Bytes>, path: &str, body: &[u8]) -> String {
    let mut client = client.ready().await.expect("a connection");
    let (answer, mut sending) = client.send_request(request(path), false).expect("sends");
    sending.send_data(Bytes::copy_from_slice(body), true).expect("sends");
    let answer = answer.await.expect("an answer");
    let status = match answer.headers().get("grpc-status") {
        Some(status) => status.clone(),
        None => {
            let mut body = answer.into_body();
            while let Some(data) = body.data().await {
                data.expect("a body");
            }
            let trailers = body.trailers().await.expect("an end").expect("trailers");
            trailers.get("grpc-status").expect("a status").clone()
        }
    };
    status.to_str().expect("a number").to_owned()
}

#[track_caller]
fn says<T: std::fmt::Debug>(answer: Result<T, TransportError>, words: &str) {
    let error = answer.expect_err(words).to_string();
    assert!(error.contains(words), "{words}: {error}");
}

fn no_certificate(live: &Live) {
    const UNAUTHENTICATED: &str = "16";
    let port = Port::of(live);
    port.runtime.block_on(async {
        for path in
            ["Raft/Append", "Raft/Vote", "Raft/Snapshot", "Raft/Transfer", "Forward/Propose", "Forward/ReadIndex"]
                .into_iter()
                .chain(["Forward/RollCall", "Forward/LeaveBehind", "Artifacts/Read", "Artifacts/Hold", "Tunnel/Open"])
                .chain(["Logs/Read", "Logs/Follow", "Exec/Run"])
        {
            let status = call(port.dial(None).await, &format!("/narvana.v1.{path}"), &[0; 5]).await;
            assert_eq!(status, UNAUTHENTICATED, "{path}");
        }
    });
}

fn another_authority(live: &Live) {
    let port = Port::of(live);
    let other = Authority::new(port.cluster.id, clock::now()).expect("an authority");
    let own = port.certificate(port.cluster.id, NEWER, (&other.certificate, &other.key));
    let answer = port.ask(port.peers(&own).read_index(&port.founder()));
    assert!(matches!(answer, Err(TransportError::Unreachable { .. })), "{answer:?}");
}

fn another_cluster(live: &Live) {
    let port = Port::of(live);
    let own = port.certificate(random::id(), NEWER, (&port.cluster.ca_certificate, &port.cluster.ca_key));
    let answer = port.ask(port.peers(&own).read_index(&port.founder()));
    assert!(matches!(answer, Err(TransportError::Unreachable { .. })), "{answer:?}");
}

fn another_name(live: &Live) {
    let port = Port::of(live);
    let (peers, to) = (port.peers(&port.own(NEWER)), port.founder());
    let claimed = port.ballot(NodeId::FOUNDER);
    let words = "in the name of node 1";
    let vote = v1::VoteRequest { ballot: claimed, ..Default::default() };
    says(port.ask(peers.vote(&to, vote)), words);
    let append = v1::AppendRequest { ballot: claimed, ..Default::default() };
    let replies = async {
        let mut replies = peers.append(&to, stream::iter([append]).boxed()).await?;
        replies.next().await.expect("an answer")
    };
    says(port.ask(replies), words);
    let head = v1::SnapshotHead { ballot: claimed, ..Default::default() };
    let parts = v1::SnapshotPart { part: Some(v1::snapshot_part::Part::Head(head)) };
    says(port.ask(peers.snapshot(&to, stream::iter([parts]).boxed())), words);
    let transfer = v1::TransferRequest { ballot: claimed, to: NEWER.0, last: None };
    says(port.ask(peers.transfer(&to, transfer)), words);
}

fn never_let_in(live: &Live) {
    let port = Port::of(live);
    // An index of the log at which no node was let in.
    let answer = port.ask(port.peers(&port.own(NodeId(2))).read_index(&port.founder()));
    says(answer, "never let node 2 in");
}

/// Everything that takes a stream of answers, and something that is asked and answered.
const CALLS: [&str; 10] = [
    "Raft/Append",
    "Raft/Vote",
    "Forward/Propose",
    "Forward/ReadIndex",
    "Artifacts/Read",
    "Artifacts/Hold",
    "Logs/Read",
    "Logs/Follow",
    "Exec/Run",
    "Tunnel/Open",
];

/// A node that was let in with a token, goes on as if nothing were, and reads nothing of what it asked for.
fn removed(live: &Live) {
    const ENDS_WITHIN: Duration = Duration::from_secs(5);
    let port = Port::of(live);
    let (token, asked) = (joining::token(live), SigningRequest::new().expect("a key"));
    let question = joining::question(&token, asked.request, "foreign");
    let admitted = joining::knock(live, &token, question).expect("it is let in");
    let own =
        || NodeCertificate::kept(admitted.certificate.clone(), port.root(), asked.key.expose()).expect("a certificate");
    // More than a connection holds.
    let blob = vec![7_u8; 8 << 20];
    let digest = Digest::new(sha2::Sha256::digest(&blob).into()).to_string();
    std::fs::write(live.data.join("artifacts").join(&digest), &blob).expect("writes");
    let log = Some(v1::log_request::Log::Build(vec![9; 16].into()));
    let follow = v1::LogRequest { log, start: Some(v1::log_request::Start::At(0)) };
    let framed = |message: Vec<u8>| {
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        [&[0][..], &length, &message].concat()
    };
    let streams = [
        ("Logs/Follow", framed(follow.encode_to_vec())),
        ("Artifacts/Read", framed(v1::ReadBlob { digest, offset: 0 }.encode_to_vec())),
        // Nothing is sent yet.
        ("Raft/Append", Vec::new()),
    ];
    let open = port.runtime.block_on(async {
        let mut open = Vec::new();
        for (path, message) in streams {
            let (client, connection) = h2::client::handshake(port.dial_with(own()).await).await.expect("HTTP/2");
            port.runtime.spawn(connection);
            let mut client = client.ready().await.expect("a connection");
            let sent = client.send_request(request(&format!("/narvana.v1.{path}")), false).expect("sends");
            let (answer, mut sending) = sent;
            if !message.is_empty() {
                sending.send_data(message.into(), true).expect("sends");
            }
            let answer = answer.await.expect("an answer");
            assert!(answer.headers().get("grpc-status").is_none(), "{path} is under way: {answer:?}");
            open.push((path, client, sending, answer.into_body()));
        }
        open
    });
    let gone = live.ask("DELETE", &format!("/v1/nodes/{}", admitted.node), b"");
    assert_eq!(gone.status, 200, "{}", gone.text);
    let deadline = tokio::time::Instant::now() + ENDS_WITHIN;
    port.runtime.block_on(async {
        for (path, mut client, _sending, mut body) in open {
            let end = async { while let Some(Ok(_)) = body.data().await {} };
            assert!(tokio::time::timeout_at(deadline, end).await.is_ok(), "{path} goes on");
            // Either nobody is there any more, or it is refused.
            let ready = std::future::poll_fn(|cx| client.poll_ready(cx)).await;
            let asked = ready.and_then(|()| client.send_request(request("/narvana.v1.Forward/ReadIndex"), true));
            let answer = match asked {
                Ok((answer, _)) => answer.await,
                Err(error) => Err(error),
            };
            if let Ok(answer) = answer {
                assert_ne!(answer.headers().get("grpc-status").expect("a status"), "0", "{path}");
            }
        }
        for path in CALLS {
            let status = call(port.dial_with(own()).await, &format!("/narvana.v1.{path}"), &[0; 5]).await;
            assert_eq!(status, "7", "{path}");
        }
    });
    let refused = port.ask(port.peers(&own()).read_index(&port.founder()));
    says(refused, "was removed");
}

/// What the node has in memory, in KiB.
fn resident(live: &Live) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", live.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

fn lengths(live: &Live) {
    const OUT_OF_RANGE: &str = "11";
    let port = Port::of(live);
    let before = resident(live);
    port.runtime.block_on(async {
        // A message that says it has 4 GiB.
        let message = [0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3];
        for path in ["/narvana.v1.Raft/Vote", "/narvana.v1.Forward/Propose"] {
            assert_eq!(call(port.dial_as(NEWER).await, path, &message).await, OUT_OF_RANGE, "{path}");
        }
        // The same where nobody has to be known.
        assert_eq!(call(port.dial(None).await, "/narvana.v1.Join/Admit", &message).await, OUT_OF_RANGE);
        // What is said first, and a frame of HTTP/2.
        for (own, bytes) in [
            (Some(port.own(NEWER)), &[0xFF; 64][..]),
            (None, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xFF\xFF\xFF\x00\x00\x00\x00\x00\x01"),
        ] {
            let mut stream = port.dial(own).await;
            stream.write_all(bytes).await.expect("writes");
            let mut rest = Vec::new();
            // An end or a reset; not a wait.
            let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "the connection stays open");
        }
    });
    assert!(resident(live) < before + 64 * 1024, "{before} KiB before, {} after", resident(live));
}

fn snapshots(live: &Live) {
    use v1::snapshot_part::Part;
    let port = Port::of(live);
    let (peers, to) = (port.peers(&port.own(NEWER)), port.founder());
    let meta = store::encode_meta(&store::SnapshotMeta::default()).expect("a head");
    let head = Part::Head(v1::SnapshotHead { ballot: port.ballot(NEWER), meta });
    let chunk = || Part::Chunk(Bytes::from_static(b"no chunk"));
    let end = |chunks| Part::End(v1::SnapshotEnd { chunks });
    let foreign = Part::Head(v1::SnapshotHead { ballot: port.ballot(NEWER), meta: Bytes::from_static(b"no head") });
    for (parts, words) in [
        (vec![], "no ballot|no head"),
        (vec![chunk()], "no head"),
        (vec![foreign], "cannot be read"),
        (vec![head.clone()], "broke off"),
        (vec![head.clone(), end(3)], "do not add up"),
        (vec![head.clone(), head.clone()], "do not add up"),
        (vec![head.clone(), chunk(), end(1)], ""),
        (vec![head, end(u64::MAX)], "do not add up"),
    ] {
        let parts = parts.into_iter().map(|part| v1::SnapshotPart { part: Some(part) });
        let error = port.ask(peers.snapshot(&to, stream::iter(parts.collect::<Vec<_>>()).boxed()));
        let error = error.expect_err(words).to_string();
        assert!(words.split('|').any(|words| error.contains(words)), "{words}: {error}");
    }
    assert_eq!(live.ask("GET", "/v1/apps/shop", b"").status, 200, "what was there is there");
}

fn entries(live: &Live) {
    let port = Port::of(live);
    let (peers, to) = (port.peers(&port.own(NEWER)), port.founder());
    let good = proposal(&Command::RevokeJoinToken(random::id()), Actor::System);
    let mut kind = good.to_vec();
    kind[1] ^= 0xFF;
    let mut version = good.to_vec();
    version[4] = 0xFF;
    for bytes in [kind, version, good[..good.len() - 1].to_vec(), b"x".to_vec(), Vec::new()] {
        let append =
            v1::AppendRequest { ballot: port.ballot(NEWER), entries: vec![bytes.clone().into()], ..Default::default() };
        let replies = async {
            let mut replies = peers.append(&to, stream::iter([append]).boxed()).await?;
            replies.next().await.expect("an answer")
        };
        says(port.ask(replies), "cannot be read");
        says(port.ask(peers.propose(&to, v1::ProposeRequest { command: bytes.into() })), "cannot be read");
    }
    let large = vec![0; store::ENTRY_BYTES_MAX + 1];
    says(port.ask(peers.propose(&to, v1::ProposeRequest { command: large.into() })), "at most");
}

fn proposal(command: &Command, actor: Actor) -> Bytes {
    let entry = LogEntry { proposed_at: clock::now(), actor, request: None, command: command.clone() };
    Proposal::new(entry).expect("a command").bytes().clone()
}

fn compressed(live: &Live) {
    const INTERNAL: &str = "13";
    const UNIMPLEMENTED: &str = "12";
    let port = Port::of(live);
    port.runtime.block_on(async {
        // Flagged as compressed, and a kibibyte that would become more.
        let message = [&[1, 0, 0, 4, 0][..], &[0; 1024]].concat();
        let status = call(port.dial_as(NEWER).await, "/narvana.v1.Raft/Vote", &message).await;
        assert!([INTERNAL, UNIMPLEMENTED].contains(&&*status), "{status}");
    });
}

fn reports(live: &Live) {
    let port = Port::of(live);
    let (peers, to) = (port.peers(&port.own(NEWER)), port.founder());
    let report = |node| Command::ReportInstance {
        instance: random::id(),
        node,
        status: InstanceStatus { state: InstanceState::Running, ..InstanceStatus::assigned() },
    };
    for (command, actor) in [
        (report(NodeId::FOUNDER), Actor::Node(NEWER)),
        (report(NodeId::FOUNDER), Actor::System),
        (report(NEWER), Actor::Node(NodeId::FOUNDER)),
        (Command::ReaddressNode { node: NodeId::FOUNDER, address: "10.0.0.9:9090".to_owned() }, Actor::System),
    ] {
        let command = proposal(&command, actor);
        says(port.ask(peers.propose(&to, v1::ProposeRequest { command })), "in the name of node 1");
    }
    // In its own name it is heard, and what does not exist is not reported.
    let command = proposal(&report(NEWER), Actor::Node(NEWER));
    let reply = port.ask(peers.propose(&to, v1::ProposeRequest { command })).expect("an answer");
    let Some(v1::propose_reply::Result::Answer(answer)) = reply.result else { panic!("{reply:?}") };
    let refused = store::decode_answer(&answer).expect("an answer");
    assert!(format!("{refused:?}").contains("NotFound"), "{refused:?}");
}

#[test]
fn rows_hold() {
    super::run(ROWS);
}
