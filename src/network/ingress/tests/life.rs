//! Tables that change under load, drains, and the end of an ingress.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::pass::{UPGRADE, echo_tunnel};
use super::site::{DEADLINE, Nodes, Site, http, mirror, reply, status, supervisor, table, until};
use crate::decide::route_table::Backend;
use crate::network::{Error, Ingress, Options};
use crate::task::{OnError, Supervisor};

/// Answers after a moment, so that requests are always open.
async fn unhurried() -> (Backend, Supervisor) {
    http(|_| async {
        tokio::time::sleep(Duration::from_millis(3)).await;
        reply(Full::from("done"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_instances_are_replaced_under_load() {
    const CLIENTS: usize = 8;
    const ROLLOUTS: usize = 10;
    let (mut current, mut running) = unhurried().await;
    let site = Site::start(&[current]).await;
    let done = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let load = supervisor();
    let mut results = Vec::new();
    for number in 0..CLIENTS {
        let (tell, result) = oneshot::channel();
        results.push(result);
        let (done, answered) = (Arc::clone(&done), Arc::clone(&answered));
        let mut client = site.connect().await;
        load.spawn("client", OnError::Log, async move {
            // Half of them send what must not be repeated.
            let method = if number % 2 == 0 { "GET" } else { "POST" };
            let request = format!("{method} / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
            while !done.load(Ordering::SeqCst) {
                client.say(&request).await;
                let answer = client.until("\r\n\r\n").await;
                assert_eq!(status(&answer), "200", "{answer}");
                client.until("done").await;
                answered.fetch_add(1, Ordering::SeqCst);
            }
            let _ = tell.send(());
            Ok::<_, Infallible>(())
        });
    }
    for _ in 0..ROLLOUTS {
        let before = answered.load(Ordering::SeqCst);
        until("requests flow", || answered.load(Ordering::SeqCst) > before + 50).await;
        let (next, next_running) = unhurried().await;
        site.routes.send_replace(table(&[current, next]));
        site.routes.send_replace(table(&[next]));
        assert!(site.handle.drained(current.instance, Instant::now() + DEADLINE).await);
        // Gone at once and without mercy: whatever were still open would fail.
        running.stop(Duration::ZERO).await;
        (current, running) = (next, next_running);
    }
    done.store(true, Ordering::SeqCst);
    for result in results {
        result.await.expect("a client saw a failure");
    }
    let numbers = site.handle.numbers();
    assert_eq!(numbers.responses[4] + numbers.responses[3], 0, "{numbers:?}");
}

#[tokio::test]
async fn an_instance_that_left_finishes_what_is_open_and_gets_nothing_new() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let (old, _old) = http(move |_| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            reply(Full::from("old"))
        }
    })
    .await;
    let (new, _new) = mirror().await;
    let site = Site::start(&[old]).await;
    let mut client = site.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    until("it is open", || site.handle.in_flight(old.instance) == 1).await;
    site.routes.send_replace(table(&[new]));
    assert!(!site.handle.drained(old.instance, Instant::now() + Duration::from_millis(100)).await);
    assert!(site.get("/").await.contains("GET / HTTP/1.1"), "the new one answers");
    go.notify_one();
    assert!(client.rest().await.ends_with("old"));
    assert!(site.handle.drained(old.instance, Instant::now() + DEADLINE).await);
}

#[tokio::test]
async fn a_stop_finishes_requests_closes_idle_connections_and_cuts_the_rest() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let (slow, _slow) = http(move |_| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            reply(Full::from("finished"))
        }
    })
    .await;
    let site = Site::start(&[slow]).await;
    let mut idle = site.connect().await;
    let mut open = site.connect().await;
    open.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    until("it is open", || site.handle.in_flight(slow.instance) == 1).await;
    let stop = site.supervisor.stop(DEADLINE);
    let watch = async {
        assert_eq!(idle.rest().await, "");
        let refused = async { TcpStream::connect(site.handle.address()).await.is_err() };
        assert!(refused.await, "nobody listens any more");
        go.notify_one();
        assert!(open.rest().await.ends_with("finished"));
    };
    let began = Instant::now();
    tokio::join!(stop, watch);
    assert!(began.elapsed() < DEADLINE, "it waited no longer than needed");
    assert_eq!(site.handle.numbers().connections_open, 0);
}

#[tokio::test]
async fn a_stop_cuts_websockets_at_the_end_of_its_grace() {
    let (backend, _running) = echo_tunnel().await;
    let site = Site::start(&[backend]).await;
    let mut client = site.connect().await;
    client.say(UPGRADE).await;
    client.until("\r\n\r\n").await;
    let stop = site.supervisor.stop(Duration::from_millis(200));
    let talk = async {
        client.say("still").await;
        client.until("still").await;
    };
    tokio::join!(stop, talk);
    assert_eq!(client.rest().await, "");
    assert_eq!(site.handle.in_flight(backend.instance), 0);
}

#[tokio::test]
async fn a_port_in_use_is_said_with_its_address() {
    let site = Site::start(&[]).await;
    let address = site.handle.address();
    let (_routes, receiver) = tokio::sync::watch::channel(table(&[]));
    let options = Options { address: address.ip(), port: address.port(), ..Options::default() };
    let Err(error) = Ingress::bind(options, receiver, Arc::new(Nodes::default())).await else { panic!("bound twice") };
    assert!(matches!(&error, Error::Bind { address: same, .. } if *same == address), "{error}");
    assert!(error.to_string().contains(&address.to_string()));
}
