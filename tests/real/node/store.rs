//! Images that were built outlive the engine that built them: the node brings them back from its own store.

use narvana::engine::{Engine, Labels};
use serde_json::{Value, json};

use super::site;
use crate::harness::node::Node;
use crate::harness::{EngineKind, Harness, until};

/// Ids and names of the app's images on this engine.
async fn images(engine: &dyn Engine, app: &str) -> Vec<(String, Vec<String>)> {
    let label = Labels::from([("narvana.app".to_owned(), app.to_owned())]);
    // Podman answers with an error when an image goes while it makes the list.
    let images = until("a list of images", || async { engine.list_images(&label).await.ok() }).await;
    images.into_iter().map(|image| (image.id, image.references)).collect()
}

/// Removes the app's images from the engine, once its containers are gone, as an operator would who needs the space.
async fn forget_images(engine: &dyn Engine, app: &str) {
    let label = Labels::from([("narvana.app".to_owned(), app.to_owned())]);
    until("its containers are gone", || async { engine.list(&label).await.ok()?.is_empty().then_some(()) }).await;
    for (id, names) in images(engine, app).await {
        for name in if names.is_empty() { vec![id] } else { names } {
            engine.remove_image(&name).await.expect("removed");
        }
    }
    assert_eq!(images(engine, app).await, [], "the engine knows nothing of it");
}

async fn expect_page(node: &Node, text: &str) {
    until(text, || async { (node.fetch("web-shop.localhost", "/").body.trim() == text).then_some(()) }).await;
}

fn deploy(node: &Node, text: &str) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let (dockerfile, page) = site(text);
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("writes");
    std::fs::write(folder.path().join("index.html"), page).expect("writes");
    node.upload("shop", "web", folder.path());
    node.deploy("shop", "web")
}

async fn an_image_comes_back_from_the_nodes_store(kind: EngineKind) {
    let harness = Harness::of(kind).await;
    let engine = harness.engine();
    let mut node = Node::registered(harness.address());
    let app = node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let app = app["id"].as_str().expect("an id").to_owned();
    node.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload"})).expect(201);
    let first = deploy(&node, "one");
    let image = first["artifact"].as_str().expect("an image").to_owned();
    assert!(image.starts_with("narvana/") && image.contains("@sha256:"), "{image}");
    expect_page(&node, "one").await;
    let [(id, names)] = &images(engine, &app).await[..] else { panic!("one image") };
    assert!(matches!(&names[..], [name] if name.ends_with(":v1")), "only the local name is left: {names:?}");
    let id = id.clone();

    // Stopped, forgotten by the engine, started: the node has it.
    node.post("/v1/apps/shop/services/web/stop", &json!({})).expect(200);
    forget_images(engine, &app).await;
    let started = node.post("/v1/apps/shop/services/web/start", &json!({})).expect(202);
    node.wait_deployment(started["id"].as_str().expect("an id"), &["running"]);
    expect_page(&node, "one").await;
    assert_eq!(images(engine, &app).await[0].0, id, "the same image");

    // A second version, a restart of the node (its registry is somewhere else then), and the way back.
    deploy(&node, "two");
    expect_page(&node, "two").await;
    node.post("/v1/apps/shop/services/web/stop", &json!({})).expect(200);
    forget_images(engine, &app).await;
    node.stop();
    node.run();
    let back = node.post("/v1/apps/shop/services/web/rollback", &json!({"version": 1})).expect(202);
    node.wait_deployment(back["id"].as_str().expect("an id"), &["running"]);
    expect_page(&node, "one").await;
    assert_eq!(images(engine, &app).await[0].0, id);

    // What came from the store has no local name, and goes with its app all the same.
    assert_eq!(node.send("DELETE", "/v1/apps/shop", &Value::Null).status, 204);
    until("nothing of it is left", || async { images(engine, &app).await.is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_back_from_the_nodes_store_on_podman() {
    an_image_comes_back_from_the_nodes_store(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_back_from_the_nodes_store_on_docker() {
    an_image_comes_back_from_the_nodes_store(EngineKind::Docker).await;
}

/// A store that lost a layer: the instance says what is missing and where it is not.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_nowhere_is_named() {
    let harness = Harness::podman().await;
    let engine = harness.engine();
    let node = Node::registered(harness.address());
    let app = node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let app = app["id"].as_str().expect("an id").to_owned();
    node.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload"})).expect(201);
    deploy(&node, "one");
    node.post("/v1/apps/shop/services/web/stop", &json!({})).expect(200);
    forget_images(engine, &app).await;
    for blob in std::fs::read_dir(node.data.join("artifacts")).expect("a folder") {
        std::fs::remove_file(blob.expect("a file").path()).expect("removed");
    }
    let started = node.post("/v1/apps/shop/services/web/start", &json!({})).expect(202);
    let failed = node.wait_deployment(started["id"].as_str().expect("an id"), &["failed"]);
    let reason = failed["reason"].to_string();
    for words in ["cannot get image narvana/", "is on no node that answers", "deploy the service again"] {
        assert!(reason.contains(words), "{reason}");
    }
}
