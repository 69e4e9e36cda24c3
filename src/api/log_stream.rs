//! Logs of an app as they come.

use std::time::Duration;

use async_stream::stream;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use futures::Stream;
use http::HeaderMap;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::Error;
use super::bookmark::{Bookmark, News};
use super::extract::{At, Listener, Search};
use super::gate::Gate;
use super::log::{LogQuery, Selection};
use super::sse::{Follower, Limit, answer, event};
use crate::auth::Caller;

/// How often an open stream looks whether its session has expired; that it was ended is seen at once.
pub(super) const RECHECK: Duration = Duration::from_secs(5);

/// Follow the logs of an app
///
/// Server-sent events: `connected`, `log` (a line), `new_deployment`, `deployment_status` (the newest status, when it is not the
/// one that was sent last), `skipped` (lines that were dropped before they could be sent), `missing` (a node that does not
/// give its lines now; they follow when it does) and `ping`. Whoever was cut off goes on at any node with `Last-Event-ID`, the last
/// id of any event: no line is left out and nothing comes twice. The token may be in `?token=`. The stream ends when the
/// session does.
#[utoipa::path(get, path = "/v1/apps/{app}/logs/stream", tag = "logs",
    params(("app" = String, Path, description = "Its id or name"), LogQuery),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub(super) async fn stream(
    State(gate): State<Gate>,
    Listener(caller): Listener,
    At(app): At<String>,
    Search(query): Search<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let selection = Selection::new(app, query)?;
    // What is wrong with the request is said before the stream begins.
    selection.deployments(&caller)?;
    let left = Bookmark::of(&headers);
    let resumed = left.is_some();
    let follower = Follower::new(gate.logs().clone(), left);
    let events = events(gate.clone(), caller, selection, follower, resumed);
    Ok(answer(&gate, events))
}

fn events(
    gate: Gate,
    caller: Caller,
    selection: Selection,
    mut follower: Follower,
    resumed: bool,
) -> impl Stream<Item = Event> + Send {
    stream! {
        let mut watch = gate.watch(&caller);
        let mut ping = interval(gate.options().ping_every);
        let mut recheck = interval(RECHECK);
        for timer in [&mut ping, &mut recheck] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer.tick().await;
        }
        let mut seen = caller;
        // Of logs that begin while it is followed, all lines are wanted.
        let mut limit = Limit { last: selection.limit, new: resumed };
        yield event("connected", &json!({}));
        loop {
            let Ok(deployments) = selection.deployments(&seen) else { break };
            follower.bookmark.index = gate.applied_index();
            if let Err(error) = follower.add(selection.targets(&deployments), limit).await {
                tracing::warn!(%error, "cannot follow logs");
                break;
            }
            for deployment in &deployments {
                let status = deployment.told_status().as_str();
                let news = follower.bookmark.tell(deployment.id, status.as_bytes());
                let about = json!({
                    "deployment_id": deployment.id.to_string(), "service_name": deployment.service_name,
                    "version": deployment.version, "status": status, "reason": deployment.reason,
                });
                match news {
                    Some(News::New) if limit.new => yield follower.event("new_deployment", &about),
                    Some(_) => yield follower.event("deployment_status", &about),
                    None => {}
                }
            }
            follower.bookmark.keep(deployments.iter().map(|deployment| deployment.id));
            limit.new = true;
            let next = loop {
                tokio::select! {
                    next = watch.changed() => break next,
                    _ = recheck.tick() => break watch.now(),
                    _ = ping.tick() => yield follower.event("ping", &json!({})),
                    Some(line) = follower.next() => yield line,
                }
            };
            match next {
                Ok(caller) => seen = caller,
                Err(_) => break,
            }
        }
    }
}
