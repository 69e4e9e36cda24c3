//! The server on a real port: plain and TLS on one, limits of patience, and a stop that does not wait for streams.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use narvana::api::{Options, Server};
use narvana::clock;
use narvana::logs::{LogKey, LogLine, LogStream};
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
async fn a_client_that_never_reads_is_dropped() {
    let running = run(Options { body_wait: Duration::from_millis(300), ..options() }).await;
    let api = &running.api;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    let service = json!({"name": "web", "git_repo": "github.com/o/r"});
    api.post("/v1/apps/shop/services", &service).await.expect(201);
    let deployment = api.post("/v1/apps/shop/services/web/deploy", &json!({})).await.expect(202);
    let build = deployment["build_id"].as_str().expect("a build").parse().expect("an id");
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
