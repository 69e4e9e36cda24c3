//! What goes wrong: the old version goes on serving, and the deployment says cause, last lines and fix.

use serde_json::{Value, json};

use super::site;
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, EngineKind, Harness, until};

struct Shop {
    node: Node,
    _harness: Harness,
    folder: tempfile::TempDir,
}

impl Shop {
    /// A node with one service that runs version 1 and has a health check.
    async fn open(kind: EngineKind) -> Self {
        let harness = Harness::of(kind).await;
        let node = Node::registered(harness.address());
        node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
        let service = json!({
            "name": "web", "source_type": "upload",
            "health_check": {"type": "http", "path": "/index.html", "interval_seconds": 1, "timeout_seconds": 1, "retries": 3},
        });
        node.post("/v1/apps/shop/services", &service).expect(201);
        let shop = Self { node, _harness: harness, folder: tempfile::tempdir().expect("a folder") };
        let (dockerfile, page) = site("version one");
        shop.upload(&dockerfile, &page);
        shop.node.deploy("shop", "web");
        shop.expect_page("version one").await;
        shop
    }

    fn upload(&self, dockerfile: &str, page: &str) {
        std::fs::write(self.folder.path().join("Dockerfile"), dockerfile).expect("writes");
        std::fs::write(self.folder.path().join("index.html"), page).expect("writes");
        self.node.upload("shop", "web", self.folder.path());
    }

    async fn expect_page(&self, text: &str) {
        until(text, || async {
            (self.node.fetch("web-shop.localhost", "/index.html").body.trim() == text).then_some(())
        })
        .await;
    }

    /// Deploys what was uploaded, which fails.
    fn deploy_failing(&self) -> Value {
        let deployment = self.node.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
        self.node.wait_deployment(deployment["id"].as_str().expect("an id"), &["failed"])
    }
}

fn says(deployment: &Value, field: &str, words: &str) {
    assert!(deployment[field].to_string().contains(words), "{field} has to say {words:?}: {deployment:#}");
}

async fn a_broken_build(kind: EngineKind) {
    let shop = Shop::open(kind).await;
    shop.upload(&format!("FROM {BUSYBOX}\nRUN echo the cause is here && exit 3\n"), "");
    let failed = shop.deploy_failing();
    says(&failed, "reason", "3");
    says(&failed, "reason", "build log");
    says(&failed, "log_tail", "the cause is here");
    shop.expect_page("version one").await;

    shop.upload("FROM scratch\nRUN --mount=type=bind,from=x,source=/ true\n", "");
    says(&shop.deploy_failing(), "reason", "line 2");
    std::fs::remove_file(shop.folder.path().join("Dockerfile")).expect("removes");
    shop.node.upload("shop", "web", shop.folder.path());
    says(&shop.deploy_failing(), "reason", "index.html");
    shop.expect_page("version one").await;
}

async fn a_broken_start(kind: EngineKind) {
    let shop = Shop::open(kind).await;
    let crash = r#"CMD ["sh", "-c", "echo cannot open the database; exit 7"]"#;
    shop.upload(&format!("FROM {BUSYBOX}\n{crash}\n"), "");
    let failed = shop.deploy_failing();
    says(&failed, "reason", "7");
    says(&failed, "log_tail", "cannot open the database");
    shop.expect_page("version one").await;
}

async fn a_sick_version(kind: EngineKind) {
    let shop = Shop::open(kind).await;
    let sick = r#"CMD ["sh", "-c", "echo still warming up; mkdir -p /empty; httpd -f -p 8080 -h /empty"]"#;
    shop.upload(&format!("FROM {BUSYBOX}\n{sick}\n"), "");
    let failed = shop.deploy_failing();
    says(&failed, "reason", "404");
    says(&failed, "log_tail", "still warming up");
    shop.expect_page("version one").await;
    // The failure is over and done with: the next good version replaces the old one.
    let (dockerfile, page) = site("version five");
    shop.upload(&dockerfile, &page);
    shop.node.deploy("shop", "web");
    shop.expect_page("version five").await;
}

/// A program that takes all the memory it may.
async fn a_greedy_version(kind: EngineKind) {
    let shop = Shop::open(kind).await;
    let service = json!({"resources": {"cpu": "0.25", "memory": "16Mi"}});
    shop.node.send("PATCH", "/v1/apps/shop/services/web", &service).expect(200);
    let greedy = r#"CMD ["sh", "-c", "echo hungry; dd if=/dev/zero of=/dev/null bs=64M"]"#;
    shop.upload(&format!("FROM {BUSYBOX}\n{greedy}\n"), "");
    let failed = shop.deploy_failing();
    says(&failed, "reason", "16Mi");
    says(&failed, "log_tail", "hungry");
    shop.expect_page("version one").await;
}

/// The node's builds that are in this state.
fn builds(node: &Node, status: &str) -> Vec<Value> {
    let builds = node.get("/v1/builds").expect(200);
    builds.as_array().expect("a list").iter().filter(|build| build["status"] == status).cloned().collect()
}

async fn a_slow_build(kind: EngineKind) {
    let shop = Shop::open(kind).await;
    shop.upload(&format!("FROM {BUSYBOX}\nRUN echo going to sleep && sleep 300\n"), "");
    let deployment = shop.node.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
    let build = until("the step runs", || async {
        let logs = shop.node.get("/v1/apps/shop/logs?source=build").expect(200).to_string();
        logs.contains("going to sleep").then(|| builds(&shop.node, "running").pop()).flatten()
    })
    .await;
    let id = build["id"].as_str().expect("an id");
    shop.node.post(&format!("/v1/builds/{id}/cancel"), &json!({})).expect(202);
    let failed = shop.node.wait_deployment(deployment["id"].as_str().expect("an id"), &["failed"]);
    says(&failed, "reason", "cancelled");
    assert_eq!(builds(&shop.node, "cancelled").len(), 1);

    let service = json!({"build_config": {"build_timeout": 2}});
    shop.node.send("PATCH", "/v1/apps/shop/services/web", &service).expect(200);
    says(&shop.deploy_failing(), "reason", "longer than 2s");
    assert!(builds(&shop.node, "failed")[0].to_string().contains("BUILD_TIMEOUT"));
    shop.expect_page("version one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_version_on_podman() {
    a_greedy_version(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_version_on_docker() {
    a_greedy_version(EngineKind::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_build_on_podman() {
    a_slow_build(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_build_on_docker() {
    a_slow_build(EngineKind::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_build_on_podman() {
    a_broken_build(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_build_on_docker() {
    a_broken_build(EngineKind::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_start_on_podman() {
    a_broken_start(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_start_on_docker() {
    a_broken_start(EngineKind::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_version_on_podman() {
    a_sick_version(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_version_on_docker() {
    a_sick_version(EngineKind::Docker).await;
}
