//! The peer: Debian's etcd, asked over gRPC with as many connections as there are writers.

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

use crate::measure::{ENTRY_BYTES, Writer};

/// How long etcd may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// A running etcd of one or more members; ends when dropped.
pub(crate) struct Etcd {
    processes: Vec<Child>,
    commands: Vec<Command>,
    /// Where each member listens for clients.
    addresses: Vec<String>,
}

impl Etcd {
    /// With more than one member, these talk to each other over TLS; clients always in the clear.
    pub(crate) async fn start(folder: &Path, members: usize) -> anyhow::Result<Self> {
        let scheme = if members == 1 { "http" } else { "https" };
        let peers = (0..members).map(|_| free_address()).collect::<Result<Vec<_>, _>>()?;
        let addresses = (0..members).map(|_| free_address()).collect::<Result<Vec<_>, _>>()?;
        let named = peers.iter().enumerate().map(|(number, peer)| format!("m{number}={scheme}://{peer}"));
        let cluster = named.collect::<Vec<_>>().join(",");
        let mut etcd = Self { processes: Vec::new(), commands: Vec::new(), addresses };
        for (number, peer) in peers.iter().enumerate() {
            let (client, peer) = (format!("http://{}", etcd.addresses[number]), format!("{scheme}://{peer}"));
            let mut command = Command::new("etcd");
            command
                .args(["--name", &format!("m{number}"), "--data-dir"])
                .arg(folder.join(number.to_string()))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &cluster])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if members > 1 {
                command.arg("--peer-auto-tls");
            }
            let process = command.spawn().context("cannot start etcd; apt-get install etcd-server brings it")?;
            etcd.processes.push(process);
            etcd.commands.push(command);
        }
        for member in 0..members {
            etcd.until_it_answers(member).await?;
        }
        Ok(etcd)
    }

    /// Ends a member at once.
    pub(crate) fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        self.processes[member].kill()?;
        self.processes[member].wait()?;
        Ok(())
    }

    /// Starts one that was killed, and waits until it takes writes.
    pub(crate) async fn start_again(&mut self, member: usize) -> anyhow::Result<()> {
        self.processes[member] = self.commands[member].spawn()?;
        self.until_it_answers(member).await
    }

    async fn until_it_answers(&self, member: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Err(error) = self.write(member, 0).await {
            if began.elapsed() > START_WITHIN {
                return Err(error.context("etcd does not answer"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Which member leads.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        for member in 0..self.addresses.len() {
            let status: Status = self.writer(member, 0).await?.ask(STATUS, &Nothing {}).await?;
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(member);
            }
        }
        bail!("no member of etcd leads")
    }

    /// One write through a member, over a connection of its own.
    pub(crate) async fn write(&self, member: usize, number: usize) -> anyhow::Result<()> {
        self.writer(member, number).await?.put().await
    }

    /// A client of this member with a connection of its own.
    pub(crate) async fn writer(&self, member: usize, number: usize) -> anyhow::Result<EtcdWriter> {
        let address = &self.addresses[member];
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let put = Put { key: format!("writer-{number}").into_bytes(), value: vec![0x5a; ENTRY_BYTES] };
        Ok(EtcdWriter { requests, address: address.clone(), body: frame(&put), _driver: driver })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
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

/// `etcdserverpb.StatusRequest`.
#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// `etcdserverpb.StatusResponse`, as far as it is needed.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// `etcdserverpb.ResponseHeader`, as far as it is needed.
#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

const PUT: &str = "etcdserverpb.KV/Put";
const STATUS: &str = "etcdserverpb.Maintenance/Status";

pub(crate) struct EtcdWriter {
    requests: SendRequest<Bytes>,
    address: String,
    body: Bytes,
    /// Moves the connection's bytes for as long as the client is there.
    _driver: JoinSet<Result<(), h2::Error>>,
}

impl EtcdWriter {
    async fn put(&mut self) -> anyhow::Result<()> {
        self.send(PUT, self.body.clone()).await?;
        Ok(())
    }

    async fn ask<Answer: Message + Default>(&mut self, call: &str, question: &impl Message) -> anyhow::Result<Answer> {
        let framed = self.send(call, frame(question)).await?;
        Ok(Answer::decode(framed.get(5..).context("an answer without a message")?)?)
    }

    /// One unary call; the framed answer.
    async fn send(&mut self, call: &str, message: Bytes) -> anyhow::Result<Vec<u8>> {
        let uri = format!("http://{}/{call}", self.address);
        let request = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut body) = requests.send_request(request.body(())?, false)?;
        body.send_data(message, true)?;
        let response = response.await?;
        ensure!(response.status() == 200, "etcd answers {}", response.status());
        let mut body = response.into_body();
        let mut answer = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            answer.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?.context("an answer without trailers")?;
        if trailers.get("grpc-status").is_none_or(|status| status != "0") {
            bail!("etcd refuses: {trailers:?}");
        }
        Ok(answer)
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
