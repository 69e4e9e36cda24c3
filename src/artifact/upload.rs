//! A blob that arrives in pieces.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::partial::Partial;
use super::{Digest, Error, Stored};
use crate::task::blocking;

/// Collected before a blocking thread is asked to write them: few hand-overs, little memory per upload.
pub(super) const WRITE_BYTES: usize = 512 * 1024;

/// A blob that has no name yet. Clones are the same upload. What came stays when a stream is cut, so that the next one
/// can go on there; when nobody has the upload any more its file goes away (that of a fetch stays).
#[derive(Clone)]
pub struct Upload(Arc<Mutex<Option<Partial>>>);

/// What one stream may bring.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most bytes of the whole blob.
    pub bytes: u64,
    /// Longest silence before the stream counts as cut; none when somebody else sees to that.
    pub silence: Option<Duration>,
}

impl Upload {
    pub(super) fn new(partial: Partial) -> Self {
        Self(Arc::new(Mutex::new(Some(partial))))
    }

    /// How many bytes came so far.
    pub fn bytes(&self) -> u64 {
        self.with(|partial| partial.as_ref().map_or(0, Partial::bytes))
    }

    /// Adds what the stream brings. After [`Error::Stream`] the upload can go on at [`Self::bytes`]; after any other
    /// error it is over. Dropping the future cuts the stream.
    pub async fn append<S, E>(&self, stream: S, bounds: Bounds) -> Result<(), Error>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut stream = pin!(stream);
        let (mut bytes, mut chunks, mut waiting) = (self.bytes(), Vec::new(), 0);
        let cut = loop {
            let next = match bounds.silence {
                Some(limit) => tokio::time::timeout(limit, stream.next()).await,
                None => Ok(stream.next().await),
            };
            let chunk = match next {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => break Some(error.into()),
                Ok(None) => break None,
                Err(silence) => break Some(silence.into()),
            };
            bytes = bytes.saturating_add(chunk.len() as u64);
            if bytes > bounds.bytes {
                self.discard();
                return Err(Error::TooLarge { limit: bounds.bytes });
            }
            waiting += chunk.len();
            chunks.push(chunk);
            if waiting >= WRITE_BYTES {
                waiting = 0;
                self.write(std::mem::take(&mut chunks)).await?;
            }
        };
        self.write(chunks).await?;
        cut.map_or(Ok(()), |source| Err(Error::Stream { source }))
    }

    /// Gives the blob its name. When this returns, it is on disk and stays there through a power cut. With `expected`,
    /// other bytes are [`Error::Mismatch`], and forgotten.
    pub async fn finish(&self, expected: Option<Digest>) -> Result<Stored, Error> {
        let upload = self.clone();
        blocking(move || match upload.with(Option::take) {
            Some(partial) => partial.persist(expected),
            None => Err(Error::Over),
        })
        .await
    }

    /// Adds what another one has from its byte `skip` on.
    pub(super) async fn take_over(&self, other: &Self, skip: u64) -> Result<(), Error> {
        let (own, other) = (self.clone(), other.clone());
        blocking(move || {
            other.with(|other| match other {
                Some(other) => own.with(|partial| partial.as_mut().ok_or(Error::Over)?.take_over(other, skip)),
                None => Err(Error::Over),
            })
        })
        .await
    }

    /// Whether it was finished, or given up because it could not be kept.
    pub(super) fn is_over(&self) -> bool {
        self.with(|partial| partial.is_none())
    }

    /// Forgets what came. Nothing can be added any more.
    pub fn discard(&self) {
        if let Some(partial) = self.with(Option::take) {
            partial.discard();
        }
    }

    async fn write(&self, chunks: Vec<Bytes>) -> Result<(), Error> {
        if chunks.is_empty() {
            return Ok(());
        }
        // Handed to a blocking thread only while there is something to write: an upload that stalls holds no thread.
        let upload = self.clone();
        blocking(move || {
            let written = upload.with(|partial| partial.as_mut().ok_or(Error::Over)?.write(&chunks));
            if written.is_err() {
                upload.discard();
            }
            written
        })
        .await
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Option<Partial>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
