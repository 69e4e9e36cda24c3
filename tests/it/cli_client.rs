//! The client against small servers: several nodes, pages, refusals, streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use narvana::client::{Client, Error, Event, LogFilter, Options};
use narvana::model::Secret;
use narvana::task::{OnError, Supervisor};
use serde_json::json;
use std::collections::HashMap;
use tokio::sync::Barrier;
use tokio_util::sync::CancellationToken;

async fn serve(supervisor: &Supervisor, routes: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    supervisor.spawn("server", OnError::Log, async move { axum::serve(listener, routes).await });
    address
}

fn supervisor() -> Supervisor {
    Supervisor::new("test", CancellationToken::new())
}

fn client(addresses: &[&str]) -> Client {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    let options = Options { addresses, token: Some(Secret::new("t0ken")), ..Options::default() };
    Client::new(&options).expect("a client")
}

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

fn refusal(status: StatusCode, code: &str) -> impl IntoResponse + use<> {
    (status, Json(json!({ "code": code, "message": "refused", "details": { "name": "is taken" }, "request_id": "r1" })))
}

#[tokio::test]
async fn the_next_node_is_asked_when_nothing_was_done() {
    let supervisor = supervisor();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let alone = axum::Router::new().fallback(move || {
        count.fetch_add(1, Ordering::Relaxed);
        async { refusal(StatusCode::SERVICE_UNAVAILABLE, "no_quorum") }
    });
    let alone = serve(&supervisor, alone).await;
    let works = axum::Router::new().route("/v1/apps", post(|| async { Json(json!({ "name": "shop" })) }));
    let works = serve(&supervisor, works).await;

    let client = client(&[&nobody(), &alone, &works]);
    for _ in 0..2 {
        let app = client.create_app(&json!({ "name": "shop" })).await.expect("made by the third node");
        assert_eq!(app.view.name, "shop");
    }
    assert_eq!(client.address(), works);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the node that works is asked first from then on");
}

/// A server that closes every connection once it has read a request.
async fn breaks(supervisor: &Supervisor) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    supervisor.spawn("breaking server", OnError::Log, async move {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut head = [0; 1024];
            let _read = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await?;
        }
        #[expect(unreachable_code, reason = "it says what the loop fails with")]
        Ok::<(), std::io::Error>(())
    });
    address
}

#[tokio::test]
async fn a_change_that_may_have_been_made_is_repeated_under_its_key_alone() {
    let supervisor = supervisor();
    let keys: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&keys);
    let note = move |headers: &HeaderMap| {
        let key = headers["idempotency-key"].to_str().expect("text").to_owned();
        seen.lock().expect("not poisoned").push(key);
    };
    let doubtful = note.clone();
    let doubts = axum::Router::new().fallback(move |headers: HeaderMap| {
        doubtful(&headers);
        async { refusal(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown") }
    });
    let proxy = axum::Router::new().fallback(|| async { (StatusCode::BAD_GATEWAY, "<html>") });
    let works = axum::Router::new().fallback(move |headers: HeaderMap| {
        note(&headers);
        async { Json(json!({ "name": "shop", "token": "t" })) }
    });
    let (doubts, proxy) = (serve(&supervisor, doubts).await, serve(&supervisor, proxy).await);
    let works = serve(&supervisor, works).await;
    let broken = breaks(&supervisor).await;
    let client = client(&[&broken, &doubts, &proxy, &works]);
    assert_eq!(client.create_app(&json!({})).await.expect("made by the last").view.name, "shop");
    {
        let keys = keys.lock().expect("not poisoned");
        assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
    }
    // A log-in has no key.
    let client = self::client(&[&broken, &works]);
    let error = client.login("ada@example.org", "x").await.expect_err("not repeated");
    assert!(matches!(error, Error::Broken { .. }), "{error}");
}

#[tokio::test]
async fn when_every_node_failed_the_one_that_knows_most_is_heard() {
    let supervisor = supervisor();
    let alone = || axum::Router::new().fallback(|| async { refusal(StatusCode::SERVICE_UNAVAILABLE, "no_quorum") });
    let alone = serve(&supervisor, alone()).await;
    let broken = breaks(&supervisor).await;
    let all = client(&[&alone, &broken, &nobody()]);
    let error = all.create_app(&json!({})).await.expect_err("nobody did it, or somebody did");
    assert!(matches!(error, Error::Broken { .. }), "{error}");
    assert_eq!(all.apps().await.expect_err("nothing can be read").code(), "no_quorum");
}

/// Each takes seconds to find out that it cannot decide: after the first one, the others are asked together.
#[tokio::test]
async fn when_one_node_cannot_decide_the_others_are_asked_at_once() {
    let supervisor = supervisor();
    let alone = |waits: Arc<Barrier>| {
        axum::Router::new().fallback(move || async move {
            waits.wait().await;
            refusal(StatusCode::SERVICE_UNAVAILABLE, "no_quorum")
        })
    };
    let (one, two) = (Arc::new(Barrier::new(1)), Arc::new(Barrier::new(2)));
    let first = serve(&supervisor, alone(one)).await;
    let second = serve(&supervisor, alone(Arc::clone(&two))).await;
    let third = serve(&supervisor, alone(two)).await;
    let all = client(&[&first, &second, &third]);
    let answer = tokio::time::timeout(Duration::from_secs(20), all.apps()).await.expect("both were asked");
    assert_eq!(answer.expect_err("nothing can be read").code(), "no_quorum");
}

#[tokio::test]
async fn a_refusal_is_not_tried_elsewhere() {
    let supervisor = supervisor();
    let first = axum::Router::new().fallback(|| async { refusal(StatusCode::CONFLICT, "conflict") });
    let first = serve(&supervisor, first).await;
    let second = serve(&supervisor, axum::Router::new().fallback(|| async { Json(json!({})) })).await;
    let error = client(&[&first, &second]).create_app(&json!({})).await.expect_err("refused");
    assert_eq!(error.code(), "conflict");
    assert_eq!(error.to_string(), "refused\n  name: is taken");
}

#[tokio::test]
async fn nobody_answers() {
    let (one, two) = (nobody(), nobody());
    let error = client(&[&one, &two]).apps().await.expect_err("nobody is there");
    assert_eq!(error.to_string(), format!("no node answers at {one}, {two}"));
}

#[tokio::test]
async fn someone_else_answers() {
    let supervisor = supervisor();
    let other = axum::Router::new().fallback(|| async { "hello" });
    let other = serve(&supervisor, other).await;
    let error = client(&[&other]).apps().await.expect_err("not understood");
    assert!(matches!(error, Error::Answer { .. }), "{error}");
}

#[tokio::test]
async fn pages_come_as_one_list_and_the_token_and_a_key_are_sent() {
    let supervisor = supervisor();
    let page = |query: Query<HashMap<String, String>>| async move {
        match query.get("cursor").map(String::as_str) {
            None => ([("x-narvana-next-cursor", "b")], Json(json!([{ "name": "a" }, { "name": "b" }]))).into_response(),
            Some("b") => Json(json!([{ "name": "c" }])).into_response(),
            Some(_) => StatusCode::BAD_REQUEST.into_response(),
        }
    };
    let headers = |headers: HeaderMap| async move {
        let key = headers.get("idempotency-key").is_some_and(|key| key.len() == 36);
        let authorised = headers.get("authorization").is_some_and(|token| token == "Bearer t0ken");
        Json(json!({ "name": format!("{key} {authorised}") }))
    };
    let routes = axum::Router::new().route("/v1/apps", get(page).post(headers));
    let address = serve(&supervisor, routes).await;
    let client = client(&[&format!("{address}/")]);
    let apps = client.apps().await.expect("all of them");
    let names: Vec<&str> = apps.view.iter().map(|app| app.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(apps.json.as_array().map(Vec::len), Some(3));
    assert_eq!(client.create_app(&json!({})).await.expect("made").view.name, "true true");
}

#[tokio::test]
async fn names_stay_one_segment_of_the_path() {
    let supervisor = supervisor();
    let echo = axum::Router::new().fallback(|uri: axum::http::Uri| async move { Json(json!({ "name": uri.path() })) });
    let address = serve(&supervisor, echo).await;
    let app = client(&[&address]).app("a/../b?x=1 ü").await.expect("an answer");
    assert_eq!(app.view.name, "/v1/apps/a%2F..%2Fb%3Fx=1%20%C3%BC");
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event() {
    let supervisor = supervisor();
    let stream = |State(()): State<()>, headers: HeaderMap| async move {
        let after = headers.get("last-event-id").map_or("nothing", |id| id.to_str().expect("text"));
        ([("content-type", "text/event-stream")], format!(": hello\n\nevent: log\nid: 8\ndata: after {after}\n\n"))
    };
    let routes = axum::Router::new().route("/v1/apps/{app}/logs/stream", get(stream)).with_state(());
    let address = serve(&supervisor, routes).await;
    let client = client(&[&address]);
    for (after, data) in [(None, "after nothing"), (Some("7"), "after 7")] {
        let mut events = client.log_events("shop", &LogFilter::default(), after).await.expect("a stream");
        let event = events.next().await.expect("an event").expect("whole");
        assert_eq!(event, Event { name: "log".into(), data: data.into(), id: Some("8".into()) });
        assert!(events.next().await.is_none(), "the end of the stream");
    }
}
