//! Instances that are sick without being dead: a health that comes and goes, and a crash that comes again and again.

use serde_json::{Value, json};

use crate::harness::node::Node;
use crate::harness::{BUSYBOX, DEADLINE, Harness, until};

async fn shop(service: &Value) -> (Harness, Node, String) {
    let harness = Harness::podman().await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", service).expect(201);
    let deployment = node.deploy("shop", "web")["id"].as_str().expect("an id").to_owned();
    (harness, node, deployment)
}

fn instances(node: &Node, deployment: &str) -> Vec<Value> {
    let deployment = node.get(&format!("/v1/deployments/{deployment}")).expect(200);
    deployment["instances"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_that_comes_and_goes_takes_requests_away_and_restarts_nothing() {
    // Given up after twice as many failures: on a busy machine there has to be time to make it well again.
    let check = json!({"type": "http", "path": "/index.html", "interval_seconds": 1, "retries": 10});
    let (harness, node, deployment) = shop(&json!({"name": "web", "image": BUSYBOX, "health_check": check})).await;
    let before = instances(&node, &deployment)[0].clone();
    let container = before["container_id"].as_str().expect("a container");
    let inside = |command: &'static str| {
        let argv = ["sh", "-c", command].map(str::to_owned);
        let engine = harness.engine();
        async move { engine.exec(container, &argv, DEADLINE).await.expect("it runs") }
    };
    inside("mv /www/index.html /www/away").await;
    until("it gets no requests", || async { (node.fetch("web-shop.localhost", "/").status == 503).then_some(()) })
        .await;
    let sick = instances(&node, &deployment)[0].clone();
    assert_eq!((&sick["status"], &sick["health"]), (&json!("running"), &json!("unhealthy")), "{sick:#}");
    assert!(sick["reason"].as_str().is_some_and(|reason| reason.contains("404")), "{sick:#}");
    inside("mv /www/away /www/index.html").await;
    until("it gets requests again", || async { (node.fetch("web-shop.localhost", "/").status == 200).then_some(()) })
        .await;
    let after = instances(&node, &deployment);
    assert_eq!(
        (after.len(), &after[0]["id"], &after[0]["health"]),
        (1, &before["id"], &json!("healthy")),
        "{after:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_that_comes_again_is_restarted_more_and_more_slowly() {
    let command = json!(["sh", "-c", "sleep 3; echo out of luck; exit 9"]);
    let (_harness, node, deployment) = shop(&json!({"name": "web", "image": BUSYBOX, "command": command})).await;
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()).expect("a time");
    let failed = until("three crashes", || async {
        let mut failed = instances(&node, &deployment);
        failed.retain(|instance| instance["status"] == "failed");
        (failed.len() == 3).then_some(failed)
    });
    let mut failed = failed.await;
    failed.sort_by_key(|instance| instance["attempt"].as_u64());
    let mut pauses = Vec::new();
    for pair in failed.windows(2) {
        assert_eq!((&pair[0]["exit_code"], &pair[0]["log_tail"]), (&json!(9), &json!(["out of luck"])), "{pair:#?}");
        assert!(pair[0]["reason"].as_str().is_some_and(|reason| reason.contains('9')), "{pair:#?}");
        let (ended, again) = (time(&pair[0]["finished_at"]), time(&pair[1]["started_at"]));
        pauses.push((again - ended).total(jiff::Unit::Second).expect("seconds"));
    }
    assert!(pauses[0] >= 1.0 && pauses[1] >= 2.0, "{pauses:?}");
}
