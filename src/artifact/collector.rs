//! Removes blobs that nobody needs any more, as [`garbage`](super::garbage) decides.

use std::collections::BTreeSet;

use super::garbage::{Roots, Suspects};
use super::{Error, Images};

/// Looks through the store, again and again.
pub struct Collector {
    images: Images,
    suspects: Suspects,
}

impl Collector {
    /// Of the store of these images.
    pub fn new(images: Images) -> Self {
        Self { images, suspects: Suspects::default() }
    }

    /// One look, against what a state references that was the newest when this was called. Returns how many blobs were
    /// removed. After an error nothing is suspected any more.
    pub async fn look(&mut self, roots: Roots) -> Result<usize, Error> {
        let mut suspects = std::mem::take(&mut self.suspects);
        let store = self.images.store();
        // In this order: what is stored from here on is used, and is not removed by this look.
        let used = store.take_used().await;
        let whole = store.list().await?;
        let stored: BTreeSet<_> =
            whole.into_iter().chain(store.list_fetches().await?).map(|blob| blob.digest).collect();
        let mut needed = roots.sources;
        needed.extend(roots.recipes);
        for digest in roots.manifests {
            if let Some(manifest) = self.images.manifest_here(digest).await? {
                needed.extend(manifest.parts().into_iter().map(|part| part.digest));
            }
            needed.insert(digest);
        }
        let mut removed = 0;
        for digest in suspects.look(&stored, &needed, &used) {
            removed += usize::from(store.remove_unused(digest).await?);
        }
        self.suspects = suspects;
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use bytes::Bytes;
    use futures::stream;
    use serde_json::json;

    use super::super::garbage::GRACE_LOOKS;
    use super::super::{ArtifactStore, Digest, Fetcher, Nobody};
    use super::*;

    async fn put(store: &ArtifactStore, bytes: impl Into<Bytes>) -> Digest {
        let bytes = stream::iter([Ok::<_, Infallible>(bytes.into())]);
        store.put(bytes, 10_000).await.expect("stored").digest
    }

    #[tokio::test]
    async fn keeps_what_is_referenced_with_all_its_parts() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ArtifactStore::open(folder.path()).await.expect("opens");
        let mut collector = Collector::new(Images::new(Fetcher::new(store.clone(), Arc::new(Nobody))));
        let (config, layer) = (put(&store, "config").await, put(&store, "layer").await);
        let part = |digest: Digest| json!({"digest": digest.with_algorithm(), "size": 6});
        let manifest = json!({"schemaVersion": 2, "config": part(config), "layers": [part(layer)]});
        let manifest = put(&store, manifest.to_string()).await;
        let (source, stray) = (put(&store, "source").await, put(&store, "stray").await);
        let roots = Roots { sources: [source].into(), manifests: [manifest].into(), ..Roots::default() };
        for _look in 0..GRACE_LOOKS {
            assert_eq!(collector.look(roots.clone()).await.expect("a look"), 0, "just stored");
        }
        assert_eq!(store.claim(stray).await, Some(5));
        for _look in 0..GRACE_LOOKS {
            assert_eq!(collector.look(roots.clone()).await.expect("a look"), 0, "a push relies on it");
        }
        assert_eq!(collector.look(roots.clone()).await.expect("a look"), 1);
        assert!(!store.contains(stray).await);
        for _look in 0..=GRACE_LOOKS {
            collector.look(roots.clone()).await.expect("a look");
        }
        for kept in [config, layer, manifest, source] {
            assert!(store.contains(kept).await);
        }
        for _look in 0..=GRACE_LOOKS {
            collector.look(Roots::default()).await.expect("a look");
        }
        assert_eq!(store.list().await.expect("a list"), []);
    }
}
