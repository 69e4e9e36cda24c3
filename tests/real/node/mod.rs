//! Whole nodes: the program as a process, a real engine, real containers.

mod authority;
mod certificates;
mod cluster;
mod copies;
mod daily;
mod debug;
mod doctor;
mod drain;
mod durability;
mod engine_fault;
mod exec;
mod failure;
mod hostile;
mod image;
mod leftovers;
mod life;
mod membership;
mod moving;
mod partition;
mod quorum;
mod recovery;
mod sickness;
mod store;
mod upgrade;
mod visitors;
mod walk;

use serde_json::{Value, json};

use crate::harness::BUSYBOX;

/// A site that answers with this text: its Dockerfile and its page.
fn site(text: &str) -> (String, String) {
    let dockerfile = format!("FROM {BUSYBOX}\nCOPY index.html /www/index.html\nEXPOSE 8080\n");
    (dockerfile, format!("{text}\n"))
}

/// A service that runs the test image as it is.
fn image_service(name: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "health_check": {"type": "tcp", "interval_seconds": 1, "retries": 5}})
}
