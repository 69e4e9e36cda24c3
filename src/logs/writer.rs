//! Appending to a log: a handle for who has lines, and the task that writes them.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::appender::Appender;
use super::{Error, LogKey, LogLine};
use crate::task::blocking;

/// Lines that wait while a batch is written. Enough that writing is done in large batches, and at most 8 MiB of the
/// longest lines per log; whoever appends to a full queue waits, and so does the pipe it reads from.
const QUEUE_LINES: usize = 512;

pub(super) enum Message {
    Line(LogLine),
    Flush(oneshot::Sender<()>),
    End { complete: bool, done: oneshot::Sender<()> },
}

/// The one writer of a log. Dropping it writes what was appended and lets another writer go on later; the log of a build
/// is complete then.
#[derive(Debug)]
pub struct LogWriter {
    key: LogKey,
    queue: mpsc::Sender<Message>,
}

impl LogWriter {
    /// Appends a line; waits when the disk cannot keep up. The line is in the file soon, not on return: see
    /// [`LogWriter::flush`].
    pub async fn append(&self, line: LogLine) -> Result<(), Error> {
        self.queue.send(Message::Line(line)).await.map_err(|_| Error::Stopped(self.key))
    }

    /// Waits until everything appended before can be read by others.
    pub async fn flush(&self) -> Result<(), Error> {
        let (done, flushed) = oneshot::channel();
        self.send(Message::Flush(done), flushed).await
    }

    /// Writes everything and gives the log back, for a writer that goes on later.
    pub async fn stop(self) -> Result<(), Error> {
        let (done, stopped) = oneshot::channel();
        self.send(Message::End { complete: false, done }, stopped).await
    }

    /// Writes everything and closes the log: followers end after the last line, also after a restart of narvana.
    pub async fn finish(self) -> Result<(), Error> {
        let (done, finished) = oneshot::channel();
        self.send(Message::End { complete: true, done }, finished).await
    }

    async fn send(&self, message: Message, answer: oneshot::Receiver<()>) -> Result<(), Error> {
        let stopped = |_| Error::Stopped(self.key);
        self.queue.send(message).await.map_err(|_| Error::Stopped(self.key))?;
        answer.await.map_err(stopped)
    }
}

/// A handle and what its task needs.
pub(super) fn channel(key: LogKey) -> (LogWriter, mpsc::Receiver<Message>) {
    let (queue, messages) = mpsc::channel(QUEUE_LINES);
    (LogWriter { key, queue }, messages)
}

/// Writes what comes, in batches as large as what arrived while the one before was written. Ends with its handle, or,
/// when the node stops, with what is in the queue.
pub(super) async fn run(
    key: LogKey,
    mut appender: Appender,
    mut messages: mpsc::Receiver<Message>,
    stopping: CancellationToken,
) -> Result<(), Error> {
    let mut batch = Vec::with_capacity(QUEUE_LINES);
    let mut end = None;
    while end.is_none() {
        let received = tokio::select! {
            received = messages.recv_many(&mut batch, QUEUE_LINES) => received,
            () = stopping.cancelled(), if !messages.is_closed() => {
                messages.close();
                continue;
            }
        };
        let mut lines = Vec::with_capacity(received);
        let mut flushed = Vec::new();
        for message in batch.drain(..) {
            match message {
                Message::Line(line) => lines.push(line),
                Message::Flush(done) => flushed.push(done),
                Message::End { complete, done } => end = Some((complete, Some(done))),
            }
        }
        if received == 0 {
            end = Some((matches!(key, LogKey::Build(_)), None));
        }
        if !lines.is_empty() {
            appender = blocking(move || {
                appender.append(&lines);
                appender
            })
            .await;
        }
        for done in flushed {
            // Whoever asked may have gone.
            let _gone = done.send(());
        }
    }
    let (complete, done) = end.unwrap_or_default();
    let mut result = Ok(());
    if complete {
        (appender, result) = blocking(move || {
            let result = appender.close();
            (appender, result)
        })
        .await;
    }
    // The right to write is free before anybody hears that this writer is done.
    drop(appender);
    if let Some(done) = done {
        let _gone = done.send(());
    }
    result
}
