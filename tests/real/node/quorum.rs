//! A cluster whose majority is gone: what goes on, what does not, and what people are told.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::three;
use super::image_service;
use crate::harness::node::{Answer, Node, curl};
use crate::harness::{Harness, until};

/// Longest time until a node says that the cluster cannot decide.
const SAID_WITHIN: Duration = Duration::from_secs(5);

/// Says in time that there is no quorum, and who is missing.
#[track_caller]
fn refuses(node: &Node, what: &str, ask: impl FnOnce(&Node) -> Answer) {
    let asked = Instant::now();
    let answer = ask(node);
    let took = asked.elapsed();
    assert_eq!(answer.status, 503, "{what}: {answer:?}");
    assert_eq!(answer.json()["code"], "no_quorum", "{what}: {answer:?}");
    assert!(took < SAID_WITHIN, "{what}: {took:?}");
    names_the_missing(&answer.body);
}

#[track_caller]
fn names_the_missing(text: &str) {
    for words in ["2 of 3 voters are needed", "second (127.0.0.1:", "third (127.0.0.1:", "does not answer since 20"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

/// Each of these takes its time, so they are asked at once. `blind` are writes that read nothing first: what a leader took
/// in the second before it missed the others may yet become true, and such a write then says so instead.
fn refuses_whatever_needs_others(node: &Node, blind: bool) {
    let body = json!({"name": "late"});
    let login = json!({"email": "ada@example.org", "password": "correct horse"});
    std::thread::scope(|scope| {
        scope.spawn(|| refuses(node, "a write", |node| node.post("/v1/apps", &body)));
        if blind {
            scope.spawn(|| refuses(node, "a blind write", |node| node.post("/v1/apps?consistency=stale", &body)));
            scope.spawn(|| refuses(node, "a log-in", |node| node.post("/auth/login", &login)));
        }
        scope.spawn(|| refuses(node, "a read", |node| node.get("/v1/apps")));
        scope.spawn(|| refuses(node, "the future", |node| node.get("/v1/apps?consistency=stale&min_index=9999999")));
        scope.spawn(|| refuses(node, "readiness", |node| node.get("/ready")));
        scope.spawn(|| {
            let asked = Instant::now();
            let output = node.cli(&["app", "create", "late"]);
            assert_eq!(output.status.code(), Some(5), "{output:?}");
            assert!(asked.elapsed() < SAID_WITHIN, "{:?}", asked.elapsed());
            names_the_missing(&String::from_utf8_lossy(&output.stderr));
        });
    });
}

/// What this node knows is read, and what runs is reached.
async fn goes_on(node: &Node) {
    assert_eq!(node.get("/v1/apps?consistency=stale").expect(200)[0]["name"], "shop");
    let listed = node.cli(&["--stale", "app", "ls"]);
    assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("shop"), "{listed:?}");
    let stream = format!("{}/v1/apps/shop/logs/stream?consistency=stale&token={}", node.api, node.token);
    let events = curl(&["--no-buffer", "--max-time", "1", &stream]);
    assert!(events.status == 200 && events.body.contains("event: connected"), "{events:?}");
    until("it answers", || async { (node.fetch("web-shop.localhost", "/").status == 200).then_some(()) }).await;
    node.get("/health").expect(200);
}

fn says_it_in_the_status(node: &Node) {
    let status = node.get("/v1/status").expect(200);
    assert_eq!(status["has_quorum"], false, "{status:#}");
    let quorum = &status["quorum"];
    assert_eq!((&quorum["needed"], &quorum["answering"]), (&json!(2), &json!(1)), "{quorum:#}");
    let missing: Vec<&Value> =
        quorum["missing"].as_array().expect("a list").iter().map(|voter| &voter["name"]).collect();
    assert_eq!(missing, ["second", "third"]);
    let shown = node.cli(&["status"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success(), "{shown:?}");
    for words in
        ["1 of 3 voters answer", "second (127.0.0.1:", "does not answer since 20", "applications that run", "log-ins"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test]
async fn without_a_majority_nodes_say_who_is_missing_and_what_runs_goes_on() {
    let harness = Harness::podman().await;
    let [mut first, mut second, mut third] = three(harness.address());
    until("three vote", || async {
        let voting = first.get("/v1/nodes").expect(200);
        voting.as_array().expect("a list").iter().all(|node| node["voter"] == true).then_some(())
    })
    .await;
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    for other in ["second", "third"] {
        assert!(first.cli(&["node", "cordon", other]).status.success());
    }
    first.deploy("shop", "web");
    let healthy = first.get("/v1/status").expect(200);
    assert_eq!((&healthy["has_quorum"], &healthy["quorum"]["missing"]), (&json!(true), &json!([])));
    assert_eq!(healthy["goes_on"], json!([]));

    second.kill();
    third.kill();
    refuses_whatever_needs_others(&first, false);
    says_it_in_the_status(&first);
    goes_on(&first).await;

    // It starts alone, and knows no more than what is on its disk.
    first.kill();
    first.run();
    goes_on(&first).await;
    refuses_whatever_needs_others(&first, true);
    says_it_in_the_status(&first);

    second.run();
    until("two decide", || async { (first.post("/v1/apps", &json!({"name": "late"})).status == 201).then_some(()) })
        .await;
    first.get("/ready").expect(200);
    until("one is missed", || async {
        let missing = first.get("/v1/status").expect(200)["quorum"]["missing"].clone();
        (missing.as_array().map(Vec::len) == Some(1) && missing[0]["name"] == "third").then_some(())
    })
    .await;
}

/// A context that was made at one node goes on with the others, which it was told of.
#[tokio::test]
async fn a_context_goes_on_with_another_node() {
    let harness = Harness::podman().await;
    let [mut first, second, third] = three(harness.address());
    until("three vote", || async {
        let voting = first.get("/v1/nodes").expect(200);
        voting.as_array().expect("a list").iter().all(|node| node["voter"] == true).then_some(())
    })
    .await;
    let home = tempfile::tempdir().expect("a folder");
    let narvana = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_narvana"));
        command.args(arguments).env_remove("NARVANA_API").env("XDG_CONFIG_HOME", home.path());
        command.env("NARVANA_PASSWORD", "correct horse").stdin(std::process::Stdio::null());
        command
    };
    let done = |arguments: &[&str]| {
        let output = narvana(arguments).output().expect("the program runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    done(&["--api", &first.api, "login", "ada@example.org"]);
    let known = done(&["-o", "wide", "context", "ls"]);
    assert!(known.contains(&second.api) && known.contains(&third.api), "{known}");
    done(&["app", "create", "shop"]);
    second.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    // Nobody takes it yet, so that it is waited for.
    for node in ["test-node", "second", "third"] {
        done(&["node", "cordon", node]);
    }
    let mut waiting = narvana(&["deploy", "--app", "shop", "--service", "web"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    until("it was accepted", || async {
        let deployments = second.get("/v1/deployments").expect(200);
        (deployments.as_array().map(Vec::len) == Some(1)).then_some(())
    })
    .await;
    first.kill();
    assert!(waiting.try_wait().expect("its state").is_none(), "it waits");
    done(&["node", "uncordon", "second"]);
    let output = waiting.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("http://web-shop.localhost"), "{output:?}");
    assert!(done(&["app", "ls"]).contains("shop"));
}
