//! A long answer, read as a file is.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

/// Longest silence before a download counts as broken.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The body of an answer. Its errors say from which node it came.
pub(super) fn reader(response: reqwest::Response, from: String) -> impl AsyncRead + Send + Unpin + 'static {
    let body = tokio_stream::StreamExt::timeout(response.bytes_stream(), SILENCE_MAX);
    let pieces = body.map(move |piece| match piece {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(io::Error::other(format!("the connection to {from} broke: {}", error.without_url()))),
        Err(_) => Err(io::Error::other(format!("nothing came from {from} for a minute"))),
    });
    StreamReader::new(Box::pin(pieces))
}
