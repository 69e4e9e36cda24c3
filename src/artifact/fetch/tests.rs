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
    async fn read(&self, _digest: Digest, offset: u64) -> Result<RemoteBlob, Unavailable> {
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
        Ok(RemoteBlob { bytes: self.whole.len() as u64, stream })
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
