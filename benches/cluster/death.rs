//! A machine dies, its cable pulled out: how long until what it ran runs elsewhere, its image being there.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::figures::Figures;
use crate::harness::BUSYBOX;
use crate::harness::node::Node;
use crate::harness::site::Site;
use crate::row::Row;

/// Of each kind.
const DEATHS: usize = 8;
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) async fn rows() -> anyhow::Result<()> {
    let site = Site::of(3).await;
    let first = Node::founded_at(&site.machines[0]);
    let second = first.joined_at("second", &site.machines[1]);
    let third = first.joined_at("third", &site.machines[2]);
    let nodes = [first, second, third];
    nodes[0].post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let service =
        json!({"name": "web", "image": BUSYBOX, "replicas": 3, "resources": {"cpu": "0.1", "memory": "32Mi"}});
    nodes[0].post("/v1/apps/shop/services", &service).expect(201);
    for (whose, of_leader, most) in [("a follower's", false, 8.0), ("the leader's", true, 10.0)] {
        let mut took = Vec::new();
        for _ in 0..DEATHS {
            let leader = leader(&nodes)?;
            // One on each machine.
            let deployment = nodes[leader].deploy("shop", "web");
            let id = deployment["id"].as_str().expect("an id");
            settled(&nodes[leader], id)?;
            let dying = if of_leader { leader } else { (leader + 1) % 3 };
            let survivor = &nodes[(dying + 1) % 3];
            let began = Instant::now();
            site.unplug(dying);
            until("what it ran runs elsewhere", || {
                running(survivor, id).iter().filter(|name| *name != nodes[dying].name()).count() == 3
            })?;
            took.push(began.elapsed());
            site.plug(dying);
        }
        let took = Figures::of(took);
        println!("{whose} machine, {} times: median {:.1} s", took.count(), took.percentile(50));
        Row {
            what: &format!("death of {whose} machine to the replacement running, slowest"),
            ours: format!("{:.1} s", took.percentile(99)),
            peer: String::new(),
            measured: took.percentile(99),
            wanted: 0.0..=most,
        }
        .print();
    }
    Ok(())
}

/// Who leads once all three are well.
fn leader(nodes: &[Node; 3]) -> anyhow::Result<usize> {
    let mut found = None;
    until("three healthy voters", || {
        let answer = nodes[0].get("/v1/nodes");
        if answer.status != 200 {
            return false;
        }
        let all = answer.json().as_array().cloned().unwrap_or_default();
        let leading = all.iter().find(|node| node["leader"] == true).map(|node| node["hostname"].clone());
        found = leading.and_then(|name| nodes.iter().position(|node| name == node.name()));
        found.is_some() && all.iter().all(|node| node["healthy"] == true && node["voter"] == true)
    })?;
    found.ok_or_else(|| anyhow::anyhow!("nobody leads"))
}

/// Waits until each machine has one and the deployment before is gone.
fn settled(node: &Node, deployment: &str) -> anyhow::Result<()> {
    until("one on each machine", || {
        let mut on = running(node, deployment);
        on.sort_unstable();
        on.dedup();
        on.len() == 3
    })
}

/// The nodes on which this deployment has running instances.
fn running(node: &Node, deployment: &str) -> Vec<String> {
    let answer = node.get(&format!("/v1/deployments/{deployment}?consistency=stale"));
    if answer.status != 200 {
        return Vec::new();
    }
    let deployment = answer.json();
    let instances = deployment["instances"].as_array().cloned().unwrap_or_default();
    let running = instances.iter().filter(|instance| instance["status"] == "running");
    running.filter_map(|instance| instance["node_name"].as_str().map(str::to_owned)).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        anyhow::ensure!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(20)); // poll
    }
    Ok(())
}
