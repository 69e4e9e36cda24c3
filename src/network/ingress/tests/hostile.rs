//! Requests made to confuse: none of them may reach a backend as something else than what was checked.

use std::time::Duration;

use super::site::{Site, mirror, status};
use crate::network::Limits;

#[tokio::test]
async fn malformed_requests_are_refused_and_their_connection_closed() {
    let (backend, _running) = mirror().await;
    let site = Site::start(&[backend]).await;
    let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "x".repeat(64 * 1024));
    let path = format!("GET /{} HTTP/1.1\r\nHost: a.test\r\n\r\n", "x".repeat(70_000));
    let with = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n0\r\n\r\n");
    let cases = [
        ("400", with("Content-Length: 5\r\nContent-Length: 6\r\n")),
        ("400", with("Content-Length: 5, 5\r\n")),
        ("400", with("Content-Length: +5\r\n")),
        ("400", with("Content-Length: -1\r\n")),
        ("400", with("Content-Length: 0x5\r\n")),
        ("400", with("Content-Length: 99999999999999999999\r\n")),
        ("400", with("Transfer-Encoding: xchunked\r\n")),
        ("400", with("Transfer-Encoding: identity\r\n")),
        ("400", with("Transfer-Encoding: chunked, identity\r\n")),
        ("400", with("Transfer-Encoding: gzip, chunked\r\n")),
        ("400", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")),
        ("400", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
        ("400", with("Transfer-Encoding : chunked\r\n")),
        ("400", with("Transfer-Encoding:\x0bchunked\r\n")),
        ("400", with("X: 1\r\n folded\r\n")),
        ("400", with("X: a\0b\r\n")),
        ("400", with("X: a\rTransfer-Encoding: chunked\r\n")),
        ("400", "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("400", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("400", "GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n".to_owned()),
        ("400", "GET / HTTP/1.1\r\nHost: a.test/<b>\r\n\r\n".to_owned()),
        ("400", "GET / HTTP/3.7\r\nHost: a.test\r\n\r\n".to_owned()),
        ("400", "GET  /  HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned()),
        ("405", "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned()),
        ("405", "TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned()),
        ("421", "GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned()),
        ("431", format!("GET / HTTP/1.1\r\nHost: a.test\r\n{many}\r\n")),
        ("431", format!("GET / HTTP/1.1\r\nHost: a.test\r\n{long}\r\n")),
        ("431", path),
    ];
    for (expected, request) in cases {
        let answer = site.ask(&request).await;
        let shown: String = request.chars().take(120).collect();
        assert_eq!(status(&answer), expected, "{shown:?} got {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shown:?} got {answer}");
    }
    assert_eq!(site.handle.instances()[0].1.requests, 0, "nothing reached the backend");
}

#[tokio::test]
async fn two_framings_are_refused_and_the_connection_ends() {
    let (backend, _running) = mirror().await;
    let site = Site::start(&[backend]).await;
    let good = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nok";
    for before in ["", good] {
        for fields in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 60\r\n",
        ] {
            let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
            let answer =
                site.ask(&format!("{before}POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n0\r\n\r\n{smuggled}")).await;
            assert!(!answer.contains("smuggled"), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1 400").count(), 1, "{answer}");
            assert!(answer.contains("connection: close"), "{answer}");
        }
    }
}

#[tokio::test]
async fn one_address_has_a_limit_of_connections() {
    let (backend, _running) = mirror().await;
    let limits = Limits { connections_per_address: 2, ..Limits::default() };
    let site = Site::start_with(limits, &[backend]).await;
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut first = site.connect().await;
    let mut second = site.connect().await;
    for client in [&mut first, &mut second] {
        client.say(request).await;
        client.until("\r\n\r\n").await;
    }
    assert_eq!(site.connect().await.rest().await, "", "closed at once");
    drop(first);
    super::site::until("there is room again", || site.handle.numbers().connections_open < 2).await;
    let mut again = site.connect().await;
    again.say(request).await;
    again.until("\r\n\r\n").await;
}

#[tokio::test]
async fn an_absolute_target_decides_the_host() {
    let (backend, _running) = mirror().await;
    let site = Site::start(&[backend]).await;
    let ask = async |target: &str, host: &str| {
        site.ask(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    };
    let answer = ask("http://a.test/x", "evil.test").await;
    assert!(answer.contains("GET /x HTTP/1.1\nhost: a.test\n"), "{answer}");
    assert!(!answer.contains("evil"), "{answer}");
    assert_eq!(status(&ask("http://evil.test/x", "a.test").await), "404");
    assert_eq!(status(&ask("http://user@a.test/x", "a.test").await), "400");
}

#[tokio::test]
async fn who_sends_a_head_too_slowly_is_cut_off() {
    let (backend, _running) = mirror().await;
    let limits = Limits { request_head: Duration::from_millis(200), ..Limits::default() };
    let site = Site::start_with(limits, &[backend]).await;
    let mut nothing = site.connect().await;
    assert_eq!(nothing.rest().await, "");
    let mut drip = site.connect().await;
    let began = tokio::time::Instant::now();
    let mut text = "GET / HTTP/1.1\r\nHost: a.test\r\nX: ".bytes().chain(std::iter::repeat(b'x'));
    // A drop now and then does not buy more time.
    while tokio::io::AsyncWriteExt::write_u8(&mut drip.stream, text.next().unwrap()).await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "still listened to");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(site.handle.instances()[0].1.requests, 0);
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let (backend, _running) = mirror().await;
    let limits = Limits { response_head: Duration::from_millis(150), ..Limits::default() };
    let site = Site::start_with(limits, &[backend]).await;
    let answer = site.ask("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel").await;
    assert_eq!(status(&answer), "504", "{answer}");
}
