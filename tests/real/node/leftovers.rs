//! What stays behind on the engine when an app is deleted: images of builds and networks go, data stays.

use narvana::engine::{Engine, Labels, StoredImage};
use serde_json::{Value, json};

use super::site;
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, EngineKind, Harness, context_with, until};

/// Images and networks of an app on this engine.
async fn kept(engine: &dyn Engine, app: &str) -> (Vec<StoredImage>, usize) {
    let label = Labels::from([("narvana.app".to_owned(), app.to_owned())]);
    // Podman answers with an error when an image goes while it makes the list.
    let images = until("a list of images", || async { engine.list_images(&label).await.ok() }).await;
    let networks = engine.list_networks(&Labels::new()).await.expect("a list");
    let network = format!("narvana-{app}");
    (images, networks.iter().filter(|found| found.name == network).count())
}

/// An app with one service that is built from a folder and runs. Returns the app's id.
async fn built(node: &Node, name: &str) -> String {
    let app = node.post("/v1/apps", &json!({"name": name})).expect(201);
    let services = format!("/v1/apps/{name}/services");
    node.post(&services, &json!({"name": "web", "source_type": "upload"})).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    let (dockerfile, page) = site(name);
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("writes");
    std::fs::write(folder.path().join("index.html"), page).expect("writes");
    node.upload(name, "web", folder.path());
    node.deploy(name, "web");
    app["id"].as_str().expect("an id").to_owned()
}

/// An image of another cluster that shares this engine.
async fn strange_image(harness: &Harness) -> String {
    let tag = format!("localhost/narvana/{}:v1", harness.name("other-cluster"));
    let mut request = context_with(&tag, &format!("FROM {BUSYBOX}\nENV WHOSE=other\n"), &[]);
    let labels = [("cluster", uuid::Uuid::nil()), ("build", uuid::Uuid::nil())];
    request.labels = labels.iter().map(|(key, id)| (format!("narvana.{key}"), id.to_string())).collect();
    request.labels.insert("narvana.node".to_owned(), "1".to_owned());
    let (log, mut lines) = tokio::sync::mpsc::channel(64);
    let (built, ()) =
        tokio::join!(harness.engine().build(request, log), async { while lines.recv().await.is_some() {} });
    built.expect("it is built");
    tag
}

async fn images_and_networks_go_with_their_app(kind: EngineKind) {
    let harness = Harness::of(kind).await;
    let mut node = Node::registered(harness.address());
    let engine = harness.engine();
    let strange = strange_image(&harness).await;
    let (first, second) = (built(&node, "first").await, built(&node, "second").await);
    for app in [&first, &second] {
        let (images, networks) = kept(engine, app).await;
        assert_eq!((images.len(), networks), (1, 1), "{images:?}");
    }

    // One app that runs is deleted; what it needed goes with its containers.
    assert_eq!(node.send("DELETE", "/v1/apps/first", &Value::Null).status, 204);
    until("nothing of it is left", || async {
        let (images, networks) = kept(engine, &first).await;
        (images.is_empty() && networks == 0).then_some(())
    })
    .await;
    assert_eq!(node.fetch("web-second.localhost", "/").body.trim(), "second");

    // One whose containers had ended, and while narvana was away: the next start sees that it is nobody's.
    node.post("/v1/apps/second/services/web/stop", &json!({})).expect(200);
    let label = Labels::from([("narvana.app".to_owned(), second.clone())]);
    until("its container is gone", || async { engine.list(&label).await.expect("a list").is_empty().then_some(()) })
        .await;
    let (images, networks) = kept(engine, &second).await;
    assert_eq!((images.len(), networks), (1, 1), "what is stopped can be started again: {images:?}");
    assert_eq!(node.send("DELETE", "/v1/apps/second", &Value::Null).status, 204);
    node.stop();
    node.run();
    until("nothing of it is left", || async {
        let (images, networks) = kept(engine, &second).await;
        (images.is_empty() && networks == 0).then_some(())
    })
    .await;
    assert!(engine.image(&strange).await.expect("an answer").is_some(), "another cluster's image is not touched");
    engine.remove_image(&strange).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_networks_go_with_their_app_on_podman() {
    images_and_networks_go_with_their_app(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_networks_go_with_their_app_on_docker() {
    images_and_networks_go_with_their_app(EngineKind::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_deleted_service_stays_and_is_nobodys() {
    let harness = Harness::podman().await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let script = "[ -e /data/born ] || date +%s%N > /data/born; cp /data/born /www/born; exec httpd -f -p 8080 -h /www";
    let service = json!({
        "name": "web", "image": BUSYBOX, "command": ["sh", "-c", script],
        "volumes": [{"name": "data", "path": "/data"}],
        "health_check": {"type": "http", "path": "/born", "interval_seconds": 1, "retries": 30},
    });
    let (mut volumes, mut births) = (Vec::new(), Vec::new());
    for _life in 0..2 {
        let created = node.post("/v1/apps/shop/services", &service).expect(201);
        let service_id = created["id"].as_str().expect("an id").to_owned();
        let volume = format!("narvana-{service_id}-data");
        node.deploy("shop", "web");
        let birth = until("what it wrote when it had no data", || async {
            let answer = node.fetch("web-shop.localhost", "/born");
            (answer.status == 200).then_some(answer.body)
        });
        births.push(birth.await);
        let deleted = node.cli(&["service", "delete", "web", "--app", "shop"]);
        let words = String::from_utf8_lossy(&deleted.stderr).into_owned();
        assert!(deleted.status.success() && words.contains(&format!("podman volume rm {volume}")), "{words}");
        volumes.push(volume);
        until("no container is left", || async {
            let of_the_service = Labels::from([("narvana.service".to_owned(), service_id.clone())]);
            harness.engine().list(&of_the_service).await.ok()?.is_empty().then_some(())
        })
        .await;
    }
    assert_ne!(births[0], births[1], "the second service did not get the data of the first");
    for volume in &volumes {
        let shown = podman(&["volume", "inspect", "--format", "{{index .Labels \"narvana.volume\"}}", volume]);
        assert_eq!(shown.trim(), "shop/web/data");
        podman(&["volume", "rm", volume]);
    }
}

/// Runs podman on the machine's storage, as an operator would.
fn podman(args: &[&str]) -> String {
    let output = std::process::Command::new("podman").args(args).output().expect("podman is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
