//! A node's life: second starts, restarts under running containers, builds cut off by a crash.

use serde_json::{Value, json};

use super::{image_service, site};
use crate::harness::node::Node;
use crate::harness::{EngineKind, Harness, until};

/// The running instance of a deployment and its container.
fn container_of(node: &Node, deployment: &str) -> (Value, String) {
    let deployment = node.get(&format!("/v1/deployments/{deployment}")).expect(200);
    let live = |instance: &&Value| instance["status"] == "running";
    let instance = deployment["instances"].as_array().and_then(|all| all.iter().find(live)).cloned();
    let instance = instance.unwrap_or_else(|| panic!("a running instance: {deployment:#}"));
    (instance["id"].clone(), instance["container_id"].as_str().expect("a container").to_owned())
}

async fn restarts_are_survived(kind: EngineKind) {
    let harness = Harness::of(kind).await;
    let mut node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    let deployment = node.deploy("shop", "web");
    let id = deployment["id"].as_str().expect("an id");
    let before = container_of(&node, id);

    node.stop();
    let seen = harness.engine().list(&narvana::engine::Labels::new()).await.expect("the engine answers");
    let container = before.1.as_str();
    let running = seen.iter().any(|c| c.id == container && c.state == narvana::engine::ContainerState::Running);
    assert!(running, "the container goes on without narvana");
    node.run();
    until("the page after a restart", || async { (node.fetch("web-shop.localhost", "/").status == 200).then_some(()) })
        .await;
    assert_eq!(container_of(&node, id), before, "adopted, not restarted");

    node.kill();
    node.run();
    until("the page after a crash", || async { (node.fetch("web-shop.localhost", "/").status == 200).then_some(()) })
        .await;
    assert_eq!(container_of(&node, id), before, "adopted, not restarted");

    // A process that ends while narvana runs is followed by a new instance.
    harness.engine().kill(container).await.expect("killed");
    until("a new instance", || async {
        let deployment = node.get(&format!("/v1/deployments/{id}")).expect(200);
        let fresh = |i: &Value| i["status"] == "running" && i["id"] != before.0;
        deployment["instances"].as_array().is_some_and(|all| all.iter().any(fresh)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_are_survived_on_podman() {
    restarts_are_survived(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_are_survived_on_docker() {
    restarts_are_survived(EngineKind::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_one_node_of_one_process() {
    let harness = Harness::podman().await;
    let node = Node::registered(harness.address());
    let second = node.command("run").output().expect("it runs");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && text.contains("in use by another narvana process"), "{text}");
    let again = node.command("init").output().expect("it runs");
    let text = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success() && text.contains("already"), "{again:?}");
    node.get("/v1/apps").expect(200);
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_cut_off_by_a_crash_is_lost_and_run_once_more() {
    let harness = Harness::podman().await;
    let mut node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload"})).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    let (dockerfile, page) = site("late but here");
    std::fs::write(folder.path().join("Dockerfile"), dockerfile.replace("COPY", "RUN sleep 3\nCOPY")).expect("writes");
    std::fs::write(folder.path().join("index.html"), page).expect("writes");
    node.upload("shop", "web", folder.path());
    let deployment = node.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
    let id = deployment["id"].as_str().expect("an id").to_owned();
    until("the build runs", || async {
        let build = node.get("/v1/builds").expect(200);
        build.to_string().contains("\"running\"").then_some(())
    })
    .await;
    node.kill();
    node.run();
    node.wait_deployment(&id, &["running"]);
    let builds = node.get("/v1/builds").expect(200).to_string();
    assert!(builds.contains("\"lost\"") && builds.contains("\"succeeded\""), "{builds}");
}

/// However much is logged, no secret is in it: libraries would print what they carry.
#[tokio::test]
async fn the_most_talkative_log_holds_no_secret() {
    let harness = Harness::podman().await;
    let mut node = Node::registered(harness.address());
    node.stop();
    node.env.push(("NARVANA_LOG".to_owned(), "trace".to_owned()));
    node.run();
    node.log_in();
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    let secret = json!({"key": "SECRET", "value": "tulips-in-amsterdam"});
    node.post("/v1/apps/shop/services/web/env", &secret).expect(201);
    node.deploy("shop", "web");
    let log = node.log();
    assert!(log.contains("DEBUG"), "it says a lot: {log}");
    for secret in ["tulips-in-amsterdam", node.token.as_str(), "correct horse"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{}", line.unwrap_or_default());
    }
}
