//! Visitors of an application while its cluster changes: the leader is killed, a node is drained, all are upgraded one by one.
//! They enter through nodes that live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness};
use crate::row::Row;
use crate::three;

/// At each node that is visited.
const VISITORS: usize = 8;
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
const WANTED: usize = 100_000;
/// How often all three things happen, until there were enough requests.
const ROUNDS_MAX: usize = 20;
const HOST: &str = "web-shop.localhost";

pub(crate) async fn rows() -> anyhow::Result<()> {
    let harness = Harness::podman().await;
    let mut nodes = three(&harness);
    nodes[0].post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let check = json!({"path": "/", "interval_seconds": 1, "retries": 5});
    let service = json!({"name": "web", "image": BUSYBOX, "replicas": 3, "health_check": check,
        "resources": {"cpu": "0.3", "memory": "32Mi"}});
    nodes[0].post("/v1/apps/shop/services", &service).expect(201);
    nodes[0].deploy("shop", "web");
    let mut seen = Seen::default();
    let mut rounds = 0;
    while seen.pages < WANTED && rounds < ROUNDS_MAX {
        rounds += 1;
        let leader = Client::of(&nodes[0])?.leader().await?;
        let others = [(leader + 1) % 3, (leader + 2) % 3];
        for other in others {
            answers(&nodes[other]).await?;
        }
        // The leader is killed, comes back, and is drained.
        let visiting = others.map(|other| Visitors::of(&nodes[other]));
        tokio::task::block_in_place(|| {
            nodes[leader].kill();
            nodes[leader].run();
        });
        Client::of(&nodes[others[0]])?.leader().await?;
        tokio::task::block_in_place(|| {
            let name = nodes[leader].name().to_owned();
            for verb in ["drain", "uncordon"] {
                let done = nodes[others[0]].cli(&["node", verb, &name]);
                assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            }
        });
        for visitors in visiting {
            seen.add(visitors.leave().await);
        }
        // Each is stopped and started again, as with a new program; visitors enter through the next one.
        for number in 0..3 {
            let next = (number + 1) % 3;
            answers(&nodes[next]).await?;
            let visitors = Visitors::of(&nodes[next]);
            tokio::task::block_in_place(|| {
                nodes[number].stop();
                nodes[number].run();
            });
            Client::of(&nodes[next])?.leader().await?;
            seen.add(visitors.leave().await);
        }
        nodes[0].deploy("shop", "web");
        println!("{} of {} failed so far", seen.failed, seen.pages);
    }
    anyhow::ensure!(seen.pages >= WANTED, "{} requests in {rounds} rounds are no load", seen.pages);
    Row {
        what: &format!("requests through survivors, failed, {rounds} leader kills, drains and upgrades"),
        ours: format!("{} of {}", seen.failed, seen.pages),
        peer: String::new(),
        measured: f64::from(u32::try_from(seen.failed)?),
        wanted: 0.0..=0.0,
    }
    .print();
    Ok(())
}

#[derive(Default)]
struct Seen {
    pages: usize,
    failed: usize,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.pages += other.pages;
        self.failed += other.failed;
    }
}

/// People who fetch a page again and again over connections that they keep.
struct Visitors {
    leave: Arc<AtomicBool>,
    visits: JoinSet<Seen>,
}

impl Visitors {
    fn of(node: &Node) -> Self {
        let leave = Arc::new(AtomicBool::new(false));
        let visit = |_| visit(node.ingress.clone(), Arc::clone(&leave));
        Self { visits: (0..VISITORS).map(visit).collect(), leave }
    }

    async fn leave(self) -> Seen {
        self.leave.store(true, Ordering::Relaxed);
        let mut seen = Seen::default();
        self.visits.join_all().await.into_iter().for_each(|visit| seen.add(visit));
        seen
    }
}

async fn visit(address: String, leave: Arc<AtomicBool>) -> Seen {
    let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
    let mut seen = Seen::default();
    while !leave.load(Ordering::Relaxed) {
        seen.pages += 1;
        if let Err(failure) = fetch(&http, &address).await {
            println!("after {} pages: {failure:#}", seen.pages);
            seen.failed += 1;
        }
    }
    seen
}

async fn fetch(http: &reqwest::Client, address: &str) -> anyhow::Result<()> {
    let answer = http.get(address).header("host", HOST).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    anyhow::ensure!(status == 200 && text == "hello from narvana\n", "{status}: {text}");
    Ok(())
}

/// Waits until a node knows the way.
async fn answers(node: &Node) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    let asking = async {
        while fetch(&http, &node.ingress).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(60), asking).await?)
}
