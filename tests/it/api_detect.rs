//! Looking at repositories through the API.

use serde_json::{Value, json};

use crate::api_support::{Api, options};
use crate::git_server::{Behaviour, GitServer};

#[tokio::test]
async fn a_repository_is_looked_at_and_thrown_away() {
    let (api, git) = (Api::registered().await, GitServer::start());
    let files = [
        ("go.mod", "module example.org/site\n\ngo 1.23\n"),
        ("cmd/web/main.go", "package main\n\nfunc main() {}\n"),
        ("front/package.json", r#"{"dependencies": {"express": "5"}, "scripts": {"start": "node index.js"}}"#),
        ("empty/README", "nothing\n"),
    ];
    git.repository("site", "main", &files);
    let found = api.post("/v1/detect", &json!({"git_url": git.url("site")})).await.expect(200);
    assert_eq!((&found["strategy"], &found["version"]), (&json!("auto-go"), &json!("1.23")));
    assert_eq!(found["entry_points"][0], json!({"name": "web", "path": "cmd/web", "is_default": true}));
    assert_eq!(found["default_branch"], "main");
    assert_eq!(found["git_commit"].as_str().map(str::len), Some(40), "{found:#}");
    let of = |folder: &str| json!({"git_url": git.url("site"), "git_ref": "main", "root_directory": folder});
    let found = api.post("/v1/detect", &of("front")).await.expect(200);
    assert_eq!((&found["strategy"], &found["framework"]), (&json!("auto-node"), &json!("express")));
    assert!(found["default_branch"].is_null(), "it was asked for: {found:#}");

    let details = api.post("/v1/detect", &of("empty")).await.refused(422, "invalid_request")["details"].clone();
    assert_eq!(details["build_code"], "NO_LANGUAGE_DETECTED");
    assert!(details["suggestion_1"].as_str().is_some_and(|it| it.contains("Dockerfile")), "{details:#}");
    for (folder, words) in [("../x", "relative path"), ("nowhere", "no such folder")] {
        let refused = api.post("/v1/detect", &of(folder)).await.refused(400, "invalid_request");
        assert!(refused["details"]["root_directory"].as_str().is_some_and(|it| it.contains(words)), "{refused:#}");
    }
    let unknown = json!({"git_url": git.url("site"), "git_ref": "v9"});
    let refused = api.post("/v1/detect", &unknown).await.refused(400, "invalid_request");
    assert!(refused["details"]["git_ref"].as_str().is_some_and(|it| it.contains("main")), "{refused:#}");
    git.behave("private", Behaviour::AskPassword);
    let refused = api.post("/v1/detect", &json!({"git_url": git.url("private")})).await.refused(422, "invalid_request");
    assert_eq!(refused["details"]["build_code"], "REPOSITORY_ACCESS_FAILED");
    assert_eq!(api.left_of_detection(), 0, "nothing is kept");
}

#[tokio::test]
async fn a_service_is_looked_at_before_it_is_built() {
    let choices = narvana::api::Options { allow_loopback_sources: true, ..options() };
    let (api, git) = (Api::registered_with(choices).await, GitServer::start());
    let files = [
        ("go.mod", "module example.org/site\n\ngo 1.23\n"),
        ("go.sum", "example.org/greet v1.0.0 h1:3GQvqUUxRVIYD9cvlbSekhj/YhZAjctqB3im+1keyBo=\n"),
        ("main.go", "package main\n\nfunc main() {}\n"),
        ("docker/Dockerfile", "FROM scratch\n"),
        ("flake/flake.nix", "{ outputs = _: { }; }\n"),
        ("node/package.json", r#"{"main": "index.js"}"#),
    ];
    git.repository("site", "main", &files);
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    let service = json!({"name": "web", "source_type": "git", "git_repo": git.url("site"), "build_strategy": "auto"});
    api.post("/v1/apps/shop/services", &service).await.expect(201);
    let preview = async |asked: Value| api.post("/v1/apps/shop/services/web/preview", &asked).await;

    let seen = preview(json!({})).await.expect(200);
    assert_eq!((&seen["strategy"], &seen["build_type"]), (&json!("auto-go"), &json!("oci")));
    assert_eq!((&seen["detection"]["version"], &seen["dependencies"]), (&json!("1.23"), &json!(1)));
    assert_eq!(seen["revision"].as_str().map(str::len), Some(40), "{seen:#}");
    assert!(seen["generated_flake"].as_str().is_some_and(|it| it.contains("\"github:a/b\"")), "{seen:#}");
    let dependency = &seen["plan"]["dependencies"][0];
    assert_eq!(dependency["place"], "example.org/greet/@v/v1.0.0.zip");
    assert!(dependency["hash"].is_null() && seen["estimated_build_time"].is_null(), "{seen:#}");

    // Otherwise, for once.
    let at = |folder: &str| json!({"root_directory": folder});
    let seen = preview(json!({"build_strategy": "dockerfile", "build_config": at("docker")})).await.expect(200);
    assert!(seen["strategy"] == "dockerfile" && seen["detection"].is_null() && seen["plan"].is_null(), "{seen:#}");
    let seen = preview(json!({"build_config": at("flake")})).await.expect(200);
    assert!(seen["strategy"] == "flake" && seen["generated_flake"].is_null(), "{seen:#}");
    for (asked, code) in [
        (json!({"build_strategy": "dockerfile"}), "DOCKERFILE_NOT_FOUND"),
        (json!({"build_strategy": "flake"}), "FLAKE_NOT_FOUND"),
        (json!({"build_config": at("node")}), "DEPENDENCY_MISSING"),
        (json!({"build_strategy": "auto-python"}), "NO_LANGUAGE_DETECTED"),
        (json!({"build_config": at("nowhere")}), "INVALID_CONFIG"),
    ] {
        let details = preview(asked).await.refused(422, "invalid_request")["details"].clone();
        assert!(details["build_code"] == code && details["suggestion_1"].is_string(), "{code}: {details:#}");
    }
    preview(json!({"build_strategy": "magic"})).await.refused(400, "invalid_request");
    preview(json!({"build_config": at("../x")})).await.refused(400, "invalid_request");
    for (service, words) in [
        (json!({"name": "db", "source_type": "image", "image": "localhost/db:1"}), "nothing is built"),
        (json!({"name": "up", "source_type": "upload"}), "nothing was uploaded"),
    ] {
        let path = format!("/v1/apps/shop/services/{}/preview", service["name"].as_str().expect("a name"));
        api.post("/v1/apps/shop/services", &service).await.expect(201);
        let refused = api.post(&path, &json!({})).await.refused(409, "conflict");
        assert!(refused["message"].as_str().is_some_and(|text| text.contains(words)), "{refused}");
    }
    assert_eq!(api.left_of_detection(), 0, "nothing is kept");
}
