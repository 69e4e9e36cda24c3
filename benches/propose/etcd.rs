//! The peer: Debian's etcd with one member, asked over gRPC with as many connections as there are writers.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::ENTRY_BYTES;
use crate::measure::Writer;

/// How long etcd may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// A running etcd; ends when dropped.
pub(crate) struct Etcd {
    process: Child,
    address: String,
}

impl Etcd {
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let (client, peer) = (free_address()?, free_address()?);
        let url = |address: &str| format!("http://{address}");
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(folder)
            .args(["--listen-client-urls", &url(&client), "--advertise-client-urls", &url(&client)])
            .args(["--listen-peer-urls", &url(&peer), "--initial-advertise-peer-urls", &url(&peer)])
            .args(["--initial-cluster", &format!("default={}", url(&peer))])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start etcd; apt-get install etcd-server brings it")?;
        let etcd = Self { process, address: client };
        let began = Instant::now();
        while let Err(error) = etcd.first_write().await {
            if began.elapsed() > START_WITHIN {
                return Err(error.context("etcd does not answer"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(etcd)
    }

    async fn first_write(&self) -> anyhow::Result<()> {
        self.writer(0).await?.put().await
    }

    /// A client with a connection of its own.
    pub(crate) async fn writer(&self, number: usize) -> anyhow::Result<EtcdWriter> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let put = Put { key: format!("writer-{number}").into_bytes(), value: vec![0x5a; ENTRY_BYTES] };
        let uri = format!("http://{}/etcdserverpb.KV/Put", self.address);
        Ok(EtcdWriter { requests, uri, body: frame(&put), _driver: driver })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `etcdserverpb.PutRequest`, as far as it is needed.
#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

pub(crate) struct EtcdWriter {
    requests: SendRequest<Bytes>,
    uri: String,
    body: Bytes,
    /// Moves the connection's bytes for as long as the client is there.
    _driver: JoinSet<Result<(), h2::Error>>,
}

impl EtcdWriter {
    async fn put(&mut self) -> anyhow::Result<()> {
        let request = Request::post(&self.uri).header("content-type", "application/grpc").header("te", "trailers");
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut body) = requests.send_request(request.body(())?, false)?;
        body.send_data(self.body.clone(), true)?;
        let response = response.await?;
        ensure!(response.status() == 200, "etcd answers {}", response.status());
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data?.len())?;
        }
        let trailers = body.trailers().await?.context("an answer without trailers")?;
        if trailers.get("grpc-status").is_none_or(|status| status != "0") {
            bail!("etcd refuses: {trailers:?}");
        }
        Ok(())
    }
}

impl Writer for EtcdWriter {
    async fn write(&mut self) {
        self.put().await.expect("etcd accepts");
    }
}

/// A message as gRPC frames it: not compressed, length, bytes.
fn frame(message: &impl Message) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).expect("a small message"));
    message.encode(&mut framed).expect("the buffer grows");
    framed.freeze()
}

fn free_address() -> std::io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
