//! The leader is stopped as systemd would: what a client of another node notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::client::Client;
use crate::figures::Figures;
use crate::harness::Harness;
use crate::row::Row;
use crate::three;

const STOPS: usize = 20;

pub(crate) async fn row() -> anyhow::Result<()> {
    let harness = Harness::podman().await;
    let mut nodes = three(&harness);
    let (mut slowest, mut failed, mut writes) = (Vec::new(), 0, 0);
    for _ in 0..STOPS {
        let leader = Client::of(&nodes[0])?.leader().await?;
        let client = Client::of(&nodes[(leader + 1) % 3])?;
        let over = Arc::new(AtomicBool::new(false));
        let mut writing = JoinSet::new();
        writing.spawn(write_until(client, Arc::clone(&over)));
        tokio::task::block_in_place(|| nodes[leader].stop());
        over.store(true, Ordering::Relaxed);
        let seen = writing.join_next().await.expect("one")??;
        slowest.push(seen.slowest);
        failed += seen.failed;
        writes += seen.writes;
        nodes[leader].run();
    }
    let slowest = Figures::of(slowest);
    Row {
        what: "planned hand-over of leadership, slowest write, median",
        ours: format!("{:.0} ms", slowest.percentile(50) * 1e3),
        peer: String::new(),
        measured: slowest.percentile(50) * 1e3,
        wanted: 0.0..=300.0,
    }
    .print();
    println!("the slowest of all: {:.0} ms", slowest.percentile(99) * 1e3);
    Row {
        what: &format!("failed writes during {STOPS} of them"),
        ours: format!("{failed} of {writes}"),
        peer: String::new(),
        measured: f64::from(failed),
        wanted: 0.0..=0.0,
    }
    .print();
    Ok(())
}

struct Seen {
    writes: u32,
    failed: u32,
    slowest: Duration,
}

async fn write_until(mut client: Client, over: Arc<AtomicBool>) -> anyhow::Result<Seen> {
    let mut seen = Seen { writes: 0, failed: 0, slowest: Duration::ZERO };
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        seen.writes += 1;
        if let Err(error) = client.write().await {
            println!("a write failed: {error:#}");
            seen.failed += 1;
        }
        seen.slowest = seen.slowest.max(began.elapsed());
    }
    Ok(seen)
}
