//! One line of a log.

use super::LogTime;
use super::clean::clean;

/// Longest text of a line, its cut marker included.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// The program's standard output.
    Stdout,
    /// The program's standard error.
    Stderr,
    /// narvana itself. What a program prints can imitate such a line's text, but never its stream.
    System,
}

/// A line whose text can be shown anywhere: valid UTF-8, one line, at most [`LINE_BYTES_MAX`] long, and free of anything
/// that moves a cursor, talks to a terminal or turns the writing direction. Tabs and colours (SGR) stay; a line that
/// colours ends with a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When the engine saw the line, or when narvana wrote it ([`LogStream::System`]).
    pub at: LogTime,
    /// Where it came from.
    pub stream: LogStream,
    text: String,
}

impl LogLine {
    /// A line from raw output, without or with its line end. Any bytes are accepted; what would do harm is taken out or
    /// shown as an escape (`\x08`).
    pub fn new(at: LogTime, stream: LogStream, text: impl AsRef<[u8]>) -> Self {
        Self { at, stream, text: clean(text.as_ref()) }
    }

    /// Text that went through [`LogLine::new`] before, such as what comes from a log file.
    pub(super) fn from_clean(at: LogTime, stream: LogStream, text: String) -> Self {
        Self { at, stream, text }
    }

    /// What was printed.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A line with its place in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts up from 0 without gaps, also across restarts of narvana. Resume after an entry with `seq + 1`.
    pub seq: u64,
    /// The line.
    pub line: LogLine,
}
