//! Another authority for a cluster that works.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::image_service;
use crate::harness::node::Node;
use crate::harness::{Harness, until};

fn authority(node: &Node) -> Value {
    node.get("/v1/authority").expect(200)
}

/// Waits for who it waits for.
async fn until_waits_for(node: &Node, step: &str, name: &str) {
    until(&format!("step {step} waits for {name}"), || async {
        let rotation = authority(node)["rotation"].clone();
        let waits = rotation["waits_for"].as_array().cloned().unwrap_or_default();
        (rotation["step"] == step && waits.len() == 1 && waits[0]["name"] == name).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_authority_is_rotated_while_requests_go_on() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let mut second = first.joined("second");
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    assert!(first.cli(&["node", "cordon", "second"]).status.success());
    first.deploy("shop", "web");
    until("the other node answers for it", || async {
        (second.fetch("web-shop.localhost", "/").status == 200).then_some(())
    })
    .await;
    let early = first.join_token(&[]);
    let before = authority(&first)["fingerprint"].clone();

    let over = AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut asked, mut failed) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) || asked < 20 {
                asked += 1;
                let page = second.fetch("web-shop.localhost", "/");
                let made = second.post("/v1/apps", &json!({"name": format!("app{asked}")}));
                failed.extend([(page, 200), (made, 201)].into_iter().filter(|(answer, good)| answer.status != *good));
            }
            failed
        });
        let rotated = second.cli(&["ca", "rotate", "--timeout", "30s"]);
        over.store(true, Ordering::Relaxed);
        assert!(rotated.status.success(), "{rotated:?}");
        asking.join().expect("it ran")
    });
    assert!(failed.is_empty(), "{failed:?}");
    let after = authority(&first);
    assert!(after["fingerprint"] != before && after["rotation"].is_null(), "{after:#}");
    until("the second knows", || async { (authority(&second)["fingerprint"] == after["fingerprint"]).then_some(()) })
        .await;
    let kept = std::fs::read_to_string(first.data.join("ca.crt")).expect("a file");
    assert_eq!(kept, after["certificates"].as_str().expect("PEM"));
    // Who was off connects under the new one.
    second.kill();
    second.run();
    until("it is connected", || async { (second.get("/ready").status == 200).then_some(()) }).await;

    // What was made for the old one is of no use, and says so; what is made now is.
    let mut late = first.newcomer("late", &early);
    assert!(!late.try_join() && late.log().contains("authority was rotated"), "{}", late.log());
    let third = first.joined("third");

    // A member that is away keeps it waiting.
    second.kill();
    until("it is missed", || async { (first.get("/v1/nodes").expect(200)[1]["healthy"] == false).then_some(()) }).await;
    let waiting = first.cli(&["ca", "rotate", "--timeout", "2s"]);
    let said = String::from_utf8_lossy(&waiting.stderr).into_owned();
    assert!(waiting.status.code() == Some(6) && said.contains("second (does not answer since"), "{said}");
    until_waits_for(&first, "trust", "second").await;
    let status = first.cli(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("waits for node"), "{status:?}");
    assert_eq!(first.cli(&["token", "create"]).status.code(), Some(4), "which authority would it name?");
    assert_eq!(first.cli(&["ca", "rotate"]).status.code(), Some(4), "one at a time");
    second.run();
    until("it is done", || async {
        let of = |node: &Node| authority(node)["rotation"].clone();
        (of(&first).is_null() && of(&second).is_null() && of(&third).is_null()).then_some(())
    })
    .await;
    until("requests go on", || async { (second.fetch("web-shop.localhost", "/").status == 200).then_some(()) }).await;
    second.post("/v1/apps", &json!({"name": "afterwards"})).expect(201);
}

#[tokio::test]
async fn a_member_that_was_removed_during_a_rotation_says_what_it_is_cut_off_by() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let mut away = first.joined("away");
    away.kill();
    let waiting = first.cli(&["ca", "rotate", "--timeout", "2s"]);
    assert_eq!(waiting.status.code(), Some(6), "{waiting:?}");
    let removed = first.cli(&["node", "remove", "away"]);
    assert!(removed.status.success(), "{removed:?}");
    until("nobody is waited for", || async { authority(&first)["rotation"].is_null().then_some(()) }).await;
    // Nobody can tell it that it was removed: it believes no member any more, and none believes it.
    away.begin("run");
    until("it says why", || async { away.log().contains("was rotated without this node").then_some(()) }).await;
    // But those who are left can say where it is.
    let rivals = until("it is seen", || async {
        let rivals = first.get("/v1/status").expect(200)["rivals"].clone();
        (rivals != json!([])).then_some(rivals)
    })
    .await;
    assert_eq!(rivals[0]["address"], "127.0.0.1", "{rivals:#}");
    let said = first.cli(&["status"]);
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(
        said.contains("NOT OF THIS CLUSTER") && said.contains("it trusts an authority that this cluster"),
        "{said}"
    );
    assert!(first.log().contains("acts in the name of this cluster"), "{}", first.log());
}
