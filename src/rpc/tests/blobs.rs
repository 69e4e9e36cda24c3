//! Blobs over the wire, between members that have them and one that does not.

use std::convert::Infallible;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::super::*;
use super::group::Member;
use super::members::Group;
use crate::artifact::{BlobSource, Digest, Fetcher, RemoteBlob, Unavailable, Whom};
use crate::model::NodeId;

/// Large enough to come from several at once, and more than connections hold.
const LARGE: usize = 40 << 20;

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|place| u8::try_from(place * 7 % 251).expect("small")).collect()
}

async fn put(member: &Member, bytes: &[u8]) -> Digest {
    let stream = stream::iter([Ok::<_, Infallible>(Bytes::copy_from_slice(bytes))]);
    member.artifacts.put(stream, u64::MAX).await.expect("stored").digest
}

fn source(member: &Member) -> PeerBlobs {
    let peers = Peers::for_traffic(member.tls.clone(), member.witness.clone());
    PeerBlobs::new(member.peer.node, peers, member.consensus.watch())
}

async fn known(group: &Group) {
    super::group::until("everybody knows everybody", || {
        group.members.iter().all(|member| member.consensus.latest().state.nodes().count() == group.members.len())
    })
    .await;
}

fn from(node: NodeId) -> Whom {
    Whom { only: Some(node), ..Whom::default() }
}

async fn rest(blob: RemoteBlob) -> std::io::Result<Vec<u8>> {
    blob.stream.map_ok(|chunk| chunk.to_vec()).try_concat().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_read_from_any_place_on_and_from_whoever_is_least_busy() {
    let group = Group::of(3).await;
    known(&group).await;
    let [first, second, third] = &group.members[..] else { panic!("three") };
    let whole = bytes(1_000_000);
    let digest = put(first, &whole).await;
    let peers = source(third);
    assert_eq!(peers.holders(digest).await, [first.peer.node]);
    for offset in [0, 1, 300_000, 999_999, 1_000_000] {
        // The other one is asked too, and does not have it.
        let blob = peers.read(digest, offset as u64, &Whom::default()).await.expect("it is there");
        assert_eq!((blob.from, blob.bytes), (first.peer.node, 1_000_000));
        assert_eq!(rest(blob).await.expect("whole"), &whole[offset..]);
    }
    let beyond = peers.read(digest, 1_000_001, &Whom::default()).await.err().expect("there is nothing");
    assert!(beyond.reason.contains("1000000 bytes"), "{beyond}");
    let missing = peers.read(digest, 0, &from(second.peer.node)).await.err().expect("it does not have it");
    assert_eq!(missing.reason, "it is on no node that answers");

    // Two that have it: each question goes to the one that sends less.
    put(second, &whole).await;
    for _ in 0..4 {
        let one = peers.read(digest, 0, &Whom::default()).await.expect("it is there");
        let other = peers.read(digest, 0, &Whom::default()).await.expect("it is there");
        assert_ne!(one.from, other.from);
        let (kept, busy) = (one.from, one);
        drop(other);
        let again = peers.read(digest, 0, &Whom::default()).await.expect("it is there");
        assert_ne!(again.from, kept);
        drop(busy);
    }
    for position in 0..3 {
        group.end(position).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_goes_on_where_one_broke_off() {
    let mut group = Group::of(3).await;
    known(&group).await;
    let whole = bytes(LARGE);
    let digest = put(&group.members[0], &whole).await;
    put(&group.members[1], &whole).await;
    let peers = source(&group.members[2]);
    let nodes = group.nodes(&[0, 1]);
    let mut blob = peers.read(digest, 0, &from(nodes[0])).await.expect("it is there");
    let mut came = blob.stream.next().await.expect("a piece").expect("a piece").to_vec();
    group.members[0].close().await;
    let broke = loop {
        match blob.stream.next().await {
            Some(Ok(chunk)) => came.extend_from_slice(&chunk),
            Some(Err(error)) => break error,
            None => break std::io::Error::other("it ended"),
        }
    };
    assert!(came.len() < LARGE && whole.starts_with(&came), "{} bytes, then {broke}", came.len());
    let blob = peers.read(digest, came.len() as u64, &Whom::default()).await.expect("the other one has it");
    assert_eq!((blob.from, blob.bytes), (nodes[1], LARGE as u64));
    came.extend(rest(blob).await.expect("whole"));
    assert!(came == whole);
    for position in 0..3 {
        group.end(position).await;
    }
}

/// Notes who sent from where.
struct Noted(PeerBlobs, Arc<Mutex<Vec<(NodeId, u64)>>>);

#[async_trait]
impl BlobSource for Noted {
    async fn read(&self, digest: Digest, offset: u64, whom: &Whom) -> Result<RemoteBlob, Unavailable> {
        let blob = self.0.read(digest, offset, whom).await?;
        self.1.lock().expect("a lock").push((blob.from, offset));
        Ok(blob)
    }

    async fn holders(&self, digest: Digest) -> Vec<NodeId> {
        self.0.holders(digest).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_comes_from_all_that_have_it_at_once() {
    let group = Group::of(3).await;
    known(&group).await;
    let whole = bytes(LARGE);
    let digest = put(&group.members[0], &whole).await;
    put(&group.members[1], &whole).await;
    let noted = Arc::new(Mutex::new(Vec::new()));
    let store = group.members[2].artifacts.clone();
    let fetcher = Fetcher::new(store.clone(), Arc::new(Noted(source(&group.members[2]), Arc::clone(&noted))));
    assert_eq!(fetcher.fetch(digest).done().await.expect("whole").bytes, LARGE as u64);
    store.open_blob(digest).await.expect("it is right");
    let mut sent = noted.lock().expect("a lock").clone();
    sent.sort_unstable_by_key(|(_, offset)| *offset);
    assert_eq!(sent.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [0, LARGE as u64 / 2]);
    assert_ne!(sent[0].0, sent[1].0);
    for position in 0..3 {
        group.end(position).await;
    }
}
