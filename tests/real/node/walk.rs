//! The path every new user walks, with curl.

use serde_json::json;

use super::site;
use crate::git_server::GitServer;
use crate::harness::node::{Node, curl};
use crate::harness::{EngineKind, Harness, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_on_podman() {
    from_a_repository(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_on_docker() {
    from_a_repository(EngineKind::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_on_podman() {
    from_a_folder(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_on_docker() {
    from_a_folder(EngineKind::Docker).await;
}

async fn from_a_repository(kind: EngineKind) {
    let harness = Harness::of(kind).await;
    let git = GitServer::start();
    let (dockerfile, page) = site("from git");
    let files = [("Dockerfile", dockerfile.as_str()), ("index.html", page.as_str())];
    let repository = git.repository("site", "main", &files);
    let mut node = Node::init(harness.address());

    // The public part.
    curl(&[&format!("{}/health", node.api)]).expect(200);
    curl(&[&format!("{}/ready", node.api)]).expect(200);
    let register = json!({"email": "ada@example.org", "password": "correct horse"}).to_string();
    let url = format!("{}/auth/register", node.api);
    let user = curl(&["-H", "Content-Type: application/json", "-d", &register, &url]).expect(201);
    assert_eq!((user["role"].as_str(), user["is_admin"].as_bool()), (Some("owner"), Some(true)));
    assert!(user["org_id"].is_string() && user["user_id"].is_string(), "{user}");
    assert_eq!(curl(&["-H", "Content-Type: application/json", "-d", &register, &url]).status, 403, "only the first");
    let url = format!("{}/auth/login", node.api);
    let login = curl(&["-H", "Content-Type: application/json", "-d", &register, &url]).expect(200);
    assert_eq!(login["user_id"], user["user_id"]);
    node.token = login["token"].as_str().expect("a token").to_owned();

    // An app, a service, a deployment.
    let app = node.post("/v1/apps", &json!({"name": "shop", "description": "a shop"})).expect(201);
    assert_eq!((app["org_id"].clone(), app["version"].as_u64()), (user["org_id"].clone(), Some(1)));
    let service = json!({"name": "web", "source_type": "git", "git_repo": git.url("site"), "git_ref": "main"});
    node.post("/v1/apps/shop/services", &service).expect(201);
    let deployment = node.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
    assert_eq!((deployment["version"].as_u64(), deployment["status"].as_str()), (Some(1), Some("pending")));
    let running = node.wait_deployment(deployment["id"].as_str().expect("an id"), &["running"]);
    assert_eq!(running["instances"][0]["status"], "running", "{running}");
    assert_eq!(running["instances"][0]["health"], "healthy", "{running}");
    assert!(running["url"].as_str().is_some_and(|url| url.contains("web-shop.localhost")), "{running}");

    // It answers, at once and by its host name.
    let answer = until("the page", || async {
        let answer = node.fetch("web-shop.localhost", "/");
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.body.trim(), "from git");
    assert_eq!(node.fetch("nobody.localhost", "/").status, 404);

    // Its logs and its node.
    let logs = node.get("/v1/apps/shop/logs?source=build").expect(200);
    assert!(logs["logs"].as_array().is_some_and(|lines| !lines.is_empty()), "{logs}");
    let nodes = node.get("/v1/nodes").expect(200);
    assert_eq!(nodes.to_string().matches("test-node").count(), 1, "{nodes}");

    // A change of the source is a new version.
    repository.commit(&[("index.html", "from git, again")]);
    let second = node.deploy("shop", "web");
    assert_eq!(second["version"], 2);
    until("the new page", || async {
        (node.fetch("web-shop.localhost", "/").body.trim() == "from git, again").then_some(())
    })
    .await;
}

async fn from_a_folder(kind: EngineKind) {
    let harness = Harness::of(kind).await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "blog"})).expect(201);
    node.post("/v1/apps/blog/services", &json!({"name": "web", "source_type": "upload"})).expect(201);
    let refused = node.post("/v1/apps/blog/services/web/deploy", &json!({}));
    assert!(refused.status >= 400 && refused.body.contains("upload"), "{refused:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let (dockerfile, page) = site("from a folder");
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("writes");
    std::fs::write(folder.path().join("index.html"), page).expect("writes");
    let source = node.upload("blog", "web", folder.path());
    assert_eq!(source["sha256"].as_str().map(str::len), Some(64), "{source}");
    node.deploy("blog", "web");
    until("the page", || async {
        (node.fetch("web-blog.localhost", "/").body.trim() == "from a folder").then_some(())
    })
    .await;
}
