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
    let mut runs = vec![Vec::new(); engines.len()];
    let (mut looks, mut twice) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        look(engines, &mut runs);
        looks += 1;
        // It may have ended on one machine and begun on the other between two looks: look again.
        if runs.concat().len() > 1 {
            let first = runs.clone();
            look(engines, &mut runs);
            let both = runs.iter().zip(&first).flat_map(|(now, then)| now.iter().filter(|id| then.contains(id)));
            if both.count() > 1 {
                twice.push(format!("what must not run twice runs more than once, by machine: {first:?}"));
            }
        }
        std::thread::sleep(EVERY); // poll
    }
    (looks, twice)
}

/// Takes note of what runs on each engine; containers outlive an engine that does not answer.
fn look(engines: &[String], runs: &mut [Vec<String>]) {
    for (engine, runs) in engines.iter().zip(runs) {
        if let Some(now) = running(engine) {
            *runs = now;
        }
    }
}

/// The containers that run on an engine, if it answers.
pub(super) fn running(engine: &str) -> Option<Vec<String>> {
    let listed = Command::new("docker").args(["-H", engine, "ps", "--quiet", "--no-trunc"]).output().ok()?;
    let text = listed.status.success().then(|| String::from_utf8_lossy(&listed.stdout).into_owned())?;
    Some(text.lines().map(str::to_owned).collect())
}
