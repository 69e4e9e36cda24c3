//! Images from a registry: pulled when they are not there, and a clear reason when they cannot be.

use serde_json::{Value, json};

use crate::harness::node::Node;
use crate::harness::registry::Registry;
use crate::harness::{EngineKind, Harness, until};

const DEPLOY: &str = "/v1/apps/shop/services/web/deploy";

/// Waits for a page of the service.
async fn expect_page(node: &Node, text: &str) {
    until(text, || async { (node.fetch("web-shop.localhost", "/").body.trim() == text).then_some(()) }).await;
}

/// Makes the service run another image, and waits for how that ends.
fn deploy(node: &Node, image: &str, end: &str) -> Value {
    node.send("PATCH", "/v1/apps/shop/services/web", &json!({"image": image})).expect(200);
    let deployment = node.post(DEPLOY, &json!({})).expect(202);
    node.wait_deployment(deployment["id"].as_str().expect("an id"), &[end])
}

async fn an_image_is_pulled(kind: EngineKind) {
    let registry = Registry::start();
    let harness = Harness::with_registry(kind, &registry).await;
    let tagged = format!("shop/web-{}:1", harness.name("one"));
    registry.fill(&harness, &tagged, "from a tag").await;
    let (by_digest, named) = (format!("shop/web-{}:1", harness.name("two")), harness.name("two"));
    let digest = registry.fill(&harness, &by_digest, "from a digest").await;
    let (false_one, false_name) = (format!("shop/web-{}:1", harness.name("three")), harness.name("three"));
    let false_digest = registry.fill(&harness, &false_one, "from somebody else").await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let image = format!("{}/{tagged}", registry.host());
    let check = json!({"type": "tcp", "interval_seconds": 1, "retries": 5});
    let service = json!({"name": "web", "source_type": "image", "image": image, "health_check": check});
    node.post("/v1/apps/shop/services", &service).expect(201);

    // A slow registry: the instance says what it is waiting for.
    registry.hang();
    let deployment = node.post(DEPLOY, &json!({})).expect(202);
    let id = deployment["id"].as_str().expect("an id");
    until("it pulls", || async {
        let deployment = node.get(&format!("/v1/deployments/{id}")).expect(200);
        (deployment["instances"][0]["status"] == "pulling").then_some(())
    })
    .await;
    registry.resume();
    node.wait_deployment(id, &["running"]);
    expect_page(&node, "from a tag").await;

    let pinned = format!("{}/shop/web-{named}@{digest}", registry.host());
    deploy(&node, &pinned, "running");
    expect_page(&node, "from a digest").await;

    // What comes is not what the digest says: it is not taken, whatever it is.
    registry.falsify(&false_digest);
    let falsified = format!("{}/shop/web-{false_name}@{false_digest}", registry.host());
    let failed = deploy(&node, &falsified, "failed")["reason"].to_string();
    assert!(failed.contains(&format!("cannot pull image {falsified}")) && failed.contains("digest"), "{failed}");
    expect_page(&node, "from a digest").await;

    let missing = format!("{}/{}", registry.host(), tagged.replace(":1", ":2"));
    let failed = deploy(&node, &missing, "failed")["reason"].to_string();
    assert!(failed.contains(&format!("cannot pull image {missing}")) && failed.contains("unknown"), "{failed}");
    let host = registry.host().to_owned();
    drop(registry);
    let failed = deploy(&node, &format!("{host}/shop/gone:1"), "failed")["reason"].to_string();
    assert!(failed.contains("cannot pull image") && failed.contains("connection refused"), "{failed}");
    expect_page(&node, "from a digest").await;
    // Podman's storage outlives the tests. With the node go its containers.
    drop(node);
    for image in [image, pinned] {
        harness.engine().remove_image(&image).await.expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_on_podman() {
    an_image_is_pulled(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_on_docker() {
    an_image_is_pulled(EngineKind::Docker).await;
}
