//! Clusters of several nodes: real processes on loopback, over one engine.

use serde_json::{Value, json};

use super::image_service;
use crate::harness::node::Node;
use crate::harness::{Harness, until};

/// Three nodes, the first of which was made by `init`.
#[track_caller]
fn three(engine: &str) -> [Node; 3] {
    let first = Node::registered(engine);
    let second = first.joined("second");
    let third = first.joined("third");
    [first, second, third]
}

fn names(nodes: &Value) -> Vec<&str> {
    nodes.as_array().expect("a list").iter().map(|node| node["hostname"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn machines_become_a_cluster_with_nothing_but_a_token() {
    let harness = Harness::podman().await;
    let [first, second, third] = three(harness.address());
    assert!(second.log().contains("container engine"), "the table before joining: {}", second.log());
    assert!(second.log().contains("takes work"), "{}", second.log());
    // Each serves the same API, and sees at once what another one took.
    for (position, node) in [&first, &second, &third].into_iter().enumerate() {
        assert_eq!(names(&node.get("/v1/nodes").expect(200)), ["test-node", "second", "third"]);
        let app = format!("app{position}");
        node.post("/v1/apps", &json!({ "name": app })).expect(201);
        for other in [&first, &second, &third] {
            other.get(&format!("/v1/apps/{app}")).expect(200);
        }
    }
    // All of them run instances.
    let service = json!({"replicas": 3, "resources": {"cpu": "0.05", "memory": "16Mi"}});
    let mut spread = image_service("web");
    spread.as_object_mut().expect("an object").extend(service.as_object().expect("an object").clone());
    second.post("/v1/apps/app0/services", &spread).expect(201);
    let deployment = third.deploy("app0", "web");
    let mut on: Vec<&str> = deployment["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|i| i["node_name"].as_str().expect("a name"))
        .collect();
    on.sort_unstable();
    assert_eq!(on, ["second", "test-node", "third"]);
}

#[tokio::test]
async fn a_token_lets_in_as_many_as_it_says() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let token = first.join_token(&[]);
    // Two at once: exactly one wins.
    let mut racers = [first.newcomer("red", &token), first.newcomer("blue", &token)];
    let won = std::thread::scope(|scope| {
        let racing = racers.each_mut().map(|node| scope.spawn(move || node.try_join()));
        racing.map(|racer| racer.join().expect("it ran"))
    });
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{}\n{}", racers[0].log(), racers[1].log());
    let loser = racers.iter().zip(won).find(|(_, won)| !won).map(|(node, _)| node).expect("one lost");
    assert!(loser.log().contains("used already"), "{}", loser.log());

    let refused = |name: &str, token: &str, words: &str| {
        let mut node = first.newcomer(name, token);
        assert!(!node.try_join(), "{}", node.log());
        assert!(node.log().contains(words), "{}", node.log());
        assert!(!node.data.join("identity.json").exists());
    };
    refused("green", &token, "used already");
    let revoked = first.join_token(&[]);
    let id = first.get("/v1/join-tokens").expect(200)[1]["id"].as_str().expect("an id").to_owned();
    let output = first.cli(&["token", "revoke", &id]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    refused("green", &revoked, "was revoked");
    let brief = first.join_token(&["--ttl", "1s"]);
    until("it expires", || async {
        (first.get("/v1/join-tokens").expect(200)[2]["status"] == "expired").then_some(())
    })
    .await;
    refused("green", &brief, "has expired");
    let fine = first.join_token(&[]);
    refused("test-node", &fine, "a node named test-node");
    refused("../green", &fine, "letters, digits");
    refused("green", &fine[..fine.len() - 1], "checksum");
    refused("green", "hello", "no join token");
    // Another cluster's address in the token: nothing is sent there.
    let other = Node::registered(harness.address());
    let theirs = other.join_token(&[]);
    drop(other);
    refused("green", &theirs, "cannot be reached");
}
