//! Certificates between nodes, over more than one of their lives.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::node::Node;
use crate::harness::{Harness, until};

/// How long a certificate of these tests is valid, and the variable that says so.
const LIFE: (&str, Duration) = ("NARVANA_PEER_CERTIFICATE_SECONDS", Duration::from_secs(6));

fn short_lived(node: &mut Node) {
    node.env.push((LIFE.0.to_owned(), LIFE.1.as_secs().to_string()));
}

/// The other ends of connections that are open to a port of this machine.
fn connected_to(port: u64) -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let ends = table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, remote, state) = (columns.next()?, columns.next()?, columns.next()?);
        // 01 is ESTABLISHED.
        (state == "01" && remote.ends_with(&format!(":{port:04X}"))).then(|| local.to_owned())
    });
    ends.collect()
}

#[tokio::test]
async fn certificates_are_renewed_in_time_and_connections_stay() {
    let harness = Harness::podman().await;
    let mut first = Node::registered(harness.address());
    first.stop();
    short_lived(&mut first);
    first.run();
    let mut second = first.newcomer("second", &first.join_token(&[]));
    short_lived(&mut second);
    assert!(second.try_join(), "{}", second.log());
    let write = |node: &Node, name: &str| node.post("/v1/apps", &json!({ "name": name })).status;
    until("the second serves", || async { (write(&second, "begin") == 201).then_some(()) }).await;
    let port = first.get("/v1/nodes").expect(200)[0]["grpc_port"].as_u64().expect("a port");
    let before = connected_to(port);
    assert!(!before.is_empty(), "the second talks to the first");
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < LIFE.1 * 2 {
        asked += 1;
        assert_eq!(write(&second, &format!("app{asked}")), 201, "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await; // poll
    }
    let after = connected_to(port);
    assert!(before.is_subset(&after), "connections that were open stay: {before:?}, {after:?}");
    // What is connected anew sees a certificate that was made since.
    second.kill();
    second.run();
    until("it is connected anew", || async { (write(&second, "end") == 201).then_some(()) }).await;
}
