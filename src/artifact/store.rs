//! The folder of blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::Stream;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::partial::{FETCH, Partial, SEGMENT, UPLOAD};
use super::{Blob, Bounds, Digest, Error, Upload};
use crate::space::Space;
use crate::task::blocking;

/// Read at once when a blob is verified.
const READ_BYTES: usize = 256 * 1024;

/// The blobs in one folder, which no other process uses. Clones are the same store.
#[derive(Clone, Debug)]
pub struct ArtifactStore {
    dir: Arc<Path>,
    space: Space,
    /// Blobs that somebody stored or relied on since the collector last asked. It removes none of them, and holds this
    /// while it removes: whoever is told that a blob is here can rely on it.
    used: Arc<Mutex<BTreeSet<Digest>>>,
}

/// A blob that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

impl ArtifactStore {
    /// The store in a folder that nobody uses, to be looked at: nothing is changed, and a folder that is not there is an empty store.
    pub fn at_rest(folder: impl Into<Space>) -> Self {
        let space: Space = folder.into();
        Self { dir: space.folder().into(), space, used: Arc::default() }
    }

    /// Opens (and makes) the folder; removes what uploads that never ended have left. What was fetched in part stays.
    pub async fn open(folder: impl Into<Space>) -> Result<Self, Error> {
        let space: Space = folder.into();
        let dir = space.folder().to_owned();
        blocking(move || {
            fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
            for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
                let entry = entry.map_err(Error::io("read", &dir))?;
                if entry.file_name().to_str().is_some_and(|name| name.starts_with(UPLOAD)) {
                    fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
                }
            }
            Ok(Self { dir: dir.into(), space, used: Arc::default() })
        })
        .await
    }

    /// Stores what the stream brings, at most `limit` bytes. When this returns, the blob is on disk and stays there
    /// through a power cut. Bytes that are here already are replaced by themselves, which also mends a damaged blob. An
    /// error, or dropping the future, leaves nothing behind.
    pub async fn put<S, E>(&self, stream: S, limit: u64) -> Result<Stored, Error>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let upload = self.upload().await?;
        upload.append(stream, Bounds { bytes: limit, silence: None }).await?;
        upload.finish(None).await
    }

    /// Begins a blob that arrives in pieces.
    pub async fn upload(&self) -> Result<Upload, Error> {
        let store = self.clone();
        blocking(move || Partial::create(store)).await.map(Upload::new)
    }

    /// Begins to fetch a blob, or goes on where that was given up before, also in an earlier run of the process. Only
    /// one at a time may fetch a blob.
    pub(super) async fn resume(&self, digest: Digest) -> Result<Upload, Error> {
        let store = self.clone();
        blocking(move || {
            store.lock_used().insert(digest);
            Partial::resume(store, digest)
        })
        .await
        .map(Upload::new)
    }

    /// The same of the bytes from `start` on.
    pub(super) async fn resume_segment(&self, digest: Digest, start: u64) -> Result<Upload, Error> {
        let store = self.clone();
        blocking(move || Partial::resume_segment(store, digest, start)).await.map(Upload::new)
    }

    /// Where the segments begin that an earlier fetch of this blob has left.
    pub(super) async fn segments(&self, digest: Digest) -> Result<Vec<u64>, Error> {
        let store = self.clone();
        blocking(move || Ok(store.segment_files(digest)?.into_keys().collect())).await
    }

    fn segment_files(&self, digest: Digest) -> Result<BTreeMap<u64, PathBuf>, Error> {
        let prefix = format!("{FETCH}{digest}{SEGMENT}");
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::io("read", &self.dir))? {
            let entry = entry.map_err(Error::io("read", &self.dir))?;
            let name = entry.file_name();
            if let Some(start) = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse().ok()) {
                files.insert(start, entry.path());
            }
        }
        Ok(files)
    }

    /// Opens a blob after reading it through: a damaged one is an error, never bytes.
    pub async fn open_blob(&self, digest: Digest) -> Result<Blob, Error> {
        let path = self.path(digest);
        blocking(move || verified(path, digest)).await
    }

    /// Removes a blob if it is damaged: an engine does not send again what it finds here.
    pub(super) async fn remove_damaged(&self, digest: Digest) {
        let store = self.clone();
        blocking(move || {
            // Meanwhile somebody may have stored it anew, and nobody can while this is held.
            let _held = store.lock_used();
            if let Err(Error::Damaged { path, .. }) = verified(store.path(digest), digest) {
                match fs::remove_file(&path) {
                    Ok(()) => tracing::warn!(path = %path.display(), "removed a damaged artifact"),
                    Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove a damaged artifact"),
                }
            }
        })
        .await;
    }

    /// Whether a blob of this name is here; it may be damaged.
    pub async fn contains(&self, digest: Digest) -> bool {
        let path = self.path(digest);
        blocking(move || path.is_file()).await
    }

    /// The size of a blob that is here, for somebody who goes on to rely on it: the collector leaves it alone for as
    /// long as it leaves alone what was stored just now. It may be damaged.
    pub async fn claim(&self, digest: Digest) -> Option<u64> {
        let store = self.clone();
        blocking(move || {
            let mut used = store.lock_used();
            let metadata = fs::metadata(store.path(digest)).ok().filter(fs::Metadata::is_file)?;
            used.insert(digest);
            Some(metadata.len())
        })
        .await
    }

    /// For the collector: the blobs that were stored, claimed or fetched since it last asked.
    pub async fn take_used(&self) -> BTreeSet<Digest> {
        let store = self.clone();
        blocking(move || std::mem::take(&mut *store.lock_used())).await
    }

    /// For the collector: removes a blob and what was fetched of it, unless it was used since [`Self::take_used`]. Says
    /// whether anything was removed. Whoever has it open can read on.
    pub async fn remove_unused(&self, digest: Digest) -> Result<bool, Error> {
        let store = self.clone();
        blocking(move || {
            let used = store.lock_used();
            if used.contains(&digest) {
                return Ok(false);
            }
            let mut removed = false;
            let segments = store.segment_files(digest)?.into_values();
            for path in [store.path(digest), Partial::fetch_path(&store, digest)].into_iter().chain(segments) {
                match fs::remove_file(&path) {
                    Ok(()) => removed = true,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::io("remove", &path)(error)),
                }
            }
            Ok(removed)
        })
        .await
    }

    /// All blobs, by digest. Files that are not named by a digest are not ours and are left alone.
    pub async fn list(&self) -> Result<Vec<Stored>, Error> {
        self.list_files("").await
    }

    /// The blobs that were fetched in part, with how much of each is here.
    pub async fn list_fetches(&self) -> Result<Vec<Stored>, Error> {
        self.list_files(FETCH).await
    }

    async fn list_files(&self, prefix: &'static str) -> Result<Vec<Stored>, Error> {
        let dir = self.dir.clone();
        blocking(move || {
            let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
            for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
                let entry = entry.map_err(Error::io("read", &dir))?;
                let name = entry.file_name();
                // A segment counts for its blob.
                let whole = |name: &str| name.split(SEGMENT).next().map(str::to_owned);
                let digest = name.to_str().and_then(|name| whole(name.strip_prefix(prefix)?)?.parse::<Digest>().ok());
                let Some(digest) = digest else { continue };
                match entry.metadata() {
                    Ok(metadata) => *blobs.entry(digest).or_default() += metadata.len(),
                    // Removed meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::io("read", &entry.path())(error)),
                }
            }
            Ok(blobs.into_iter().map(|(digest, bytes)| Stored { digest, bytes }).collect())
        })
        .await
    }

    /// Gives a whole file its name.
    pub(super) fn name(&self, file: NamedTempFile, digest: Digest) -> Result<(), Error> {
        let mut used = self.lock_used();
        file.persist(self.path(digest)).map_err(|error| Error::writing(&self.dir)(error.error))?;
        used.insert(digest);
        Ok(())
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn space(&self) -> &Space {
        &self.space
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    fn lock_used(&self) -> std::sync::MutexGuard<'_, BTreeSet<Digest>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn verified(path: PathBuf, digest: Digest) -> Result<Blob, Error> {
    let mut file = File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound(digest),
        _ => Error::io("open", &path)(error),
    })?;
    let mut hasher = Sha256::new();
    let bytes = hash_into(&mut file, &mut hasher).map_err(Error::io("read", &path))?;
    if Digest::new(hasher.finalize().into()) != digest {
        return Err(Error::Damaged { digest, path });
    }
    file.rewind().map_err(Error::io("read", &path))?;
    Ok(Blob { digest, bytes, file })
}

/// Reads to the end; returns how many bytes that were.
pub(super) fn hash_into(file: &mut File, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fs::OpenOptions;

    use futures::{StreamExt, TryStreamExt, stream};
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::super::upload::WRITE_BYTES;
    use super::*;

    fn chunks(parts: &[Vec<u8>]) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from(part.clone()))).collect();
        stream::iter(parts)
    }

    async fn store() -> (TempDir, ArtifactStore) {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = ArtifactStore::open(dir.path()).await.expect("opens");
        (dir, store)
    }

    fn names(dir: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(dir.path()).expect("dir");
        entries.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8")).collect()
    }

    #[tokio::test]
    async fn the_same_bytes_are_kept_once() {
        let (dir, store) = store().await;
        let one = store.put(chunks(&[b"hello ".to_vec(), b"world".to_vec()]), 11).await.expect("stored");
        let two = store.put(chunks(&[b"hello world".to_vec()]), 100).await.expect("stored");
        assert_eq!(one, two);
        let name = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
        assert_eq!((one.digest.to_string().as_str(), one.bytes), (name, 11));
        assert_eq!(names(&dir), [name]);
        assert_eq!(store.list().await.expect("list"), [one]);
        assert!(store.contains(one.digest).await);

        let blob = store.open_blob(one.digest).await.expect("whole");
        assert!(!store.remove_unused(one.digest).await.expect("just stored"), "somebody may rely on it");
        assert_eq!(store.take_used().await, BTreeSet::from([one.digest]));
        assert_eq!(store.claim(one.digest).await, Some(11));
        assert!(!store.remove_unused(one.digest).await.expect("just claimed"), "somebody relies on it");
        store.take_used().await;
        assert!(store.remove_unused(one.digest).await.expect("removed"));
        assert!(!store.remove_unused(one.digest).await.expect("nothing to do"));
        assert_eq!(store.claim(one.digest).await, None);
        assert!(!store.contains(one.digest).await);
        assert!(matches!(store.open_blob(one.digest).await, Err(Error::NotFound(digest)) if digest == one.digest));
        let parts: Vec<Bytes> = blob.into_stream().try_collect().await.expect("still readable");
        assert_eq!(parts.concat(), b"hello world");
    }

    #[tokio::test]
    async fn what_fails_leaves_nothing() {
        let (dir, store) = store().await;
        let big = chunks(&[vec![1; WRITE_BYTES], vec![2; WRITE_BYTES]]);
        let limit = 2 * WRITE_BYTES as u64 - 1;
        assert!(matches!(store.put(big, limit).await, Err(Error::TooLarge { limit: said }) if said == limit));
        let broken = stream::iter([Ok(Bytes::from(vec![1; WRITE_BYTES])), Err(io::Error::other("reset"))]);
        assert!(matches!(store.put(broken, u64::MAX).await, Err(Error::Stream { .. })));
        assert_eq!(names(&dir), [] as [&str; 0]);

        // A client that goes away in the middle: the future is dropped while a part is on disk.
        let stalled = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![1; WRITE_BYTES]))]).chain(stream::pending());
        let mut put = Box::pin(store.put(stalled, u64::MAX));
        let wait = async {
            while names(&dir).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = &mut put => panic!("the stream never ends"),
            () = wait => {}
        }
        drop(put);
        let gone = async {
            while !names(&dir).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.expect("removed");
    }

    #[tokio::test]
    async fn a_full_disk_is_told_apart() {
        let (dir, store) = store().await;
        let mut partial = Partial::create(store).expect("created");
        *partial.file_mut() = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let error = partial.write(&[Bytes::from_static(b"x")]).expect_err("full");
        assert!(matches!(&error, Error::DiskFull { dir: said, .. } if said == dir.path()), "{error}");
        drop(partial);
        assert_eq!(names(&dir), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn an_upload_that_was_cut_goes_on_where_it_stopped() {
        let (dir, store) = store().await;
        let bounds = Bounds { bytes: 100, silence: None };
        let upload = store.upload().await.expect("begun");
        let cut = stream::iter([Ok(Bytes::from_static(b"hello ")), Err(io::Error::other("reset"))]);
        assert!(matches!(upload.append(cut, bounds).await, Err(Error::Stream { .. })));
        assert_eq!(upload.bytes(), 6);
        let silent = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"wor"))]).chain(stream::pending());
        let impatient = Bounds { silence: Some(std::time::Duration::from_millis(10)), ..bounds };
        assert!(matches!(upload.append(silent, impatient).await, Err(Error::Stream { .. })));
        upload.append(chunks(&[b"ld".to_vec()]), bounds).await.expect("the rest");
        let stored = upload.finish(None).await.expect("whole");
        assert_eq!(stored, store.put(chunks(&[b"hello world".to_vec()]), 11).await.expect("stored"));
        assert!(matches!(upload.finish(None).await, Err(Error::Over)), "it has its name");

        let wrong = store.upload().await.expect("begun");
        wrong.append(chunks(&[b"other".to_vec()]), bounds).await.expect("bytes");
        let refused = wrong.finish(Some(stored.digest)).await;
        assert!(matches!(refused, Err(Error::Mismatch { expected, .. }) if expected == stored.digest));
        assert_eq!(names(&dir), [stored.digest.to_string()]);
    }

    #[tokio::test]
    async fn left_over_uploads_are_swept_and_other_files_are_not_ours() {
        let (dir, store) = store().await;
        let kept = store.put(chunks(&[b"x".to_vec()]), 1).await.expect("stored");
        fs::write(dir.path().join(".partial-abc"), "half").expect("write");
        fs::write(dir.path().join("README"), "hands off").expect("write");
        let store = ArtifactStore::open(dir.path()).await.expect("opens");
        let mut left = names(&dir);
        left.sort();
        assert_eq!(left, [kept.digest.to_string(), "README".to_owned()]);
        assert_eq!(store.list().await.expect("list"), [kept]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_goes_in_comes_out_and_damage_never_does(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
            place: prop::sample::Index,
            cut: bool,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            runtime.block_on(async {
                let (dir, store) = store().await;
                let whole = parts.concat();
                let stored = store.put(chunks(&parts), whole.len() as u64).await.expect("stored");
                let digest = stored.digest;
                let mut read = Vec::new();
                let blob = store.open_blob(digest).await.expect("whole");
                assert_eq!((blob.digest, blob.bytes), (digest, whole.len() as u64));
                blob.into_file().read_to_end(&mut read).expect("readable");
                assert_eq!(read, whole);
                if whole.is_empty() {
                    return;
                }
                let mut damaged = whole.clone();
                let place = place.index(whole.len());
                if cut { damaged.truncate(place) } else { damaged[place] ^= 1 }
                fs::write(dir.path().join(digest.to_string()), damaged).expect("write");
                assert!(matches!(store.open_blob(digest).await, Err(Error::Damaged { digest: said, .. }) if said == digest));
                // Storing it again mends it.
                store.put(chunks(&parts), whole.len() as u64).await.expect("stored");
                store.open_blob(digest).await.expect("whole again");
            });
        }
    }
}
