//! One deployment as it goes: for a live view until it runs or has failed.

use std::time::Duration;

use async_stream::stream;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use futures::Stream;
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::auth::{Caller, Scoped};
use crate::model::{Deployment, DeploymentId, Role, SettingKey};

use super::Error;
use super::extract::{At, Listener};
use super::gate::Gate;
use super::log::build_targets;
use super::log_stream::RECHECK;
use super::sse::{Follower, answer, event, last_event_id};
use super::{build, deployment, instance};

/// Longest wait for a line of a build that has ended: its log may not be closed yet, or never have begun.
const LAST_LINES_WAIT: Duration = Duration::from_millis(500);

/// Follow a deployment
///
/// Server-sent events: `deployment`, `build` and `instance` (the object, whenever it changed), `log` (a line of its build;
/// resumable by `Last-Event-ID`), `skipped` and `ping`. The stream ends when the deployment has ended, or the session.
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
    let follower = Follower::new(gate.logs().clone(), last_event_id(&headers));
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
        let mut sent = Sent::default();
        let mut seen = caller;
        loop {
            let Ok(deployment) = seen.load::<Deployment>(Role::Viewer, id) else { break };
            if let Err(error) = follower.add(build_targets(&deployment), usize::MAX).await {
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
            for news in sent.news(&deployment, &gate, seen.setting(SettingKey::ServerDomain)) {
                yield news;
            }
            if ended {
                break;
            }
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

/// What a client was told last, so that it is told only news.
#[derive(Default)]
struct Sent(Vec<Value>);

impl Sent {
    fn news(&mut self, deployment: &Scoped<Deployment>, gate: &Gate, server_domain: &str) -> Vec<Event> {
        let value = |view| serde_json::to_value(view).unwrap_or_default();
        let mut now = vec![("deployment", value(&deployment::view(deployment, gate, server_domain)))];
        let builds = deployment.builds().map(|row| ("build", serde_json::to_value(build::view(&row))));
        let instances = deployment.instances().map(|row| ("instance", serde_json::to_value(instance::view(&row))));
        now.extend(builds.chain(instances).map(|(name, view)| (name, view.unwrap_or_default())));
        let news = now.iter().filter(|(_, view)| !self.0.contains(view));
        let events = news.map(|(name, view)| event(name, view)).collect();
        self.0 = now.into_iter().map(|(_, view)| view).collect();
        events
    }
}
