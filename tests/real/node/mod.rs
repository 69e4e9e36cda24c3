//! Whole nodes: the program as a process, a real engine, real containers.

mod authority;
mod auto;
mod certificates;
mod cluster;
mod copies;
mod daily;
mod debug;
mod discovery;
mod doctor;
mod drain;
mod durability;
mod engine_fault;
mod exec;
mod failure;
mod fence;
mod flake;
mod garbage;
mod guard;
mod hostile;
mod hostile_build;
mod hostile_image;
mod image;
mod languages;
mod leftovers;
mod life;
mod membership;
mod moving;
mod partition;
mod quorum;
mod recovery;
mod reuse;
mod sickness;
mod store;
mod upgrade;
mod visitors;
mod walk;

use serde_json::{Value, json};

use crate::harness::BUSYBOX;
use crate::harness::node::Node;

/// A site that answers with this text: its Dockerfile and its page.
fn site(text: &str) -> (String, String) {
    let dockerfile = format!("FROM {BUSYBOX}\nCOPY index.html /www/index.html\nEXPOSE 8080\n");
    (dockerfile, format!("{text}\n"))
}

/// A service that runs the test image as it is.
fn image_service(name: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "health_check": {"type": "tcp", "interval_seconds": 1, "retries": 5}})
}

/// The same with these fields, and small: many of them fit on one machine.
fn small_service(name: &str, more: &Value) -> Value {
    let mut service = image_service(name);
    let fields = service.as_object_mut().expect("an object");
    fields.insert("resources".to_owned(), json!({"cpu": "0.05", "memory": "16Mi"}));
    fields.extend(more.as_object().expect("an object").clone());
    service
}

fn id(of: &Value) -> String {
    of["id"].as_str().expect("an id").to_owned()
}

/// The names of the nodes on which instances of a deployment run, in order.
fn running(node: &Node, deployment: &str) -> Vec<String> {
    let now = node.get(&format!("/v1/deployments/{deployment}")).expect(200);
    let instances = now["instances"].as_array().expect("a list").iter();
    let running = instances.filter(|instance| instance["status"] == "running");
    let mut names: Vec<String> = running.map(|of| of["node_name"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}
