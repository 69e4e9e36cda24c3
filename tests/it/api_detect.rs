//! Looking at repositories through the API.

use serde_json::json;

use crate::api_support::Api;
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
