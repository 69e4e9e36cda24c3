//! What people do every day: scale, stop, start, restart, roll back, look at logs, keep data, order services.

use serde_json::{Value, json};

use super::image_service;
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness, until};

const SERVICE: &str = "/v1/apps/shop/services/web";

/// Healthy instances of all deployments.
fn healthy(node: &Node) -> Vec<Value> {
    let deployments = node.get("/v1/deployments").expect(200);
    let mut healthy = Vec::new();
    for deployment in deployments.as_array().expect("a list") {
        let id = deployment["id"].as_str().expect("an id");
        let instances = node.get(&format!("/v1/deployments/{id}")).expect(200)["instances"].clone();
        let all = instances.as_array().cloned().unwrap_or_default();
        healthy.extend(all.into_iter().filter(|i| i["status"] == "running" && i["health"] == "healthy"));
    }
    healthy
}

async fn until_healthy(node: &Node, count: usize) {
    until(&format!("{count} healthy instances"), || async { (healthy(node).len() == count).then_some(()) }).await;
}

async fn shop() -> (Harness, Node) {
    let harness = Harness::podman().await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    (harness, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_scaled_rolled_back_stopped_and_started() {
    let (harness, node) = shop().await;
    node.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    let first = node.deploy("shop", "web");
    let first = first["id"].as_str().expect("an id");
    until_healthy(&node, 1).await;
    node.post(&format!("{SERVICE}/scale"), &json!({"replicas": 3})).expect(200);
    until_healthy(&node, 3).await;
    node.post(&format!("{SERVICE}/scale"), &json!({"replicas": 1})).expect(200);
    until_healthy(&node, 1).await;

    node.post(&format!("{SERVICE}/env"), &json!({"key": "GREETING", "value": "hello"})).expect(201);
    let second = node.deploy("shop", "web");
    assert_eq!(second["version"], 2);
    node.wait_deployment(first, &["stopped"]);
    let back = node.post(&format!("/v1/deployments/{first}/rollback"), &json!({})).expect(202);
    assert_eq!(back["version"], 3);
    node.wait_deployment(back["id"].as_str().expect("an id"), &["running"]);

    let before = healthy(&node)[0]["id"].clone();
    let restarted = node.post(&format!("{SERVICE}/restart"), &json!({}));
    assert!(restarted.status < 300, "{restarted:?}");
    until("a new instance", || async {
        let now = healthy(&node);
        (now.len() == 1 && now[0]["id"] != before).then_some(())
    })
    .await;
    node.post(&format!("{SERVICE}/stop"), &json!({})).expect(200);
    until_healthy(&node, 0).await;
    assert_eq!(node.fetch("web-shop.localhost", "/").status, 503);
    let started = node.post(&format!("{SERVICE}/start"), &json!({}));
    assert!(started.status < 300, "{started:?}");
    until_healthy(&node, 1).await;

    let app = node.get("/v1/apps/shop").expect(200)["id"].as_str().expect("an id").to_owned();
    let explained = node.get(&format!("/v1/deployments/{first}/explain")).expect(200);
    assert!(explained["lines"].as_array().is_some_and(|lines| !lines.is_empty()), "{explained}");
    assert_eq!(node.send("DELETE", "/v1/apps/shop", &Value::Null).status, 204);
    until("no container is left", || async {
        let of_the_app = narvana::engine::Labels::from([("narvana.app".to_owned(), app.clone())]);
        harness.engine().list(&of_the_app).await.ok()?.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_outlives_the_version_that_wrote_it() {
    let (_harness, node) = shop().await;
    let script = "date +%s%N >> /data/starts; cp /data/starts /www/starts; exec httpd -f -p 8080 -h /www";
    let service = json!({
        "name": "web", "image": BUSYBOX, "command": ["sh", "-c", script],
        "volumes": [{"name": "data", "path": "/data", "size": "16Mi"}],
        "health_check": {"type": "http", "path": "/starts", "interval_seconds": 1, "retries": 10},
    });
    node.post("/v1/apps/shop/services", &service).expect(201);
    for starts in 1..=2 {
        node.deploy("shop", "web");
        until("every start so far", || async {
            let answer = node.fetch("web-shop.localhost", "/starts");
            (answer.status == 200 && answer.body.lines().count() == starts).then_some(())
        })
        .await;
    }
    // Two instances never have the volume at once.
    assert_eq!(healthy(&node).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_start_after_those_they_need() {
    let (_harness, node) = shop().await;
    node.post("/v1/apps/shop/services", &image_service("db")).expect(201);
    let mut web = image_service("web");
    web["depends_on"] = json!(["db"]);
    node.post("/v1/apps/shop/services", &web).expect(201);
    let waiting = node.post(&format!("{SERVICE}/deploy"), &json!({})).expect(202);
    let id = waiting["id"].as_str().expect("an id");
    until("it says what it waits for", || async {
        let explained = node.get(&format!("/v1/deployments/{id}/explain")).expect(200);
        explained["lines"].to_string().contains("db").then_some(())
    })
    .await;
    assert_eq!(node.wait_deployment(id, &["pending"])["instances"].as_array().map(Vec::len), Some(0));
    node.deploy("shop", "db");
    node.wait_deployment(id, &["running"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_prints_can_be_read_and_followed() {
    let (_harness, node) = shop().await;
    let script = "for i in 1 2 3 4 5; do echo line $i; done; exec httpd -f -p 8080 -h /www";
    let service = json!({"name": "web", "image": BUSYBOX, "command": ["sh", "-c", script]});
    node.post("/v1/apps/shop/services", &service).expect(201);
    node.deploy("shop", "web");
    until("its lines", || async {
        let logs = node.get("/v1/apps/shop/logs?source=runtime&service_name=web").expect(200).to_string();
        (logs.contains("line 1") && logs.contains("line 5")).then_some(())
    })
    .await;
    let authorization = format!("Authorization: Bearer {}", node.token);
    let url = format!("{}/v1/apps/shop/logs/stream?source=runtime", node.api);
    // curl is ended by its own limit: a stream of a running service has no end.
    let stream = std::process::Command::new("curl")
        .args(["--silent", "--no-buffer", "--max-time", "3", "-H", &authorization, &url])
        .output()
        .expect("the package curl is installed");
    let seen = String::from_utf8_lossy(&stream.stdout).into_owned();
    for number in 1..=5 {
        assert_eq!(seen.matches(&format!("line {number}")).count(), 1, "no gap and no duplicate: {seen}");
    }
}
