//! What all event streams share: logs that are followed together, and the end of a stream.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, Stream};
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;

use crate::logs::{self, Followed, Library, LogKey, ReadError, Start};
use crate::model::{BuildId, InstanceId, NodeId};

use super::gate::Gate;
use super::log::{LineView, MissingView, Target};

/// Logs that one stream follows at most; the newest are chosen. Bounds the open files of a stream and the length of its
/// event ids.
pub(super) const LOGS_MAX: usize = 64;
/// Longest `Last-Event-ID` that is read, in bytes: that of a stream with [`LOGS_MAX`] logs.
const EVENT_ID_BYTES_MAX: usize = 64 * LOGS_MAX;

type Lines = BoxStream<'static, (LogKey, Result<Followed, ReadError>)>;

/// Several logs as one stream of lines.
pub(super) struct Follower {
    logs: Library,
    /// Nodes that did not give their lines when they were asked last.
    missing: BTreeSet<NodeId>,
    targets: BTreeMap<LogKey, Target>,
    /// The line after the last one that was passed on, of each log.
    positions: BTreeMap<LogKey, u64>,
    lines: SelectAll<Lines>,
}

impl Follower {
    /// Follows nothing yet. `positions` come from the `Last-Event-ID` of a client that was cut off.
    pub(super) fn new(logs: Library, positions: BTreeMap<LogKey, u64>) -> Self {
        Self { logs, missing: BTreeSet::new(), targets: BTreeMap::new(), positions, lines: SelectAll::new() }
    }

    /// Follows these logs too; those that are followed already are left alone. Of a new one the last `backlog` lines come
    /// first, or all that came after its position.
    pub(super) async fn add(&mut self, targets: Vec<Target>, backlog: usize) -> Result<(), logs::Error> {
        for target in targets {
            let key = target.key;
            if self.targets.contains_key(&key) || self.targets.len() >= LOGS_MAX {
                continue;
            }
            let start = match self.positions.get(&key) {
                Some(next) => Start::At(*next),
                None if backlog == usize::MAX => Start::At(0),
                None => Start::Last(backlog),
            };
            let lines = self.logs.follow(target.node, key, start).await?;
            self.lines.push(lines.map(move |line| (key, line)).boxed());
            self.targets.insert(key, target);
        }
        Ok(())
    }

    /// The next line, as an event whose id lets a client go on after it. `None` when every log that is followed has been
    /// closed and read to its end.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            let (key, followed) = self.lines.next().await?;
            let Some(target) = self.targets.get(&key) else { continue };
            match followed {
                Ok(Followed::Entry(entry)) => {
                    self.missing.remove(&target.node);
                    self.positions.insert(key, entry.seq + 1);
                    return Some(event("log", &LineView::new(target, &entry)).id(self.id()));
                }
                Ok(Followed::Skipped { count }) => {
                    let note = serde_json::json!({"log": key.to_string(), "lines": count});
                    return Some(event("skipped", &note));
                }
                // Said once; the lines go on when it answers again.
                Err(ReadError::Away(away)) => {
                    if self.missing.insert(away.node) {
                        let note = MissingView { node_id: away.node.to_string(), reason: away.to_string() };
                        return Some(event("missing", &note));
                    }
                }
                Err(ReadError::Here(error)) => tracing::warn!(log = %key, %error, "cannot follow a log"),
            }
        }
    }

    fn id(&self) -> String {
        let parts = self.positions.iter().filter(|(key, _)| self.targets.contains_key(key));
        let parts: Vec<String> = parts.map(|(key, next)| format!("{}={next}", key_text(*key))).collect();
        parts.join(",")
    }
}

fn key_text(key: LogKey) -> String {
    match key {
        LogKey::Build(id) => format!("b{}", id.0.as_simple()),
        LogKey::Instance(id) => format!("i{}", id.0.as_simple()),
    }
}

/// Where a client that was cut off has read to. What cannot be read is left out: the client then gets lines twice.
pub(super) fn last_event_id(headers: &HeaderMap) -> BTreeMap<LogKey, u64> {
    let text = headers.get("last-event-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text.len() > EVENT_ID_BYTES_MAX {
        return BTreeMap::new();
    }
    let parse = |part: &str| {
        let (key, next) = part.split_once('=')?;
        let key = match key.split_at_checked(1)? {
            ("b", id) => LogKey::Build(id.parse::<BuildId>().ok()?),
            ("i", id) => LogKey::Instance(id.parse::<InstanceId>().ok()?),
            _ => return None,
        };
        Some((key, next.parse().ok()?))
    };
    text.split(',').filter_map(parse).collect()
}

/// An event with a JSON body.
pub(super) fn event(name: &str, data: &impl Serialize) -> Event {
    let text = serde_json::to_string(data).expect("wire types are JSON");
    Event::default().event(name).data(text)
}

/// The answer that streams these events. It ends at once when the node stops.
pub(super) fn answer(gate: &Gate, events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let open = gate.metrics().stream();
    let stopping = gate.stopping().clone();
    let events = events.take_until(stopping.cancelled_owned()).map(move |event| {
        let _open = &open;
        Ok::<Event, Infallible>(event)
    });
    let mut response = Sse::new(events).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies in front must pass events on as they come.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
