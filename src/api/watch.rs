//! One deployment as it goes: for a live view until it runs or has failed.

use std::time::Duration;

use async_stream::stream;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use futures::Stream;
use http::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::auth::{Caller, Scoped};
use crate::model::{Deployment, DeploymentId, Role, SettingKey};

use super::Error;
use super::bookmark::Bookmark;
use super::extract::{At, Listener};
use super::gate::Gate;
use super::log::build_targets;
use super::log_stream::RECHECK;
use super::sse::{Follower, Limit, answer};
use super::{build, deployment, instance};

/// Longest wait for a line of a build that has ended: its log may not be closed yet, or never have begun.
const LAST_LINES_WAIT: Duration = Duration::from_millis(500);

/// Follow a deployment
///
/// Server-sent events: `deployment`, `build` and `instance` (the object as it is now, when it is not as it was sent last), `log` (a
/// line of its build), `skipped` and `ping`. Whoever was cut off goes on at any node with `Last-Event-ID`, the last id of any event:
/// no line is left out and nothing comes twice, but objects of a deployment that has more than 128. The stream ends when the deployment has ended, or the session.
#[utoipa::path(get, path = "/v1/deployments/{deployment}/stream", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id")),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub(super) async fn stream(
    State(gate): State<Gate>,
    Listener(caller): Listener,
    At(id): At<DeploymentId>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    caller.load::<Deployment>(Role::Viewer, id)?;
    let follower = Follower::new(gate.logs().clone(), Bookmark::of(&headers));
    let events = events(gate.clone(), caller, id, follower);
    Ok(answer(&gate, events))
}

fn events(gate: Gate, caller: Caller, id: DeploymentId, mut follower: Follower) -> impl Stream<Item = Event> + Send {
    stream! {
        let mut watch = gate.watch(&caller);
        let mut ping = interval(gate.options().ping_every);
        let mut recheck = interval(RECHECK);
        for timer in [&mut ping, &mut recheck] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer.tick().await;
        }
        let mut seen = caller;
        loop {
            let Ok(deployment) = seen.load::<Deployment>(Role::Viewer, id) else { break };
            follower.bookmark.index = gate.applied_index();
            let whole = Limit { last: usize::MAX, new: true };
            if let Err(error) = follower.add(build_targets(&deployment), whole).await {
                tracing::warn!(%error, "cannot follow logs");
                break;
            }
            // What the build said before it ended comes before the news that it ended.
            let ended = deployment.status.is_terminal();
            if ended {
                while let Ok(Some(line)) = timeout(LAST_LINES_WAIT, follower.next()).await {
                    yield line;
                }
            }
            let objects = objects(&deployment, &gate, seen.setting(SettingKey::ServerDomain));
            for Object { kind, id, view, content } in &objects {
                if follower.bookmark.tell(id, content.to_string().as_bytes()).is_some() {
                    yield follower.event(kind, view);
                }
            }
            // The deployment matters most, then what is newest.
            let (first, others) = objects.split_at(1);
            follower.bookmark.keep(first.iter().chain(others.iter().rev()).map(|object| &object.id));
            if ended {
                break;
            }
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

/// What a client is told about.
struct Object {
    kind: &'static str,
    id: String,
    view: Value,
    /// By what it is told whether it changed: the same on every node.
    content: Value,
}

fn value(view: impl Serialize) -> Value {
    serde_json::to_value(view).unwrap_or_default()
}

/// A deployment, its builds, its instances.
fn objects(deployment: &Scoped<Deployment>, gate: &Gate, server_domain: &str) -> Vec<Object> {
    let view = value(deployment::view(deployment, gate, server_domain));
    // Its address has the port of the node that is asked.
    let mut content = view.clone();
    content["url"] = deployment.service().map(|service| format!("{}.{server_domain}", service.host_label)).into();
    let mut objects = vec![Object { kind: "deployment", id: deployment.id.to_string(), view, content }];
    let object = |kind, id: String, view: Value| Object { kind, id, content: view.clone(), view };
    objects.extend(deployment.builds().map(|row| object("build", row.id.to_string(), value(build::view(&row)))));
    let instances = deployment.instances();
    objects.extend(instances.map(|row| object("instance", row.id.to_string(), value(instance::view(&row)))));
    objects
}
