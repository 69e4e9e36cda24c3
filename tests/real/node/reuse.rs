//! What was built is not built again: not for another deployment, another app, or by another node.

use std::path::Path;

use serde_json::{Value, json};

use super::fence::last_log;
use super::{id, site};
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness, until};

fn write(folder: &Path, (dockerfile, page): &(String, String)) {
    std::fs::write(folder.join("Dockerfile"), dockerfile).expect("writes");
    std::fs::write(folder.join("index.html"), page).expect("writes");
}

fn service(node: &Node, app: &str, name: &str) {
    let check = json!({"type": "tcp", "interval_seconds": 1, "retries": 20});
    let resources = json!({"cpu": "0.05", "memory": "16Mi"});
    let service = json!({"name": name, "source_type": "upload", "health_check": check, "resources": resources});
    node.post(&format!("/v1/apps/{app}/services"), &service).expect(201);
}

fn build_of(node: &Node, deployment: &Value) -> Value {
    let build = deployment["build_id"].as_str().expect("it is built");
    node.get(&format!("/v1/builds/{build}")).expect(200)
}

/// Deploys, and returns the build.
fn deploy(node: &Node, app: &str, service: &str) -> Value {
    build_of(node, &node.deploy(app, service))
}

/// Why it was built.
fn why(build: &Value) -> &str {
    assert_eq!(build["cache"]["hit"], false, "{build}");
    build["cache"]["reason"].as_str().expect("a reason")
}

/// That it takes the image of another one, and since when that was clear, in milliseconds.
fn took(build: &Value, from: &Value) -> i64 {
    assert!(build["cache"] == json!({"hit": true, "build_id": from["id"], "reason": null}), "{build}");
    let image = |build: &Value| build["image"].as_str().and_then(|it| it.split('@').nth(1)).expect("one").to_owned();
    assert_eq!(image(build), image(from));
    let at = |field: &str| build[field].as_str().and_then(|it| it.parse::<jiff::Timestamp>().ok()).expect("a time");
    (at("finished_at") - at("created_at")).total(jiff::Unit::Millisecond).expect("a length") as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_built_is_built_again_by_nobody() {
    let (podman, docker) = tokio::join!(Harness::podman(), Harness::docker());
    let first = Node::registered(podman.address());
    let second = first.joined_on("second", docker.address());
    for app in ["shop", "blog"] {
        first.post("/v1/apps", &json!({"name": app})).expect(201);
    }
    service(&first, "shop", "web");
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &site("one"));
    assert!(first.cli(&["node", "cordon", "second"]).status.success());
    first.upload("shop", "web", folder.path());
    let built = deploy(&first, "shop", "web");
    assert_eq!(why(&built), "no earlier build of the service is on record with what it was made from");

    // The same again, by a deployment and by an upload of what is equal.
    let again = deploy(&first, "shop", "web");
    let millis = took(&again, &built);
    assert!(millis < 1_000, "decided after {millis} ms");
    assert!(last_log(&first).contains("of shop/web made the same: its image is taken"), "{}", last_log(&first));
    let shown = first.cli(&["build", "show", again["id"].as_str().expect("an id")]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("the same as build"), "{shown:?}");

    // Another app, on another node, which never built anything; the image comes from the first one.
    assert!(first.cli(&["node", "uncordon", "second"]).status.success());
    assert!(first.cli(&["node", "cordon", first.name()]).status.success());
    service(&first, "blog", "pages");
    second.upload("blog", "pages", folder.path());
    let elsewhere = deploy(&second, "blog", "pages");
    assert_eq!(elsewhere["node_name"], "second");
    let millis = took(&elsewhere, &again);
    assert!(millis < 1_000, "decided after {millis} ms");
    until("it answers", || async { second.fetch("pages-blog.localhost", "/").body.contains("one").then_some(()) })
        .await;

    // What is different is built, and that is said.
    write(folder.path(), &site("two"));
    first.upload("shop", "web", folder.path());
    let changed = deploy(&first, "shop", "web");
    assert_eq!(why(&changed), format!("changed since build {}: source", again["id"].as_str().expect("an id")));
    let configured = json!({"build_config": {"environment_vars": {"A": "b"}}});
    first.send("PATCH", "/v1/apps/shop/services/web", &configured).expect(200);
    let configured = deploy(&first, "shop", "web");
    let variables =
        format!("changed since build {}: build_config.environment_vars", changed["id"].as_str().expect("an id"));
    assert_eq!(why(&configured), variables);

    // Whoever wants it built gets that, once.
    let anew = first.cli(&["deploy", "--app", "shop", "--service", "web", "--no-cache"]);
    assert!(anew.status.success(), "{}", String::from_utf8_lossy(&anew.stderr));
    let anew = first.get("/v1/builds?limit=1").expect(200)[0].clone();
    assert_eq!(why(&anew), "it was asked for that nothing be reused");
    assert!(!last_log(&first).contains("Using cache"), "{}", last_log(&first));
    took(&deploy(&first, "shop", "web"), &anew);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_at_the_same_time_is_built_once() {
    let harness = Harness::podman().await;
    let node = Node::registered_as(harness.address(), &[("WORKER_MAX_CONCURRENCY", "3")]);
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    let slow = |word: &str| (format!("FROM {BUSYBOX}\nRUN sleep 5; echo {word} > /www/index.html\n"), String::new());
    let names = ["one", "two", "three"];
    write(folder.path(), &slow("slow"));
    for name in names {
        service(&node, "shop", name);
        node.upload("shop", name, folder.path());
    }
    let begin = |name: &str| id(&node.post(&format!("/v1/apps/shop/services/{name}/deploy"), &json!({})).expect(202));
    let build_now = |deployment: &str| build_of(&node, &node.get(&format!("/v1/deployments/{deployment}")).expect(200));
    let deployments = names.map(begin);
    for deployment in &deployments {
        node.wait_deployment(deployment, &["running"]);
    }
    let builds = deployments.each_ref().map(|deployment| build_now(deployment));
    let built: Vec<&Value> = builds.iter().filter(|build| build["cache"]["hit"] == false).collect();
    let [built] = built[..] else { panic!("one of them runs: {builds:?}") };
    for build in builds.iter().filter(|build| build["cache"]["hit"] == true) {
        took(build, built);
        let log = node.cli(&["build", "logs", build["id"].as_str().expect("an id")]);
        assert!(String::from_utf8_lossy(&log.stdout).contains("makes the same: waiting for it"), "{log:?}");
    }

    // The one that is waited for is cancelled: another one takes its place.
    write(folder.path(), &slow("slower"));
    for name in names {
        node.upload("shop", name, folder.path());
    }
    let runs = begin("one");
    until("it runs", || async { (build_now(&runs)["cache"]["hit"] == false).then_some(()) }).await;
    let waits = begin("two");
    until("it waits", || async { (build_now(&waits)["cache"]["hit"] == true).then_some(()) }).await;
    let runs = build_now(&runs);
    node.post(&format!("/v1/builds/{}/cancel", runs["id"].as_str().expect("an id")), &json!({})).expect(202);
    node.wait_deployment(&waits, &["running"]);
    assert_eq!(
        why(&build_now(&waits)),
        format!("changed since build {}: source", build_now(&deployments[1])["id"].as_str().expect("an id"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_any_more_is_built_again() {
    let harness = Harness::podman().await;
    let mut node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    service(&node, "shop", "web");
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &site("kept"));
    node.upload("shop", "web", folder.path());
    let built = deploy(&node, "shop", "web");
    node.stop();
    std::fs::remove_dir_all(node.data.join("artifacts")).expect("it is there");
    node.run();
    node.upload("shop", "web", folder.path());
    let again = deploy(&node, "shop", "web");
    let gone =
        format!("build {} made the same, and no node that answers has its image", built["id"].as_str().expect("an id"));
    assert_eq!(why(&again), gone);
    took(&deploy(&node, "shop", "web"), &again);
}
