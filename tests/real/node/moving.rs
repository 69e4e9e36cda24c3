//! Work that goes where somebody wants it: by labels, by rebalancing, and from a node that is drained while its leader dies.

use serde_json::json;

use super::cluster::three;
use super::visitors::Visitors;
use super::{id, running, small_service};
use crate::harness::node::Node;
use crate::harness::{Harness, until};

async fn until_runs_on(node: &Node, deployment: &str, names: &[&str]) {
    until(&format!("it runs on {names:?}"), || async { (running(node, deployment) == names).then_some(()) }).await;
}

/// What a command says, which has to work.
#[track_caller]
fn says(node: &Node, args: &[&str]) -> String {
    let ended = node.cli(args);
    let words = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{args:?}: {words}");
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_say_where_work_may_go_and_rebalancing_uses_a_node_that_is_new() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let services = "/v1/apps/shop/services";
    let fast = small_service("fast", &json!({"constraints": ["disk=ssd"]}));
    first.post(services, &fast).expect(201);
    let web = json!({"replicas": 4, "health_check": {"path": "/", "interval_seconds": 1, "retries": 5}});
    first.post(services, &small_service("web", &web)).expect(201);
    let web = id(&first.deploy("shop", "web"));
    assert_eq!(running(&first, &web), ["test-node"; 4]);

    // It waits for a node with the label, and says so.
    let fast = id(&first.post("/v1/apps/shop/services/fast/deploy", &json!({})).expect(202));
    until("it says what it waits for", || async {
        says(&first, &["explain", &fast]).contains("has no label disk=ssd").then_some(())
    })
    .await;
    let joined = says(&first, &["simulate", "join", "--label", "disk=ssd"]);
    assert!(joined.contains("fast") && joined.contains("waits") && joined.contains("web"), "{joined}");
    assert!(!says(&first, &["simulate", "join"]).contains("fast"), "a node without the label is none for it");

    let second = first.joined("second");
    assert_eq!(running(&second, &web), ["test-node"; 4], "a node that joins moves nothing");
    says(&first, &["node", "label", "second", "disk=ssd"]);
    until_runs_on(&second, &fast, &["second"]).await;
    second.wait_deployment(&fast, &["running"]);
    // Without its label what runs goes on.
    says(&second, &["node", "label", "second", "disk-"]);
    assert!(says(&second, &["explain", &fast]).contains("disk=ssd"));
    assert_eq!(running(&second, &fast), ["second"]);
    says(&second, &["node", "label", "test-node", "disk=ssd"]);

    for node in [&first, &second] {
        until("it answers", || async { (node.fetch("web-shop.localhost", "/").status == 200).then_some(()) }).await;
    }
    let listed = says(&second, &["rebalance"]);
    assert!(listed.contains("nothing was moved") && listed.contains("second"), "{listed}");
    assert_eq!(running(&second, &web), ["test-node"; 4], "asking moves nothing");
    let visitors = [&first, &second].map(|node| Visitors::of(node, "web-shop.localhost"));
    says(&second, &["rebalance", "--apply"]);
    until_runs_on(&second, &web, &["second", "second", "test-node", "test-node"]).await;
    until_runs_on(&second, &fast, &["test-node"]).await;
    for visitors in visitors {
        visitors.leave().expect("nobody notices");
    }
    assert!(says(&first, &["rebalance"]).contains("nothing would be better elsewhere"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_goes_on_when_the_leader_dies() {
    let harness = Harness::podman().await;
    let [mut first, second, third] = three(harness.address());
    until("three vote", || async { (first.get("/v1/status").expect(200)["quorum"]["answering"] == 3).then_some(()) })
        .await;
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let web = json!({"replicas": 4, "health_check": {"path": "/", "interval_seconds": 1, "retries": 5}});
    first.post("/v1/apps/shop/services", &small_service("web", &web)).expect(201);
    for name in ["test-node", "third"] {
        says(&first, &["node", "cordon", name]);
    }
    let web = id(&first.deploy("shop", "web"));
    assert_eq!(running(&first, &web), ["second"; 4]);
    // What would be without it is said before anything happens, and stands in the status all the time.
    let if_lost = || third.get("/v1/status").expect(200)["if_lost"].clone();
    until("nobody could take it", || async {
        let losses = if_lost();
        let [loss] = &losses.as_array().expect("a list")[..] else { return None };
        let named = loss["node_name"] == "second" && loss["examples"][0]["service"] == "shop/web";
        (named && loss["down_for_long"] == 1 && loss["back_elsewhere"] == 0).then_some(())
    })
    .await;
    assert!(says(&third, &["status"]).contains("if it dies"));
    // Not to the one that dies.
    says(&first, &["node", "uncordon", "third"]);
    until("the third could", || async {
        let losses = if_lost();
        let [loss] = &losses.as_array().expect("a list")[..] else { return None };
        (loss["node_name"] == "second" && loss["down_for_long"] == 0 && loss["back_elsewhere"] == 1).then_some(())
    })
    .await;
    for question in ["lose", "drain"] {
        let answer = says(&third, &["simulate", question, "second"]);
        assert!(answer.contains("web") && answer.contains("third"), "{question}: {answer}");
        assert!(!says(&third, &["simulate", question, "third"]).contains("web"), "nothing of it is there");
    }
    assert_eq!(running(&third, &web), ["second"; 4], "asking moves nothing");
    assert_eq!(third.get("/v1/status").expect(200)["leader"], 1, "the founder leads");
    until("it answers", || async { (third.fetch("web-shop.localhost", "/").status == 200).then_some(()) }).await;
    let visitors = Visitors::of(&third, "web-shop.localhost");
    let draining = third.client(&["node", "drain", "second", "--timeout", "3m"]);
    let draining = std::thread::spawn(move || { draining }.output().expect("it runs"));
    until("something has moved", || async { running(&third, &web).contains(&"third".to_owned()).then_some(()) }).await;
    first.kill();
    let drained = draining.join().expect("no panic");
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    until_runs_on(&third, &web, &["third"; 4]).await;
    visitors.leave().expect("nobody notices");
    let leader = third.get("/v1/status").expect(200)["leader"].clone();
    assert!(leader != 1, "another one leads: {leader}");
    assert!(says(&second, &["node", "show", "second"]).contains("drain"));
}
