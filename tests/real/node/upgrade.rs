//! A cluster is upgraded one node after the other, while people use it.
//!
//! The program plays its own predecessor: with `OLDER` it supports cluster version 1 only, and reads, writes and says of
//! itself what a program of that time would (docs/decisions/0013). `scripts/check-upgrade.sh` has one that really is older
//! in its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::harness::node::{Node, OLDER, curl};
use crate::harness::{BUSYBOX, Harness, until};

use super::visitors::Visitors;

const HOST: &str = "web-shop.localhost";
const NEWEST: u64 = narvana::model::NEWEST_CLUSTER_VERSION as u64;

fn downgrade(node: &mut Node) {
    node.env.push((OLDER.to_owned(), "1".to_owned()));
}

fn upgrade(node: &mut Node) {
    node.env.retain(|(name, _)| name != OLDER);
}

/// Three voters, of a program from before cluster version 2.
async fn three_of_yesterday(engine: &str) -> [Node; 3] {
    let first = Node::registered_as(engine, &[(OLDER, "1")]);
    let [second, third] = ["second", "third"].map(|name| first.joined_as(name, &[(OLDER, "1")]));
    until("three vote", || async {
        let voting = first.get("/v1/nodes").expect(200);
        voting.as_array().expect("a list").iter().all(|node| node["voter"] == true).then_some(())
    })
    .await;
    [first, second, third]
}

/// The cluster as this node sees it: its version, and the names of those that an upgrade waits for.
#[track_caller]
fn version(node: &Node) -> (u64, Vec<String>) {
    let status = node.get("/v1/status").expect(200);
    let waits = status["upgrade"]["waits_for"].as_array().cloned().unwrap_or_default();
    let name = |member: &Value| member["name"].as_str().expect("a name").to_owned();
    (status["cluster_version"].as_u64().expect("a number"), waits.iter().map(name).collect())
}

async fn settled_at(node: &Node, wanted: u64) {
    until("the version is raised", || async { (version(node) == (wanted, Vec::new())).then_some(()) }).await;
}

/// The name of the node that leads, once somebody does.
async fn leader(node: &Node) -> String {
    until("somebody leads", || async {
        let nodes = node.get("/v1/nodes").expect(200);
        let leading = nodes.as_array()?.iter().find(|node| node["leader"] == true)?.clone();
        Some(leading["hostname"].as_str()?.to_owned())
    })
    .await
}

/// Somebody who makes one app after the other until told to stop, and takes each for made only when that is answered.
struct Writer {
    enough: Arc<AtomicBool>,
    work: JoinHandle<Vec<String>>,
}

impl Writer {
    fn at(node: &Node, round: usize) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let (url, token, until) = (format!("{}/v1/apps", node.api), node.token.clone(), Arc::clone(&enough));
        let work = std::thread::spawn(move || {
            let mut made = Vec::new();
            while !until.load(Ordering::Relaxed) {
                let name = format!("app-{round}-{}", made.len());
                write(&url, &token, &name);
                made.push(name);
            }
            made
        });
        Self { enough, work }
    }

    fn stop(self) -> Vec<String> {
        self.enough.store(true, Ordering::Relaxed);
        self.work.join().expect("no panic")
    }
}

/// Repeats a write that was not answered with the same key, as clients do.
fn write(url: &str, token: &str, name: &str) {
    let (authorization, key) = (format!("Authorization: Bearer {token}"), format!("Idempotency-Key: {name}"));
    let body = json!({ "name": name }).to_string();
    for attempt in 0.. {
        let answer =
            curl(&["-H", &authorization, "-H", &key, "-H", "Content-Type: application/json", "-d", &body, url]);
        match answer.status {
            201 => return,
            503 | 504 if attempt < 10 => {}
            _ => panic!("{name}: {answer:?}"),
        }
    }
}

#[track_caller]
fn all_are_there(nodes: &[Node; 3], made: &[String]) {
    for node in nodes {
        for name in made {
            node.get(&format!("/v1/apps/{name}")).expect(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_upgraded_one_after_the_other_and_nobody_notices() {
    let harness = Harness::podman().await;
    let mut nodes = three_of_yesterday(harness.address()).await;
    nodes[0].post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let check = json!({"path": "/", "interval_seconds": 1, "retries": 5});
    let service = json!({"name": "web", "image": BUSYBOX, "replicas": 3, "health_check": check});
    nodes[0].post("/v1/apps/shop/services", &service).expect(201);
    nodes[0].deploy("shop", "web");
    for node in &nodes {
        until("it answers", || async { (node.fetch(HOST, "/").status == 200).then_some(()) }).await;
    }
    nodes[0].send("PATCH", "/v1/settings", &json!({"public_ip": "192.0.2.1"})).expect(200);

    let mut made = Vec::new();
    // The leader is neither the first to go nor the last, so that it is an old one with new followers, and others follow.
    let leads = leader(&nodes[0]).await;
    let led = nodes.iter().position(|node| node.name() == leads).expect("one of them");
    let order = [(led + 1) % 3, led, (led + 2) % 3];
    for (round, position) in order.into_iter().enumerate() {
        let waits: Vec<&str> = order[round..].iter().map(|other| nodes[*other].name()).collect();
        let others = [(position + 1) % 3, (position + 2) % 3];
        let visitors = others.map(|other| Visitors::of(&nodes[other], HOST));
        let writer = Writer::at(&nodes[others[0]], round);
        if round > 0 {
            let mut waiting = version(&nodes[order[0]]);
            waiting.1.sort_by_key(|name| waits.iter().position(|other| other == name));
            assert_eq!(waiting, (1, waits.iter().map(ToString::to_string).collect()), "the rest is old");
        }
        nodes[position].stop();
        upgrade(&mut nodes[position]);
        nodes[position].run();
        for visitors in visitors {
            let pages = visitors.leave().expect("nobody notices");
            assert!(pages > 20, "{pages} pages are no load");
        }
        let new = writer.stop();
        assert!(!new.is_empty());
        made.extend(new);
        if round == 0 {
            assert_eq!(leader(&nodes[position]).await, leads, "an old one leads a new one");
            // As long as nothing was raised there is a way back.
            nodes[position].stop();
            downgrade(&mut nodes[position]);
            nodes[position].run();
            assert_eq!(version(&nodes[position]), (1, Vec::new()));
            nodes[position].stop();
            upgrade(&mut nodes[position]);
            nodes[position].run();
        }
        if round == 1 {
            mixed_with_a_new_leader(&mut nodes, order[2], &mut made).await;
        }
    }
    for node in &nodes {
        settled_at(node, NEWEST).await;
    }
    all_are_there(&nodes, &made);
    let settings = nodes[1].send("DELETE", "/v1/settings/public_ip", &json!({})).expect(200);
    assert_ne!(settings["public_ip"], "192.0.2.1");
    nodes[0].post("/v1/apps", &json!({"name": "detailed"})).expect(201);
    let service = nodes[2].post("/v1/apps/detailed/services", &detailed()).expect(201);
    assert_eq!(service["build_config"]["entry_point"], "cmd/web");

    // From here on an old program is refused, at the start and at the door.
    let last = &mut nodes[2];
    last.stop();
    downgrade(last);
    refused(last, "run");
    upgrade(last);
    last.run();
    all_are_there(&nodes, &made);
    let mut late = nodes[0].newcomer("late", &nodes[0].join_token(&[]));
    downgrade(&mut late);
    assert!(!late.try_join());
    let told = late.log();
    assert!(
        told.contains(&format!("is at cluster version {NEWEST}")) && told.contains("supports up to 1: upgrade narvana"),
        "{told}"
    );
    upgrade(&mut late);
    assert!(late.try_join(), "the token was not used: {}", late.log());
}

/// A service that an old program cannot read: that it is new stands in what it says of its build.
fn detailed() -> Value {
    json!({"name": "web", "source_type": "upload", "build_config": {"entry_point": "cmd/web", "build_tags": ["a"]}})
}

/// Two are new and one of them leads; the third one is old, and keeps the others from writing what it does not understand.
async fn mixed_with_a_new_leader(nodes: &mut [Node; 3], old: usize, made: &mut Vec<String>) {
    let new = (old + 1) % 3;
    until("the old one is there", || async {
        let listed = nodes[new].get("/v1/nodes").expect(200);
        listed.as_array()?.iter().all(|node| node["healthy"] == true).then_some(())
    })
    .await;
    while leader(&nodes[new]).await == nodes[old].name() {
        nodes[old].stop();
        nodes[old].run();
    }
    let writer = Writer::at(&nodes[old], 9);
    nodes[new].post("/v1/apps", &json!({"name": "mixed"})).expect(201);
    let refusal = nodes[new].post("/v1/apps/mixed/services", &detailed());
    assert!(refusal.body.contains("needs cluster version 4"), "{refusal:?}");
    for node in [&nodes[old], &nodes[new]] {
        let refusal = node.send("DELETE", "/v1/settings/public_ip", &json!({}));
        let name = nodes[old].name();
        assert!((400..500).contains(&refusal.status), "{refusal:?}");
        for words in ["needs cluster version 2", "is at version 1", &format!(" {name} (narvana ")] {
            assert!(refusal.body.contains(words), "{refusal:?}");
        }
    }
    let shown = nodes[new].cli(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("to cluster version {NEWEST} waits for node")), "{shown}");
    made.extend(writer.stop());
}

/// It says what the first command needs that it does not know, and ends with the exit code that keeps systemd from starting it again.
#[track_caller]
fn refused(node: &mut Node, verb: &str) {
    node.begin(verb);
    let ended = node.wait_end();
    assert_eq!(ended.code(), Some(78), "{}", node.log());
    let log = node.log();
    let last = log.lines().rfind(|line| line.contains("is at cluster version 2 or later")).unwrap_or_default();
    assert!(last.contains("supports up to 1: upgrade narvana on this node"), "{log}");
    assert!(!log.contains("damaged"), "{log}");
}

/// It was new, was away when the version was raised, and somebody put the old program back meanwhile: nothing on its disk
/// tells it.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_program_stops_when_it_hears_what_it_does_not_understand() {
    let harness = Harness::podman().await;
    let [mut first, mut second, mut third] = three_of_yesterday(harness.address()).await;
    third.stop();
    upgrade(&mut third);
    third.run();
    third.kill();
    for node in [&mut first, &mut second] {
        assert_eq!(version(node).0, 1);
        node.stop();
        upgrade(node);
        node.run();
    }
    settled_at(&first, NEWEST).await;
    second.send("DELETE", "/v1/settings/public_ip", &json!({})).expect(200);
    first.post("/v1/apps", &json!({"name": "since"})).expect(201);
    downgrade(&mut third);
    refused(&mut third, "run");
    // The same again: what it has on its disk by now it does not touch.
    refused(&mut third, "run");
    upgrade(&mut third);
    third.run();
    third.get("/v1/apps/since").expect(200);
    settled_at(&third, NEWEST).await;
}
