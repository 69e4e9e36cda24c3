//! Fetches from sources that break off, lie, stall and vanish.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;

/// What one question to the source is answered with.
enum Act {
    /// So many bytes, then the end.
    Send(usize),
    /// So many bytes, then an error.
    Cut(usize),
    /// Other bytes.
    Lie,
    /// Nothing, ever.
    Hang,
    Refuse,
}

struct Script {
    whole: Vec<u8>,
    acts: Mutex<VecDeque<Act>>,
    asked: Mutex<Vec<u64>>,
    open: AtomicUsize,
}

impl Script {
    fn new(whole: &[u8], acts: impl IntoIterator<Item = Act>) -> Arc<Self> {
        let acts = Mutex::new(acts.into_iter().collect());
        Arc::new(Self { whole: whole.to_vec(), acts, asked: Mutex::default(), open: AtomicUsize::new(0) })
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().expect("a lock").clone()
    }
}

#[async_trait]
impl BlobSource for Script {
    async fn holders(&self, _: Digest) -> Vec<NodeId> {
        Vec::new()
    }

    async fn read(&self, _digest: Digest, offset: u64, _: &Whom) -> Result<RemoteBlob, Unavailable> {
        self.asked.lock().expect("a lock").push(offset);
        let act = self.acts.lock().expect("a lock").pop_front();
        let rest = self.whole[usize::try_from(offset).expect("small")..].to_vec();
        let piece = |count: usize| Ok(Bytes::copy_from_slice(&rest[..count.min(rest.len())]));
        let stream = match act {
            Some(Act::Send(count)) => stream::iter([piece(count)]).boxed(),
            Some(Act::Cut(count)) => stream::iter([piece(count), Err(io::Error::other("reset"))]).boxed(),
            Some(Act::Lie) => stream::iter([Ok(Bytes::from(vec![0; rest.len()]))]).boxed(),
            Some(Act::Hang) => {
                self.open.fetch_add(1, Ordering::SeqCst);
                stream::iter([piece(3)]).chain(stream::pending()).boxed()
            }
            Some(Act::Refuse) | None => return Err(Unavailable { reason: "nobody answers".to_owned() }),
        };
        Ok(RemoteBlob { from: NodeId(2), bytes: self.whole.len() as u64, stream })
    }
}

async fn site(source: &Arc<Script>) -> (TempDir, ArtifactStore, Fetcher, Digest) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ArtifactStore::open(folder.path()).await.expect("opens");
    let digest = Digest::new(Sha256::digest(&source.whole).into());
    let source: Arc<dyn BlobSource> = Arc::<Script>::clone(source);
    (folder, store.clone(), Fetcher::new(store, source), digest)
}

#[tokio::test]
async fn a_fetch_that_is_cut_goes_on_where_it_stopped() {
    let source = Script::new(b"hello world", [Act::Cut(6), Act::Cut(0), Act::Send(2), Act::Send(100)]);
    let (_folder, store, fetcher, digest) = site(&source).await;
    let fetch = fetcher.fetch(digest);
    let progress = fetch.progress.clone();
    assert_eq!(fetch.done().await.expect("whole").bytes, 11);
    assert_eq!(source.asked(), [0, 6, 6, 8], "nothing is sent twice");
    assert_eq!(*progress.borrow(), Progress { here: 11, whole: 11 });
    assert_eq!(store.open_blob(digest).await.expect("it is here").bytes, 11);
    assert_eq!(store.list_fetches().await.expect("a list"), []);
}

#[tokio::test]
async fn what_came_is_kept_for_the_next_fetch_and_for_the_next_start() {
    let cuts = std::iter::once(Act::Cut(6)).chain((0..ATTEMPTS - 1).map(|_| Act::Cut(0)));
    let source = Script::new(b"hello world", cuts.chain([Act::Refuse, Act::Send(100)]));
    let (folder, _, fetcher, digest) = site(&source).await;
    let broken = fetcher.fetch(digest).done().await.expect_err("cut too often");
    assert!(matches!(*broken, FetchError::Broken { .. }), "{broken}");
    let alone = fetcher.fetch(digest).done().await.expect_err("nobody");
    assert!(alone.to_string().contains("nobody answers"), "{alone}");

    let store = ArtifactStore::open(folder.path()).await.expect("opens again");
    assert_eq!(store.list_fetches().await.expect("a list"), [Stored { digest, bytes: 6 }]);
    let source: Arc<dyn BlobSource> = Arc::<Script>::clone(&source);
    Fetcher::new(store.clone(), source).fetch(digest).done().await.expect("whole");
    assert!(store.contains(digest).await);
}

#[tokio::test]
async fn other_bytes_are_forgotten_and_asked_for_again() {
    let source = Script::new(b"hello world", [Act::Cut(4), Act::Lie, Act::Send(100)]);
    let (_folder, store, fetcher, digest) = site(&source).await;
    fetcher.fetch(digest).done().await.expect("the third is honest");
    assert_eq!(source.asked(), [0, 4, 0]);
    let liar = Script::new(b"other", std::iter::repeat_with(|| Act::Lie).take(10));
    let (_folder, empty, fetcher, digest) = site(&liar).await;
    let broken = fetcher.fetch(digest).done().await.expect_err("only lies");
    assert!(matches!(*broken, FetchError::Broken { .. }), "{broken}");
    assert_eq!(empty.list().await.expect("a list"), []);
    assert!(store.contains(Digest::new(Sha256::digest(b"hello world").into())).await);
}

#[tokio::test]
async fn many_wait_for_one_fetch_and_the_last_who_leaves_ends_it() {
    let source = Script::new(b"hello world", [Act::Hang, Act::Send(100)]);
    let (_folder, store, fetcher, digest) = site(&source).await;
    let mut waiting: Vec<_> = (0..8).map(|_| Box::pin(fetcher.fetch(digest).done())).collect();
    let begun = async {
        while source.open.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = futures::future::select_all(waiting.iter_mut()) => panic!("it hangs"),
        () = begun => {}
    }
    waiting.truncate(1);
    let joined = fetcher.fetch(digest);
    drop(waiting);
    assert_eq!(source.asked(), [0], "one question for all");
    drop(joined);
    let all = (0..8).map(|_| fetcher.fetch(digest).done());
    for outcome in futures::future::join_all(all).await {
        assert_eq!(outcome.expect("whole").digest, digest);
    }
    assert_eq!(source.asked().len(), 2);
    assert!(store.contains(digest).await);
}

#[tokio::test]
async fn nobody_has_anything() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ArtifactStore::open(folder.path()).await.expect("opens");
    let digest = Digest::new([7; 32]);
    let fetcher = Fetcher::new(store, Arc::new(Nobody));
    let alone = fetcher.fetch(digest).done().await.expect_err("nobody");
    assert!(alone.to_string().ends_with("is not on this node, and it is on no node that answers"), "{alone}");
}

/// Several nodes that have the same blob.
struct Nodes {
    whole: Vec<u8>,
    /// How each sends: so many bytes of each answer before it dies, and whether they are other bytes.
    nodes: Mutex<BTreeMap<NodeId, (usize, bool)>>,
    asked: Mutex<Vec<(NodeId, u64)>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

/// Counts an answer that is under way.
struct Open(Arc<Nodes>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A clone of the handle is what a fetcher asks.
struct Asked(Arc<Nodes>);

impl Nodes {
    fn new(bytes: usize, nodes: &[(u64, usize, bool)]) -> Arc<Self> {
        let whole = (0..bytes).map(|place| u8::try_from(place * 7 % 251).expect("small")).collect();
        let nodes = nodes.iter().map(|(node, sends, lies)| (NodeId(*node), (*sends, *lies))).collect();
        let (at_once, most_at_once) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { whole, nodes: Mutex::new(nodes), asked: Mutex::default(), at_once, most_at_once })
    }

    fn asked(&self) -> Vec<(u64, u64)> {
        self.asked.lock().expect("a lock").iter().map(|(node, offset)| (node.0, *offset)).collect()
    }
}

#[async_trait]
impl BlobSource for Asked {
    async fn read(&self, _: Digest, offset: u64, whom: &Whom) -> Result<RemoteBlob, Unavailable> {
        let script = &self.0;
        let mut nodes = script.nodes.lock().expect("a lock");
        let mut order: Vec<NodeId> = nodes.keys().copied().collect();
        order.retain(|node| whom.only.is_none_or(|only| only == *node));
        order.sort_by_key(|node| (whom.first != Some(*node), whom.last.contains(node)));
        let Some(from) = order.first().copied() else {
            return Err(Unavailable { reason: "nobody answers".to_owned() });
        };
        let (sends, lies) = nodes[&from];
        script.asked.lock().expect("a lock").push((from, offset));
        let rest = &script.whole[usize::try_from(offset).expect("small")..];
        let dies = sends < rest.len();
        let mut pieces: Vec<io::Result<Bytes>> = rest[..sends.min(rest.len())]
            .chunks(10)
            .map(|piece| {
                Ok(Bytes::from(piece.iter().map(|byte| if lies { !byte } else { *byte }).collect::<Vec<u8>>()))
            })
            .collect();
        if dies {
            nodes.remove(&from);
            pieces.push(Err(io::Error::other("reset")));
        }
        let open = Open(Arc::clone(script));
        let at_once = script.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        script.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        // One after the other, so that several are under way at once.
        let stream = stream::iter(pieces).then(async |piece| {
            tokio::task::yield_now().await;
            piece
        });
        let stream = stream.inspect(move |_| {
            let _until_it_ends = &open;
        });
        Ok(RemoteBlob { from, bytes: script.whole.len() as u64, stream: stream.boxed() })
    }

    async fn holders(&self, _: Digest) -> Vec<NodeId> {
        self.0.nodes.lock().expect("a lock").keys().copied().collect()
    }
}

async fn shared(nodes: &Arc<Nodes>) -> (TempDir, ArtifactStore, Fetcher, Digest) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ArtifactStore::open(folder.path()).await.expect("opens");
    let digest = Digest::new(Sha256::digest(&nodes.whole).into());
    let mut fetcher = Fetcher::new(store.clone(), Arc::new(Asked(Arc::clone(nodes))));
    fetcher.large_bytes = 100;
    (folder, store, fetcher, digest)
}

const ALL: usize = usize::MAX;

#[tokio::test]
async fn a_large_blob_comes_from_three_at_once_and_nothing_comes_twice() {
    let nodes = Nodes::new(900, &[(2, ALL, false), (3, ALL, false), (4, ALL, false), (5, ALL, false)]);
    let (_folder, store, fetcher, digest) = shared(&nodes).await;
    let fetch = fetcher.fetch(digest);
    let progress = fetch.progress.clone();
    assert_eq!(fetch.done().await.expect("whole").bytes, 900);
    assert_eq!(nodes.asked(), [(2, 0), (3, 300), (4, 600)], "one piece from each");
    assert_eq!(nodes.most_at_once.load(Ordering::SeqCst), 3);
    assert_eq!(*progress.borrow(), Progress { here: 900, whole: 900 });
    store.open_blob(digest).await.expect("it is right");
    assert_eq!(store.list_fetches().await.expect("a list"), []);
}

#[tokio::test]
async fn a_small_blob_and_one_that_one_node_has_come_from_one() {
    for (bytes, nodes) in [(100, &[(2, ALL, false), (3, ALL, false)][..]), (900, &[(2, ALL, false)][..])] {
        let nodes = Nodes::new(bytes, nodes);
        let (_folder, _store, fetcher, digest) = shared(&nodes).await;
        fetcher.fetch(digest).done().await.expect("whole");
        assert_eq!(nodes.asked(), [(2, 0)]);
    }
}

#[tokio::test]
async fn whoever_dies_in_the_middle_is_replaced_and_what_came_is_kept() {
    // The one that sends the beginning, and one that sends a segment.
    let nodes = Nodes::new(900, &[(2, 120, false), (3, ALL, false), (4, ALL, false)]);
    let (_folder, store, fetcher, digest) = shared(&nodes).await;
    fetcher.fetch(digest).done().await.expect("whole");
    assert_eq!(nodes.asked()[..4], [(2, 0), (3, 300), (4, 600), (3, 120)]);
    assert_eq!(nodes.asked().len(), 4, "what came of the others is not asked for again: {:?}", nodes.asked());
    store.open_blob(digest).await.expect("it is right");

    let nodes = Nodes::new(900, &[(2, ALL, false), (3, 130, false), (4, ALL, false)]);
    let (_folder, store, fetcher, digest) = shared(&nodes).await;
    fetcher.fetch(digest).done().await.expect("whole");
    assert_eq!(nodes.asked(), [(2, 0), (3, 300), (4, 600), (2, 430)]);
    store.open_blob(digest).await.expect("it is right");
}

#[tokio::test]
async fn segments_outlive_the_process_and_go_with_their_blob() {
    let nodes = Nodes::new(900, &[(2, 120, false), (3, 130, false), (4, 140, false)]);
    let (folder, store, fetcher, digest) = shared(&nodes).await;
    fetcher.fetch(digest).done().await.expect_err("all die");
    assert_eq!(store.list_fetches().await.expect("a list"), [Stored { digest, bytes: 390 }]);
    let store = ArtifactStore::open(folder.path()).await.expect("opens again");
    nodes.nodes.lock().expect("a lock").insert(NodeId(5), (ALL, false));
    nodes.asked.lock().expect("a lock").clear();
    Fetcher::new(store.clone(), Arc::new(Asked(Arc::clone(&nodes)))).fetch(digest).done().await.expect("whole");
    assert_eq!(nodes.asked(), [(5, 120), (5, 430), (5, 740)], "only what is missing");
    store.open_blob(digest).await.expect("it is right");

    let nodes = Nodes::new(900, &[(2, 120, false), (3, 130, false)]);
    let (folder, store, fetcher, digest) = shared(&nodes).await;
    fetcher.fetch(digest).done().await.expect_err("all die");
    store.take_used().await;
    assert!(store.remove_unused(digest).await.expect("removes"));
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[tokio::test]
async fn one_that_sends_other_bytes_is_found_out() {
    for liar in [2, 3] {
        let nodes = [2, 3, 4].map(|node| (node, ALL, node == liar));
        let nodes = Nodes::new(900, &nodes);
        let (_folder, store, fetcher, digest) = shared(&nodes).await;
        fetcher.fetch(digest).done().await.expect("the others are honest");
        store.open_blob(digest).await.expect("it is right");
        let whole: Vec<(u64, u64)> = nodes.asked().into_iter().skip(3).collect();
        let expected = if liar == 2 { vec![(2, 0), (3, 0)] } else { vec![(2, 0)] };
        assert_eq!(whole, expected, "from one at a time");
    }
}
