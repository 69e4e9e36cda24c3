//! Images of this node's store: their manifests, and that all their parts are here.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, watch};

use super::oci::{MANIFEST_BYTES_MAX, Manifest, NotAManifest};
use super::{ArtifactStore, Blob, Digest, Error, FetchError, Fetcher, Progress};
use crate::task::blocking;

/// Blobs of one image that are fetched at once: more would only make each slower.
const FETCHES: usize = 3;
/// How often is said how far a fetch is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Why an image is not here as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A part of it is not here and could not be fetched.
    #[error("a part of the image is missing: {0}")]
    Missing(Arc<FetchError>),
    /// Its manifest cannot be read.
    #[error("the manifest {digest} is no manifest")]
    NotAManifest {
        /// Its name.
        digest: Digest,
        /// Why not.
        source: NotAManifest,
    },
    /// This node's store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// The images in a node's store, and the way to those that are elsewhere. Clones are the same.
#[derive(Clone)]
pub struct Images {
    fetcher: Fetcher,
}

impl Images {
    /// Those in the store of this fetcher.
    pub fn new(fetcher: Fetcher) -> Self {
        Self { fetcher }
    }

    /// The store they are in.
    pub fn store(&self) -> &ArtifactStore {
        self.fetcher.store()
    }

    /// Opens a blob of an image; one that is not here, or damaged, is fetched first.
    pub async fn open(&self, digest: Digest) -> Result<Blob, ImageError> {
        let store = self.store();
        match store.open_blob(digest).await {
            Err(Error::NotFound(_) | Error::Damaged { .. }) => {}
            opened => return Ok(opened?),
        }
        self.fetcher.fetch(digest).done().await.map_err(ImageError::Missing)?;
        Ok(store.open_blob(digest).await?)
    }

    /// The manifest of that name, with its bytes; fetched when it is not here.
    pub async fn manifest(&self, digest: Digest) -> Result<(Manifest, Vec<u8>), ImageError> {
        self.read(self.open(digest).await?).await
    }

    /// The manifest of that name if it is here. One that is damaged is as good as gone.
    pub(super) async fn manifest_here(&self, digest: Digest) -> Result<Option<Manifest>, Error> {
        match self.store().open_blob(digest).await {
            Ok(blob) => match self.read(blob).await {
                Ok((manifest, _)) => Ok(Some(manifest)),
                Err(ImageError::Store(error)) => Err(error),
                Err(error) => {
                    tracing::warn!(%digest, %error, "what should be the manifest of an image is none");
                    Ok(None)
                }
            },
            Err(Error::NotFound(_)) => Ok(None),
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(%error, "an image is lost on this node");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&self, blob: Blob) -> Result<(Manifest, Vec<u8>), ImageError> {
        let digest = blob.digest;
        let file = blob.into_file();
        let bytes = blocking(move || {
            let mut bytes = Vec::new();
            // One more than allowed, so that what is too large is seen to be.
            file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes = bytes.await.map_err(Error::io("read", self.store().dir()))?;
        let manifest = Manifest::parse(&bytes, None).map_err(|source| ImageError::NotAManifest { digest, source })?;
        Ok((manifest, bytes))
    }

    /// Sees to it that every part of an image is here: what is missing is fetched, nothing else. Progress comes as lines,
    /// none when nothing is missing; nobody has to listen.
    pub async fn complete(&self, manifest: Digest, progress: &mpsc::Sender<String>) -> Result<Manifest, ImageError> {
        let (found, _) = self.manifest(manifest).await?;
        let mut missing = Vec::new();
        for part in found.parts() {
            if self.store().claim(part.digest).await != Some(part.bytes) {
                missing.push(part);
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let bytes: u64 = missing.iter().map(|part| part.bytes).sum();
        let (parts, all) = (missing.len(), found.parts().len());
        // Nobody has to listen, here and below.
        let _ = progress.send(format!("Fetching {parts} of {all} parts of the image, {}.", shown(bytes))).await;
        let fetches: Vec<_> = missing.iter().map(|part| self.fetcher.fetch(part.digest)).collect();
        let states: Vec<watch::Receiver<Progress>> = fetches.iter().map(|fetch| fetch.progress.clone()).collect();
        let all = stream::iter(fetches)
            .map(|fetch| fetch.done())
            .buffer_unordered(FETCHES)
            .try_for_each(|_| async { Ok(()) });
        let tell = async {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                let here: u64 = states.iter().map(|state| state.borrow().here).sum();
                let _ = progress.send(format!("Fetched {} of {}.", shown(here), shown(bytes))).await;
            }
        };
        tokio::select! {
            done = all => done.map_err(ImageError::Missing)?,
            () = tell => {}
        }
        let _ = progress.send(format!("Fetched {}: the image is on this node.", shown(bytes))).await;
        Ok(found)
    }
}

/// A size for people.
fn shown(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..MIB => format!("{} KiB", bytes / KIB),
        _ => format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB),
    }
}
