//! Images of this node's store: their manifests, and that all their parts are here.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, watch};

use super::oci::{MANIFEST_BYTES_MAX, Manifest, NotAManifest};
use super::{ArtifactStore, Blob, Digest, Error, FetchError, Fetcher, OpenError, Progress};
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

    /// Opens a blob of an image; one that is not here, or damaged and so removed, is fetched first.
    pub async fn open(&self, digest: Digest) -> Result<Blob, ImageError> {
        self.fetcher.open(digest).await.map_err(|error| match error {
            OpenError::Missing(error) => ImageError::Missing(error),
            OpenError::Store(error) => ImageError::Store(error),
        })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;
    use serde_json::json;
    use sha2::{Digest as _, Sha256};

    use super::super::{BlobSource, RemoteBlob, Unavailable, Whom};
    use super::*;
    use crate::model::NodeId;

    /// Another node: its blobs, and which of them were asked for.
    #[derive(Default)]
    struct Peer {
        blobs: BTreeMap<Digest, Vec<u8>>,
        asked: Mutex<Vec<Digest>>,
    }

    impl Peer {
        fn add(&mut self, bytes: &[u8]) -> Digest {
            let digest = Digest::new(Sha256::digest(bytes).into());
            self.blobs.insert(digest, bytes.to_vec());
            digest
        }
    }

    #[async_trait]
    impl BlobSource for Peer {
        async fn read(&self, digest: Digest, offset: u64, _: &Whom) -> Result<RemoteBlob, Unavailable> {
            self.asked.lock().expect("a lock").push(digest);
            let none = || Unavailable { reason: "nobody has it".to_owned() };
            let blob = self.blobs.get(&digest).ok_or_else(none)?;
            let rest = Bytes::copy_from_slice(&blob[usize::try_from(offset).expect("small")..]);
            let stream = stream::iter([Ok(rest)]).boxed();
            Ok(RemoteBlob { from: NodeId(2), bytes: blob.len() as u64, stream })
        }

        async fn holders(&self, _: Digest) -> Vec<NodeId> {
            Vec::new()
        }
    }

    async fn here(store: &ArtifactStore, bytes: &'static [u8]) {
        let bytes = stream::iter([Ok::<_, Infallible>(Bytes::from_static(bytes))]);
        store.put(bytes, 1_000).await.expect("stored");
    }

    #[tokio::test]
    async fn only_what_is_missing_is_fetched() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ArtifactStore::open(folder.path()).await.expect("opens");
        let mut peer = Peer::default();
        let (config, base, top) = (peer.add(b"config"), peer.add(b"base layer"), peer.add(b"top"));
        let part = |digest: Digest, size| json!({"digest": digest.with_algorithm(), "size": size});
        let manifest = json!({"schemaVersion": 2, "config": part(config, 6), "layers": [part(base, 10), part(top, 3)]});
        let manifest = peer.add(manifest.to_string().as_bytes());
        let unknown = Digest::new([0; 32]);
        let broken = json!({"schemaVersion": 2, "config": part(config, 6), "layers": [part(unknown, 10)]});
        let broken = peer.add(broken.to_string().as_bytes());
        let peer = Arc::new(peer);
        let source: Arc<dyn BlobSource> = Arc::<Peer>::clone(&peer);
        let images = Images::new(Fetcher::new(store.clone(), source));
        here(&store, b"base layer").await;

        let (progress, mut lines) = mpsc::channel(8);
        let found = images.complete(manifest, &progress).await.expect("whole");
        assert_eq!(found.config.digest, config);
        let mut asked = std::mem::take(&mut *peer.asked.lock().expect("a lock"));
        asked.sort_unstable();
        let mut missing = [manifest, config, top];
        missing.sort_unstable();
        assert_eq!(asked, missing);
        assert_eq!(lines.recv().await.expect("a line"), "Fetching 2 of 3 parts of the image, 9 B.");
        assert_eq!(lines.recv().await.expect("a line"), "Fetched 9 B: the image is on this node.");

        // All is here: nobody is asked, nothing is said.
        images.complete(manifest, &progress).await.expect("whole");
        assert!(lines.try_recv().is_err() && peer.asked.lock().expect("a lock").is_empty());

        // What was damaged comes anew; what nobody has is named.
        std::fs::write(folder.path().join(top.to_string()), "t0p").expect("writes");
        assert_eq!(images.open(top).await.expect("mended").bytes, 3);
        let missing = images.complete(broken, &progress).await.expect_err("a layer is nowhere");
        assert!(
            missing.to_string().contains(&format!("{unknown} is not on this node, and nobody has it")),
            "{missing}"
        );
        let layer = images.complete(base, &progress).await;
        assert!(matches!(layer, Err(ImageError::NotAManifest { digest, .. }) if digest == base));
    }

    #[tokio::test]
    async fn a_damaged_blob_that_nobody_has_is_removed_so_that_it_is_sent_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ArtifactStore::open(folder.path()).await.expect("opens");
        here(&store, b"layer").await;
        let digest = Digest::new(Sha256::digest(b"layer").into());
        std::fs::write(folder.path().join(digest.to_string()), "l4yer").expect("writes");
        let images = Images::new(Fetcher::new(store.clone(), Arc::new(Peer::default())));
        assert!(matches!(images.open(digest).await, Err(ImageError::Missing(_))));
        assert_eq!(store.claim(digest).await, None);
    }
}
