//! A source that is built by what is found in it.

use std::path::Path;

use serde_json::json;

use super::site;
use crate::harness::node::Node;
use crate::harness::{Harness, until};

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("writes");
}

#[tokio::test]
async fn what_is_found_in_a_source_says_how_it_is_built() {
    let harness = Harness::podman().await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let service = json!({"name": "web", "source_type": "upload", "build_strategy": "auto"});
    node.post("/v1/apps/shop/services", &service).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    let deploy = |states: &[&str]| {
        node.upload("shop", "web", folder.path());
        let deployment = node.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
        node.wait_deployment(deployment["id"].as_str().expect("an id"), states);
        node.get("/v1/builds?limit=1").expect(200)[0].clone()
    };

    let (dockerfile, page) = site("found");
    write(folder.path(), "Dockerfile", &dockerfile);
    write(folder.path(), "index.html", &page);
    write(folder.path(), "Gemfile", "source 'x'\n");
    write(folder.path(), "go.mod", "module example.org/web\ngo 1.22\n");
    let build = deploy(&["running"]);
    until("its page", || async { (node.fetch("web-shop.localhost", "/").body == page).then_some(()) }).await;
    let log = node.cli(&["build", "logs", build["id"].as_str().expect("an id")]);
    let log = String::from_utf8_lossy(&log.stdout);
    assert!(log.contains("Found: dockerfile.") && log.contains("it could also be auto-go (go.mod)"), "{log}");

    // What it would be built by is said, also where that cannot be done; what ran goes on.
    std::fs::remove_file(folder.path().join("Dockerfile")).expect("it is there");
    std::fs::remove_file(folder.path().join("go.mod")).expect("it is there");
    let failure = deploy(&["failed"])["failure"].to_string();
    assert!(failure.contains("would be built by nixpacks, which this version does not do yet"), "{failure}");
    std::fs::remove_file(folder.path().join("Gemfile")).expect("it is there");
    std::fs::remove_file(folder.path().join("index.html")).expect("it is there");
    std::fs::create_dir(folder.path().join("web")).expect("a folder");
    write(&folder.path().join("web"), "Dockerfile", &dockerfile);
    let failure = deploy(&["failed"])["failure"].to_string();
    assert!(failure.contains("how it is built is not to be seen") && failure.contains("web"), "{failure}");
    assert_eq!(node.fetch("web-shop.localhost", "/").body, page);
}
