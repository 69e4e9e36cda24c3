//! The folder of blobs.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::{Blob, Digest, Error};
use crate::space::{Space, Use};
use crate::task::blocking;

/// Begins the name of a file that is being written; no digest begins so.
const PARTIAL: &str = ".partial-";
/// Collected before a blocking thread is asked to write them: few hand-overs, little memory per upload.
const WRITE_BYTES: usize = 512 * 1024;
/// Read at once when a blob is verified.
const READ_BYTES: usize = 256 * 1024;

/// The blobs in one folder, which no other process uses. Clones are the same store.
#[derive(Clone, Debug)]
pub struct ArtifactStore {
    dir: Arc<Path>,
    space: Space,
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
    /// Opens (and makes) the folder; removes what uploads that never ended have left.
    pub async fn open(folder: impl Into<Space>) -> Result<Self, Error> {
        let space: Space = folder.into();
        let dir = space.folder().to_owned();
        blocking(move || {
            fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
            for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
                let entry = entry.map_err(Error::io("read", &dir))?;
                if entry.file_name().to_str().is_some_and(|name| name.starts_with(PARTIAL)) {
                    fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
                }
            }
            Ok(Self { dir: dir.into(), space })
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
        let store = self.clone();
        // Handed to a blocking thread only while there is something to write: an upload that stalls holds no thread.
        let mut partial = blocking(move || Partial::create(store)).await?;
        let mut stream = pin!(stream);
        let (mut bytes, mut chunks, mut waiting) = (0_u64, Vec::new(), 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| Error::Stream { source: error.into() })?;
            bytes = bytes.saturating_add(chunk.len() as u64);
            if bytes > limit {
                return Err(Error::TooLarge { limit });
            }
            waiting += chunk.len();
            chunks.push(chunk);
            if waiting >= WRITE_BYTES {
                let full = std::mem::take(&mut chunks);
                waiting = 0;
                partial = blocking(move || partial.write(&full)).await?;
            }
        }
        blocking(move || partial.write(&chunks)?.persist(bytes)).await
    }

    /// Opens a blob after reading it through: a damaged one is an error, never bytes.
    pub async fn open_blob(&self, digest: Digest) -> Result<Blob, Error> {
        let path = self.path(digest);
        blocking(move || {
            let mut file = File::open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NotFound(digest),
                _ => Error::io("open", &path)(error),
            })?;
            let (found, bytes) = hash(&mut file).map_err(Error::io("read", &path))?;
            if found != digest {
                return Err(Error::Damaged { digest, path });
            }
            file.rewind().map_err(Error::io("read", &path))?;
            Ok(Blob { digest, bytes, file })
        })
        .await
    }

    /// Whether a blob of this name is here; it may be damaged.
    pub async fn contains(&self, digest: Digest) -> bool {
        let path = self.path(digest);
        blocking(move || path.is_file()).await
    }

    /// Removes a blob; says whether it was there. Whoever has it open can read on.
    pub async fn remove(&self, digest: Digest) -> Result<bool, Error> {
        let path = self.path(digest);
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove", &path)(error)),
        })
        .await
    }

    /// All blobs, by digest. Files that are not named by a digest are not ours and are left alone.
    pub async fn list(&self) -> Result<Vec<Stored>, Error> {
        let dir = self.dir.clone();
        blocking(move || {
            let mut blobs = Vec::new();
            for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
                let entry = entry.map_err(Error::io("read", &dir))?;
                let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                match entry.metadata() {
                    Ok(metadata) => blobs.push(Stored { digest, bytes: metadata.len() }),
                    // Removed meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::io("read", &entry.path())(error)),
                }
            }
            blobs.sort_unstable_by_key(|blob| blob.digest);
            Ok(blobs)
        })
        .await
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }
}

/// A blob without a name yet. Its file goes away with it.
struct Partial {
    dir: Arc<Path>,
    space: Space,
    file: NamedTempFile,
    hasher: Sha256,
}

impl Partial {
    fn create(ArtifactStore { dir, space }: ArtifactStore) -> Result<Self, Error> {
        let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&dir).map_err(Error::writing(&dir))?;
        Ok(Self { dir, space, file, hasher: Sha256::new() })
    }

    fn write(mut self, chunks: &[Bytes]) -> Result<Self, Error> {
        // Not to the last byte: the state on the same disk must be able to go on.
        self.space.check(Use::Bulk).map_err(Error::full(&self.dir))?;
        for chunk in chunks {
            self.hasher.update(chunk);
            self.file.write_all(chunk).map_err(Error::writing(&self.dir))?;
        }
        Ok(self)
    }

    /// Bytes first, then the name, then the folder that holds the name: a crash in between leaves no blob or a whole one.
    fn persist(self, bytes: u64) -> Result<Stored, Error> {
        let digest = Digest::new(self.hasher.finalize().into());
        self.file.as_file().sync_all().map_err(Error::writing(&self.dir))?;
        let path = self.dir.join(digest.to_string());
        self.file.persist(&path).map_err(|error| Error::writing(&self.dir)(error.error))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", &self.dir))?;
        Ok(Stored { digest, bytes })
    }
}

fn hash(file: &mut File) -> io::Result<(Digest, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((Digest::new(hasher.finalize().into()), bytes)),
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

    use futures::{TryStreamExt, stream};
    use proptest::prelude::*;
    use tempfile::TempDir;

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
        assert!(store.remove(one.digest).await.expect("removed"));
        assert!(!store.remove(one.digest).await.expect("nothing to do"));
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
        *partial.file.as_file_mut() = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let error = partial.write(&[Bytes::from_static(b"x")]).err().expect("full");
        assert!(matches!(&error, Error::DiskFull { dir: said, .. } if said == dir.path()), "{error}");
        assert_eq!(names(&dir), [] as [&str; 0]);
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
