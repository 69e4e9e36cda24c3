//! What all event streams share: logs that are followed together, and the end of a stream.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::ready;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::{self, BoxStream, SelectAll, Stream};
use http::{HeaderValue, header};
use serde::Serialize;

use crate::logs::{self, Followed, Library, LogKey, ReadError, Start};
use crate::model::NodeId;

use super::bookmark::{Bookmark, Place};
use super::gate::Gate;
use super::log::{LineView, MissingView, Target};

/// Logs that one stream follows at most at a time; the newest are chosen. Bounds the open files of a stream and the length of
/// its event ids.
pub(super) const LOGS_MAX: usize = 64;

/// What a log has; nothing after its end.
type Lines = BoxStream<'static, (LogKey, Option<Result<Followed, ReadError>>)>;

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
    /// Those that were read to their end, since this stream began.
    ended: BTreeSet<LogKey>,
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
        let (missing, targets, ended) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Self { logs, missing, targets, ended, bookmark, resumed, lines: SelectAll::new() }
    }

    /// Follows these logs too; those that are followed already are left alone. One in which the reader was goes on there; of
    /// another one all lines come, or the last ones when there is a `limit`. What was read to its end and is not wanted any more is
    /// forgotten.
    pub(super) async fn add(&mut self, targets: Vec<Target>, limit: Limit) -> Result<(), logs::Error> {
        let wanted: BTreeSet<LogKey> = targets.iter().map(|target| target.key).collect();
        for key in self.ended.difference(&wanted) {
            self.targets.remove(key);
            self.bookmark.logs.remove(key);
        }
        for target in targets {
            let key = target.key;
            // One that is wanted again was read to its end all the same.
            if self.targets.contains_key(&key) || self.ended.contains(&key) || self.targets.len() >= LOGS_MAX {
                continue;
            }
            let (place, start) = match (self.resumed.remove(&key), limit) {
                (Some(Place::At(next)), _) => (Place::At(next), Start::At(next)),
                (Some(Place::Last), Limit { last, .. }) => (Place::Last, Start::Last(last)),
                (None, Limit { last, new: false }) => (Place::Last, Start::Last(last)),
                (None, Limit { new: true, .. }) => (Place::At(0), Start::At(0)),
            };
            let lines = self.logs.follow(target.node, key, start).await?;
            let end = stream::once(ready((key, None)));
            self.lines.push(lines.map(move |line| (key, Some(line))).chain(end).boxed());
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
            let Some(followed) = followed else {
                self.ended.insert(key);
                continue;
            };
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
                        return Some(self.event("missing", &MissingView::away(target, &away)));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;
    use crate::logs::{LogLine, LogStore, LogTime, Options};
    use crate::model::InstanceId;
    use crate::task::Supervisor;

    fn log(number: usize) -> LogKey {
        LogKey::Instance(InstanceId(Uuid::from_u128(number as u128)))
    }

    /// Of a service whose instances come and go for weeks.
    #[tokio::test]
    async fn a_stream_follows_any_number_of_logs_one_after_the_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let supervisor = Supervisor::new("logs", CancellationToken::new());
        let store = LogStore::open(folder.path().join("logs"), Options::default(), supervisor).await.expect("opens");
        let mut follower = Follower::new(Library::of_one(store.clone()), None);
        let whole = Limit { last: usize::MAX, new: true };
        for number in 0..LOGS_MAX + 10 {
            let writer = store.writer(log(number)).await.expect("a log");
            let line = LogLine::new(LogTime(0), crate::logs::LogStream::Stdout, format!("line of {number}"));
            writer.append(line).await.expect("writes");
            writer.finish().await.expect("closes");
            // The one before is still among those that are wanted.
            for _ in 0..2 {
                let wanted = (number.saturating_sub(1)..=number).map(|number| Target::of_nobody(log(number)));
                follower.add(wanted.collect(), whole).await.expect("follows");
            }
            let line = timeout(Duration::from_secs(10), follower.next()).await.expect("in time").expect("a line");
            assert!(format!("{line:?}").contains(&format!("line of {number}")), "{line:?}");
            let more = timeout(Duration::from_secs(10), follower.next()).await.expect("all are closed");
            assert!(more.is_none(), "nothing comes twice: {more:?}");
            assert!(follower.bookmark.logs.len() <= 2, "{:?}", follower.bookmark);
        }
    }
}
