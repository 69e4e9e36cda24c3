//! The path every new user walks, and what protects it.

use axum::body::Body;
use http::Request;
use narvana::api::{self, Peer};
use narvana::auth::Pace;
use narvana::model::NodeId;
use narvana::state::Command;
use serde_json::{Value, json};

use crate::api_support::{Api, LOCAL, REMOTE, credentials, image_service, options};

#[tokio::test]
async fn from_registration_to_deployment() {
    let mut api = Api::empty(options()).await;
    assert_eq!(api.get("/auth/setup").await.expect(200), json!({"setup_complete": false, "user_count": 0}));
    assert_eq!(api.get("/auth/can-register").await.expect(200), json!({"can_register": true}));
    let registered = api.post("/auth/register", &credentials()).await.expect(201);
    let mut fields: Vec<&String> = registered.as_object().expect("an object").keys().collect();
    fields.sort();
    assert_eq!(fields, ["email", "is_admin", "org_id", "role", "token", "user_id"]);
    assert_eq!((&registered["role"], &registered["is_admin"]), (&json!("owner"), &json!(true)));
    api.post("/auth/register", &credentials()).await.refused(403, "forbidden");
    assert_eq!(api.get("/auth/can-register").await.expect(200), json!({"can_register": false}));

    let login = api.post("/auth/login", &json!({"email": "ADA@example.org", "password": "correct horse"})).await;
    let login = login.expect(200);
    assert_eq!(login["user_id"], registered["user_id"]);
    api.token = login["token"].as_str().expect("a token").to_owned();
    assert_eq!(api.get("/v1/auth/validate").await.expect(200)["user_id"], registered["user_id"]);
    assert_eq!(api.get("/v1/user/profile").await.expect(200)["email"], "ada@example.org");
    let orgs = api.get("/v1/orgs").await.expect(200);
    assert_eq!((&orgs[0]["id"], &orgs[0]["slug"]), (&registered["org_id"], &json!("my-organization")));

    let app = api.post("/v1/apps", &json!({"name": "shop", "description": "a shop"})).await.expect(201);
    assert_eq!((&app["org_id"], &app["version"]), (&registered["org_id"], &json!(1)));
    let service = api.post("/v1/apps/shop/services", &image_service("web")).await.expect(201);
    assert_eq!((&service["status"], &service["replicas"]), (&json!("new"), &json!(1)));
    assert_eq!(service["url"], "http://web-shop.localhost:8000");
    let deploy = api.post("/v1/apps/shop/services/web/deploy", &json!({})).await;
    let (status, deployment) = (deploy.status, deploy.expect(202));
    // An image needs no build, so that nothing is said to be built: it waits for its instances.
    assert_eq!((status, &deployment["version"], &deployment["status"]), (202, &json!(1), &json!("pending")));
    assert_eq!(api.get("/v1/dashboard/stats").await.expect(200)["deployments_by_status"], json!({"pending": 1}));
    let id = deployment["id"].as_str().expect("an id");
    let shown = api.get(&format!("/v1/deployments/{id}")).await.expect(200);
    assert_eq!((&shown["instances"], &shown["url"]), (&json!([]), &json!("http://web-shop.localhost:8000")));
    assert_eq!(api.get("/v1/apps/shop/deployments").await.expect(200)[0]["id"], id);
    assert_eq!(api.get("/v1/apps/shop/logs?source=runtime").await.expect(200)["logs"], json!([]));
    assert_eq!(api.get("/v1/nodes").await.expect(200), json!([]));
    assert_eq!(api.get("/v1/dashboard/stats").await.expect(200)["total_services"], 1);

    api.post("/auth/logout", &Value::Null).await.expect(204);
    api.get("/v1/apps").await.refused(401, "unauthorized");
}

#[tokio::test]
async fn a_git_source_waits_for_its_build() {
    let api = Api::registered().await;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    let service = json!({"name": "web", "git_repo": "github.com/o/r"});
    let service = api.post("/v1/apps/shop/services", &service).await.expect(201);
    assert_eq!((&service["source_type"], &service["build_strategy"]), (&json!("git"), &json!("dockerfile")));
    let deployment = api.post("/v1/apps/shop/services/web/deploy", &json!({"git_ref": "v1"})).await.expect(202);
    assert_eq!((&deployment["status"], &deployment["config"]["git_ref"]), (&json!("pending"), &json!("v1")));
    let build = deployment["build_id"].as_str().expect("a build").to_owned();
    let shown = api.get(&format!("/v1/builds/{build}")).await.expect(200);
    assert_eq!((&shown["status"], &shown["app_name"]), (&json!("queued"), &json!("shop")));
    api.post(&format!("/v1/builds/{build}/retry"), &Value::Null).await.refused(409, "conflict");
    let cancelled = api.post(&format!("/v1/builds/{build}/cancel"), &json!({})).await.expect(202);
    assert_eq!(cancelled["status"], "cancelled");
    let retried = api.post(&format!("/v1/builds/{build}/retry"), &json!({})).await.expect(202);
    assert_eq!(retried["version"], 2);
    assert_eq!(api.get("/v1/builds").await.expect(200).as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn the_first_registration_from_elsewhere_needs_the_setup_token() {
    let api = Api::empty(options()).await;
    let from = |from: &'static str, extra: Value| {
        let mut body = credentials();
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        api.build("POST", "/auth/register", &body, from)
    };
    let refused = api.request(from(REMOTE, json!({}))).await.refused(400, "invalid_request");
    assert!(refused["details"]["setup_token"].is_string(), "{refused}");
    api.request(from(REMOTE, json!({"setup_token": "wrong"}))).await.refused(403, "forbidden");
    // A proxy on this machine, and a page whose name points here, are not this machine's user.
    for (name, value) in [("x-forwarded-for", "192.0.2.7"), ("host", "evil.example")] {
        let mut request = from(LOCAL, json!({}));
        request.headers_mut().insert(name, value.parse().expect("a value"));
        api.request(request).await.refused(400, "invalid_request");
    }
    api.request(from(REMOTE, json!({"setup_token": "let me in"}))).await.expect(201);

    // Of a node that joined.
    let api = Api::empty(api::Options { setup_token: None, ..options() }).await;
    let request = api.build(
        "POST",
        "/auth/register",
        &{
            let mut body = credentials();
            body["setup_token"] = json!("let me in");
            body
        },
        REMOTE,
    );
    let refused = api.request(request).await.refused(403, "forbidden");
    assert!(refused["message"].as_str().is_some_and(|words| words.contains("only the node that")), "{refused}");
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let pace = |burst| Pace { burst, every: std::time::Duration::from_secs(60) };
    let choices = narvana::api::Options { pace_by_account: pace(3), pace_by_address: pace(12), ..options() };
    let api = Api::registered_with(choices).await;
    let attempt = |email: &str, password: &str| {
        let body = json!({"email": email, "password": password});
        api.build("POST", "/auth/login", &body, LOCAL)
    };
    // Those who know the password are not slowed down.
    for _ in 0..5 {
        api.request(attempt("ada@example.org", "correct horse")).await.expect(200);
    }
    let wrong = api.request(attempt("ada@example.org", "wrong horse")).await.refused(401, "unauthorized");
    let unknown = api.request(attempt("eve@example.org", "wrong horse")).await.refused(401, "unauthorized");
    assert_eq!(wrong["message"], unknown["message"]);
    for _ in 0..2 {
        api.request(attempt("ada@example.org", "wrong horse")).await.refused(401, "unauthorized");
    }
    let slowed = api.request(attempt("ada@example.org", "correct horse")).await;
    let seconds: u64 = slowed.headers["retry-after"].to_str().expect("text").parse().expect("a number");
    assert!((1..=61).contains(&seconds), "{seconds}");
    slowed.refused(429, "rate_limited");
    // And one address for all accounts.
    api.request(attempt("c@example.org", "wrong horse")).await.refused(401, "unauthorized");
    api.request(attempt("d@example.org", "wrong horse")).await.refused(429, "rate_limited");
}

#[tokio::test]
async fn a_fresh_or_a_stale_answer() {
    let api = Api::registered().await;
    let made = api.post("/v1/apps", &json!({"name": "shop"})).await;
    let index: u64 = made.headers["x-narvana-index"].to_str().expect("text").parse().expect("a number");
    assert!(index > 0);
    let read = api.get(&format!("/v1/apps?min_index={index}")).await;
    assert_eq!(read.headers["x-narvana-index"], index.to_string());
    assert_eq!(api.get("/v1/apps?consistency=stale").await.expect(200)[0]["name"], "shop");
    let refused = api.get("/v1/apps?consistency=some").await.refused(400, "invalid_request");
    assert!(refused["details"]["consistency"].is_string());
}

#[tokio::test]
async fn the_document_and_the_numbers_are_there_for_everybody_here() {
    let api = Api::registered().await;
    let document = api.get("/api/docs/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    assert!(document["components"]["schemas"]["Error"].is_object());
    // Every reference leads somewhere, and every path parameter is described.
    let text = document.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().expect("a pointer");
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let named: Vec<&str> = path.split('{').skip(1).filter_map(|part| part.split('}').next()).collect();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let described: Vec<&str> =
                parameters.iter().filter(|p| p["in"] == "path").filter_map(|p| p["name"].as_str()).collect();
            assert_eq!(named, described, "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
        }
    }
    let page = api.get("/api/docs").await;
    assert!(page.text.contains("/v1/apps/{app}/services"), "{}", page.text);
    let policy = page.headers["content-security-policy"].to_str().expect("text");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    assert_eq!(api.get("/health").await.expect(200)["status"], "healthy");
    assert_eq!(api.get("/ready").await.expect(200)["ready"], true);
    assert_eq!(api.get("/v1/status").await.expect(200)["has_quorum"], true);
    let metrics = api.get("/metrics").await.text;
    for line in
        ["narvana_users 1", "narvana_raft_leader 1", "narvana_proposals_total{command=\"register_first_user\"} 1"]
    {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
    let anonymous = Request::builder().uri("/metrics");
    let anonymous = anonymous.extension(Peer { address: REMOTE.parse().expect("an address"), tls: true });
    api.request(anonymous.body(Body::empty()).expect("a request")).await.refused(401, "unauthorized");
    api.request(api.build("GET", "/metrics", &Value::Null, REMOTE)).await.expect(200);
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_not_healthy_and_says_since_when() {
    let api = Api::registered().await;
    let node = NodeId::FOUNDER;
    api.register_node().await;
    assert_eq!(api.get("/v1/nodes/1").await.expect(200)["healthy"], true);
    api.apply(Command::NoteAbsence { node, absent: true }).await;
    let shown = api.get("/v1/status").await.expect(200)["nodes"][0].clone();
    assert_eq!(shown["healthy"], false);
    let reason = shown["unhealthy_reason"].as_str().expect("a reason");
    assert!(reason.starts_with("does not answer since 20"), "{reason}");
    api.apply(Command::NoteAbsence { node, absent: false }).await;
    let shown = api.get("/v1/nodes/1").await.expect(200);
    assert_eq!((&shown["healthy"], &shown["unhealthy_reason"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn the_whole_state_leaves_the_machine_over_tls_only() {
    let api = Api::registered().await;
    let local = || api.build("GET", "/v1/backup", &Value::Null, LOCAL);
    assert_eq!(api.open(local()).await.status(), 200);
    // Whoever asks through a proxy on this machine may be anywhere, and get the answer in the open.
    for header in ["forwarded", "x-forwarded-for", "via"] {
        let mut proxied = local();
        proxied.headers_mut().insert(header, "192.0.2.7".parse().expect("a value"));
        api.request(proxied).await.refused(409, "conflict");
    }
}
