//! Which instance answers, and what is said when none does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::site::{Site, http, mirror, nobody, raw, reply, status, table, until};
use crate::decide::route_table::RouteTable;
use crate::task::Supervisor;

#[tokio::test]
async fn an_unknown_host_and_a_host_without_instances_are_told_apart() {
    let site = Site::start(&[]).await;
    let unknown = site.ask("GET / HTTP/1.1\r\nHost: nope.test\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&unknown), "404");
    assert!(unknown.contains("text/html") && unknown.contains("&quot;nope.test&quot;"), "{unknown}");
    let json =
        site.ask("GET / HTTP/1.1\r\nHost: nope.test\r\nAccept: application/json\r\nConnection: close\r\n\r\n").await;
    let (_, body) = json.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["code"], "not_found");
    let none = site.get("/").await;
    assert_eq!(status(&none), "503");
    assert!(none.contains("retry-after: 5\r\n"), "{none}");
    let numbers = site.handle.numbers();
    assert_eq!((numbers.unknown_host, numbers.no_instance), (2, 1));
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_is_passed_over() {
    let (backend, _running) = mirror().await;
    let dead = nobody().await;
    let site = Site::start(&[dead, backend]).await;
    for _ in 0..4 {
        let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        let answer = site.ask(post).await;
        assert!(answer.contains("body: hello"), "{answer}");
    }
    let of_dead = site.handle.instances().into_iter().find(|(instance, _)| *instance == dead.instance).unwrap().1;
    assert_eq!((of_dead.unreachable, of_dead.in_flight), (1, 0), "it comes last for a while");
    site.routes.send_replace(table(&[dead]));
    assert!(site.handle.drained(backend.instance, tokio::time::Instant::now() + Duration::from_secs(5)).await);
    assert_eq!(status(&site.get("/").await), "502");
}

/// Answers one request per connection, promises to keep it open, and closes it when the second request comes.
async fn forgetful() -> (crate::decide::route_table::Backend, Supervisor, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let (backend, running) = raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            let mut heard = [0; 4096];
            if stream.read(&mut heard).await.is_ok_and(|bytes| bytes > 0) {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                if stream.read(&mut heard).await.is_ok_and(|bytes| bytes > 0) {
                    count.fetch_add(100, Ordering::SeqCst);
                }
            }
        }
    })
    .await;
    (backend, running, seen)
}

#[tokio::test]
async fn a_reused_connection_that_was_closed_does_not_fail_a_repeatable_request() {
    let (backend, _running, seen) = forgetful().await;
    let site = Site::start(&[backend]).await;
    assert_eq!(status(&site.get("/").await), "200");
    assert_eq!(status(&site.get("/").await), "200");
    assert_eq!(seen.load(Ordering::SeqCst), 102, "the second went over the old connection first");
    assert_eq!(site.handle.numbers().retries, 1);
    // What an instance may have seen is not repeated when it may not be.
    let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    assert_eq!(status(&site.ask(post).await), "502");
}

#[tokio::test]
async fn connections_are_kept_and_a_closed_one_is_noticed_before_use() {
    let opened = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(AtomicUsize::new(0));
    let counts = (Arc::clone(&opened), Arc::clone(&closed));
    let (backend, _running) = raw(move |mut stream| {
        let (opened, closed) = counts.clone();
        async move {
            opened.fetch_add(1, Ordering::SeqCst);
            let mut heard = [0; 4096];
            for _ in 0..3 {
                if !stream.read(&mut heard).await.is_ok_and(|bytes| bytes > 0) {
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
            drop(stream);
            closed.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let site = Site::start(&[backend]).await;
    for round in 1..=3 {
        for _ in 0..3 {
            assert_eq!(status(&site.get("/").await), "200");
        }
        assert_eq!(opened.load(Ordering::SeqCst), round, "three requests per connection");
        until("the connection is closed", || closed.load(Ordering::SeqCst) == round).await;
    }
    let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&site.ask(post).await), "200");
    assert_eq!(site.handle.numbers().retries, 0);
}

#[tokio::test]
async fn garbage_from_an_instance_is_a_bad_gateway() {
    let (backend, _running) = raw(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await;
    })
    .await;
    let site = Site::start(&[backend]).await;
    let answer = site.get("/").await;
    assert_eq!(status(&answer), "502", "{answer}");
    assert_eq!(site.handle.numbers().instance_failed, 1);
}

#[tokio::test]
async fn the_least_busy_instance_gets_the_next_request() {
    let slow = || async {
        http(|request| async move {
            if request.uri().path() == "/slow" {
                std::future::pending::<()>().await;
            }
            reply(Full::from("fast"))
        })
        .await
    };
    let (one, _one) = slow().await;
    let (two, _two) = slow().await;
    let site = Site::start(&[one, two]).await;
    let mut clients = Vec::new();
    for number in 1..=6 {
        let mut client = site.connect().await;
        client.say("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        until("it is open", || site.handle.in_flight(one.instance) + site.handle.in_flight(two.instance) == number)
            .await;
        clients.push(client);
    }
    assert_eq!((site.handle.in_flight(one.instance), site.handle.in_flight(two.instance)), (3, 3));
    site.routes.send_replace(Arc::new(RouteTable::default()));
    until("the host is gone", || site.handle.instances().len() == 2).await;
}
