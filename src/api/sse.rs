//! What all event streams share: logs that are followed together, and the end of a stream.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, Stream};
use http::{HeaderValue, header};
use serde::Serialize;

use crate::logs::{self, Followed, Library, LogKey, ReadError, Start};
use crate::model::NodeId;

use super::bookmark::{Bookmark, Place};
use super::gate::Gate;
use super::log::{LineView, MissingView, Target};

/// Logs that one stream follows at most; the newest are chosen. Bounds the open files of a stream and the length of its
/// event ids.
pub(super) const LOGS_MAX: usize = 64;

type Lines = BoxStream<'static, (LogKey, Result<Followed, ReadError>)>;

/// Where logs begin that a reader was not in yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// So many lines before their end.
    pub(super) last: usize,
    /// At their first line instead: they have begun since the reader last heard.
    pub(super) new: bool,
}

/// Several logs as one stream of lines.
pub(super) struct Follower {
    logs: Library,
    /// Nodes that did not give their lines when they were asked last.
    missing: BTreeSet<NodeId>,
    targets: BTreeMap<LogKey, Target>,
    /// How far the reader is.
    pub(super) bookmark: Bookmark,
    /// Logs that the reader may have been told lines of by somebody else before.
    resumed: BTreeMap<LogKey, Place>,
    lines: SelectAll<Lines>,
}

impl Follower {
    /// Follows nothing yet. A client that was cut off has left a bookmark.
    pub(super) fn new(logs: Library, left: Option<Bookmark>) -> Self {
        let mut bookmark = left.unwrap_or_default();
        let resumed = std::mem::take(&mut bookmark.logs);
        let (missing, targets) = (BTreeSet::new(), BTreeMap::new());
        Self { logs, missing, targets, bookmark, resumed, lines: SelectAll::new() }
    }

    /// Follows these logs too; those that are followed already are left alone. One in which the reader was goes on there; of
    /// another one all lines come, or the last ones when there is a `limit`.
    pub(super) async fn add(&mut self, targets: Vec<Target>, limit: Limit) -> Result<(), logs::Error> {
        for target in targets {
            let key = target.key;
            if self.targets.contains_key(&key) || self.targets.len() >= LOGS_MAX {
                continue;
            }
            let (place, start) = match (self.resumed.remove(&key), limit) {
                (Some(Place::At(next)), _) => (Place::At(next), Start::At(next)),
                (Some(Place::Last), Limit { last, .. }) => (Place::Last, Start::Last(last)),
                (None, Limit { last, new: false }) => (Place::Last, Start::Last(last)),
                (None, Limit { new: true, .. }) => (Place::At(0), Start::At(0)),
            };
            let lines = self.logs.follow(target.node, key, start).await?;
            self.lines.push(lines.map(move |line| (key, line)).boxed());
            self.targets.insert(key, target);
            self.bookmark.logs.insert(key, place);
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
                    let line = LineView::new(target, &entry);
                    self.bookmark.logs.insert(key, Place::At(entry.seq.saturating_add(1)));
                    return Some(self.event("log", &line));
                }
                // Said at once: a reader who is cut off before the next line lacks none by that.
                Ok(Followed::Begins { seq }) => {
                    self.bookmark.logs.insert(key, Place::At(seq));
                    return Some(self.event("ping", &serde_json::json!({})));
                }
                Ok(Followed::Skipped { count }) => {
                    let note = serde_json::json!({"log": key.to_string(), "lines": count});
                    return Some(self.event("skipped", &note));
                }
                // Said once; the lines go on when it answers again.
                Err(ReadError::Away(away)) => {
                    if self.missing.insert(away.node) {
                        let note = MissingView { node_id: away.node.to_string(), reason: away.to_string() };
                        return Some(self.event("missing", &note));
                    }
                }
                Err(ReadError::Here(error)) => tracing::warn!(log = %key, %error, "cannot follow a log"),
            }
        }
    }

    /// An event whose id lets a client go on after it.
    pub(super) fn event(&self, name: &str, data: &impl Serialize) -> Event {
        event(name, data).id(self.bookmark.to_string())
    }
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
