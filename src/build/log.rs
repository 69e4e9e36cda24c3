//! The log of one build: lines from git, the engine and narvana itself, in the order they came.

use std::collections::VecDeque;

use crate::clock;
use crate::logs::{self, LogLine, LogStream, LogTime, LogWriter};

/// Last lines that a failed build is shown with.
const TAIL_LINES: usize = 20;

/// Writes lines and remembers the last ones.
pub(super) struct BuildLog {
    writer: LogWriter,
    tail: VecDeque<String>,
}

impl BuildLog {
    pub(super) fn new(writer: LogWriter) -> Self {
        Self { writer, tail: VecDeque::new() }
    }

    /// A line of narvana itself.
    pub(super) async fn say(&mut self, text: impl AsRef<str>) -> Result<(), logs::Error> {
        self.append(LogStream::System, text.as_ref()).await
    }

    /// A line that a program printed.
    pub(super) async fn line(&mut self, text: &str) -> Result<(), logs::Error> {
        self.append(LogStream::Stdout, text).await
    }

    async fn append(&mut self, stream: LogStream, text: &str) -> Result<(), logs::Error> {
        let line = LogLine::new(LogTime::from(clock::now()), stream, text);
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.text().to_owned());
        self.writer.append(line).await
    }

    /// The last lines.
    pub(super) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    /// Closes the log: followers see its end.
    pub(super) async fn finish(self) -> Result<(), logs::Error> {
        self.writer.finish().await
    }
}
