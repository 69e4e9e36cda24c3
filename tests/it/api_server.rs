//! The server on a real port: plain and TLS on one, limits of patience, and a stop that does not wait for streams.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use narvana::api::{Options, Server};
use narvana::clock;
use narvana::logs::{LogKey, LogLine, LogStream};
use narvana::model::{Lease, NodeId};
use narvana::state::Command;
use narvana::task::Supervisor;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::api_support::{Api, DEADLINE, options};

struct Running {
    api: Api,
    address: SocketAddr,
    supervisor: Supervisor,
    certificate: CertificateDer<'static>,
}

async fn run(choices: Options) -> Running {
    let api = Api::registered().await;
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let certificate = signed.cert.der().clone();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.expect("versions").with_no_client_auth().with_single_cert(vec![certificate.clone()], key);
    let tls = Some(Arc::new(tls.expect("a certificate")));
    let choices = Options { bind: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 0, tls, ..choices };
    let server = Server::bind(choices, api.parts()).await.expect("listens");
    let address = server.address();
    let supervisor = Supervisor::new("api", CancellationToken::new());
    server.run(&supervisor);
    Running { api, address, supervisor, certificate }
}

async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer in time").expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

const METRICS: &str = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn one_port_speaks_both() {
    let running = run(options()).await;
    let plain = exchange(TcpStream::connect(running.address).await.expect("connects"), HEALTH).await;
    assert!(plain.starts_with("HTTP/1.1 200"), "{plain}");

    let mut roots = rustls::RootCertStore::empty();
    roots.add(running.certificate.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let stream = TcpStream::connect(running.address).await.expect("connects");
    let name = "localhost".try_into().expect("a name");
    let stream = connector.connect(name, stream).await.expect("a handshake");
    let secure = exchange(stream, HEALTH).await;
    assert!(secure.starts_with("HTTP/1.1 200") && secure.contains("healthy"), "{secure}");
}

#[tokio::test]
async fn who_says_nothing_is_let_go() {
    let running = run(Options { header_wait: Duration::from_millis(200), ..options() }).await;
    for begin in ["", "GET /health HT", "\u{16}"] {
        let begun = Instant::now();
        let stream = TcpStream::connect(running.address).await.expect("connects");
        let answer = exchange(stream, begin).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(begun.elapsed() < DEADLINE, "{begin:?}");
    }
}

#[tokio::test]
async fn a_body_that_drips_is_given_up() {
    let running = run(Options { body_wait: Duration::from_millis(300), ..options() }).await;
    let mut stream = TcpStream::connect(running.address).await.expect("connects");
    let head = "POST /auth/login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let begun = Instant::now();
    // A byte now and then does not buy more time.
    let answer = drip(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("invalid_request"), "{answer}");
    assert!(begun.elapsed() < DEADLINE);
}

/// Sends a chunked body without an end, byte by byte, until there is an answer.
async fn drip(stream: &mut TcpStream) -> String {
    let (mut read, mut write) = stream.split();
    let drip = async {
        while write.write_all(b"1\r\n \r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await; // poll: until the node has had enough
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        read = timeout(DEADLINE, read.read_to_end(&mut answer)) => { let _reset_or_end = read.expect("in time"); }
        () = drip => {}
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn an_upload_that_drips_on_and_on_is_given_up_and_not_kept() {
    let running = run(Options { upload_wait: Duration::from_millis(500), ..options() }).await;
    let api = &running.api;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    api.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload"})).await.expect(201);
    let mut stream = TcpStream::connect(running.address).await.expect("connects");
    let head = format!(
        "POST /v1/apps/shop/services/web/source HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
        content-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        api.token
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let begun = Instant::now();
    // Each byte is in time; all of them together are not.
    let answer = drip(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("took too long"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(500));
    while api.artifact_files() > 0 {
        assert!(begun.elapsed() < DEADLINE, "a part of it is kept");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
    api.post("/v1/apps/shop/services/web/deploy", &json!({})).await.refused(409, "conflict");
}

#[tokio::test]
async fn one_address_has_a_limit_of_connections() {
    let running = run(Options { connections_per_address: 2, ..options() }).await;
    let connect = || TcpStream::connect(running.address);
    let (mut first, mut second) = (connect().await.expect("connects"), connect().await.expect("connects"));
    for stream in [&mut first, &mut second] {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    let mut third = connect().await.expect("connects");
    let mut nothing = Vec::new();
    // Closed at once, before or after the request arrives.
    let _closed = timeout(DEADLINE, third.read_to_end(&mut nothing)).await.expect("in time");
    assert!(nothing.is_empty());
    drop(first);
    let begun = Instant::now();
    loop {
        let mut again = connect().await.expect("connects");
        let mut answer = Vec::new();
        let _refused_or_sent = again.write_all(HEALTH.as_bytes()).await;
        let _refused_or_read = timeout(DEADLINE, again.read_to_end(&mut answer)).await.expect("in time");
        if answer.starts_with(b"HTTP/1.1 200") {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "there is room again");
    }
    drop(second);
}

#[tokio::test]
async fn a_client_that_never_reads_is_dropped() {
    let running = run(Options { body_wait: Duration::from_millis(300), ..options() }).await;
    let api = &running.api;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    let service = json!({"name": "web", "git_repo": "github.com/o/r"});
    api.post("/v1/apps/shop/services", &service).await.expect(201);
    let deployment = api.post("/v1/apps/shop/services/web/deploy", &json!({})).await.expect(202);
    let build = deployment["build_id"].as_str().expect("a build").parse().expect("an id");
    let lease = Lease { node: NodeId::FOUNDER, incarnation: api.register_node().await };
    api.apply(Command::LeaseBuild { build, lease }).await;
    let writer = api.logs.writer(LogKey::Build(build)).await.expect("a writer");
    // More than the system's buffers take on loopback.
    let long = "x".repeat(15_000);
    for _ in 0..1_000 {
        writer.append(LogLine::new(clock::now().into(), LogStream::Stdout, &long)).await.expect("taken");
    }
    writer.flush().await.expect("written");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut stream = socket.connect(running.address).await.expect("connects");
    let path = format!("/v1/apps/shop/logs/stream?limit=1000&token={}", api.token);
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let streams = async |wanted: &str| {
        let begun = Instant::now();
        loop {
            let answer = exchange(TcpStream::connect(running.address).await.expect("connects"), METRICS).await;
            if answer.lines().any(|line| line == wanted) {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "{wanted}: {answer}");
        }
    };
    streams("narvana_http_streams 1").await;
    // The client is still there, and has not read a byte.
    streams("narvana_http_streams 0").await;
    drop(stream);
}

#[tokio::test]
async fn a_stop_ends_streams_at_once() {
    let running = run(options()).await;
    running.api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    let mut stream = TcpStream::connect(running.address).await.expect("connects");
    let request =
        format!("GET /v1/apps/shop/logs/stream?token={} HTTP/1.1\r\nhost: localhost\r\n\r\n", running.api.token);
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    while !text.contains("connected") {
        let mut buffer = [0; 4_096];
        let count = timeout(DEADLINE, stream.read(&mut buffer)).await.expect("in time").expect("bytes");
        assert_ne!(count, 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    let begun = Instant::now();
    running.supervisor.stop(DEADLINE).await;
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("the stream ends").expect("bytes");
    assert!(TcpStream::connect(running.address).await.is_err(), "nobody is let in any more");
}
