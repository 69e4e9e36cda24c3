//! How long a second node takes for an image of 100 MB, against the same bytes through plain TCP into a file, and how much moves
//! for the next version of it.
//!
//! Two members in one process over mutual TLS on loopback: an image of four layers that do not compress is in the store of the
//! first; the second fetches it as it does before it runs it, with every byte verified and synced. Then one layer of 25 MB changes.
//!
//! Run with `cargo bench --bench transfer`; a first argument is the folder to use (default: the temporary folder).

#[path = "folder/mod.rs"]
mod folder;
#[path = "measure/mod.rs"]
#[expect(dead_code, reason = "for benchmarks of writers")]
mod measure;
#[path = "members/mod.rs"]
mod members;
#[path = "row/mod.rs"]
mod row;

use std::convert::Infallible;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use measure::median;
use members::Member;
use narvana::artifact::{BlobSource, Digest, Fetcher, Images, RemoteBlob, Unavailable, Whom};
use narvana::rpc::PeerBlobs;
use row::Row;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const LAYERS: usize = 4;
const LAYER_BYTES: usize = 25_000_000;
/// Pairs of transfers.
const TURNS: usize = 5;
/// What a copy is read and written in.
const PIECE_BYTES: usize = 64 << 10;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = folder::of_arguments()?;
    let group = members::group(folder.path(), 2).await?;
    let [first, second] = &group[..] else { anyhow::bail!("two") };
    let (mut ours, mut peers, mut ratios, mut moved_ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let mut layers = (0..LAYERS).map(|_| noise()).collect::<Vec<_>>();
        let (took, moved) = fetched(first, second, &layers).await?;
        let whole = layers.concat();
        assert!(moved >= whole.len() as u64, "{moved} bytes are not an image");
        let began = Instant::now();
        plain_tcp(whole, &folder.path().join(format!("plain-{turn}"))).await?;
        let plain = began.elapsed().as_secs_f64();
        layers[LAYERS - 1] = noise();
        let (_, moved) = fetched(first, second, &layers).await?;
        ours.push(took);
        peers.push(plain);
        ratios.push(plain / took);
        moved_ratios.push(float(moved) / float(LAYER_BYTES as u64));
    }
    let rate = |seconds: f64| float((LAYERS * LAYER_BYTES) as u64) / 1e6 / seconds;
    Row {
        what: "image of 100 MB to a second node",
        ours: format!("{:.0} MB/s", rate(median(ours))),
        peer: format!("{:.0} MB/s (plain TCP)", rate(median(peers))),
        measured: median(ratios),
        wanted: 0.7..=f64::INFINITY,
    }
    .print();
    Row {
        what: "its next version, one layer of 25 MB changed: bytes moved",
        ours: format!("{:.1} MB", median(moved_ratios.clone()) * float(LAYER_BYTES as u64) / 1e6),
        peer: "25 MB (the layer)".to_owned(),
        measured: median(moved_ratios),
        wanted: 0.0..=1.1,
    }
    .print();
    for member in &group {
        member.end().await?;
    }
    Ok(())
}

/// Brings an image of these layers from one to the other: seconds, and bytes that came.
async fn fetched(from: &Member, to: &Member, layers: &[Vec<u8>]) -> anyhow::Result<(f64, u64)> {
    let manifest = image(from, layers).await?;
    let source = PeerBlobs::new(to.peer.node, to.traffic(), to.consensus.watch());
    let counted = Arc::new(Counted { source, bytes: Arc::default() });
    let images = Images::new(Fetcher::new(to.artifacts.clone(), Arc::clone(&counted) as _));
    let (progress, mut said) = mpsc::channel(16);
    let began = Instant::now();
    let listening = async { while said.recv().await.is_some() {} };
    let fetching = async move { images.complete(manifest, &progress).await };
    let (fetched, ()) = tokio::join!(fetching, listening);
    fetched?;
    Ok((began.elapsed().as_secs_f64(), counted.bytes.load(Ordering::Relaxed)))
}

/// Puts an image into a store.
async fn image(member: &Member, layers: &[Vec<u8>]) -> anyhow::Result<Digest> {
    let mut descriptors = Vec::new();
    for layer in layers {
        descriptors.push(descriptor(member, "application/vnd.oci.image.layer.v1.tar", layer).await?);
    }
    let config =
        json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}});
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(member, "application/vnd.oci.image.config.v1+json", &config).await?,
        "layers": descriptors,
    });
    Ok(put(member, manifest.to_string().as_bytes()).await?)
}

async fn descriptor(member: &Member, media_type: &str, bytes: &[u8]) -> anyhow::Result<Value> {
    let digest = put(member, bytes).await?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
}

async fn put(member: &Member, bytes: &[u8]) -> Result<Digest, narvana::artifact::Error> {
    let pieces = bytes.chunks(PIECE_BYTES).map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)));
    Ok(member.artifacts.put(stream::iter(pieces.collect::<Vec<_>>()), u64::MAX).await?.digest)
}

/// Counts what comes from others.
struct Counted {
    source: PeerBlobs,
    bytes: Arc<AtomicU64>,
}

#[async_trait]
impl BlobSource for Counted {
    async fn read(&self, digest: Digest, offset: u64, whom: &Whom) -> Result<RemoteBlob, Unavailable> {
        let blob = self.source.read(digest, offset, whom).await?;
        let bytes = Arc::clone(&self.bytes);
        let counted = blob.stream.inspect(move |piece| {
            if let Ok(piece) = piece {
                bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        });
        Ok(RemoteBlob { stream: counted.boxed(), ..blob })
    }

    async fn holders(&self, digest: Digest) -> Vec<narvana::model::NodeId> {
        self.source.holders(digest).await
    }
}

/// The same bytes through one connection into a synced file.
async fn plain_tcp(bytes: Vec<u8>, path: &Path) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(&bytes).await
    });
    let mut stream = TcpStream::connect(address).await?;
    let mut file = tokio::fs::File::create(path).await?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match stream.read(&mut piece).await? {
            0 => break,
            read => file.write_all(&piece[..read]).await?,
        }
    }
    file.sync_all().await?;
    sending.join_next().await.expect("one")??;
    Ok(())
}

/// Bytes that no compression makes smaller.
fn noise() -> Vec<u8> {
    let mut bytes = vec![0; LAYER_BYTES];
    let mut source = std::fs::File::open("/dev/urandom").expect("every Linux has it");
    source.read_exact(&mut bytes).expect("it never ends");
    bytes
}

#[expect(clippy::cast_precision_loss, reason = "printed with few digits")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}
