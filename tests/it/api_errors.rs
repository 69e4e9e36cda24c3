//! Whatever goes wrong, the answer has the one shape and says which field.

use axum::body::Body;
use http::Request;
use narvana::api::Peer;
use serde_json::{Value, json};

use crate::api_support::{Api, LOCAL, image_service};

#[tokio::test]
async fn every_kind_of_error_has_the_one_shape() {
    let api = Api::registered().await;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    api.get("/v1/nowhere").await.refused(404, "not_found");
    api.get("/nowhere").await.refused(404, "not_found");
    api.send("BREW", "/v1/apps", &Value::Null).await.refused(405, "invalid_request");
    api.get("/v1/deployments/not-an-id").await.refused(400, "invalid_request");
    api.get("/v1/apps?limit=0").await.refused(400, "invalid_request");
    api.get("/v1/apps?limit=many").await.refused(400, "invalid_request");
    api.get("/v1/apps?sort=name").await.refused(400, "invalid_request");
    api.get("/v1/apps?cursor=x").await.refused(400, "invalid_request");
    api.get("/v1/apps?min_index=99999999").await.refused(400, "invalid_request");
    api.get("/v1/apps/gone").await.refused(404, "not_found");
    api.post("/v1/apps", &json!({"name": "shop"})).await.refused(409, "conflict");
    api.post("/v1/apps", &json!({"name": "Not A Label"})).await.refused(400, "invalid_request");
    api.post("/v1/apps", &json!([1])).await.refused(400, "invalid_request");
    let raw = |body: Vec<u8>, kind: &str| {
        let mut request = api.build("POST", "/v1/apps", &Value::Null, LOCAL);
        request.headers_mut().insert("content-type", kind.parse().expect("a value"));
        *request.body_mut() = Body::from(body);
        request
    };
    api.request(raw(b"{\"name\":".to_vec(), "application/json")).await.refused(400, "invalid_request");
    api.request(raw(b"{\"name\":\"a\"}".to_vec(), "text/plain")).await.refused(415, "invalid_request");
    api.request(raw(vec![b' '; 2 << 20], "application/json")).await.refused(413, "too_large");
    let deep = "[".repeat(10_000);
    api.request(raw(deep.into_bytes(), "application/json")).await.refused(400, "invalid_request");
    for token in ["", "Basic abc", "Bearer", "Bearer x.y.z"] {
        let mut request = api.build("GET", "/v1/apps", &Value::Null, LOCAL);
        request.headers_mut().insert("authorization", token.parse().expect("a value"));
        let reply = api.request(request).await;
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        reply.refused(401, "unauthorized");
    }
    // A token in the query is for streams only: queries end up in logs.
    let request = Request::builder().uri(format!("/v1/apps?token={}", api.token));
    let request = request.extension(Peer { address: LOCAL.parse().expect("an address"), tls: false });
    api.request(request.body(Body::empty()).expect("a request")).await.refused(401, "unauthorized");
}

/// In words of ours, with what was given: those of the libraries say neither which parameter nor what it has to be.
#[tokio::test]
async fn what_is_wrong_in_a_path_or_a_query_is_named() {
    let api = Api::registered().await;
    for (path, field, reason) in [
        ("/v1/apps?min_index=abc", "min_index", r#"must be a whole number, got "abc""#),
        ("/v1/apps?min_index=", "min_index", r#"must be a whole number, got """#),
        ("/v1/apps?min_index=99999999999999999999", "min_index", "is more than there can be, got"),
        ("/v1/apps?limit=many", "limit", r#"must be a whole number, got "many""#),
        ("/v1/nodes/1/moves?removed=perhaps", "removed", r#"must be true or false, got "perhaps""#),
        ("/v1/simulate/join?memory=99999999Ti", "memory", "at most 16777215Ti"),
        ("/v1/simulate/join?arch=vax", "arch", "must be one of 386, amd64, arm,"),
    ] {
        let refused = api.get(path).await.refused(400, "invalid_request");
        assert!(refused["details"][field].as_str().is_some_and(|said| said.contains(reason)), "{path}: {refused}");
    }
    let none = Value::Null;
    for (method, path, words) in [
        (
            "DELETE",
            "/v1/join-tokens/nope",
            r#""nope" is not the id of a join token; /v1/join-tokens (narvana token ls)"#,
        ),
        ("GET", "/v1/deployments/nope", r#""nope" is not the id of a deployment"#),
        ("GET", "/v1/builds/nope", r#""nope" is not the id of a build"#),
        ("GET", "/v1/nodes/nope", r#""nope" is not the id of a node, which is a number"#),
    ] {
        let refused = api.send(method, path, &none).await.refused(400, "invalid_request");
        assert!(refused["message"].as_str().is_some_and(|said| said.contains(words)), "{path}: {refused}");
    }
}

#[tokio::test]
async fn plain_http_is_for_this_machine() {
    let api = Api::registered().await;
    let mut request = api.build("GET", "/v1/apps", &Value::Null, "192.0.2.9:1234");
    request.headers_mut().insert("host", "node.example:8080".parse().expect("a value"));
    let refused = api.request(request).await.refused(403, "forbidden");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("https://node.example:8080")), "{refused}");
}

#[tokio::test]
async fn unknown_and_missing_fields_are_named() {
    let api = Api::registered().await;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    api.post("/v1/apps/shop/services", &image_service("web")).await.expect(201);
    for (method, path, body, field) in [
        ("POST", "/v1/apps", json!({"name": "a", "nmae": "b"}), "nmae"),
        ("POST", "/v1/apps", json!({}), "name"),
        ("POST", "/v1/apps", json!({"name": 7}), "name"),
        ("PATCH", "/v1/apps/shop", json!({"name": "b"}), "version"),
        ("POST", "/v1/apps/shop/services", json!({"name": "x", "image": "a:1", "port": 80}), "port"),
        ("POST", "/v1/apps/shop/services", json!({"image": "a:1"}), "name"),
        (
            "POST",
            "/v1/apps/shop/services",
            json!({"name": "x", "image": "a:1", "ports": [{"container_port": 70000}]}),
            "ports[0].container_port",
        ),
        (
            "POST",
            "/v1/apps/shop/services",
            json!({"name": "x", "image": "a:1", "resources": {"cpus": "1"}}),
            "resources.cpus",
        ),
        ("POST", "/v1/apps/shop/services/web/stop", json!({"now": true}), "now"),
        ("POST", "/v1/apps/shop/services/web/scale", json!({}), "replicas"),
        ("PATCH", "/v1/settings", json!({"colour": "red"}), "colour"),
        ("PATCH", "/v1/settings", json!({"public_ip": "x"}), "public_ip"),
        ("POST", "/v1/apps", json!({"name": "a", "services": [{"name": "x"}]}), "services[0].source_type"),
    ] {
        let refused = api.send(method, path, &body).await.refused(400, "invalid_request");
        assert!(refused["details"].get(field).is_some(), "{method} {path} {body}: {refused}");
    }
}

#[tokio::test]
async fn a_request_keeps_its_id_when_it_is_harmless() {
    let api = Api::registered().await;
    for (given, kept) in [("abc-123", true), ("a b", false), ("<script>", false)] {
        let mut request = api.build("GET", "/v1/apps/gone", &Value::Null, LOCAL);
        request.headers_mut().insert("x-request-id", given.parse().expect("a value"));
        let refused = api.request(request).await.refused(404, "not_found");
        assert_eq!(refused["request_id"] == given, kept, "{given}");
    }
}

#[tokio::test]
async fn a_cluster_that_is_full_says_so_and_takes_what_makes_room() {
    let api = Api::registered().await;
    api.send("PATCH", "/v1/settings", &json!({"max_state_size": "1Mi"})).await.expect(200);
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    let large = |name: &str| {
        let mut service = image_service(name);
        let values = (0..15).map(|number| (format!("A{number}"), Value::from("x".repeat(32_000))));
        service["env_vars"] = Value::Object(values.collect());
        service
    };
    for name in ["a", "b"] {
        api.post("/v1/apps/shop/services", &large(name)).await.expect(201);
    }
    let refused = api.post("/v1/apps/shop/services", &large("c")).await.refused(507, "state_full");
    let message = refused["message"].as_str().expect("a message");
    assert!(message.contains("2 MiB") && message.contains("1 MiB") && message.contains("max_state_size"), "{message}");
    let status = api.get("/v1/status").await.expect(200);
    let (bytes, limit) = (status["state_bytes"].as_u64(), status["state_limit_bytes"].as_u64());
    assert!(bytes.is_some_and(|bytes| (960_000..1 << 20).contains(&bytes)), "{bytes:?}");
    assert_eq!(limit, Some(1 << 20));
    let metrics = api.get("/metrics").await.text;
    assert!(metrics.contains(&format!("narvana_state_bytes {}", bytes.expect("a number"))), "{metrics}");
    assert!(metrics.contains("narvana_state_limit_bytes 1048576"), "{metrics}");
    api.send("DELETE", "/v1/apps/shop/services/a", &Value::Null).await.expect(204);
    api.post("/v1/apps/shop/services", &large("c")).await.expect(201);
}
