//! The leader is killed: how long until a client of a survivor gets its next write acknowledged, against etcd.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::Client;
use crate::etcd::Etcd;
use crate::figures::Figures;
use crate::harness::Harness;
use crate::row::Row;
use crate::three;

const KILLS: usize = 100;
/// Of etcd, whose elections take longer.
const KILLS_OF_PEER: usize = 30;
/// Between two attempts at a write.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) async fn row() -> anyhow::Result<()> {
    let (ours, peer) = (ours().await?, peers().await?);
    println!("{} kills of our leader, {} of etcd's", ours.count(), peer.count());
    for (percent, most) in [(50, 1.0), (99, 2.0)] {
        Row {
            what: &format!("kill -9 of the leader to the next write, p{percent}"),
            ours: format!("{:.2} s", ours.percentile(percent)),
            peer: format!("{:.2} s (etcd)", peer.percentile(percent)),
            measured: ours.percentile(percent),
            wanted: 0.0..=most,
        }
        .print();
    }
    Ok(())
}

async fn ours() -> anyhow::Result<Figures> {
    let harness = Harness::podman().await;
    let mut nodes = three(&harness);
    let mut took = Vec::new();
    for _ in 0..KILLS {
        let leader = Client::of(&nodes[0])?.leader().await?;
        let mut client = Client::of(&nodes[(leader + 1) % 3])?;
        client.write().await?;
        let began = Instant::now();
        nodes[leader].signal(Signal::KILL);
        while client.write().await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
        took.push(began.elapsed());
        nodes[leader].wait_end();
        nodes[leader].run();
    }
    Ok(Figures::of(took))
}

async fn peers() -> anyhow::Result<Figures> {
    let folder = tempfile::tempdir()?;
    let mut etcd = Etcd::start(folder.path(), 3).await?;
    let mut took = Vec::new();
    for number in 0..KILLS_OF_PEER {
        let leader = etcd.leader().await?;
        let survivor = (leader + 1) % 3;
        etcd.write(survivor, number).await?;
        let began = Instant::now();
        etcd.kill(leader)?;
        while etcd.write(survivor, number).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
        took.push(began.elapsed());
        etcd.start_again(leader).await?;
    }
    Ok(Figures::of(took))
}
