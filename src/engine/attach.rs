//! A command inside a container whose input and output somebody holds.

use std::pin::Pin;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::io::AsyncWrite;

use super::Error;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program and its arguments; no shell reads them.
    pub argv: Vec<String>,
    /// The size of its terminal; none when it gets plain pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether it gets input; without, it reads an end at once.
    pub takes_input: bool,
}

/// How large a terminal is, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// What comes from a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes of its standard output, or of its terminal.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// It ended, with this exit code; the last item. 126 or 127 when there is no such command.
    Exited(i64),
}

/// A command that runs. Dropping it lets go of the command and does not end it, since no engine can.
pub struct Attached {
    /// The engine's name for it.
    pub id: String,
    /// What it writes, to its end or to an error.
    pub output: BoxStream<'static, Result<ExecOutput, Error>>,
    /// What it reads; shut down for its end.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}
