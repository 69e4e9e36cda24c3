//! Blobs from elsewhere: one fetch for each blob however many wait for it, resumed after a cut, verified at its end.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::watch;

use super::{ArtifactStore, Bounds, Digest, Error, Stored};

/// The largest blob that is taken from elsewhere or from an engine.
pub const BLOB_BYTES_MAX: u64 = 32 * 1024 * 1024 * 1024;
/// How long a sender may be silent before another attempt is made.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Attempts in a row that may bring nothing.
const ATTEMPTS: u32 = 5;
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Where blobs are that this node lacks.
#[async_trait]
pub trait BlobSource: Send + Sync + 'static {
    /// The bytes of a blob from `offset` on; an empty stream when that is its end. The stream may end early or with an
    /// error: then it is asked for again, at where it stopped, and may come from somebody else. What it brings is
    /// verified by whoever asks.
    async fn read(&self, digest: Digest, offset: u64) -> Result<RemoteBlob, Unavailable>;
}

/// A blob that somebody sends.
pub struct RemoteBlob {
    /// Size of the whole blob, not only of what is sent.
    pub bytes: u64,
    /// What is sent.
    pub stream: BoxStream<'static, io::Result<Bytes>>,
}

/// Nobody sends the blob now. Asking again at once will not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// Why, as the end of a sentence.
    pub reason: String,
}

/// A source that has nothing: there is no other node to ask.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

#[async_trait]
impl BlobSource for Nobody {
    async fn read(&self, _digest: Digest, _offset: u64) -> Result<RemoteBlob, Unavailable> {
        Err(Unavailable { reason: "it is on no node that answers".to_owned() })
    }
}

/// Why a blob could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody has it, or nobody who has it answers. Another time somebody may.
    #[error("{digest} is not on this node, and {source}")]
    Unavailable {
        /// Which blob.
        digest: Digest,
        /// What the source said.
        source: Unavailable,
    },
    /// It broke off, or other bytes came, again and again. What came of it is kept for the next time.
    #[error("{digest} did not come whole in {ATTEMPTS} attempts")]
    Broken {
        /// Which blob.
        digest: Digest,
        /// What was wrong with the last one.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This node cannot keep it.
    #[error("{digest} cannot be kept")]
    Store {
        /// Which blob.
        digest: Digest,
        /// Why.
        source: Error,
    },
}

/// How much of a blob is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that came.
    pub here: u64,
    /// Bytes of the whole; 0 until somebody said so.
    pub whole: u64,
}

type Outcome = Result<Stored, Arc<FetchError>>;
type Work = BoxFuture<'static, Outcome>;

/// Fetches blobs into the store. Clones share their fetches.
#[derive(Clone)]
pub struct Fetcher {
    store: ArtifactStore,
    source: Arc<dyn BlobSource>,
    flights: Arc<Mutex<BTreeMap<Digest, Underway>>>,
}

struct Underway {
    work: WeakShared<Work>,
    progress: watch::Receiver<Progress>,
}

/// A fetch that somebody waits for. It goes on as long as anybody does.
pub struct Fetch {
    /// How far it is.
    pub progress: watch::Receiver<Progress>,
    work: Shared<Work>,
}

impl Fetch {
    /// Waits for its end: then the blob is in the store, or why not.
    pub async fn done(self) -> Outcome {
        self.work.await
    }
}

impl Fetcher {
    /// Into this store, from this source.
    pub fn new(store: ArtifactStore, source: Arc<dyn BlobSource>) -> Self {
        Self { store, source, flights: Arc::default() }
    }

    /// The store it fetches into.
    pub fn store(&self) -> &ArtifactStore {
        &self.store
    }

    /// Joins the fetch of this blob that is under way, or begins one. A blob that is here is replaced by itself.
    pub fn fetch(&self, digest: Digest) -> Fetch {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.work.upgrade().is_some_and(|work| work.peek().is_none()));
        if let Some(flight) = flights.get(&digest)
            && let Some(work) = flight.work.upgrade()
        {
            return Fetch { progress: flight.progress.clone(), work };
        }
        let (tell, progress) = watch::channel(Progress::default());
        let (store, source) = (self.store.clone(), Arc::clone(&self.source));
        let work = async move { run(&store, &*source, digest, &tell).await.map_err(Arc::new) };
        let work = work.boxed().shared();
        let weak = work.downgrade().expect("it was not polled yet");
        flights.insert(digest, Underway { work: weak, progress: progress.clone() });
        Fetch { progress, work }
    }
}

/// Why one attempt failed.
enum Miss {
    /// Another attempt may do.
    Again(Box<dyn std::error::Error + Send + Sync>),
    Unavailable(Unavailable),
    Store(Error),
}

async fn run(
    store: &ArtifactStore,
    source: &dyn BlobSource,
    digest: Digest,
    tell: &watch::Sender<Progress>,
) -> Result<Stored, FetchError> {
    let (mut misses, mut furthest) = (0, 0);
    loop {
        match attempt(store, source, digest, tell).await {
            Ok(stored) => return Ok(stored),
            Err(Miss::Unavailable(source)) => return Err(FetchError::Unavailable { digest, source }),
            Err(Miss::Store(source)) => return Err(FetchError::Store { digest, source }),
            Err(Miss::Again(source)) => {
                let here = tell.borrow().here;
                misses = if here > furthest { 1 } else { misses + 1 };
                furthest = furthest.max(here);
                tracing::debug!(%digest, here, %source, "a fetch was cut");
                if misses >= ATTEMPTS {
                    return Err(FetchError::Broken { digest, source });
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn attempt(
    store: &ArtifactStore,
    source: &dyn BlobSource,
    digest: Digest,
    tell: &watch::Sender<Progress>,
) -> Result<Stored, Miss> {
    let upload = store.resume(digest).await.map_err(Miss::Store)?;
    let here = upload.bytes();
    let remote = source.read(digest, here).await.map_err(Miss::Unavailable)?;
    if remote.bytes > BLOB_BYTES_MAX {
        return Err(Miss::Store(Error::TooLarge { limit: BLOB_BYTES_MAX }));
    }
    if remote.bytes < here {
        upload.discard();
        return Err(Miss::Again("more of it is here than there is, so it is begun anew".into()));
    }
    tell.send_replace(Progress { here, whole: remote.bytes });
    let counted = remote.stream.inspect(|chunk| {
        let more = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        tell.send_modify(|progress| progress.here += more);
    });
    let bounds = Bounds { bytes: remote.bytes, silence: Some(SILENCE_MAX) };
    match upload.append(counted, bounds).await {
        Ok(()) if upload.bytes() < remote.bytes => return Err(Miss::Again("it ended early".into())),
        Ok(()) => {}
        Err(error @ (Error::Stream { .. } | Error::TooLarge { .. })) => return Err(Miss::Again(error.into())),
        Err(error) => return Err(Miss::Store(error)),
    }
    match upload.finish(Some(digest)).await {
        Ok(stored) => Ok(stored),
        // Somebody sent other bytes: the next one may send the right ones.
        Err(error @ Error::Mismatch { .. }) => Err(Miss::Again(error.into())),
        Err(error) => Err(Miss::Store(error)),
    }
}

#[cfg(test)]
mod tests;
