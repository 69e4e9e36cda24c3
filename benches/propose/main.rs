//! How many writes a second a node acknowledges, against etcd and against what the disk can do.
//!
//! For each number of writers, in one run and in turns: `narvana` proposes commands of about 256 bytes to a group of
//! one, with the real state, both files, every value sealed and every batch synced; `etcd`, with one member, puts
//! values of 256 bytes over gRPC on loopback; `disk` appends as many bytes as an average batch of ours to a file and
//! calls fdatasync, and `redb` commits as many entries to a table that holds nothing else. Medians of the turns; the ratios matter, since disks and their neighbours differ.
//!
//! Run with `cargo bench --bench propose`; a first argument is the folder to use (default: the temporary folder).

mod disk;
#[path = "../etcd/mod.rs"]
#[expect(dead_code, reason = "for benchmarks of several members")]
mod etcd;
#[path = "../folder/mod.rs"]
mod folder;
#[path = "../measure/mod.rs"]
mod measure;
#[path = "../row/mod.rs"]
mod row;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use etcd::Etcd;
use measure::{ENTRY_BYTES, Measured, Proposer, Writer, entry, measure, median};
use narvana::consensus::{Consensus, NoTransport, Options};
use narvana::model::NodeId;
use narvana::random;
use narvana::store::{self, KEY_FILE, SealKey, Store};
use narvana::task::Supervisor;
use row::Row;
use tokio_util::sync::CancellationToken;

/// Turns for each number of writers.
const TURNS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = folder::of_arguments()?;
    let folder = folder.path();
    let etcd = Etcd::start(&folder.join("etcd"), 1).await?;
    println!(
        "{:>7} | {:>9} {:>7} {:>7} | {:>9} {:>7} | {:>9} {:>9} {:>9} {:>7} {:>9} {:>7}",
        "writers",
        "narvana/s",
        "p50 ms",
        "p99 ms",
        "etcd/s",
        "x etcd",
        "batch",
        "batches/s",
        "disk/s",
        "x disk",
        "redb/s",
        "x redb"
    );
    for writers in [1, 16, 64, 256] {
        let mut turns = Vec::new();
        for turn in 0..TURNS {
            turns.push(one_turn(&folder.join(format!("{writers}-{turn}")), writers, &etcd).await?);
        }
        let of = |figure: fn(&Turn) -> f64| median(turns.iter().map(figure).collect());
        println!(
            "{writers:>7} | {:>9.0} {:>7.2} {:>7.2} | {:>9.0} {:>7.2} | {:>9.1} {:>9.0} {:>9.0} {:>7.2} {:>9.0} {:>7.2}",
            of(|turn| turn.ours.writes.rate()),
            of(|turn| turn.ours.writes.percentile(50)),
            of(|turn| turn.ours.writes.percentile(99)),
            of(|turn| turn.etcd.rate()),
            of(|turn| turn.ours.writes.rate() / turn.etcd.rate()),
            of(|turn| turn.ours.writes.rate() / turn.ours.syncs),
            of(|turn| turn.ours.syncs),
            of(|turn| turn.disk),
            of(|turn| turn.ours.syncs / turn.disk),
            of(|turn| turn.redb),
            of(|turn| turn.ours.syncs / turn.redb),
        );
        let reads = of(|turn| turn.ours.reads.rate());
        println!("{writers:>7} readers: {reads:.0} linearizable reads/s");
        Row {
            what: &format!("writes, {writers} writers"),
            ours: format!("{:.0}/s", of(|turn| turn.ours.writes.rate())),
            peer: format!("{:.0}/s (etcd)", of(|turn| turn.etcd.rate())),
            measured: of(|turn| turn.ours.writes.rate() / turn.etcd.rate()),
            wanted: (if writers == 1 { 0.7 } else { 1.0 })..=f64::INFINITY,
        }
        .print();
        Row {
            what: &format!("synced batches, {writers} writers"),
            ours: format!("{:.0}/s", of(|turn| turn.ours.syncs)),
            peer: format!("{:.0}/s (append, fdatasync)", of(|turn| turn.disk)),
            measured: of(|turn| turn.ours.syncs / turn.disk),
            wanted: 0.5..=f64::INFINITY,
        }
        .print();
    }
    Ok(())
}

/// All three, one after the other.
struct Turn {
    ours: Ours,
    etcd: Measured,
    disk: f64,
    redb: f64,
}

async fn one_turn(folder: &Path, writers: usize, etcd: &Etcd) -> anyhow::Result<Turn> {
    let ours = narvana(folder, writers).await?;
    let mut clients = Vec::new();
    for number in 0..writers {
        clients.push(etcd.writer(0, number).await?);
    }
    let etcd = measure(clients).await;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let batch = (ours.writes.rate() / ours.syncs).round() as usize;
    let disk = disk::synced_appends(&folder.join("plain"), batch * ENTRY_BYTES)?;
    let redb = disk::redb_commits(&folder.join("alone.redb"), batch, ENTRY_BYTES)?;
    Ok(Turn { ours, etcd, disk, redb })
}

struct Ours {
    writes: Measured,
    /// Synced batches per second.
    syncs: f64,
    reads: Measured,
}

async fn narvana(folder: &Path, writers: usize) -> anyhow::Result<Ours> {
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
    let consensus =
        Consensus::start(NodeId::FOUNDER, Options::default(), store, Arc::new(NoTransport), supervisor).await?;
    consensus.initialize("127.0.0.1:9090").await?;
    consensus.propose(entry()).await?;
    if writers == 1 {
        eprintln!("from an empty folder to the first acknowledged write: {:?}", began.elapsed());
    }
    let syncs = consensus.status().log_syncs;
    let writes = measure((0..writers).map(|_| Proposer(consensus.clone())).collect()).await;
    #[expect(clippy::cast_precision_loss, reason = "printed without digits")]
    let syncs = (consensus.status().log_syncs - syncs) as f64 / writes.took.as_secs_f64();
    let reads = measure((0..writers).map(|_| Reader(consensus.clone())).collect()).await;
    consensus.shutdown().await?;
    Ok(Ours { writes, syncs, reads })
}

/// A writer that writes nothing.
struct Reader(Consensus);

impl Writer for Reader {
    async fn write(&mut self) {
        self.0.linearizable().await.expect("a group of one answers");
    }
}
