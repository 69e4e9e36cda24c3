//! How many writes a second three members acknowledge, through the one that leads and through one that follows, against etcd
//! with three members.
//!
//! Ours propose commands of about 256 bytes: real state, both files of each member, every value sealed, every batch synced,
//! mutual TLS on loopback. etcd's put values of 256 bytes over gRPC with a connection for each writer, in the clear, and talk to
//! each other over TLS. In turns, in one run; medians, and the ratios matter.
//!
//! Run with `cargo bench --bench replicate`; a first argument is the folder to use (default: the temporary folder).

#[path = "etcd/mod.rs"]
#[expect(dead_code, reason = "for benchmarks of members that are killed")]
mod etcd;
#[path = "folder/mod.rs"]
mod folder;
#[path = "measure/mod.rs"]
mod measure;
#[path = "members/mod.rs"]
#[expect(dead_code, reason = "for benchmarks of blobs")]
mod members;
#[path = "row/mod.rs"]
mod row;

use etcd::Etcd;
use measure::{Proposer, measure, median};
use row::Row;

/// Turns for each number of writers.
const TURNS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = folder::of_arguments()?;
    let etcd = Etcd::start(&folder.path().join("etcd"), 3).await?;
    let leader = etcd.leader().await?;
    let group = members::group(folder.path(), 3).await?;
    for (through, ours, theirs) in [("the leader", 0, leader), ("a follower", 1, (leader + 1) % 3)] {
        for writers in [1, 16, 64, 256] {
            let (mut rates, mut peers, mut ratios, mut slowest) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for _ in 0..TURNS {
                let consensus = &group[ours].consensus;
                let us = measure((0..writers).map(|_| Proposer(consensus.clone())).collect()).await;
                let mut clients = Vec::new();
                for number in 0..writers {
                    clients.push(etcd.writer(theirs, number).await?);
                }
                let them = measure(clients).await;
                ratios.push(us.rate() / them.rate());
                slowest.push(us.percentile(99));
                rates.push(us.rate());
                peers.push(them.rate());
            }
            println!("{writers} writers through {through}: p99 {:.2} ms", median(slowest));
            Row {
                what: &format!("three members: writes through {through}, {writers} writers"),
                ours: format!("{:.0}/s", median(rates)),
                peer: format!("{:.0}/s (etcd)", median(peers)),
                measured: median(ratios),
                wanted: (if writers == 1 { 0.8 } else { 1.0 })..=f64::INFINITY,
            }
            .print();
        }
    }
    for member in &group {
        member.end().await?;
    }
    Ok(())
}
