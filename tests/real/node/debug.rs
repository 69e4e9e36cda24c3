//! `narvana debug bundle`: a file for a bug report that gives nothing away.

use std::path::Path;

use serde_json::{Value, json};

use super::image_service;
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness};

/// Stands for whatever nobody else may see.
const CANARY: &str = "kanarie";

fn bundle(node: &Node, token: &str, file: &Path) -> std::process::Output {
    let mut command = node.command("debug bundle");
    command.arg(file).env("NARVANA_API", &node.api).env("NARVANA_TOKEN", token);
    command.output().expect("it runs")
}

fn read(file: &Path) -> (String, Value) {
    let text = std::fs::read_to_string(file).expect("a file");
    let parsed = serde_json::from_str(&text).expect("JSON");
    (text, parsed)
}

#[tokio::test]
async fn a_bundle_says_what_happened_and_gives_nothing_away() {
    let harness = Harness::podman().await;
    let node = Node::registered(harness.address());
    let label = node.cli(&["node", "label", "test-node", &format!("{CANARY}={CANARY}")]);
    assert!(label.status.success(), "{label:?}");
    node.post("/v1/apps", &json!({"name": CANARY, "description": CANARY})).expect(201);
    let services = format!("/v1/apps/{CANARY}/services");
    let says = |ends: &str| json!(["sh", "-c", format!("echo {CANARY}; {ends}")]);
    let env = json!({"KANARIE": CANARY, "id": CANARY, "status": CANARY});
    // One that ends by itself, one that is sick, and one that cannot be built.
    let mut crash = image_service(&format!("{CANARY}-1"));
    crash["command"] = says("exit 9");
    crash["env_vars"] = env.clone();
    let check = json!({"type": "command", "command": says("exit 1"), "interval_seconds": 1, "retries": 1});
    let sick = json!({"name": format!("{CANARY}-2"), "image": BUSYBOX, "health_check": check, "env_vars": env});
    let broken = json!({"name": format!("{CANARY}-3"), "source_type": "upload", "env_vars": env});
    let mut deployments = Vec::new();
    let folder = tempfile::tempdir().expect("a folder");
    for (number, spec) in [&crash, &sick, &broken].into_iter().enumerate() {
        node.post(&services, spec).expect(201);
        let name = format!("{CANARY}-{}", number + 1);
        if spec == &broken {
            let dockerfile = format!("FROM {BUSYBOX}\nRUN echo {CANARY} && exit 3\n");
            std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("writes");
            node.upload(CANARY, &name, folder.path());
        }
        let deployment = node.post(&format!("{services}/{name}/deploy"), &json!({})).expect(202);
        let id = deployment["id"].as_str().expect("an id").to_owned();
        let failed = node.wait_deployment(&id, &["failed"]);
        assert!(failed["log_tail"].to_string().contains(CANARY) || failed["reason"].to_string().contains(CANARY));
        deployments.push(id);
    }

    let file = folder.path().join("bundle.json");
    let made = bundle(&node, &node.token, &file);
    assert!(made.status.success(), "{made:?}");
    let (text, parsed) = read(&file);
    for secret in [CANARY, "test-node", "ada@", "correct horse", "busybox", &node.token] {
        assert!(!text.to_lowercase().contains(secret), "{secret} is in it: {text}");
    }
    let cluster = &parsed["cluster"];
    assert_eq!(cluster["status"]["nodes"][0]["healthy"], true, "{text}");
    assert_eq!(cluster["builds"][0]["failure"], json!({"code": "BUILD_FAILED"}), "{text}");
    let listed: Vec<&Value> = cluster["deployments"].as_array().expect("a list").iter().collect();
    assert_eq!(listed.len(), deployments.len(), "{text}");
    for (deployment, id) in listed.iter().rev().zip(&deployments) {
        assert_eq!((&deployment["id"], &deployment["status"]), (&json!(id), &json!("failed")), "{text}");
    }
    assert_eq!(listed[2]["instances"][0]["exit_code"], 9, "{text}");
    assert!(parsed["machine"].as_array().is_some_and(|checks| checks.iter().any(|check| check["what"] == "node")));
    assert_eq!(parsed["left_out"], json!({}));

    let again = bundle(&node, &node.token, &file);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(1) && said.contains("exists already"), "{said}");
    assert_eq!(read(&file).0, text, "it is as it was");

    // Without a log-in it is about the machine.
    let file = folder.path().join("stranger.json");
    let made = bundle(&node, "", &file);
    assert!(made.status.success(), "{made:?}");
    let (text, parsed) = read(&file);
    assert_eq!(parsed["cluster"], json!({}), "{text}");
    assert_eq!(parsed["left_out"]["status"], "unauthorized", "{text}");
    assert!(String::from_utf8_lossy(&made.stderr).contains("without status"), "{made:?}");
}
