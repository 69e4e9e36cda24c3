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

    let local = deploy(&node, "localhost/narvana-test/nobody-loaded-it:1", "failed")["reason"].to_string();
    assert!(local.contains("no registry has what is on localhost: load it there"), "{local}");
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

/// A service that runs one image, and what it says.
fn web(image: &str) -> Value {
    let check = json!({"type": "tcp", "interval_seconds": 1, "retries": 5});
    json!({"name": "web", "source_type": "image", "image": image, "health_check": check, "replicas": 1})
}

/// Moves whatever the service has to the node, and off the other one.
async fn move_to(node: &Node, other: &Node, deployment: &str) {
    assert!(node.cli(&["node", "uncordon", node.name()]).status.success());
    let drained = node.cli(&["node", "drain", other.name()]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    let seen = node.get(&format!("/v1/deployments/{deployment}")).expect(200);
    let running = seen["instances"].as_array().expect("a list").iter().filter(|it| it["status"] == "running");
    let places: Vec<_> = running.map(|it| it["node_name"].clone()).collect();
    assert_eq!(places, [node.name()], "{seen:#}");
}

/// A tag that leads somewhere else by now changes nothing of what was deployed, wherever that starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_moves_no_deployment() {
    let registry = Registry::start();
    let docker = Harness::docker().await;
    let podman = Harness::with_registry(EngineKind::Podman, &registry).await;
    let tagged = format!("shop/web-{}:1", docker.name("moving"));
    let (name, _) = tagged.rsplit_once(':').expect("a tag");
    let by_digest = |digest: &str| format!("{}/{name}@{digest}", registry.host());
    let image = format!("{}/{tagged}", registry.host());
    let first_digest = registry.fill(&docker, &tagged, "one").await;
    let first = Node::registered(docker.address());
    let second = first.joined_on("second", podman.address());
    assert!(first.cli(&["node", "cordon", "second"]).status.success());
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &web(&image)).expect(201);
    let deployed = first.deploy("shop", "web");
    assert_eq!(deployed["artifact"], by_digest(&first_digest), "{deployed:#}");
    let id = deployed["id"].as_str().expect("an id");
    expect_page(&first, "one").await;

    let second_digest = registry.fill(&docker, &tagged, "two").await;
    assert_ne!(first_digest, second_digest);
    move_to(&second, &first, id).await;
    expect_page(&second, "one").await;
    // Who deploys it again gets what the tag means now, and the way back needs no registry.
    let deployed = second.deploy("shop", "web");
    assert_eq!(deployed["artifact"], by_digest(&second_digest), "{deployed:#}");
    expect_page(&second, "two").await;
    registry.hang();
    let back = second.post("/v1/apps/shop/services/web/rollback", &json!({})).expect(202);
    let back = second.wait_deployment(back["id"].as_str().expect("an id"), &["running"]);
    assert_eq!(back["artifact"], by_digest(&first_digest), "{back:#}");
    expect_page(&second, "one").await;
    registry.resume();

    // The newest is what the registry has, not what the engine has.
    let latest = format!("{name}:latest");
    registry.fill(&docker, &latest, "three").await;
    deploy(&second, &format!("{}/{latest}", registry.host()), "running");
    expect_page(&second, "three").await;
    let last_digest = registry.fill(&docker, &latest, "four").await;
    second.deploy("shop", "web");
    expect_page(&second, "four").await;
    // And nothing else: whoever does not reach the registry does not decide for all.
    let host = registry.host().to_owned();
    drop(registry);
    let failed = second.post(DEPLOY, &json!({})).expect(202);
    let failed = second.wait_deployment(failed["id"].as_str().expect("an id"), &["failed"])["reason"].to_string();
    assert!(failed.contains("only its registry says what the newest is"), "{failed}");
    expect_page(&second, "four").await;

    drop((first, second));
    for reference in [format!("{host}/{name}:1"), format!("{host}/{latest}")] {
        podman.engine().remove_image(&reference).await.expect("removed");
    }
    for digest in [first_digest, second_digest, last_digest] {
        podman.engine().remove_image(&format!("{host}/{name}@{digest}")).await.expect("removed");
    }
}

/// Podman has another digest of what it built than the registry that it pushed it to. It is the same program; and what the
/// registry has no more is named with the way out.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_engine_built_and_pushed_is_pulled_by_the_others() {
    let registry = Registry::start();
    let podman = Harness::with_registry(EngineKind::Podman, &registry).await;
    let docker = Harness::docker().await;
    let tagged = format!("shop/web-{}:1", podman.name("pushed"));
    let image = format!("{}/{tagged}", registry.host());
    registry.publish(&podman, &tagged, "pushed").await;
    let pushed = podman.engine().image(&image).await.expect("an answer").expect("it is there").id;
    let first = Node::registered(podman.address());
    let second = first.joined_on("second", docker.address());
    assert!(first.cli(&["node", "cordon", "second"]).status.success());
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &web(&image)).expect(201);
    let deployed = first.deploy("shop", "web");
    let id = deployed["id"].as_str().expect("an id");
    move_to(&second, &first, id).await;
    expect_page(&second, "pushed").await;

    // Now the tag leads elsewhere, and nobody has what ran first.
    move_to(&first, &second, id).await;
    docker.engine().remove_image(&image).await.expect("removed");
    registry.publish(&podman, &tagged, "something else").await;
    assert!(second.cli(&["node", "uncordon", "second"]).status.success());
    assert!(second.cli(&["node", "cordon", first.name()]).status.success());
    first.post("/v1/apps/shop/services/web/scale", &json!({"replicas": 2})).expect(200);
    let reason = until("it says why", || async {
        let seen = second.get(&format!("/v1/deployments/{id}")).expect(200);
        let instances = seen["instances"].as_array().expect("a list").clone();
        let failed = instances.iter().find(|it| it["node_name"] == "second" && it["status"] == "failed")?;
        Some(failed["reason"].as_str().expect("a reason").to_owned())
    })
    .await;
    let words = format!("version 1 runs what {image} was when it started, and that is another image now: deploy");
    assert!(reason.contains("cannot pull image") && reason.contains(&words), "{reason}");
    drop((first, second));
    for image in [&image, &pushed] {
        podman.engine().remove_image(image).await.expect("removed");
    }
}

/// Of an image for several processors the digest is that of the list, so that each node gets its own.
async fn a_list_is_known_by_its_own_digest(kind: EngineKind) {
    let registry = Registry::start();
    let harness = Harness::with_registry(kind, &registry).await;
    let tagged = format!("shop/web-{}:1", harness.name("list"));
    let single = registry.fill(&harness, &tagged, "of a list").await;
    let list = registry.list(&tagged);
    assert_ne!(list, single);
    let image = format!("{}/{tagged}", registry.host());
    let by_digest = format!("{}@{list}", image.rsplit_once(':').expect("a tag").0);
    let engine = harness.engine();
    let pulled = engine.pull(&image, tokio::sync::mpsc::channel(64).0).await.expect("pulled");
    let digest = |image: narvana::engine::Image| image.digest.map(|digest| digest.with_algorithm());
    assert_eq!(digest(pulled.clone()).as_ref(), Some(&list));
    let found = engine.image(&image).await.expect("an answer").expect("it is there");
    assert_eq!((found.id.clone(), digest(found)), (pulled.id.clone(), Some(list)));
    let found = engine.image(&by_digest).await.expect("an answer").expect("it is known by it");
    assert_eq!(found.id, pulled.id);
    engine.remove_image(&image).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_known_by_its_own_digest_on_podman() {
    a_list_is_known_by_its_own_digest(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_known_by_its_own_digest_on_docker() {
    a_list_is_known_by_its_own_digest(EngineKind::Docker).await;
}
