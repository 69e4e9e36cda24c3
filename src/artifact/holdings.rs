//! Who has what: asked before a node goes that may be the only one to have something, and while some are away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};

use super::garbage::Roots;
use super::{ArtifactStore, Digest, Fetcher, Images, Nobody, Unavailable};
use crate::model::{Artifact, BuiltImage, NodeId, ServiceId, SourceId};
use crate::state::State;

/// The stores of other nodes.
#[async_trait]
pub trait OtherStores: Send + Sync + 'static {
    /// Which of these a node has as a whole; fails soon when it does not answer.
    async fn held_by(&self, node: NodeId, roots: &Roots) -> Result<BTreeSet<Digest>, Unavailable>;
}

#[async_trait]
impl OtherStores for Nobody {
    async fn held_by(&self, node: NodeId, _roots: &Roots) -> Result<BTreeSet<Digest>, Unavailable> {
        Err(Unavailable { reason: format!("node {node} cannot be asked") })
    }
}

/// What nobody else has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnlyThere {
    /// The services that need it.
    pub services: BTreeSet<ServiceId>,
    /// Whether the node has it. One that does not answer may have it.
    pub is_certain: bool,
}

/// The stores of this node and the others. Clones are the same.
#[derive(Clone)]
pub struct Holdings {
    own: NodeId,
    store: ArtifactStore,
    others: Arc<dyn OtherStores>,
}

impl Holdings {
    /// This node's store, and those of the others.
    pub fn new(own: NodeId, store: ArtifactStore, others: Arc<dyn OtherStores>) -> Self {
        Self { own, store, others }
    }

    /// This node's.
    pub fn store(&self) -> &ArtifactStore {
        &self.store
    }

    /// What a node has, or may have when it does not answer, that the state references and no other member that answers has.
    pub async fn only_on(&self, node: NodeId, state: &State) -> OnlyThere {
        let roots = Roots::of(state);
        if roots == Roots::default() {
            return OnlyThere::default();
        }
        let asked = state.members().map(|member| member.node).map(async |node| (node, self.held(node, &roots).await));
        let mut held: BTreeMap<NodeId, Option<BTreeSet<Digest>>> = join_all(asked).await.into_iter().collect();
        let own = held.remove(&node).flatten();
        let only = only_there(own.as_ref(), held.into_values().flatten().flatten().collect(), roots.all());
        OnlyThere { services: whose(state, &only), is_certain: own.is_some() }
    }

    /// The services that cannot start from what the members have that answer. Those that are known to be away are not asked.
    pub async fn nowhere(&self, state: &State) -> BTreeSet<ServiceId> {
        let roots = Roots::of(state);
        if roots == Roots::default() {
            return BTreeSet::new();
        }
        let here = state.members().filter(|member| state.absence(member.node).is_none());
        let held = join_all(here.map(|member| self.held(member.node, &roots))).await;
        stuck(state, &only_there(None, held.into_iter().flatten().flatten().collect(), roots.all()))
    }

    /// Whether this node, or another one that answers, has an image as a whole.
    pub async fn is_somewhere(&self, image: Digest, state: &State) -> bool {
        let roots = Roots { manifests: BTreeSet::from([image]), ..Roots::default() };
        let is_held = async |node| self.held(node, &roots).await.is_some_and(|held| held.contains(&image));
        if is_held(self.own).await {
            return true;
        }
        let others = state.members().map(|member| member.node).filter(|node| *node != self.own);
        let others = others.filter(|node| state.absence(*node).is_none());
        let mut answers: FuturesUnordered<_> = others.map(is_held).collect();
        while let Some(is_held) = answers.next().await {
            if is_held {
                return true;
            }
        }
        false
    }

    /// None when the node does not answer.
    async fn held(&self, node: NodeId, roots: &Roots) -> Option<BTreeSet<Digest>> {
        if node == self.own {
            return Some(held(&self.store, roots).await);
        }
        let answer = self.others.held_by(node, roots).await;
        answer.inspect_err(|error| tracing::debug!(%node, %error, "what a node has is not known")).ok()
    }
}

/// What goes with a node: of what it has, or of all when it does not answer, what is nowhere else.
fn only_there(own: Option<&BTreeSet<Digest>>, elsewhere: BTreeSet<Digest>, all: BTreeSet<Digest>) -> BTreeSet<Digest> {
    own.unwrap_or(&all).difference(&elsewhere).copied().collect()
}

/// The services that cannot start from what is in this store.
pub async fn not_here(store: &ArtifactStore, state: &State) -> BTreeSet<ServiceId> {
    let roots = Roots::of(state);
    stuck(state, &only_there(None, held(store, &roots).await, roots.all()))
}

/// The services that cannot start without these blobs as they are now, or cannot be deployed again: what they ran before does not count.
fn stuck(state: &State, lost: &BTreeSet<Digest>) -> BTreeSet<ServiceId> {
    let current = state.live_deployments().filter(|deployment| is_among(deployment.artifact.as_ref(), lost));
    let is_source = |id: SourceId| {
        let source = state.source(id).and_then(|source| source.sha256.parse().ok());
        source.is_some_and(|digest: Digest| lost.contains(&digest))
    };
    let sources = state.services().filter(|service| service.source.is_some_and(is_source)).map(|service| service.id);
    current.map(|deployment| deployment.service).chain(sources).collect()
}

/// Whether an artifact is an image whose manifest is one of these blobs.
fn is_among(artifact: Option<&Artifact>, blobs: &BTreeSet<Digest>) -> bool {
    let image = artifact.and_then(|artifact| artifact.image.parse::<BuiltImage>().ok());
    image.is_some_and(|image| blobs.contains(&image.manifest))
}

/// The services that these blobs are of.
fn whose(state: &State, blobs: &BTreeSet<Digest>) -> BTreeSet<ServiceId> {
    let is_source = |sha256: &str| sha256.parse().is_ok_and(|digest| blobs.contains(&digest));
    let deployed = state
        .deployments()
        .filter(|deployment| is_among(deployment.artifact.as_ref(), blobs))
        .map(|found| found.service);
    let built = state.builds().filter(|build| is_among(build.artifact.as_ref(), blobs)).map(|build| build.service);
    let uploaded = state.sources().filter(|source| is_source(&source.sha256)).map(|source| source.service);
    deployed.chain(built).chain(uploaded).collect()
}

/// Which of these are whole in a store: of an image, its manifest and every part. Nobody else is asked.
pub async fn held(store: &ArtifactStore, roots: &Roots) -> BTreeSet<Digest> {
    let images = Images::new(Fetcher::new(store.clone(), Arc::new(Nobody)));
    let mut held = BTreeSet::new();
    for source in &roots.sources {
        if store.contains(*source).await {
            held.insert(*source);
        }
    }
    for digest in &roots.manifests {
        let Ok(Some(manifest)) = images.manifest_here(*digest).await else { continue };
        let mut whole = true;
        for part in manifest.parts() {
            whole = whole && store.claim(part.digest).await == Some(part.bytes);
        }
        if whole {
            held.insert(*digest);
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::stream;
    use serde_json::json;

    use super::*;

    async fn put(store: &ArtifactStore, bytes: String) -> Digest {
        let bytes = stream::iter([Ok::<_, Infallible>(Bytes::from(bytes))]);
        store.put(bytes, 1_000).await.expect("stored").digest
    }

    #[tokio::test]
    async fn an_image_is_held_with_all_its_parts() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ArtifactStore::open(folder.path()).await.expect("opens");
        let (config, layer) = (put(&store, "config".to_owned()).await, put(&store, "layer".to_owned()).await);
        let part = |digest: Digest, size| json!({"digest": digest.with_algorithm(), "size": size});
        let image = |layer| json!({"schemaVersion": 2, "config": part(config, 6), "layers": [layer]}).to_string();
        let whole = put(&store, image(part(layer, 5))).await;
        let broken = put(&store, image(part(Digest::new([7; 32]), 5))).await;
        let roots = Roots {
            sources: BTreeSet::from([config, Digest::new([1; 32])]),
            manifests: BTreeSet::from([whole, broken, Digest::new([2; 32])]),
            ..Roots::default()
        };
        assert_eq!(held(&store, &roots).await, BTreeSet::from([config, whole]));
    }

    #[test]
    fn what_another_one_has_too_is_not_lost() {
        let blob = |number: u8| Digest::new([number; 32]);
        let set = |numbers: &[u8]| numbers.iter().copied().map(blob).collect::<BTreeSet<_>>();
        let all = set(&[1, 2, 3, 4]);
        assert_eq!(only_there(Some(&set(&[1, 2, 3])), set(&[2]), all.clone()), set(&[1, 3]));
        assert_eq!(only_there(Some(&set(&[2])), set(&[2, 3]), all.clone()), set(&[]));
        assert_eq!(only_there(None, set(&[1, 2, 3]), all), set(&[4]), "one that does not answer may have it");
    }
}
