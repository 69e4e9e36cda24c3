//! A service from 1 to 30 replicas on three nodes, against 29 containers that the engine creates and starts at once.

use std::time::{Duration, Instant};

use futures::future::join_all;
use narvana::engine::{ContainerSpec, NetworkAttachment, PublishedPort};
use narvana::model::{Cpu, Memory, Protocol};
use serde_json::{Value, json};

use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness};
use crate::measure::median;
use crate::row::Row;
use crate::three;

const REPLICAS: usize = 30;
const PAIRS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) async fn row() -> anyhow::Result<()> {
    let harness = Harness::podman().await;
    let nodes = three(&harness);
    nodes[0].post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let service =
        json!({"name": "web", "image": BUSYBOX, "replicas": 1, "resources": {"cpu": "0.05", "memory": "16Mi"}});
    nodes[0].post("/v1/apps/shop/services", &service).expect(201);
    let deployment = nodes[0].deploy("shop", "web");
    let deployment = deployment["id"].as_str().expect("an id");
    // The network that it is on is there, as that of the service is.
    let network = harness.name("bench");
    harness.engine().ensure_network(&network, &harness.labels()).await?;
    let (mut ours, mut peers, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let began = Instant::now();
        scale(&nodes[0], REPLICAS);
        until_running(&nodes[0], deployment, REPLICAS).await?;
        let us = began.elapsed().as_secs_f64();
        scale(&nodes[0], 1);
        until_running(&nodes[0], deployment, 1).await?;
        until_containers(&harness, &nodes[0], 1).await?;
        let specs: Vec<ContainerSpec> = (1..REPLICAS).map(|number| bare(&harness, &network, pair, number)).collect();
        let began = Instant::now();
        let ids = join_all(specs.iter().map(|spec| harness.run(spec))).await;
        let peer = began.elapsed().as_secs_f64();
        for id in ids {
            harness.engine().remove(&id).await?;
        }
        println!("{us:.2} s, {peer:.2} s");
        ours.push(us);
        peers.push(peer);
        ratios.push(us / peer);
    }
    harness.engine().remove_network(&network).await?;
    Row {
        what: "from 1 to 30 replicas on three nodes",
        ours: format!("{:.2} s", median(ours)),
        peer: format!("{:.2} s (29 create + start at once)", median(peers)),
        measured: median(ratios),
        wanted: 0.0..=1.15,
    }
    .print();
    Ok(())
}

fn scale(node: &Node, replicas: usize) {
    node.send("PATCH", "/v1/apps/shop/services/web", &json!({ "replicas": replicas })).expect(200);
}

async fn until_running(node: &Node, deployment: &str, count: usize) -> anyhow::Result<()> {
    let client = crate::client::Client::of(node)?;
    let path = format!("/v1/deployments/{deployment}");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let seen = client.ask(reqwest::Method::GET, &path, None).await?;
        let instances = seen["instances"].as_array().cloned().unwrap_or_default();
        let running = |instance: &&Value| instance["status"] == "running";
        if instances.iter().filter(running).count() == count {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "not {count} running: {seen:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until the engine has so many containers of the cluster.
async fn until_containers(harness: &Harness, node: &Node, count: usize) -> anyhow::Result<()> {
    let labels = [("narvana.cluster".to_owned(), node.cluster())].into();
    let deadline = Instant::now() + DEADLINE;
    while harness.engine().list(&labels).await?.len() != count {
        anyhow::ensure!(Instant::now() < deadline, "not {count} containers left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// As narvana makes one: the same image, limits, port and a network of its own.
fn bare(harness: &Harness, network: &str, pair: usize, number: usize) -> ContainerSpec {
    let mut spec = harness.spec(&format!("bare-{pair}-{number}"), &[]);
    spec.cpu = Cpu::from_millis(50);
    spec.memory = Memory::from_mebibytes(16);
    spec.pids_max = Some(4_096);
    spec.ports = vec![PublishedPort { container_port: 8080, protocol: Protocol::Tcp }];
    spec.network = Some(NetworkAttachment { name: network.to_owned(), aliases: vec!["web".to_owned()] });
    spec
}
