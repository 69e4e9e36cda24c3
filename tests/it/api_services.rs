//! Apps and services: changes, locks, repetition, variables, uploads, lists.

use axum::body::Body;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api_support::{Api, LOCAL, Reply, image_service, options};

const WEB: &str = "/v1/apps/shop/services/web";

async fn shop() -> Api {
    let api = Api::registered().await;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    api.post("/v1/apps/shop/services", &image_service("web")).await.expect(201);
    api
}

async fn keyed(api: &Api, key: &str, method: &str, path: &str, body: &Value) -> Reply {
    let mut request = api.build(method, path, body, LOCAL);
    request.headers_mut().insert("idempotency-key", key.parse().expect("a value"));
    api.request(request).await
}

#[tokio::test]
async fn the_slower_of_two_changes_is_refused() {
    let api = shop().await;
    let first = api.send("PATCH", "/v1/apps/shop", &json!({"description": "one", "version": 1})).await.expect(200);
    assert_eq!(first["version"], 2);
    api.send("PATCH", "/v1/apps/shop", &json!({"description": "two", "version": 1})).await.refused(409, "conflict");
    assert_eq!(api.get("/v1/apps/shop").await.expect(200)["description"], "one");
}

#[tokio::test]
async fn repeating_a_request_does_it_once() {
    let api = shop().await;
    let body = json!({"name": "blog"});
    let first = keyed(&api, "k1", "POST", "/v1/apps", &body).await.expect(201);
    let again = keyed(&api, "k1", "POST", "/v1/apps", &body).await.expect(201);
    assert_eq!(first["id"], again["id"]);
    keyed(&api, "k1", "POST", "/v1/apps", &json!({"name": "other"})).await.refused(409, "conflict");
    keyed(&api, "", "POST", "/v1/apps", &body).await.refused(400, "invalid_request");
    let deploy = format!("{WEB}/deploy");
    let first = keyed(&api, "k2", "POST", &deploy, &json!({})).await.expect(202);
    let again = keyed(&api, "k2", "POST", &deploy, &json!({})).await.expect(202);
    assert_eq!((&first["id"], &again["version"]), (&again["id"], &json!(1)));
    // It was made, which "not found" would deny.
    api.send("DELETE", "/v1/apps/blog", &Value::Null).await.expect(204);
    keyed(&api, "k1", "POST", "/v1/apps", &body).await.refused(410, "gone");
    keyed(&api, "k4", "POST", "/v1/apps", &body).await.expect(201);
    // A repeated deletion is done, not missing.
    keyed(&api, "k3", "DELETE", "/v1/apps/blog", &Value::Null).await.expect(204);
    keyed(&api, "k3", "DELETE", "/v1/apps/blog", &Value::Null).await.expect(204);
    api.send("DELETE", "/v1/apps/blog", &Value::Null).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_change_touches_what_it_names() {
    let api = shop().await;
    let body = json!({"env_vars": {"A": "1"}, "ports": [{"container_port": 80}], "replicas": 2,
        "health_check": {"path": "/up"}, "resources": {"memory": "64Mi"}, "command": ["run"]});
    let changed = api.send("PATCH", WEB, &body).await.expect(200);
    assert_eq!(changed["image"], "docker.io/library/nginx:1.27");
    assert_eq!(changed["resources"], json!({"cpu": "0.5", "memory": "64Mi"}));
    assert_eq!(changed["ports"], json!([{"container_port": 80, "protocol": "tcp"}]));
    let check =
        json!({"type": "http", "path": "/up", "port": null, "interval_seconds": 5, "timeout_seconds": 3, "retries": 3});
    for (field, value) in changed["health_check"].as_object().expect("a check") {
        assert_eq!(value, &check[field], "{field}");
    }
    let changed = api.send("PATCH", WEB, &json!({"health_check": null})).await.expect(200);
    assert_eq!((&changed["health_check"], &changed["replicas"]), (&Value::Null, &json!(2)));
    // To another source and back; what belongs to the old one goes.
    let changed = api.send("PATCH", WEB, &json!({"git_repo": "github.com/o/r", "git_ref": "main"})).await.expect(200);
    assert_eq!((&changed["source_type"], &changed["image"]), (&json!("git"), &Value::Null));
    let changed = api.send("PATCH", WEB, &json!({"git_ref": "next"})).await.expect(200);
    assert_eq!((&changed["git_repo"], &changed["git_ref"]), (&json!("github.com/o/r"), &json!("next")));
    api.send("PATCH", WEB, &json!({"name": "api"})).await.refused(400, "invalid_request");
    api.send("PATCH", WEB, &json!({"name": "web"})).await.expect(200);
}

#[tokio::test]
async fn what_is_not_there_yet_is_refused_by_name() {
    let api = shop().await;
    let refused = |field: &'static str, part: &'static str, body: Value| {
        let api = &api;
        async move {
            let refused = api.post("/v1/apps/shop/services", &body).await.refused(400, "invalid_request");
            let reason = refused["details"][field].as_str().unwrap_or_default();
            assert!(reason.contains(part), "{body}: {refused}");
        }
    };
    let git = "github.com/o/r";
    let available = "is not available in this version; available: dockerfile, flake, auto";
    refused("build_strategy", available, json!({"name": "x", "git_repo": git, "build_strategy": "nixpacks"})).await;
    refused("build_strategy", "must be one of", json!({"name": "x", "git_repo": git, "build_strategy": "magic"})).await;
    let pure = json!({"name": "x", "git_repo": git, "build_strategy": "flake", "build_type": "pure-nix"});
    refused("build_type", "pure-nix is not available in this version; available: oci", pure).await;
    refused("source_type", "flake is not available", json!({"name": "x", "flake_uri": "github:o/r"})).await;
    let database = json!({"type": "postgres", "version": "17"});
    refused("source_type", "database is not available", json!({"name": "x", "database": database})).await;
    let wrong = json!({"type": "postgres", "version": "1"});
    refused("database", "version of postgres", json!({"name": "x", "database": wrong})).await;
    refused("source_type", "git_repo, image", json!({"name": "x", "git_repo": git, "image": "a:1"})).await;
    refused("source_type", "give a source", json!({"name": "x"})).await;
    refused("git_repo", "ssh", json!({"name": "x", "git_repo": "git@github.com:o/r"})).await;
    refused("git_repo", "loopback", json!({"name": "x", "git_repo": "http://127.0.0.1/o/r"})).await;
    refused("git_ref", "for the source type git", json!({"name": "x", "image": "a:1", "git_ref": "main"})).await;
    // The same rules hold for changes.
    let reply = api.send("PATCH", WEB, &json!({"git_repo": "http://localhost/o/r"})).await;
    reply.refused(400, "invalid_request");

    let choices = narvana::api::Options { allow_loopback_sources: true, ..options() };
    let api = Api::registered_with(choices).await;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    let local = json!({"name": "x", "git_repo": "http://127.0.0.1:8000/o/r"});
    api.post("/v1/apps/shop/services", &local).await.expect(201);
}

#[tokio::test]
async fn variables() {
    let api = shop().await;
    let env = format!("{WEB}/env");
    api.post(&env, &json!({"key": "A", "value": "1"})).await.expect(201);
    api.post(&env, &json!({"key": "A", "value": "2"})).await.refused(409, "conflict");
    api.post(&env, &json!({"key": "1A", "value": "2"})).await.refused(400, "invalid_request");
    api.send("PUT", &format!("{env}/A"), &json!({"value": "3"})).await.expect(200);
    api.send("PUT", &format!("{env}/B"), &json!({"value": "3"})).await.refused(404, "not_found");
    api.send("PUT", &env, &json!({"variables": {"B": "x"}, "dotenv": "export C=\"y\\nz\"\n# no\n"})).await.expect(200);
    let mut request = api.build("PUT", &env, &Value::Null, LOCAL);
    request.headers_mut().insert("content-type", "text/plain; charset=utf-8".parse().expect("a value"));
    *request.body_mut() = Body::from("D='4'\n");
    api.request(request).await.expect(200);
    let all = api.get(&env).await.expect(200);
    let expected = json!([{"key": "A", "value": "3"}, {"key": "B", "value": "x"}, {"key": "C", "value": "y\nz"},
        {"key": "D", "value": "4"}]);
    assert_eq!(all["variables"], expected);
    let refused = api.send("PUT", &env, &json!({"dotenv": "ok=1\nnonsense"})).await.refused(400, "invalid_request");
    assert!(refused["details"].get("dotenv line 2").is_some(), "{refused}");
    api.send("DELETE", &format!("{env}/A"), &Value::Null).await.expect(204);
    api.send("DELETE", &format!("{env}/A"), &Value::Null).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_source_is_uploaded_for_the_next_deployment() {
    let choices = narvana::api::Options { source_bytes_max: 1_000, ..options() };
    let api = Api::registered_with(choices).await;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    api.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload"})).await.expect(201);
    let refused = api.post(&format!("{WEB}/deploy"), &json!({})).await.refused(409, "conflict");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("upload")), "{refused}");
    let upload = |bytes: Vec<u8>| {
        let mut request = api.build("POST", &format!("{WEB}/source"), &Value::Null, LOCAL);
        request.headers_mut().insert("content-type", "application/gzip".parse().expect("a value"));
        *request.body_mut() = Body::from(bytes);
        api.request(request)
    };
    upload(vec![1; 1_001]).await.refused(413, "too_large");
    upload(Vec::new()).await.refused(400, "invalid_request");
    let source = upload(vec![1; 1_000]).await.expect(201);
    assert_eq!(source["bytes"], 1_000);
    assert_eq!(source["sha256"], hex::encode(Sha256::digest([1; 1_000])));
    let deployment = api.post(&format!("{WEB}/deploy"), &json!({})).await.expect(202);
    assert_eq!(deployment["source_id"], source["source_id"]);

    // This node has the only copy of it, and is the only one at all. That comes first: copies elsewhere would not help.
    api.register_node().await;
    assert_eq!(api.get("/v1/nodes/1/only-copies").await.expect(200)["services"], json!(["shop/web"]));
    for (method, path) in
        [("DELETE", "/v1/nodes/1"), ("DELETE", "/v1/nodes/1?force=true"), ("GET", "/v1/nodes/1/moves?removed=true")]
    {
        let refused = api.send(method, path, &Value::Null).await.refused(409, "conflict");
        let first = "node one is the only one that answers and may vote";
        assert!(refused["message"].as_str().is_some_and(|text| text.starts_with(first)), "{path}: {refused}");
    }
    api.get("/v1/nodes/1/moves").await.expect(200);
    api.send("DELETE", "/v1/nodes/7", &Value::Null).await.refused(404, "not_found");
    api.send("DELETE", "/v1/nodes/1?force=maybe", &Value::Null).await.refused(400, "invalid_request");
}

#[tokio::test]
async fn an_app_deploys_in_order_and_lists_come_in_pages() {
    let api = shop().await;
    let mut worker = image_service("worker");
    worker["depends_on"] = json!(["web"]);
    api.post("/v1/apps/shop/services", &worker).await.expect(201);
    let mut cycle = image_service("loop");
    cycle["depends_on"] = json!(["loop"]);
    api.post("/v1/apps/shop/services", &cycle).await.refused(400, "invalid_request");
    let all = api.post("/v1/apps/shop/deploy", &json!({})).await.expect(202);
    let names: Vec<&str> = all.as_array().expect("a list").iter().filter_map(|d| d["service_name"].as_str()).collect();
    assert_eq!(names, ["web", "worker"]);
    let one = api.post("/v1/apps/shop/deploy", &json!({"service_name": "web"})).await.expect(202);
    assert_eq!(one["version"], 2);
    api.send("DELETE", WEB, &Value::Null).await.refused(409, "conflict");

    let mut seen = Vec::new();
    let mut path = "/v1/deployments?limit=2".to_owned();
    loop {
        let page = api.get(&path).await;
        let next = page.headers.get("x-narvana-next-cursor").map(|next| next.to_str().expect("text").to_owned());
        seen.extend(page.expect(200).as_array().expect("a list").clone());
        match next {
            Some(next) => path = format!("/v1/deployments?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0]["id"], one["id"], "newest first");
    let services = api.get("/v1/apps/shop/services").await.expect(200);
    assert_eq!((&services[0]["name"], &services[1]["name"]), (&json!("web"), &json!("worker")));
}

#[tokio::test]
async fn what_cannot_be_done_now_is_a_conflict() {
    let api = shop().await;
    for action in ["stop", "start", "restart", "reload", "rollback"] {
        api.post(&format!("{WEB}/{action}"), &json!({})).await.refused(409, "conflict");
    }
    api.post(&format!("{WEB}/rollback"), &json!({"version": 7})).await.refused(404, "not_found");
    let scaled = api.post(&format!("{WEB}/scale"), &json!({"replicas": 0})).await.expect(200);
    assert_eq!(scaled["replicas"], 0);
    api.post(&format!("{WEB}/scale"), &json!({"replicas": 1_001})).await.refused(400, "invalid_request");
}
