//! Server-sent events.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::Error;

/// Longest event that is kept; a longer one is dropped. A log line has at most 64 KiB.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// Longest silence before a stream counts as lost. Nodes send a comment at least every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its kind; `message` unless the server names one.
    pub name: String,
    /// Its data; lines are separated by `\n`.
    pub data: String,
    /// Where to go on from after a lost connection.
    pub id: Option<String>,
}

/// A stream of events from one node. It ends when the node ends it.
pub struct Events {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    from: String,
    parser: Parser,
}

impl Events {
    pub(super) fn new(response: reqwest::Response, from: String) -> Self {
        Self { body: response.bytes_stream().boxed(), from, parser: Parser::default() }
    }

    /// The next event; `None` at the end. Safe to drop while it waits.
    ///
    /// # Errors
    /// [`Error::Broken`] when the connection broke, [`Error::Silent`] when nothing came for a minute.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.parser.next() {
                return Some(Ok(event));
            }
            let Ok(piece) = tokio::time::timeout(SILENCE_MAX, self.body.next()).await else {
                return Some(Err(Error::Silent { from: self.from.clone() }));
            };
            match piece? {
                Ok(bytes) => self.parser.feed(&bytes),
                Err(source) => return Some(Err(Error::Broken { from: self.from.clone(), source })),
            }
        }
    }
}

/// Cuts bytes into events.
#[derive(Default)]
struct Parser {
    bytes: Vec<u8>,
    /// How much of `bytes` was taken already.
    taken: usize,
    event: Event,
    has_data: bool,
    dropped: bool,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if self.bytes.len() + bytes.len() > EVENT_BYTES_MAX {
            self.bytes.clear();
            self.dropped = true;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Event> {
        while let Some(length) = self.bytes[self.taken..].iter().position(|byte| *byte == b'\n') {
            let line = &self.bytes[self.taken..self.taken + length];
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
            self.taken += length + 1;
            if !line.is_empty() {
                self.field(&line);
                continue;
            }
            let mut event = std::mem::take(&mut self.event);
            let (has_data, dropped) = (std::mem::take(&mut self.has_data), std::mem::take(&mut self.dropped));
            if has_data && !dropped {
                if event.name.is_empty() {
                    "message".clone_into(&mut event.name);
                }
                return Some(event);
            }
        }
        None
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                if self.event.data.len() + value.len() <= EVENT_BYTES_MAX {
                    self.event.data.push_str(value);
                } else {
                    self.dropped = true;
                }
            }
            // Comments (an empty name) keep the connection alive; `retry` is ours to choose.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&str]) -> Vec<Event> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece.as_bytes());
            while let Some(event) = parser.next() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text = ": hi\n\nevent: log\r\nid: 7\r\ndata: {\"a\":1}\r\n\r\ndata: x\ndata:y\n\nevent: nothing\n\n";
        let expected = [
            Event { name: "log".into(), data: "{\"a\":1}".into(), id: Some("7".into()) },
            Event { name: "message".into(), data: "x\ny".into(), id: None },
        ];
        assert_eq!(parse(&[text]), expected);
        for cut in 1..text.len() {
            assert_eq!(parse(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_event_without_end_is_dropped_and_the_next_one_comes() {
        let long = "a".repeat(EVENT_BYTES_MAX);
        let events = parse(&["data: ", &long, &long, "\n\n", "data: b\n\n"]);
        assert_eq!(events, [Event { name: "message".into(), data: "b".into(), id: None }]);
    }
}
