//! What passes through, and how.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::site::{DEADLINE, Site, http, mirror, raw, reply, status, until};
use crate::network::Limits;

#[tokio::test]
async fn a_request_reaches_its_host_with_the_address_of_its_client() {
    let (backend, _running) = mirror().await;
    let site = Site::start(&[backend]).await;
    let answer = site
        .ask(
            "GET /x?y=1 HTTP/1.1\r\nHost: A.Test:81\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\n\
             Cookie: a=b\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(status(&answer), "200", "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(body.starts_with("GET /x?y=1 HTTP/1.1\n"), "{body}");
    for line in [
        "host: A.Test:81",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: A.Test:81",
        "cookie: a=b",
    ] {
        assert!(body.lines().any(|have| have == line), "{line} in {body}");
    }
    assert!(!body.contains("6.6.6.6") && !body.contains("evil") && !body.contains("connection:"), "{body}");
}

#[tokio::test]
async fn bodies_pass_with_either_framing_and_with_any_method() {
    let (backend, _running) = mirror().await;
    let site = Site::start(&[backend]).await;
    for method in ["POST", "GET"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n");
        let sized = site.ask(&format!("{head}Content-Length: 5\r\n\r\nhello")).await;
        assert!(sized.contains("body: hello") && sized.contains("content-length: 5"), "{sized}");
        let chunked =
            site.ask(&format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n")).await;
        assert!(chunked.contains("body: hello") && chunked.contains("transfer-encoding: chunked"), "{chunked}");
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests_also_pipelined() {
    let (backend, _running) = mirror().await;
    let site = Site::start(&[backend]).await;
    let mut client = site.connect().await;
    for round in 0..3 {
        client.say(&format!("GET /{round} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let answer = client.until("body: \n").await;
        assert!(answer.contains(&format!("GET /{round} ")), "{answer}");
    }
    client
        .say("GET /p1 HTTP/1.1\r\nHost: a.test\r\n\r\nGET /p2 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .await;
    let answers = client.rest().await;
    assert!(answers.contains("GET /p1 ") && answers.contains("GET /p2 "), "{answers}");
    assert_eq!(site.handle.numbers().responses, [0, 5, 0, 0, 0]);
}

#[tokio::test]
async fn http_1_0_and_head_get_what_they_can_read() {
    let (backend, _running) = http(|_| async {
        let parts = futures::stream::iter(["one", "two"]).map(|part| Ok(Frame::data(Bytes::from(part))));
        reply(BodyExt::boxed(StreamBody::new(parts)))
    })
    .await;
    let site = Site::start(&[backend]).await;
    let old = site.ask("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n").await;
    assert!(old.ends_with("\r\n\r\nonetwo") && !old.to_lowercase().contains("transfer-encoding"), "{old}");
    let new = site.get("/").await;
    assert!(new.ends_with("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), "{new}");

    let (backend, _running) = mirror().await;
    let site = Site::start(&[backend]).await;
    let head = site.ask("HEAD / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    assert!(head.contains("content-length: ") && head.ends_with("\r\n\r\n"), "{head}");
    until("the connection was given back", || site.handle.instances()[0].1.in_flight == 0).await;
}

#[tokio::test]
async fn an_answer_streams_piece_by_piece() {
    let (send, receive) = mpsc::channel::<&'static str>(1);
    let receive = std::sync::Arc::new(std::sync::Mutex::new(Some(receive)));
    let (backend, _running) = http(move |_| {
        let pieces = receive.lock().unwrap().take().unwrap();
        async { reply(StreamBody::new(ReceiverStream::new(pieces).map(|piece| Ok(Frame::data(Bytes::from(piece)))))) }
    })
    .await;
    let site = Site::start(&[backend]).await;
    let mut client = site.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    for piece in ["first", "second", "third"] {
        send.send(piece).await.unwrap();
        client.until(piece).await;
    }
    assert_eq!(site.handle.in_flight(backend.instance), 1);
    drop(send);
    assert!(client.rest().await.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn a_request_streams_while_its_answer_already_does() {
    let (backend, _running) = http(|request| async {
        let body = request.into_body().into_data_stream();
        reply(StreamBody::new(body.filter_map(|piece| async { piece.ok() }).map(|piece| Ok(Frame::data(piece)))))
    })
    .await;
    let site = Site::start(&[backend]).await;
    let mut client = site.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n").await;
    for piece in ["aaa", "bbb", "ccc"] {
        client.say(&format!("3\r\n{piece}\r\n")).await;
        client.until(piece).await;
    }
    client.say("0\r\n\r\n").await;
    assert!(client.rest().await.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_when_the_body_is_wanted() {
    let (backend, _running) = mirror().await;
    let site = Site::start(&[backend]).await;
    let mut client = site.connect().await;
    client
        .say("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.say("hello").await;
    assert!(client.rest().await.contains("body: hello"));
    let unknown = "PUT / HTTP/1.1\r\nHost: b.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(status(&site.ask(unknown).await), "404", "no body is asked for in vain");
}

#[tokio::test]
async fn interim_answers_and_http_1_0_backends_are_understood() {
    let (backend, _running) = raw(|mut stream| async move {
        let mut heard = [0; 1024];
        let _ = stream.read(&mut heard).await;
        let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.0 200 OK\r\n\r\nold").await;
    })
    .await;
    let site = Site::start(&[backend]).await;
    let answer = site.get("/").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("old"), "{answer}");
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_that_counts_as_in_flight() {
    let (backend, _running) = echo_tunnel().await;
    let site = Site::start(&[backend]).await;
    let mut client = site.connect().await;
    client.say(UPGRADE).await;
    let head = client.until("\r\n\r\n").await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n") && head.contains("sec-websocket-accept: x"), "{head}");
    for word in ["ping", "pong"] {
        client.say(word).await;
        client.until(word).await;
    }
    assert_eq!(site.handle.in_flight(backend.instance), 1);
    assert_eq!(site.handle.numbers().responses[0], 1);
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "");
    until("the tunnel is closed", || site.handle.in_flight(backend.instance) == 0).await;
}

pub(super) const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Agrees to an upgrade, then says back what it hears.
pub(super) async fn echo_tunnel() -> (crate::decide::route_table::Backend, crate::task::Supervisor) {
    raw(|mut stream| async move {
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => heard.push(byte),
                Err(_) => return,
            }
        }
        let heard = String::from_utf8(heard).unwrap().to_lowercase();
        assert!(heard.contains("\r\nupgrade: websocket\r\n") && heard.contains("\r\nconnection: upgrade\r\n"));
        // The first bytes after the head may come in the same packet.
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: x\r\n\r\n";
        let _ = stream.write_all(agreed.as_bytes()).await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

#[tokio::test]
async fn an_upgrade_nobody_asked_for_is_a_bad_answer() {
    let (backend, _running) = raw(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ =
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
    })
    .await;
    let site = Site::start(&[backend]).await;
    assert_eq!(status(&site.get("/").await), "502");
}

#[tokio::test]
async fn a_large_upload_passes_without_being_kept() {
    const PIECE: usize = 1024 * 1024;
    const PIECES: usize = 256;
    let (backend, _running) = http(|request| async {
        let mut body = request.into_body();
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        reply(Full::from(format!("got {bytes}")))
    })
    .await;
    let site = Site::start(&[backend]).await;
    let mut client = site.connect().await;
    let length = PIECE * PIECES;
    let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    client.say(&head).await;
    let piece = vec![7; PIECE];
    let before = memory_peak_kib();
    for _ in 0..PIECES {
        client.stream.write_all(&piece).await.unwrap();
    }
    assert!(client.rest().await.ends_with(&format!("got {length}")));
    let grown = memory_peak_kib() - before;
    assert!(grown < 48 * 1024, "memory grew by {grown} KiB");
}

fn memory_peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let (told, mut gone) = mpsc::channel(1);
    let (backend, _running) = raw(move |mut stream| {
        let told = told.clone();
        async move {
            let _ = stream.read(&mut [0; 1024]).await;
            // The request is here; now nothing comes but the end.
            let end = stream.read(&mut [0; 1024]).await;
            let _ = told.send(end.unwrap_or(0)).await;
        }
    })
    .await;
    let site = Site::start(&[backend]).await;
    let mut client = site.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    until("the request is open", || site.handle.in_flight(backend.instance) == 1).await;
    drop(client);
    assert_eq!(tokio::time::timeout(DEADLINE, gone.recv()).await.unwrap(), Some(0));
    until("nothing is open", || site.handle.in_flight(backend.instance) == 0).await;
}

#[tokio::test]
async fn an_instance_that_stays_silent_is_given_up_but_an_upload_may_take_its_time() {
    let (silent, _running) = http(|_| async {
        std::future::pending::<()>().await;
        reply(Empty::new())
    })
    .await;
    let limits = Limits { response_head: Duration::from_millis(150), ..Limits::default() };
    let site = Site::start_with(limits.clone(), &[silent]).await;
    assert_eq!(status(&site.get("/").await), "504");

    let (backend, _running) = mirror().await;
    let site = Site::start_with(limits, &[backend]).await;
    let mut client = site.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8\r\nConnection: close\r\n\r\n").await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        client.say("x").await;
    }
    let answer = client.rest().await;
    assert!(answer.contains("body: xxxxxxxx"), "{answer}");
}
