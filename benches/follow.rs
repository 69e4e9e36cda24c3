//! How many lines of a log reach a client through one event stream per second, and that none is missing.
//!
//! The real API on a real port, a plain TCP client, and a build whose lines are appended while the client follows. The
//! client counts events and checks that their numbers have no gap.
//!
//! Run with `cargo bench --bench follow`.

#[path = "../tests/it/api_support.rs"]
#[expect(dead_code, reason = "made for tests, which use more of it")]
mod api_support;
mod row;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use api_support::{Api, options};
use narvana::api::{Options, Server};
use narvana::clock;
use narvana::logs::{LogKey, LogLine, LogStream, LogWriter};
use narvana::model::{Lease, NodeId};
use narvana::state::Command;
use narvana::task::Supervisor;
use row::Row;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const LINES: u64 = 100_000;
const TURNS: usize = 3;
const TURN_MAX: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push(timeout(TURN_MAX, follow()).await.context("a line did not arrive")??);
    }
    turns.sort_unstable();
    let median = turns[TURNS / 2];
    #[expect(clippy::cast_precision_loss, reason = "printed without digits")]
    let rate = LINES as f64 / median.as_secs_f64();
    Row {
        what: "log lines through one stream, none lost",
        ours: format!("{rate:.0}/s"),
        peer: String::new(),
        measured: rate,
        wanted: 50_000.0..=f64::INFINITY,
    }
    .print();
    Ok(())
}

async fn follow() -> anyhow::Result<Duration> {
    let api = Api::registered().await;
    let bind = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let server = Server::bind(Options { bind, port: 0, ..options() }, api.parts()).await?;
    let address = server.address();
    let supervisor = Supervisor::new("api", CancellationToken::new());
    server.run(&supervisor);
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    api.post("/v1/apps/shop/services", &json!({"name": "web", "git_repo": "github.com/o/r"})).await.expect(201);
    let deployment = api.post("/v1/apps/shop/services/web/deploy", &json!({})).await.expect(202);
    let build = deployment["build_id"].as_str().context("a build")?.parse()?;
    // Who follows finds the log on the node that has the lease.
    let lease = Lease { node: NodeId::FOUNDER, incarnation: api.register_node().await };
    api.apply(Command::LeaseBuild { build, lease }).await;
    let writer = api.logs.writer(LogKey::Build(build)).await?;

    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET /v1/apps/shop/logs/stream?source=build&token={} HTTP/1.1\r\nhost: localhost\r\n\r\n", api.token);
    stream.write_all(request.as_bytes()).await?;
    let mut reader = BufReader::with_capacity(1 << 20, stream);
    // Who has got the first line follows; of lines from before that, a stream begins with the newest only.
    write(&writer, 0..1).await?;
    read(&mut reader, 0..1).await?;
    let began = Instant::now();
    let (written, read) = tokio::join!(write(&writer, 1..LINES), read(&mut reader, 1..LINES));
    written?;
    read?;
    let took = began.elapsed();
    api.stopping.cancel();
    supervisor.stop(Duration::from_secs(5)).await;
    Ok(took)
}

async fn write(writer: &LogWriter, numbers: Range<u64>) -> anyhow::Result<()> {
    for number in numbers {
        let text = format!("GET /some/path?number={number} 200 in 12 ms");
        writer.append(LogLine::new(clock::now().into(), LogStream::Stdout, text)).await?;
    }
    Ok(writer.flush().await?)
}

async fn read(reader: &mut BufReader<TcpStream>, numbers: Range<u64>) -> anyhow::Result<()> {
    let mut next = numbers.start;
    let mut line = String::new();
    while next < numbers.end {
        line.clear();
        ensure!(reader.read_line(&mut line).await? > 0, "the stream ended at line {next}");
        ensure!(!line.starts_with("event: skipped"), "lines were skipped at {next}");
        // Each line of a log is one event whose data says its number.
        if let Some(data) = line.strip_prefix("data: ")
            && let Some((_, rest)) = data.split_once("\"seq\":")
        {
            let number: u64 = rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse()?;
            ensure!(number == next, "line {number} came instead of {next}");
            next += 1;
        }
    }
    Ok(())
}
