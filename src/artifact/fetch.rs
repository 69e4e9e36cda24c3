//! Blobs from elsewhere: one fetch for each blob however many wait for it, resumed after a cut, verified at its end.
//!
//! A large one comes from several nodes at once: its beginning and up to two segments further on, each from one node in one
//! piece, since a node reads a blob through before it sends any of it. The beginning grows; when it comes to a segment, it takes that
//! over, as much as is there. So whatever is cut, the next attempt goes on with what came.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared, WeakShared, join, join_all};
use futures::stream::{self, BoxStream, Stream, StreamExt};
use tokio::sync::watch;

use super::{ArtifactStore, Blob, Bounds, Digest, Error, Stored, Upload};
use crate::model::NodeId;

/// The largest blob that is taken from elsewhere or from an engine.
pub const BLOB_BYTES_MAX: u64 = 32 * 1024 * 1024 * 1024;
/// How long a sender may be silent before another attempt is made.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Attempts in a row that may bring nothing.
const ATTEMPTS: u32 = 5;
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// Blobs of which more than this is missing come from several nodes at once.
const LARGE_BYTES: u64 = 32 << 20;
/// Nodes that one blob comes from at once.
const SENDERS: u64 = 3;

/// Where blobs are that this node lacks.
#[async_trait]
pub trait BlobSource: Send + Sync + 'static {
    /// The bytes of a blob from `offset` on; an empty stream when that is its end. The stream may end early or with an
    /// error: then it is asked for again, at where it stopped, and may come from somebody else. What it brings is
    /// verified by whoever asks.
    async fn read(&self, digest: Digest, offset: u64, whom: &Whom) -> Result<RemoteBlob, Unavailable>;

    /// The nodes that say that they have a blob, those that are least busy for this node first.
    async fn holders(&self, digest: Digest) -> Vec<NodeId>;
}

/// Who is to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whom {
    /// This one and nobody else.
    pub only: Option<NodeId>,
    /// This one before all others.
    pub first: Option<NodeId>,
    /// These only when nobody else has it: they sent nothing, or something else.
    pub last: BTreeSet<NodeId>,
}

/// A blob that somebody sends.
pub struct RemoteBlob {
    /// Who.
    pub from: NodeId,
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
    async fn read(&self, _digest: Digest, _offset: u64, _whom: &Whom) -> Result<RemoteBlob, Unavailable> {
        Err(Unavailable { reason: "it is on no node that answers".to_owned() })
    }

    async fn holders(&self, _digest: Digest) -> Vec<NodeId> {
        Vec::new()
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

/// Why a blob could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not here and could not be fetched.
    #[error(transparent)]
    Missing(#[from] Arc<FetchError>),
    /// This node's store failed.
    #[error(transparent)]
    Store(#[from] Error),
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
    large_bytes: u64,
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
        Self { store, source, flights: Arc::default(), large_bytes: LARGE_BYTES }
    }

    /// The store it fetches into.
    pub fn store(&self) -> &ArtifactStore {
        &self.store
    }

    /// Opens a blob; one that is not here, or damaged and so removed, is fetched first.
    pub async fn open(&self, digest: Digest) -> Result<Blob, OpenError> {
        match self.store.open_blob(digest).await {
            Err(Error::NotFound(_)) => {}
            Err(Error::Damaged { .. }) => self.store.remove_damaged(digest).await,
            opened => return Ok(opened?),
        }
        self.fetch(digest).done().await?;
        Ok(self.store.open_blob(digest).await?)
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
        let large_bytes = self.large_bytes;
        let work = async move {
            let one = One { store: &store, source: &*source, digest, tell: &tell, large_bytes };
            one.run().await.map_err(Arc::new)
        };
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

/// One fetch.
struct One<'a> {
    store: &'a ArtifactStore,
    source: &'a dyn BlobSource,
    digest: Digest,
    tell: &'a watch::Sender<Progress>,
    large_bytes: u64,
}

/// Whose bytes are here, and whom to ask for more.
#[derive(Default)]
struct Senders {
    /// Who sent what is here; nothing when nothing is.
    who: BTreeSet<NodeId>,
    /// That other bytes came, and nobody knows from whom: from now on a blob is of one node.
    strict: bool,
    /// Those that sent other bytes, or nothing.
    bad: BTreeSet<NodeId>,
}

impl Senders {
    fn whom(&self) -> Whom {
        let first = self.who.first().copied().filter(|_| self.strict);
        Whom { only: None, first, last: self.bad.clone() }
    }

    /// Other bytes came.
    fn lied(&mut self) {
        let who = std::mem::take(&mut self.who);
        if who.len() == 1 {
            self.bad.extend(who);
        }
        self.strict = true;
    }
}

/// Bytes from `start` on, which came beside the beginning.
struct Segment {
    start: u64,
    upload: Upload,
    /// Who sends it now.
    from: Option<NodeId>,
}

impl One<'_> {
    async fn run(&self) -> Result<Stored, FetchError> {
        let digest = self.digest;
        let (mut misses, mut furthest) = (0, 0);
        let mut senders = Senders::default();
        loop {
            match self.attempt(&mut senders).await {
                Ok(stored) => return Ok(stored),
                Err(Miss::Unavailable(source)) => return Err(FetchError::Unavailable { digest, source }),
                Err(Miss::Store(source)) => return Err(FetchError::Store { digest, source }),
                Err(Miss::Again(source)) => {
                    let here = self.tell.borrow().here;
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

    async fn attempt(&self, senders: &mut Senders) -> Result<Stored, Miss> {
        let upload = self.store.resume(self.digest).await.map_err(Miss::Store)?;
        let mut segments = self.left(senders).await?;
        absorb(&upload, &mut segments).await.map_err(Miss::Store)?;
        let here = upload.bytes();
        let remote = self.source.read(self.digest, here, &senders.whom()).await.map_err(Miss::Unavailable)?;
        let (whole, from) = (remote.bytes, remote.from);
        if whole > BLOB_BYTES_MAX {
            return Err(Miss::Store(Error::TooLarge { limit: BLOB_BYTES_MAX }));
        }
        if whole < here {
            upload.discard();
            senders.who.clear();
            senders.bad.insert(from);
            return Err(Miss::Again("more of it is here than there is, so it is begun anew".into()));
        }
        if senders.strict && here > 0 && !senders.who.contains(&from) {
            upload.discard();
            senders.who.clear();
            return Err(Miss::Again("its sender is gone, so it is begun anew with another one".into()));
        }
        segments.retain(|segment| {
            let fits = segment.start + segment.upload.bytes() <= whole;
            if !fits {
                segment.upload.discard();
            }
            fits
        });
        if !senders.strict && whole - here > self.large_bytes {
            self.share(&mut segments, here..whole, from, senders).await?;
        }
        let came: u64 = segments.iter().map(|segment| segment.upload.bytes()).sum();
        self.tell.send_replace(Progress { here: here + came, whole });
        senders.who.insert(from);
        senders.who.extend(segments.iter().filter_map(|segment| segment.from));
        let ends = segments.iter().skip(1).map(|segment| segment.start).chain([whole]);
        let beside = join_all(segments.iter().zip(ends).map(|(segment, end)| self.segment(segment, end, whole)));
        let end = segments.first().map_or(whole, |segment| segment.start);
        let first = upload.append(self.counted(remote.stream, end - here), self.bounds(whole));
        let (first, _) = join(first, beside).await;
        if upload.bytes() == here && here < end {
            senders.bad.insert(from);
        }
        match first {
            Ok(()) => {}
            Err(error @ (Error::Stream { .. } | Error::TooLarge { .. })) => return Err(Miss::Again(error.into())),
            Err(error) => return Err(Miss::Store(error)),
        }
        // One that could not be kept is gone; its bytes are fetched again.
        segments.retain(|segment| !segment.upload.is_over());
        absorb(&upload, &mut segments).await.map_err(Miss::Store)?;
        if upload.bytes() < whole {
            return Err(Miss::Again("it ended early".into()));
        }
        match upload.finish(Some(self.digest)).await {
            Ok(stored) => Ok(stored),
            // Somebody sent other bytes: the next one may send the right ones.
            Err(error @ Error::Mismatch { .. }) => {
                senders.lied();
                Err(Miss::Again(error.into()))
            }
            Err(error) => Err(Miss::Store(error)),
        }
    }

    /// The segments that an earlier attempt has left, in their order. In doubt about whose they are they go.
    async fn left(&self, senders: &Senders) -> Result<Vec<Segment>, Miss> {
        let mut segments = Vec::new();
        for start in self.store.segments(self.digest).await.map_err(Miss::Store)? {
            let upload = self.store.resume_segment(self.digest, start).await.map_err(Miss::Store)?;
            if senders.strict {
                upload.discard();
            } else {
                segments.push(Segment { start, upload, from: None });
            }
        }
        Ok(segments)
    }

    /// Has other nodes than `from` send segments of these bytes: those that are there already, or else as many equal ones as
    /// there are nodes.
    async fn share(
        &self,
        segments: &mut Vec<Segment>,
        bytes: Range<u64>,
        from: NodeId,
        senders: &Senders,
    ) -> Result<(), Miss> {
        let mut others = self.source.holders(self.digest).await;
        others.retain(|node| *node != from && !senders.bad.contains(node));
        others.truncate(usize::try_from(SENDERS - 1).expect("small"));
        if segments.is_empty() {
            let parts = others.len() as u64 + 1;
            for part in 1..parts {
                let start = bytes.start + (bytes.end - bytes.start) / parts * part;
                let upload = self.store.resume_segment(self.digest, start).await.map_err(Miss::Store)?;
                segments.push(Segment { start, upload, from: None });
            }
        }
        for (segment, node) in segments.iter_mut().zip(others) {
            segment.from = Some(node);
        }
        Ok(())
    }

    /// Fetches a segment up to `end`. What does not come is fetched later, when the beginning is there.
    async fn segment(&self, segment: &Segment, end: u64, whole: u64) {
        let at = segment.start + segment.upload.bytes();
        let Some(from) = segment.from.filter(|_| at < end) else { return };
        let whom = Whom { only: Some(from), ..Whom::default() };
        let outcome = match self.source.read(self.digest, at, &whom).await {
            Ok(remote) if remote.bytes == whole => {
                let stream = self.counted(remote.stream, end - at);
                segment.upload.append(stream, self.bounds(whole)).await.map_err(|error| error.to_string())
            }
            Ok(remote) => Err(format!("it has {} bytes there", remote.bytes)),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = outcome {
            tracing::debug!(digest = %self.digest, %from, error, "a segment was cut");
        }
    }

    /// At most so many bytes of what is sent, counted as they come.
    fn counted(
        &self,
        stream: BoxStream<'static, io::Result<Bytes>>,
        most: u64,
    ) -> impl Stream<Item = io::Result<Bytes>> {
        // The stream may go on for long when all is here: it is not asked again, and ends.
        let pieces = stream::unfold((stream, most), async |(mut stream, left)| {
            let mut chunk = if left > 0 { stream.next().await? } else { return None };
            let mut rest = left;
            if let Ok(chunk) = &mut chunk {
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                rest -= chunk.len() as u64;
            }
            Some((chunk, (stream, rest)))
        });
        pieces.inspect(|chunk| {
            let more = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
            self.tell.send_modify(|progress| progress.here += more);
        })
    }

    fn bounds(&self, whole: u64) -> Bounds {
        Bounds { bytes: whole, silence: Some(SILENCE_MAX) }
    }
}

/// Has the beginning of a blob take over the segments that it has come to.
async fn absorb(upload: &Upload, segments: &mut Vec<Segment>) -> Result<(), Error> {
    while let Some(segment) = segments.first()
        && segment.start <= upload.bytes()
    {
        upload.take_over(&segment.upload, upload.bytes() - segment.start).await?;
        segment.upload.discard();
        segments.remove(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
