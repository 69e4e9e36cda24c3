//! A blocking writer as a stream.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Chunks that wait for the reader: enough to keep both sides busy, little memory.
const STREAM_CHUNKS: usize = 4;
const CHUNK: usize = 128 * 1024;

/// Runs a blocking writer and hands its bytes out as a stream, at most `STREAM_CHUNKS` ahead of the reader.
pub fn stream<F>(write: F) -> ReceiverStream<io::Result<Bytes>>
where
    F: FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(STREAM_CHUNKS);
    // Not a task of a supervisor: it ends with the stream, since sending fails once the receiver is gone.
    tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(CHUNK, ChannelWriter(&sender));
        let result = write(&mut out).and_then(|()| out.flush());
        // A writer that failed must not write its rest when it is dropped.
        let _ = out.into_parts();
        if let Err(error) = result {
            let _ = sender.blocking_send(Err(error));
        }
    });
    ReceiverStream::new(receiver)
}

struct ChannelWriter<'a>(&'a mpsc::Sender<io::Result<Bytes>>);

impl Write for ChannelWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(buffer);
        self.0.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
