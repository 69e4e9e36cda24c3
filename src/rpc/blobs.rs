//! Blobs between nodes: sent to members that lack them, and asked for where they may be; and who has which.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use narvana_proto::v1;
use narvana_proto::v1::artifacts_client::ArtifactsClient;
use narvana_proto::v1::artifacts_server::Artifacts;
use narvana_proto::v1::blob_part::Part;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::caller::member;
use super::peers::{answers, reason};
use super::{Admit, Peers, Refusal};
use crate::artifact::garbage::Roots;
use crate::artifact::{self, ArtifactStore, BlobSource, Digest, OtherStores, RemoteBlob, Unavailable, Whom};
use crate::consensus::{Peer, View};
use crate::model::NodeId;
use crate::random;

/// Largest piece of a blob in one message.
const CHUNK_BYTES: usize = 256 * 1024;
/// Longest wait for the first answer of a node. It verifies the blob before it sends any of it.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Longest wait for what a node says that it has. Somebody waits for the answer.
const HOLD_MAX: Duration = Duration::from_secs(3);

/// Sends what this node has.
pub(super) struct BlobService {
    store: ArtifactStore,
    admit: Admit,
    stop: CancellationToken,
}

impl BlobService {
    pub(super) fn new(store: ArtifactStore, admit: Admit, stop: CancellationToken) -> Self {
        Self { store, admit, stop }
    }
}

fn part(part: Part) -> v1::BlobPart {
    v1::BlobPart { part: Some(part) }
}

#[tonic::async_trait]
impl Artifacts for BlobService {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<v1::BlobPart, Status>> + Send>>;

    async fn read(&self, request: Request<v1::ReadBlob>) -> Result<Response<Self::ReadStream>, Status> {
        let caller = member(&request)?;
        let v1::ReadBlob { digest, offset } = request.into_inner();
        let digest: Digest = digest
            .parse()
            .map_err(|error: crate::model::MalformedDigest| Status::invalid_argument(error.to_string()))?;
        let blob = match self.store.open_blob(digest).await {
            Ok(blob) => blob,
            Err(artifact::Error::NotFound(_)) => return Err(Status::not_found("this node does not have it")),
            Err(error) => return Err(Status::internal(error.to_string())),
        };
        let bytes = blob.bytes;
        let rest = bytes.checked_sub(offset).ok_or_else(|| {
            Status::out_of_range(format!("the blob has {bytes} bytes, and was asked for from {offset} on"))
        })?;
        let chunks = blob.into_part(offset, rest).await.map_err(|error| Status::internal(error.to_string()))?;
        let admit = self.admit.clone();
        let chunks = chunks.map(move |chunk| {
            // It may take hours: a node that is removed meanwhile gets no more of it.
            admit(caller).map_err(Refusal::end)?;
            chunk.map(|chunk| part(Part::Chunk(chunk))).map_err(|error| Status::internal(error.to_string()))
        });
        let head = stream::once(async move { Ok(part(Part::Head(v1::BlobHead { bytes }))) });
        Ok(Response::new(Box::pin(head.chain(chunks).take_until(self.stop.clone().cancelled_owned()))))
    }

    async fn hold(&self, request: Request<v1::HoldRequest>) -> Result<Response<v1::HoldReply>, Status> {
        let v1::HoldRequest { sources, manifests } = request.into_inner();
        let roots = Roots { sources: digests(&sources)?, manifests: digests(&manifests)?, ..Roots::default() };
        let held = artifact::held(&self.store, &roots).await;
        Ok(Response::new(v1::HoldReply { held: bytes_of(&held) }))
    }
}

fn bytes_of(digests: &BTreeSet<Digest>) -> Vec<Bytes> {
    digests.iter().map(|digest| Bytes::copy_from_slice(digest.as_bytes())).collect()
}

fn digests(bytes: &[Bytes]) -> Result<BTreeSet<Digest>, Status> {
    let digests = bytes.iter().map(|bytes| <[u8; 32]>::try_from(&**bytes).map(Digest::new));
    digests.collect::<Result<_, _>>().map_err(|_| Status::invalid_argument("a digest has 32 bytes"))
}

/// The blobs that other nodes have. Each is asked of one node after the other, beginning with the one that sends this node
/// least now, and among equals with any, so that many who want the same do not all ask the same.
#[derive(Clone)]
pub struct PeerBlobs {
    own: NodeId,
    peers: Peers,
    view: watch::Receiver<View>,
    busy: Busy,
}

/// How many blobs each node sends this one now.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<BTreeMap<NodeId, usize>>>);

/// Counts as long as it is there.
struct Errand {
    busy: Busy,
    node: NodeId,
}

impl Busy {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, node: NodeId) -> usize {
        self.lock().get(&node).copied().unwrap_or_default()
    }

    fn begin(&self, node: NodeId) -> Errand {
        *self.lock().entry(node).or_default() += 1;
        Errand { busy: self.clone(), node }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        let mut busy = self.busy.lock();
        if let Some(count) = busy.get_mut(&self.node) {
            *count -= 1;
        }
        busy.retain(|_, count| *count > 0);
    }
}

impl PeerBlobs {
    /// For this node.
    pub fn new(own: NodeId, peers: Peers, view: watch::Receiver<View>) -> Self {
        Self { own, peers, view, busy: Busy::default() }
    }

    /// All others, or those that answer the leader.
    fn others(&self, all: bool) -> Vec<Peer> {
        let state = self.view.borrow().state.clone();
        let answers = |node: NodeId| state.absence(node).is_none();
        let others = state.nodes().filter(|node| node.id != self.own && (all || answers(node.id)));
        let mut others: Vec<Peer> = others.map(|node| Peer { node: node.id, address: node.peer_address() }).collect();
        // Not the first one for everybody.
        let begin = usize::from(random::bytes::<1>()[0]) % others.len().max(1);
        others.rotate_left(begin);
        // Who does not answer the leader may answer here.
        others.sort_by_key(|peer| (!answers(peer.node), self.busy.with(peer.node)));
        others
    }

    fn asked(&self, whom: &Whom) -> Vec<Peer> {
        let mut others = self.others(true);
        others.retain(|peer| whom.only.is_none_or(|only| only == peer.node));
        others.sort_by_key(|peer| (whom.first != Some(peer.node), whom.last.contains(&peer.node)));
        others
    }

    async fn ask(&self, peer: &Peer, digest: Digest, offset: u64) -> Result<RemoteBlob, Status> {
        let channel = self.peers.channel(peer).map_err(|error| Status::unavailable(error.to_string()))?;
        let errand = self.busy.begin(peer.node);
        let mut client = ArtifactsClient::new(channel).max_decoding_message_size(2 * CHUNK_BYTES);
        let mut parts = client.read(v1::ReadBlob { digest: digest.to_string(), offset }).await?.into_inner();
        let head = parts.message().await?.and_then(|part| part.part);
        let Some(Part::Head(v1::BlobHead { bytes })) = head else {
            return Err(Status::internal("it did not say how large the blob is"));
        };
        let chunks = answers(parts).map_err(|status| std::io::Error::other(reason(&status))).try_filter_map(|part| {
            let chunk: Option<Bytes> = match part.part {
                Some(Part::Chunk(chunk)) => Some(chunk),
                _ => None,
            };
            std::future::ready(Ok(chunk))
        });
        let stream = chunks.inspect(move |_| {
            let _until_it_ends = &errand;
        });
        Ok(RemoteBlob { from: peer.node, bytes, stream: stream.boxed() })
    }
}

#[async_trait]
impl BlobSource for PeerBlobs {
    async fn read(&self, digest: Digest, offset: u64, whom: &Whom) -> Result<RemoteBlob, Unavailable> {
        let mut failed = Vec::new();
        let name = |peer: &Peer| self.view.borrow().state.name_of(peer.node);
        for peer in self.asked(whom) {
            match timeout(ANSWER_MAX, self.ask(&peer, digest, offset)).await {
                Ok(Ok(blob)) => return Ok(blob),
                Ok(Err(status)) if status.code() == Code::NotFound => {}
                Ok(Err(status)) => failed.push(format!("node {}: {}", name(&peer), reason(&status))),
                Err(_) => failed.push(format!("node {}: no answer within {} s", name(&peer), ANSWER_MAX.as_secs())),
            }
        }
        let mut reason = "it is on no node that answers".to_owned();
        if !failed.is_empty() {
            reason = format!("{reason} ({})", failed.join("; "));
        }
        Err(Unavailable { reason })
    }

    async fn holders(&self, digest: Digest) -> Vec<NodeId> {
        let roots = &Roots { sources: BTreeSet::from([digest]), ..Roots::default() };
        let asked = self.others(false).into_iter().map(async |peer| {
            let held = self.held_by(peer.node, roots).await.unwrap_or_default();
            held.contains(&digest).then_some(peer.node)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

#[async_trait]
impl OtherStores for PeerBlobs {
    async fn held_by(&self, node: NodeId, roots: &Roots) -> Result<BTreeSet<Digest>, Unavailable> {
        let unavailable = |reason: String| Unavailable { reason };
        let state = self.view.borrow().state.clone();
        let known = state.node(node).ok_or_else(|| unavailable("it never came up".to_owned()))?;
        let peer = Peer { node, address: known.peer_address() };
        let channel = self.peers.channel(&peer).map_err(|error| unavailable(error.to_string()))?;
        let asked = v1::HoldRequest { sources: bytes_of(&roots.sources), manifests: bytes_of(&roots.manifests) };
        let mut client = ArtifactsClient::new(channel);
        let reply = timeout(HOLD_MAX, client.hold(asked)).await;
        let reply = reply.map_err(|_| unavailable(format!("no answer within {} s", HOLD_MAX.as_secs())))?;
        let held = reply.map_err(|status| unavailable(reason(&status)))?.into_inner().held;
        digests(&held).map_err(|status| unavailable(reason(&status)))
    }
}
