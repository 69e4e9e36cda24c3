//! What nobody needs any more goes, on every node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use super::site;
use crate::harness::node::Node;
use crate::harness::{Harness, until};

/// A node that asked for a blob too early asks again after a minute.
const COPIED_WITHIN: Duration = Duration::from_secs(150);

/// Names of the blobs that a node keeps.
fn blobs(node: &Node) -> BTreeSet<String> {
    let entries = std::fs::read_dir(node.data.join("artifacts")).expect("a store");
    let names = entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.len() == 64).collect()
}

/// On how many nodes each is.
fn copies(nodes: &[Node]) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for name in nodes.iter().flat_map(blobs) {
        *copies.entry(name).or_default() += 1;
    }
    copies
}

/// Waits until everything is on two nodes at least.
async fn copied(nodes: &[Node]) -> BTreeMap<String, usize> {
    let copied = async {
        loop {
            let copies = copies(nodes);
            if !copies.is_empty() && copies.values().all(|nodes| *nodes >= 2) {
                return copies;
            }
            tokio::time::sleep(Duration::from_millis(50)).await; // poll
        }
    };
    tokio::time::timeout(COPIED_WITHIN, copied).await.unwrap_or_else(|_| panic!("not copied: {:?}", copies(nodes)))
}

fn build(node: &Node, app: &str) {
    node.post("/v1/apps", &json!({"name": app})).expect(201);
    let service = json!({"name": "web", "source_type": "upload"});
    node.post(&format!("/v1/apps/{app}/services"), &service).expect(201);
    let (dockerfile, page) = site(&format!("{app} from afar"));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("writes");
    std::fs::write(folder.path().join("index.html"), page).expect("writes");
    node.upload(app, "web", folder.path());
    node.deploy(app, "web");
}

#[tokio::test]
async fn what_an_app_left_goes_on_every_node_and_what_another_one_needs_stays() {
    let harness = Harness::podman().await;
    // Six looks in a row find that nobody needs it: longer than a build takes here.
    let often = [("NARVANA_TIDY_SECONDS", "3")];
    let first = Node::registered_as(harness.address(), &often);
    let nodes = [first.joined_as("second", &often), first.joined_as("third", &often), first];
    build(&nodes[2], "stays");
    let kept = copied(&nodes).await;
    build(&nodes[2], "goes");
    let both = copied(&nodes).await;
    let gone: Vec<&String> = both.keys().filter(|name| !kept.contains_key(*name)).collect();
    assert!(gone.len() >= 4, "a source, a manifest, a configuration and a layer: {gone:?}");

    nodes[0].send("DELETE", "/v1/apps/goes", &json!({})).expect(204);
    until("it is gone everywhere", async || {
        let left = copies(&nodes);
        gone.iter().all(|name| !left.contains_key(*name)).then_some(())
    })
    .await;
    let left = copies(&nodes);
    assert!(kept.iter().all(|(name, nodes)| left.get(name) >= Some(nodes)), "{kept:?} became {left:?}");
    assert_eq!(nodes[1].fetch("web-stays.localhost", "/").body, "stays from afar\n");
}
