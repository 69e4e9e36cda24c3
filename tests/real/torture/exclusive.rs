//! A service that must never run twice, and somebody who looks at every engine all the time.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::line::Line;
use crate::harness::BUSYBOX;
use crate::harness::node::Node;

/// It also has something to say, for somebody to follow.
const SAYS_MUCH: &str = "httpd -p 8080 -h /www; n=0; while :; do n=$((n+1)); echo line $n; usleep 100000; done";
/// Between two looks.
const EVERY: Duration = Duration::from_millis(200);

/// Deploys it from the node that leads to another one, and waits until it runs: when the machine of a leader is cut off, the
/// next one begins to count so late that even a cluster that waits for nothing would be too late to start it twice.
pub(super) fn deploy(node: &Node) {
    assert!(node.cli(&["node", "cordon", node.name()]).status.success(), "{}", node.log());
    node.post("/v1/apps", &json!({"name": "alone"})).expect(201);
    let service = json!({
        "name": "only", "image": BUSYBOX, "exclusive": true, "resources": {"cpu": "0.05", "memory": "16Mi"},
        "command": ["sh", "-c", SAYS_MUCH],
        "health_check": {"type": "tcp", "interval_seconds": 1, "retries": 5}
    });
    node.post("/v1/apps/alone/services", &service).expect(201);
    node.deploy("alone", "only");
    assert!(node.cli(&["node", "uncordon", node.name()]).status.success(), "{}", node.log());
}

/// The id of the node on which it runs: the only one that runs anything.
pub(super) fn home(line: &mut Line) -> Option<u64> {
    let reply = line.get("/v1/nodes").ok()?;
    let mut nodes = reply.body.as_array()?.iter();
    nodes.find(|node| node["instances"].as_u64() >= Some(1) && node["healthy"] == true)?["id"].as_u64()
}

/// Looks until it is over. How often it looked, and when it ran twice.
pub(super) fn watch(engines: &[String], over: &AtomicBool) -> (usize, Vec<String>) {
    let (mut looks, mut twice) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        let first = running(engines);
        looks += 1;
        let on: Vec<usize> = first.iter().enumerate().filter(|(_, runs)| !runs.is_empty()).map(|(at, _)| at).collect();
        // It may have ended on one machine and begun on the other between two looks: look again.
        if on.len() > 1 {
            let second = running(engines);
            let still = on.iter().filter(|at| first[**at].iter().any(|id| second[**at].contains(id))).count();
            if still > 1 {
                twice.push(format!("what must not run twice runs on machines {on:?}: {first:?}"));
            }
        }
        std::thread::sleep(EVERY); // poll
    }
    (looks, twice)
}

/// The containers that run, of each engine; none where it does not answer.
pub(super) fn running(engines: &[String]) -> Vec<Vec<String>> {
    let ids = |engine: &String| {
        let listed = Command::new("docker").args(["-H", engine, "ps", "--quiet", "--no-trunc"]).output();
        let text = listed.ok().filter(|listed| listed.status.success()).map(|listed| listed.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    };
    engines.iter().map(ids).collect()
}
