//! How many writes a second a node acknowledges, against what its disk can do.
//!
//! Two columns from one run: `narvana` proposes commands of about 256 bytes to a group of one, with the real state and
//! both files; `disk` is the plainest durable log there is, one thread that appends what is queued to a file and calls
//! fdatasync once. The ratio is what matters, since disks and their neighbours differ.
//!
//! Run with `cargo bench --bench propose`; a first argument is the folder to use (default: the temporary folder).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use narvana::consensus::{Consensus, NoTransport, Options};
use narvana::model::{NodeId, SettingKey};
use narvana::state::{Actor, Command, LogEntry};
use narvana::store::{self, KEY_FILE, SealKey, Store};
use narvana::task::Supervisor;
use narvana::{clock, random};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const MEASURE_FOR: Duration = Duration::from_secs(3);
const ENTRY_BYTES: usize = 256;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Cargo itself passes flags.
    let base = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = match &base {
        Some(base) => tempfile::tempdir_in(base)?,
        None => tempfile::tempdir()?,
    };
    println!("{:>8} {:>12} {:>9} {:>9} {:>12} {:>7}", "writers", "narvana/s", "p50 ms", "p99 ms", "disk/s", "ratio");
    for writers in [1, 16, 64, 256] {
        let ours = narvana(&folder.path().join(format!("node-{writers}")), writers).await?;
        let disk = disk(&folder.path().join(format!("plain-{writers}")), writers).await?;
        println!(
            "{writers:>8} {:>12.0} {:>9.2} {:>9.2} {:>12.0} {:>7.2}",
            ours.rate(),
            ours.percentile(50),
            ours.percentile(99),
            disk.rate(),
            ours.rate() / disk.rate()
        );
    }
    Ok(())
}

struct Measured {
    took: Duration,
    latencies: Vec<Duration>,
}

impl Measured {
    #[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    fn percentile(&self, percent: usize) -> f64 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// Writers that each do one thing after the other until the time is up.
async fn measure<F, W>(writers: usize, write: W) -> Measured
where
    F: Future<Output = ()> + Send + 'static,
    W: Fn() -> F + Clone + Send + 'static,
{
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let write = write.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < MEASURE_FOR {
                let asked = Instant::now();
                write().await;
                latencies.push(asked.elapsed());
            }
            latencies
        });
    }
    let mut latencies = tasks.join_all().await.concat();
    latencies.sort_unstable();
    Measured { took: began.elapsed(), latencies }
}

async fn narvana(folder: &Path, writers: usize) -> anyhow::Result<Measured> {
    std::fs::create_dir_all(folder)?;
    let fatal = CancellationToken::new();
    let began = Instant::now();
    let store = Store::open(store::Options {
        folder: folder.to_owned(),
        cluster: random::id(),
        node: NodeId::FOUNDER,
        key: SealKey::create(&folder.join(KEY_FILE))?,
        fatal: fatal.clone(),
    })?;
    let supervisor = Supervisor::new("consensus", fatal);
    let consensus = Consensus::start(NodeId::FOUNDER, Options::default(), store, NoTransport, supervisor).await?;
    consensus.initialize("127.0.0.1:9090").await?;
    consensus.propose(entry()).await?;
    if writers == 1 {
        eprintln!("from an empty folder to the first acknowledged write: {:?}", began.elapsed());
    }
    let proposing = consensus.clone();
    let measured = measure(writers, move || {
        let consensus = proposing.clone();
        async move {
            consensus.propose(entry()).await.expect("a group of one accepts");
        }
    })
    .await;
    let reading = consensus.clone();
    let reads = measure(writers, move || {
        let consensus = reading.clone();
        async move {
            consensus.linearizable().await.expect("a group of one answers");
        }
    })
    .await;
    eprintln!("{writers} readers: {:.0} linearizable reads/s, p99 {:.2} ms", reads.rate(), reads.percentile(99));
    consensus.shutdown().await?;
    Ok(measured)
}

fn entry() -> LogEntry {
    let domain = format!("{}.{}.{}.{}.test", "a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(50));
    LogEntry {
        proposed_at: clock::now(),
        actor: Actor::System,
        request: None,
        command: Command::SetSettings(BTreeMap::from([(SettingKey::ServerDomain, domain)])),
    }
}

async fn disk(path: &Path, writers: usize) -> anyhow::Result<Measured> {
    let mut file = File::create(path)?;
    let (queue, mut waiting) = mpsc::channel::<oneshot::Sender<()>>(1024);
    let thread = std::thread::spawn(move || -> std::io::Result<()> {
        while let Some(first) = waiting.blocking_recv() {
            let mut batch = vec![first];
            while let Ok(next) = waiting.try_recv() {
                batch.push(next);
            }
            file.write_all(&vec![0x5a; ENTRY_BYTES * batch.len()])?;
            file.sync_data()?;
            for done in batch {
                let _ = done.send(());
            }
        }
        Ok(())
    });
    let measured = measure(writers, move || {
        let queue = queue.clone();
        async move {
            let (done, written) = oneshot::channel();
            queue.send(done).await.expect("the thread runs");
            written.await.expect("the thread answers");
        }
    })
    .await;
    thread.join().expect("the thread did not panic")?;
    Ok(measured)
}
