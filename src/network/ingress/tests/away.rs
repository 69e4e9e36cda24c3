//! Instances of other nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::pass::{UPGRADE, echo_tunnel};
use super::site::{Nodes, Site, mirror, nobody, on, status, table, until};
use crate::decide::route_table::{Backend, Place};
use crate::model::{InstanceId, NodeId};
use crate::network::{Carries, Limits, Reach, ReachError, Wire};

fn address(backend: &Backend) -> std::net::SocketAddr {
    match backend.place {
        Place::Here(address) => address,
        Place::There { .. } => panic!("it is elsewhere"),
    }
}

async fn site(nodes: &[(u64, Result<std::net::SocketAddr, ReachError>)], backends: &[Backend]) -> Site {
    let nodes: BTreeMap<_, _> = nodes.iter().map(|(node, there)| (NodeId(*node), there.clone())).collect();
    Site::start_at(Limits::default(), Arc::new(Nodes(nodes)), backends).await
}

#[tokio::test]
async fn requests_and_upgrades_reach_an_instance_through_its_node() {
    let (backend, _running) = mirror().await;
    let two = site(&[(2, Ok(address(&backend)))], &[on(2, backend)]).await;
    let answer =
        two.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").await;
    assert!(answer.contains("body: hello") && answer.contains("x-forwarded-for: 127.0.0.1"), "{answer}");

    let (backend, _running) = echo_tunnel().await;
    let two = site(&[(2, Ok(address(&backend)))], &[on(2, backend)]).await;
    let mut client = two.connect().await;
    client.say(UPGRADE).await;
    client.until("\r\n\r\n").await;
    client.say("ping").await;
    client.until("ping").await;
    assert_eq!(two.handle.in_flight(backend.instance), 1);
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_apart_and_passed_over() {
    let (backend, _running) = mirror().await;
    let (lost, closed) = (nobody().await, nobody().await);
    let down = Err(ReachError::Node("node 3 cannot be reached".to_owned()));
    let nodes = [(2, Ok(address(&backend))), (3, down), (4, Ok(address(&closed)))];
    let mixed = site(&nodes, &[on(3, lost), on(4, closed), on(2, backend)]).await;
    for _ in 0..6 {
        assert_eq!(status(&mixed.get("/").await), "200");
    }
    mixed.routes.send_replace(table(&[on(3, lost)]));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    assert!(mixed.handle.drained(backend.instance, deadline).await);
    let answer = mixed.get("/").await;
    assert!(status(&answer) == "502" && answer.contains("does not answer this one"), "{answer}");
    mixed.routes.send_replace(table(&[on(4, closed)]));
    assert!(mixed.handle.drained(lost.instance, deadline).await);
    let answer = mixed.get("/").await;
    assert!(status(&answer) == "502" && answer.contains("Its logs say why"), "{answer}");
}

/// A node whose program starts again: it refuses so often, then it leads to one address.
struct Returns {
    refuses: AtomicUsize,
    then: std::net::SocketAddr,
}

#[async_trait]
impl Reach for Returns {
    async fn reach(&self, _: NodeId, _: InstanceId, _: u16, _: Carries) -> Result<Box<dyn Wire>, ReachError> {
        let refuses = self.refuses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if refuses.is_ok() {
            return Err(ReachError::Node("this node is about to stop".to_owned()));
        }
        let stream = TcpStream::connect(self.then).await;
        Ok(Box::new(stream.map_err(|error| ReachError::Instance(error.to_string()))?))
    }
}

#[tokio::test]
async fn a_request_waits_for_the_only_node_that_can_answer_it_while_that_starts_again() {
    let (backend, _running) = mirror().await;
    let reach = Arc::new(Returns { refuses: AtomicUsize::new(5), then: address(&backend) });
    let restarts = Site::start_at(Limits::default(), reach, &[on(2, backend)]).await;
    let answer =
        restarts.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").await;
    assert!(answer.contains("body: hello"), "{answer}");
    let counted = restarts.handle.in_flight(backend.instance);
    assert_eq!(counted, 0, "each attempt was given back");

    // One that does not come back is waited for once.
    let gone = site(&[], &[on(2, backend)]).await;
    let asked = Instant::now();
    assert_eq!(status(&gone.get("/").await), "502");
    assert!(asked.elapsed() > Duration::from_secs(1), "{:?}", asked.elapsed());
    let asked = Instant::now();
    assert_eq!(status(&gone.get("/").await), "502");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_request_for_an_instance_that_is_gone_waits_for_the_routes_that_say_so() {
    let (backend, _running) = mirror().await;
    let gone = nobody().await;
    let refusal = Err(ReachError::Gone("it is about to stop".to_owned()));
    let behind = site(&[(2, refusal), (3, Ok(address(&backend)))], &[on(2, gone)]).await;
    let mut client = behind.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").await;
    until("it was tried", || behind.handle.instances().iter().any(|(_, numbers)| numbers.requests == 1)).await;
    behind.routes.send_replace(table(&[on(3, backend)]));
    let answer = client.rest().await;
    assert!(answer.contains("body: hello"), "{answer}");
}
