//! A third node comes, and what a member costs that has nothing to do.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::figures::Figures;
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness};
use crate::row::Row;
use crate::three;

const JOINS: usize = 9;
const IDLE: Duration = Duration::from_secs(30);

pub(crate) async fn row() -> anyhow::Result<()> {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let mut took = Vec::new();
    for number in 0..JOINS {
        let mut node = first.newcomer(&format!("n{number}"), &first.join_token(&[]));
        let began = Instant::now();
        // Until it says that it takes work.
        node.enter();
        took.push(began.elapsed());
        let left = node.cli(&["node", "remove", &format!("n{number}"), "--force"]);
        anyhow::ensure!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr));
        node.wait_end();
    }
    let took = Figures::of(took);
    Row {
        what: "join to usable",
        ours: format!("{:.2} s", took.percentile(50)),
        peer: String::new(),
        measured: took.percentile(50),
        wanted: 0.0..=1.0,
    }
    .print();
    Ok(())
}

pub(crate) async fn idle() -> anyhow::Result<()> {
    let harness = Harness::podman().await;
    let nodes = three(&harness);
    nodes[0].post("/v1/apps", &json!({"name": "idle"})).expect(201);
    nodes[0].post("/v1/apps/idle/services", &json!({"name": "web", "image": BUSYBOX})).expect(201);
    nodes[0].deploy("idle", "web");
    // What starting has begun is to end.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = nodes.each_ref().map(|node| ticks(node.pid()));
    tokio::time::sleep(IDLE).await;
    for ((node, before), which) in nodes.iter().zip(before).zip(["the leader", "a follower", "another"]) {
        let hundredths = f64::from(u32::try_from(ticks(node.pid()) - before)?);
        let percent = hundredths / IDLE.as_secs_f64();
        let memory = resident(node.pid())?;
        Row {
            what: &format!("idle member of three, {which}: memory"),
            ours: format!("{memory:.0} MB"),
            peer: String::new(),
            measured: memory,
            wanted: 0.0..=60.0,
        }
        .print();
        Row {
            what: &format!("idle member of three, {which}: CPU"),
            ours: format!("{percent:.2} %"),
            peer: String::new(),
            measured: percent,
            wanted: 0.0..=0.5,
        }
        .print();
    }
    Ok(())
}

/// Processor time of a process, in hundredths of a second.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    [11, 12].iter().map(|field| fields[*field].parse::<u64>().expect("a number")).sum()
}

/// In megabytes, as `scripts/bench.sh` counts them.
fn resident(process: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
