//! What visitors notice while versions come and go: nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness, until};

use super::cluster::three;

const VISITORS: usize = 3;
/// A request that takes longer has failed too.
const PATIENCE: Duration = Duration::from_secs(10);

/// People who fetch one page again and again until they are told to leave.
pub(super) struct Visitors {
    leave: Arc<AtomicBool>,
    visits: Vec<JoinHandle<Result<usize, String>>>,
}

impl Visitors {
    pub(super) fn of(node: &Node, host: &'static str) -> Self {
        let leave = Arc::new(AtomicBool::new(false));
        let visits = (0..VISITORS).map(|_| {
            let (address, leave) = (node.ingress.replace("http://", ""), Arc::clone(&leave));
            std::thread::spawn(move || {
                let mut pages = 0;
                while !leave.load(Ordering::Relaxed) {
                    fetch(&address, host).map_err(|failure| format!("after {pages} pages: {failure}"))?;
                    pages += 1;
                }
                Ok(pages)
            })
        });
        Self { visits: visits.collect(), leave }
    }

    /// How many pages they got, or the first failure of any.
    pub(super) fn leave(self) -> Result<usize, String> {
        self.leave.store(true, Ordering::Relaxed);
        self.visits.into_iter().map(|visit| visit.join().expect("no panic")).sum()
    }
}

fn fetch(address: &str, host: &str) -> Result<(), String> {
    let exchange = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = exchange().map_err(|error| error.to_string())?;
    let whole = answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello from narvana\n");
    if whole { Ok(()) } else { Err(answer) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_two_replicas_are_replaced_and_rolled_back() {
    let harness = Harness::podman().await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let check = json!({"path": "/", "interval_seconds": 1, "retries": 5});
    let service = json!({"name": "web", "image": BUSYBOX, "replicas": 2, "health_check": check});
    node.post("/v1/apps/shop/services", &service).expect(201);
    node.deploy("shop", "web");

    let visitors = Visitors::of(&node, "web-shop.localhost");
    let second = node.deploy("shop", "web");
    assert_eq!(second["version"], 2);
    let back = node.post("/v1/apps/shop/services/web/rollback", &json!({})).expect(202);
    let back = back["id"].as_str().expect("an id");
    node.wait_deployment(back, &["running"]);
    node.wait_deployment(second["id"].as_str().expect("an id"), &["stopped"]);
    let restarted = node.post("/v1/apps/shop/services/web/restart", &json!({}));
    assert!(restarted.status < 300, "{restarted:?}");
    node.wait_deployment(back, &["stopped"]);
    let pages = visitors.leave().expect("nobody notices");
    assert!(pages > 100, "{pages} pages are no load");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_whichever_node_visitors_enter_through() {
    let harness = Harness::podman().await;
    let nodes = three(harness.address());
    let [first, second, _] = &nodes;
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let check = json!({"path": "/", "interval_seconds": 1, "retries": 5});
    let service = json!({"name": "web", "image": BUSYBOX, "replicas": 1, "health_check": check});
    first.post("/v1/apps/shop/services", &service).expect(201);
    first.deploy("shop", "web");
    for node in &nodes {
        until("it answers", || async { (node.fetch("web-shop.localhost", "/").status == 200).then_some(()) }).await;
    }
    let visitors = nodes.each_ref().map(|node| Visitors::of(node, "web-shop.localhost"));
    for version in 2..=4 {
        let before = second.deploy("shop", "web");
        assert_eq!(before["version"], version);
    }
    let last = first.get("/v1/apps/shop/deployments").expect(200);
    let old = last.as_array().expect("a list").iter();
    for deployment in old.filter(|deployment| deployment["version"] != 4) {
        first.wait_deployment(deployment["id"].as_str().expect("an id"), &["stopped"]);
    }
    for visitors in visitors {
        let pages = visitors.leave().expect("nobody notices");
        assert!(pages > 100, "{pages} pages are no load");
    }
}
