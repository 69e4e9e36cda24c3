//! Logs of an app as they come.

use std::collections::BTreeMap;
use std::time::Duration;

use async_stream::stream;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use futures::Stream;
use http::HeaderMap;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::auth::Caller;
use crate::model::{DeploymentId, DeploymentStatus};

use super::Error;
use super::extract::{At, Listener, Search};
use super::gate::Gate;
use super::log::{LogQuery, Selection};
use super::sse::{Follower, answer, event, last_event_id};

/// How often an open stream looks whether its session has expired; that it was ended is seen at once.
pub(super) const RECHECK: Duration = Duration::from_secs(5);

/// Follow the logs of an app
///
/// Server-sent events: `connected`, `log` (a line; resumable by `Last-Event-ID`), `new_deployment`, `deployment_status`,
/// `skipped` (lines that were dropped before they could be sent), `missing` (a node that does not give its lines now; they
/// follow when it does) and `ping`. The token may be in `?token=`. The stream
/// ends when the session does.
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
    let follower = Follower::new(gate.logs().clone(), last_event_id(&headers));
    let events = events(gate.clone(), caller, selection, follower);
    Ok(answer(&gate, events))
}

fn events(
    gate: Gate,
    caller: Caller,
    selection: Selection,
    mut follower: Follower,
) -> impl Stream<Item = Event> + Send {
    stream! {
        let mut watch = gate.watch(&caller);
        let mut ping = interval(gate.options().ping_every);
        let mut recheck = interval(RECHECK);
        for timer in [&mut ping, &mut recheck] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer.tick().await;
        }
        let mut known: BTreeMap<DeploymentId, DeploymentStatus> = BTreeMap::new();
        let mut seen = caller;
        let mut backlog = selection.limit;
        yield event("connected", &json!({}));
        loop {
            let Ok(deployments) = selection.deployments(&seen) else { break };
            for deployment in &deployments {
                let status = deployment.status;
                let before = known.insert(deployment.id, status);
                let id = deployment.id.to_string();
                let about = json!({
                    "deployment_id": id, "service_name": deployment.service_name, "version": deployment.version,
                    "status": status.as_str(), "reason": deployment.reason,
                });
                if before.is_none() && backlog == usize::MAX {
                    yield event("new_deployment", &about);
                } else if before != Some(status) {
                    yield event("deployment_status", &about);
                }
            }
            if let Err(error) = follower.add(selection.targets(&deployments), backlog).await {
                tracing::warn!(%error, "cannot follow logs");
                break;
            }
            // Logs that begin from here on are new: all of their lines are wanted.
            backlog = usize::MAX;
            let next = loop {
                tokio::select! {
                    next = watch.changed() => break next,
                    _ = recheck.tick() => break watch.now(),
                    _ = ping.tick() => yield event("ping", &json!({})),
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
