//! Nodes that are emptied while they work: visitors notice nothing, and what has data is left alone until somebody says
//! otherwise.

use serde_json::json;

use super::cluster::three;
use super::visitors::Visitors;
use super::{id, running, small_service};
use crate::harness::{Harness, until};

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_a_node_is_drained_and_what_has_data_stays_until_it_may_be_stopped() {
    let harness = Harness::podman().await;
    let mut nodes = three(harness.address());
    let first = &nodes[0];
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let check = json!({"path": "/", "interval_seconds": 1, "retries": 5});
    let web = small_service("web", &json!({"replicas": 3, "health_check": check}));
    first.post("/v1/apps/shop/services", &web).expect(201);
    let web = id(&first.deploy("shop", "web"));
    // Both on the second node, which has to be drained.
    for name in ["test-node", "third"] {
        assert!(first.cli(&["node", "cordon", name]).status.success());
    }
    let volume = json!({"volumes": [{"name": "data", "path": "/data"}]});
    first.post("/v1/apps/shop/services", &small_service("data", &volume)).expect(201);
    first.post("/v1/apps/shop/services", &small_service("bot", &json!({"exclusive": true}))).expect(201);
    let (data, bot) = (id(&first.deploy("shop", "data")), id(&first.deploy("shop", "bot")));
    for name in ["test-node", "third"] {
        assert!(first.cli(&["node", "uncordon", name]).status.success());
    }
    assert_eq!(running(first, &web), ["second", "test-node", "third"]);
    assert_eq!((running(first, &data), running(first, &bot)), (vec!["second".to_owned()], vec!["second".to_owned()]));
    let asked = first.cli(&["node", "drain", "second", "--dry-run"]);
    let table = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(asked.status.success() && table.contains("moves") && table.contains("stays"), "{asked:?}");
    assert_eq!(running(first, &web), ["second", "test-node", "third"], "asking changes nothing");

    for node in &nodes {
        until("it answers", || async { (node.fetch("web-shop.localhost", "/").status == 200).then_some(()) }).await;
    }
    let visitors = nodes.each_ref().map(|node| Visitors::of(node, "web-shop.localhost"));
    let drained = nodes[2].cli(&["node", "drain", "second", "--timeout", "2m"]);
    let words = String::from_utf8_lossy(&drained.stderr).into_owned();
    assert_eq!(drained.status.code(), Some(1), "{words}");
    assert!(words.contains("shop/data replica 0 stays") && words.contains("shop/bot replica 0 stays"), "{words}");
    assert!(words.contains("shop/web replica"), "{words}");
    for visitors in visitors {
        let pages = visitors.leave().expect("nobody notices");
        assert!(pages > 20, "{pages} pages are no load");
    }
    let after = running(first, &web);
    assert!(after.len() == 3 && !after.contains(&"second".to_owned()), "{after:?}");
    assert_eq!((running(first, &data), running(first, &bot)), (vec!["second".to_owned()], vec!["second".to_owned()]));

    let drained = first.cli(&["node", "drain", "second", "--stop-exclusive", "--stop-volumes", "--timeout", "2m"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert_eq!(running(first, &data), Vec::<String>::new(), "its data is on a node that takes no work");
    until("the exclusive one runs elsewhere", || async {
        matches!(&running(first, &bot)[..], [name] if name != "second").then_some(())
    })
    .await;
    // It stays drained when it starts again, until somebody gives it work.
    nodes[1].stop();
    nodes[1].run();
    let first = &nodes[0];
    let shown = first.cli(&["node", "show", "second"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("being drained"), "{shown:?}");
    assert!(first.cli(&["node", "uncordon", "second"]).status.success());
    until("what has data is back where that is", || async { (running(first, &data) == ["second"]).then_some(()) })
        .await;
}
