//! Logs and events.

use bollard::container::LogOutput;
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, LogsOptions, LogsOptionsBuilder};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::ApiEngine;
use super::containers::label_filter;
use crate::engine::log_line::Assembler;
use crate::engine::{Error, Event, EventKind, Labels, LogLine, LogStream, LogsFrom};
use crate::model::Timestamp;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

impl ApiEngine {
    pub(super) fn stream_logs(&self, id: &str, from: LogsFrom) -> BoxStream<'static, Result<LogLine, Error>> {
        let call = self.call(format!("read the log of container {id}"));
        let (docker, id) = (self.streaming.clone(), id.to_owned());
        Box::pin(async_stream::stream! {
            let mut from = from;
            loop {
                let mut assembler = Assembler::new(from.after);
                let mut pieces = Box::pin(docker.logs(&id, Some(log_options(from))));
                while let Some(piece) = pieces.next().await {
                    let (stream, bytes) = match piece {
                        Ok(LogOutput::StdErr { message }) => (LogStream::Stderr, message),
                        Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                            (LogStream::Stdout, message)
                        }
                        Ok(LogOutput::StdIn { .. }) => continue,
                        Err(error) => {
                            yield Err(call.error(error));
                            return;
                        }
                    };
                    if let Some(line) = assembler.piece(stream, &bytes) {
                        from.after = Some(line.cursor);
                        yield Ok(line);
                    }
                }
                // Docker 20.10 sometimes ends a followed log before the last lines of a container that exits, so the
                // end is read once more, without following. A cursor after a tail is not exact enough for that.
                if from.follow && from.tail.is_none() {
                    from.follow = false;
                    continue;
                }
                for line in assembler.rest() {
                    yield Ok(line);
                }
                return;
            }
        })
    }

    pub(super) fn stream_events(&self, labels: &Labels, since: Timestamp) -> BoxStream<'static, Result<Event, Error>> {
        let call = self.call("watch containers");
        let mut filters = label_filter(labels);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let since = since.0.div_euclid(1_000).to_string();
        let options = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
        let docker = self.streaming.clone();
        Box::pin(async_stream::stream! {
            let mut messages = Box::pin(docker.events(Some(options)));
            while let Some(message) = messages.next().await {
                match message {
                    Ok(message) => {
                        if let Some(event) = event(message) {
                            yield Ok(event);
                        }
                    }
                    Err(error) => {
                        yield Err(call.error(error));
                        return;
                    }
                }
            }
        })
    }
}

fn log_options(from: LogsFrom) -> LogsOptions {
    let tail = from.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    // Engines cut by full seconds and leave out lines of exactly that time, so a little more is asked for, and the
    // assembler drops what was seen.
    let since = from.after.map_or(0, |after| after.nanos.div_euclid(NANOS_PER_SECOND) - 1);
    LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .follow(from.follow)
        .since(i32::try_from(since).unwrap_or(0))
        .tail(&tail)
        .build()
}

/// What a message of the engine means; nothing when it is of no interest.
fn event(message: EventMessage) -> Option<Event> {
    let actor = message.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let kind = match message.action?.as_str() {
        "create" => EventKind::Created,
        "start" => EventKind::Started,
        "die" | "died" => {
            let code = attributes.get("exitCode").or_else(|| attributes.get("containerExitCode"));
            EventKind::Died { exit_code: code.and_then(|code| code.parse().ok()) }
        }
        "oom" => EventKind::OutOfMemory,
        "destroy" | "remove" => EventKind::Removed,
        _ => return None,
    };
    let millis = match message.time_nano {
        Some(nanos) if nanos > 0 => nanos.div_euclid(1_000_000),
        _ => message.time.unwrap_or_default().saturating_mul(1_000),
    };
    let name = attributes.get("name").cloned().unwrap_or_default();
    Some(Event { at: Timestamp(millis), container: actor.id?, name, kind })
}
