//! Event streams: logs as they come, resumed where they broke off, ended with the session and with the node.

use std::collections::VecDeque;

use axum::body::{Body, BodyDataStream};
use futures::StreamExt;
use http::Request;
use narvana::api::Peer;
use narvana::clock;
use narvana::logs::{LogKey, LogLine, LogStream};
use narvana::model::{BuildId, Lease, NodeId};
use narvana::state::{BuildResult, Command};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api_support::{Api, DEADLINE, LOCAL};

/// An event: its name, its id, its data.
#[derive(Debug)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

struct Events {
    body: BodyDataStream,
    text: String,
    ready: VecDeque<Event>,
}

impl Events {
    async fn open(api: &Api, path: &str, last_id: &str) -> Self {
        let separator = if path.contains('?') { '&' } else { '?' };
        // As a browser does it: no header, the token in the query.
        let request = Request::builder().uri(format!("{path}{separator}token={}", api.token));
        let request = request.extension(Peer { address: LOCAL.parse().expect("an address"), tls: false });
        let request = request.header("last-event-id", last_id).body(Body::empty()).expect("a request");
        let response = api.open(request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new(), ready: VecDeque::new() }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let piece = timeout(DEADLINE, self.body.next()).await.expect("an event in time")?.expect("a piece");
            self.text.push_str(std::str::from_utf8(&piece).expect("text"));
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                        .unwrap_or_default()
                        .to_owned()
                };
                let data = serde_json::from_str(&field("data")).unwrap_or_default();
                self.ready.push_back(Event { name: field("event"), id: field("id"), data });
                self.text = rest.to_owned();
            }
        }
    }

    async fn named(&mut self, name: &str) -> Event {
        let found = async {
            while let Some(event) = self.next().await {
                if event.name == name {
                    return event;
                }
            }
            panic!("the stream ended before {name}");
        };
        timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("no {name} in time"))
    }
}

/// An app with one build that the node has taken, and the build's log.
async fn building() -> (Api, String, BuildId) {
    let (api, deployment, build) = queued().await;
    take(&api, build).await;
    (api, deployment, build)
}

async fn take(api: &Api, build: BuildId) -> Lease {
    let lease = Lease { node: NodeId::FOUNDER, incarnation: api.register_node().await };
    api.apply(Command::LeaseBuild { build, lease }).await;
    lease
}

/// An app with one build that waits.
async fn queued() -> (Api, String, BuildId) {
    let api = Api::registered().await;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    let service = json!({"name": "web", "git_repo": "github.com/o/r"});
    api.post("/v1/apps/shop/services", &service).await.expect(201);
    let deployment = api.post("/v1/apps/shop/services/web/deploy", &json!({})).await.expect(202);
    let build = deployment["build_id"].as_str().expect("a build").parse().expect("an id");
    (api, deployment["id"].as_str().expect("an id").to_owned(), build)
}

fn line(text: &str) -> LogLine {
    LogLine::new(clock::now().into(), LogStream::Stdout, text)
}

#[tokio::test]
async fn a_line_that_imitates_ours_is_the_text_of_one_event() {
    let (api, _, build) = building().await;
    let writer = api.logs.writer(LogKey::Build(build)).await.expect("a writer");
    let hostile = [
        r#"{"level":"audit","message":"ada was made an owner","code":"ok"}"#,
        "data: x\n\nevent: end\ndata: {}\n\n",
        "data: x\r\revent: log\rid: 7\r\r",
        "event: end",
        ": comment",
        "retry: 1",
    ];
    for text in hostile {
        writer.append(line(text)).await.expect("taken");
    }
    writer.append(line("the last")).await.expect("taken");
    let mut events = Events::open(&api, "/v1/apps/shop/logs/stream?source=build", "").await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|text| text != "the last") {
        let event = events.next().await.expect("it goes on");
        assert!(matches!(event.name.as_str(), "connected" | "deployment_status" | "log" | "ping"), "{event:?}");
        if event.name == "log" {
            assert_eq!(event.data["level"], Value::Null, "{event:?}");
            seen.push(event.data["message"].as_str().expect("text").to_owned());
        }
    }
    // Line ends inside a line are shown as what they are, the last one is left out; the rest is there letter by letter.
    let [audit, _, _, end, comment, retry] = hostile;
    let (frame, carriage) = (r"data: x\n\nevent: end\ndata: {}\n", r"data: x\r\revent: log\rid: 7\r");
    assert_eq!(seen, [audit, frame, carriage, end, comment, retry, "the last"]);
}

#[tokio::test]
async fn lines_come_as_they_are_written_and_go_on_where_they_broke_off() {
    let (api, deployment, build) = building().await;
    let writer = api.logs.writer(LogKey::Build(build)).await.expect("a writer");
    writer.append(line("one")).await.expect("taken");
    let path = "/v1/apps/shop/logs/stream?source=build";
    let mut events = Events::open(&api, path, "").await;
    assert_eq!(events.next().await.expect("an event").name, "connected");
    assert_eq!(events.named("deployment_status").await.data["status"], "building");
    let one = events.named("log").await;
    assert_eq!((&one.data["message"], &one.data["deployment_id"]), (&json!("one"), &json!(deployment)));
    writer.append(line("two")).await.expect("taken");
    let two = events.named("log").await;
    assert_eq!((&two.data["message"], &two.data["seq"]), (&json!("two"), &json!(1)));
    drop(events);
    writer.append(line("three")).await.expect("taken");
    let mut events = Events::open(&api, path, &two.id).await;
    assert_eq!(events.named("log").await.data["message"], "three");

    // A new deployment is announced, and its build is followed from its first line on.
    let next = api.post("/v1/apps/shop/services/web/deploy", &json!({})).await.expect(202);
    let announced = events.named("new_deployment").await;
    assert_eq!(announced.data["deployment_id"], next["id"]);
    let build = next["build_id"].as_str().expect("a build").parse().expect("an id");
    take(&api, build).await;
    let writer = api.logs.writer(LogKey::Build(build)).await.expect("a writer");
    writer.append(line("four")).await.expect("taken");
    assert_eq!(events.named("log").await.data["message"], "four");

    let shown = api.get("/v1/apps/shop/logs?limit=2").await.expect(200);
    assert_eq!(shown["logs"][0]["message"], "four");
    let of_first = api.get(&format!("/v1/apps/shop/logs?deployment_id={deployment}&limit=2")).await.expect(200);
    let messages: Vec<&str> =
        of_first["logs"].as_array().expect("lines").iter().filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(messages, ["three", "two"], "newest first");
    let of_build = api.get(&format!("/v1/apps/shop/logs?build_id={build}")).await.expect(200);
    let messages: Vec<&Value> =
        of_build["logs"].as_array().expect("lines").iter().map(|line| &line["message"]).collect();
    assert_eq!(messages, ["four"]);
    api.get("/v1/apps/shop/logs?build_id=nope").await.refused(400, "invalid_request");
}

#[tokio::test]
async fn a_deployment_is_watched_to_its_end() {
    let (api, deployment, build) = queued().await;
    let writer = api.logs.writer(LogKey::Build(build)).await.expect("a writer");
    let mut events = Events::open(&api, &format!("/v1/deployments/{deployment}/stream"), "").await;
    assert_eq!(events.named("deployment").await.data["status"], "pending");
    assert_eq!(events.named("build").await.data["status"], "queued");
    let lease = take(&api, build).await;
    assert_eq!(events.named("build").await.data["status"], "running");
    writer.append(line("step 1")).await.expect("taken");
    assert_eq!(events.named("log").await.data["message"], "step 1");
    api.post(&format!("/v1/builds/{build}/cancel"), &json!({})).await.expect(202);
    api.apply(Command::FinishBuild { build, lease, result: BuildResult::Cancelled }).await;
    let failed = events.named("deployment").await;
    assert_eq!((&failed.data["status"], &failed.data["reason"]), (&json!("failed"), &json!("the build was cancelled")));
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn a_reader_who_was_cut_off_lacks_nothing_and_hears_nothing_twice() {
    let (api, deployment, build) = building().await;
    let writer = api.logs.writer(LogKey::Build(build)).await.expect("a writer");
    let path = "/v1/apps/shop/logs/stream?source=build&limit=2";
    let mut events = Events::open(&api, path, "").await;
    assert_eq!(events.named("deployment_status").await.data["status"], "building");
    // The log is quiet: where it begins is said nevertheless.
    let begins = events.named("ping").await;
    assert!(begins.id.contains("=0"), "{}", begins.id);
    drop(events);

    // More lines than a new reader gets, and one more log.
    for number in 0..5 {
        writer.append(line(&format!("line {number}"))).await.expect("taken");
    }
    let next = api.post("/v1/apps/shop/services/web/deploy", &json!({})).await.expect(202);
    let other = next["build_id"].as_str().expect("a build").parse().expect("an id");
    let lease = take(&api, other).await;
    let writer = api.logs.writer(LogKey::Build(other)).await.expect("a writer");
    for number in 0..5 {
        writer.append(line(&format!("other {number}"))).await.expect("taken");
    }
    let resumed = format!("{path}&deployment_id={deployment}");
    let mut events = Events::open(&api, &resumed, &begins.id).await;
    let mut seen = Vec::new();
    let mut last = String::new();
    while seen.len() < 3 {
        let event = events.next().await.expect("an event");
        assert_ne!(event.name, "deployment_status", "its status is as it was");
        if event.name == "log" {
            seen.push(event.data["seq"].as_u64().expect("a number"));
            last = event.id;
        }
    }
    drop(events);
    let mut events = Events::open(&api, path, &last).await;
    let announced = events.named("new_deployment").await;
    assert_eq!(announced.data["deployment_id"], next["id"]);
    let mut others = Vec::new();
    while others.len() < 5 {
        let event = events.named("log").await;
        let into = if event.data["build_id"] == json!(other.to_string()) { &mut others } else { &mut seen };
        into.push(event.data["seq"].as_u64().expect("a number"));
        last = event.id;
    }
    assert_eq!(others, [0, 1, 2, 3, 4], "a log that began meanwhile comes whole");
    assert_eq!(seen, [0, 1, 2], "of the old deployment nothing is shown beside the newest");
    drop(events);

    // Only what changed, once.
    api.apply(Command::FinishBuild { build: other, lease, result: BuildResult::Cancelled }).await;
    let mut events = Events::open(&api, path, &last).await;
    let failed = events.named("deployment_status").await;
    assert_eq!((&failed.data["deployment_id"], &failed.data["status"]), (&next["id"], &json!("failed")));
    drop(events);
    let choices = failed.id;
    let mut events = Events::open(&api, path, &choices).await;
    api.post("/v1/apps/shop/services/web/deploy", &json!({})).await.expect(202);
    while let Some(event) = events.next().await {
        assert!(!matches!(event.name.as_str(), "deployment_status" | "log"), "{event:?}");
        if event.name == "new_deployment" {
            break;
        }
    }
}

#[tokio::test]
async fn a_deployment_is_watched_on_without_a_repetition() {
    let (api, deployment, build) = queued().await;
    let path = format!("/v1/deployments/{deployment}/stream");
    let mut events = Events::open(&api, &path, "").await;
    let first = events.named("deployment").await;
    drop(events);
    // Only its deployment was told.
    let mut events = Events::open(&api, &path, &first.id).await;
    let queued = events.next().await.expect("an event");
    assert_eq!((queued.name.as_str(), &queued.data["status"]), ("build", &json!("queued")));
    drop(events);
    let mut events = Events::open(&api, &path, &queued.id).await;
    take(&api, build).await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let event = events.next().await.expect("an event");
        heard.push(format!("{} {}", event.name, event.data["status"].as_str().unwrap_or_default()));
    }
    heard.sort();
    assert_eq!(heard, ["build running", "deployment building"]);
}

#[tokio::test]
async fn a_reader_is_not_answered_from_an_older_state_than_it_saw() {
    let (api, _, _) = building().await;
    let later = api.consensus.watch().borrow().index + 1_000;
    let mut request = api.build("GET", "/v1/apps/shop/logs/stream", &Value::Null, LOCAL);
    request.headers_mut().insert("last-event-id", format!("@{later}").parse().expect("a header"));
    let refused = api.request(request).await.expect(400);
    assert!(refused["details"]["min_index"].is_string(), "{refused}");
}

#[tokio::test]
async fn a_stream_ends_with_its_session_and_with_the_node() {
    let (api, _, _) = building().await;
    let mut events = Events::open(&api, "/v1/apps/shop/logs/stream", "").await;
    events.named("connected").await;
    api.post("/auth/logout", &Value::Null).await.expect(204);
    while events.next().await.is_some() {}

    let (api, deployment, _) = building().await;
    let mut logs = Events::open(&api, "/v1/apps/shop/logs/stream", "").await;
    let mut watch = Events::open(&api, &format!("/v1/deployments/{deployment}/stream"), "").await;
    logs.named("connected").await;
    watch.named("deployment").await;
    api.stopping.cancel();
    while logs.next().await.is_some() {}
    while watch.next().await.is_some() {}
}

#[tokio::test]
async fn a_quiet_stream_says_that_it_lives() {
    let choices =
        narvana::api::Options { ping_every: std::time::Duration::from_millis(50), ..crate::api_support::options() };
    let api = Api::registered_with(choices).await;
    api.post("/v1/apps", &json!({"name": "shop"})).await.expect(201);
    let mut events = Events::open(&api, "/v1/apps/shop/logs/stream", "").await;
    events.named("ping").await;
    events.named("ping").await;
}
