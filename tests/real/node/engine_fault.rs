//! The engine goes away under a running node: hung, killed, stopped, its socket gone. It is reported, nothing that runs is
//! given up on that ground, and when the engine is back there is one container for each instance.

use std::time::{Duration, Instant};

use narvana::engine::{ContainerState, Labels};
use serde_json::{Value, json};

use super::image_service;
use crate::harness::node::Node;
use crate::harness::{Harness, until};

/// How soon trouble of the engine has to be seen.
const REPORTED_WITHIN: Duration = Duration::from_secs(10);

struct Shop {
    /// Ends first: it would start again what the harness removes.
    node: Node,
    harness: Harness,
    deployment: String,
}

impl Shop {
    /// A node with a service that runs.
    async fn open(harness: Harness) -> Self {
        let node = Node::registered(harness.address());
        node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
        node.post("/v1/apps/shop/services", &image_service("web")).expect(201);
        let deployment = node.deploy("shop", "web")["id"].as_str().expect("an id").to_owned();
        let shop = Self { harness, node, deployment };
        shop.serves().await;
        shop
    }

    async fn serves(&self) {
        until("the page", || async { (self.node.fetch("web-shop.localhost", "/").status == 200).then_some(()) }).await;
    }

    /// Ids of the instances in this state.
    fn instances(&self, state: &str) -> Vec<String> {
        let deployment = self.node.get(&format!("/v1/deployments/{}", self.deployment)).expect(200);
        let all = deployment["instances"].as_array().expect("a list");
        let found = all.iter().filter(|instance| instance["status"] == state);
        found.map(|instance| instance["id"].as_str().expect("an id").to_owned()).collect()
    }

    fn shown(&self) -> Value {
        self.node.get("/v1/nodes").expect(200)[0].clone()
    }

    /// The trouble is told in time, with what to do, and what runs is left alone.
    async fn trouble_is_reported(&self, since: Instant) {
        let before = self.instances("running");
        let shown = until("the trouble", || async {
            let shown = self.shown();
            (shown["healthy"] == false).then_some(shown)
        })
        .await;
        assert!(since.elapsed() < REPORTED_WITHIN, "after {:?}", since.elapsed());
        let reason = shown["unhealthy_reason"].as_str().expect("a reason");
        assert!(reason.contains("does not answer") && reason.contains("restart it with"), "{reason}");
        assert_eq!(self.instances("running"), before, "nothing is given up");
    }

    /// The engine's socket is gone for a while.
    async fn misses_its_socket(&mut self, replicas: usize) {
        let since = Instant::now();
        self.harness.daemon().hide_socket();
        self.trouble_is_reported(since).await;
        assert_eq!(self.node.fetch("web-shop.localhost", "/").status, 200, "its containers serve without it");
        self.harness.daemon().show_socket();
        self.converges(replicas).await;
    }

    /// The engine is back: the node says so, `replicas` instances run in one container each, and the service answers.
    async fn converges(&self, replicas: usize) {
        until("the node is healthy", || async { (self.shown()["healthy"] == true).then_some(()) }).await;
        let cluster = self.node.cluster();
        let label = Labels::from([("narvana.cluster".to_owned(), cluster)]);
        until("one running container for each instance", || async {
            let containers = self.harness.engine().list(&label).await.ok()?;
            let running = containers.iter().filter(|container| container.state == ContainerState::Running).count();
            let mut owners: Vec<_> = containers.iter().filter_map(|c| c.labels.get("narvana.instance")).collect();
            owners.sort();
            let mut instances = self.instances("running");
            instances.sort();
            let same = owners.iter().copied().eq(instances.iter());
            (same && running == replicas && instances.len() == replicas).then_some(())
        })
        .await;
        self.serves().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_goes_and_comes_back() {
    let mut shop = Shop::open(Harness::podman().await).await;
    let first = shop.instances("running");

    let since = Instant::now();
    shop.harness.daemon().hang();
    shop.trouble_is_reported(since).await;
    assert_eq!(shop.node.fetch("web-shop.localhost", "/").status, 200, "its containers serve without it");
    // What is asked for meanwhile is done when the engine is back, once.
    shop.node.post("/v1/apps/shop/services/web/scale", &json!({"replicas": 2})).expect(200);
    shop.harness.daemon().resume();
    shop.converges(2).await;

    let since = Instant::now();
    shop.harness.daemon().kill();
    shop.trouble_is_reported(since).await;
    assert_eq!(shop.node.fetch("web-shop.localhost", "/").status, 200, "its containers serve without it");
    shop.harness.daemon().start_again();
    shop.converges(2).await;

    shop.misses_its_socket(2).await;

    assert!(shop.instances("running").contains(&first[0]), "it went on through all of it");
    assert_eq!(shop.instances("failed"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_goes_and_comes_back() {
    let mut shop = Shop::open(Harness::docker().await).await;
    let first = shop.instances("running");

    let since = Instant::now();
    shop.harness.daemon().hang();
    shop.trouble_is_reported(since).await;
    shop.node.post("/v1/apps/shop/services/web/scale", &json!({"replicas": 2})).expect(200);
    shop.harness.daemon().resume();
    shop.converges(2).await;
    assert!(shop.instances("running").contains(&first[0]));

    shop.misses_its_socket(2).await;
    assert!(shop.instances("running").contains(&first[0]));
    assert_eq!(shop.instances("failed"), [""; 0]);

    // Without live-restore a daemon that starts ends what an earlier one left running: new instances follow.
    let since = Instant::now();
    shop.harness.daemon().kill();
    shop.trouble_is_reported(since).await;
    shop.harness.daemon().start_again();
    shop.converges(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_with_live_restore_is_stopped_and_started() {
    let mut shop = Shop::open(Harness::docker_with_live_restore().await).await;
    let first = shop.instances("running");
    let since = Instant::now();
    shop.harness.daemon().stop();
    shop.trouble_is_reported(since).await;
    shop.harness.daemon().start_again();
    shop.converges(1).await;
    assert_eq!(shop.instances("running"), first, "it went on");
    assert_eq!(shop.instances("failed"), [""; 0]);
}
