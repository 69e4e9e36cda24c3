//! The file of a blob that has no name yet.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, TempPath};

use super::store::hash_into;
use super::upload::WRITE_BYTES;
use super::{ArtifactStore, Digest, Error, Stored};
use crate::space::Use;

/// Begins the name of a file that is being written; no digest begins so.
pub(super) const UPLOAD: &str = ".partial-";
/// Begins the name of a file that is being fetched, before the digest. It outlives whoever fetches it.
pub(super) const FETCH: &str = ".fetch-";
/// Stands between the digest and the place of a segment in the name of such a file.
pub(super) const SEGMENT: char = '@';

pub(super) struct Partial {
    store: ArtifactStore,
    file: NamedTempFile,
    hasher: Sha256,
    bytes: u64,
}

impl Partial {
    /// An empty one. Its file goes away with it.
    pub(super) fn create(store: ArtifactStore) -> Result<Self, Error> {
        let dir = store.dir();
        let file = tempfile::Builder::new().prefix(UPLOAD).tempfile_in(dir).map_err(Error::writing(dir))?;
        Ok(Self { store, file, hasher: Sha256::new(), bytes: 0 })
    }

    /// The one of this blob, with what an earlier one has left. Its file stays until it is whole or discarded.
    pub(super) fn resume(store: ArtifactStore, digest: Digest) -> Result<Self, Error> {
        let path = Self::fetch_path(&store, digest);
        Self::resume_file(store, path)
    }

    /// The same of its bytes from `start` on, which are fetched beside its beginning.
    pub(super) fn resume_segment(store: ArtifactStore, digest: Digest, start: u64) -> Result<Self, Error> {
        let path = store.dir().join(format!("{FETCH}{digest}{SEGMENT}{start}"));
        Self::resume_file(store, path)
    }

    fn resume_file(store: ArtifactStore, path: PathBuf) -> Result<Self, Error> {
        let mut file =
            File::options().create(true).read(true).append(true).open(&path).map_err(Error::writing(store.dir()))?;
        // The last write of one that was given up may still be under way.
        file.lock().map_err(Error::io("lock", &path))?;
        let mut hasher = Sha256::new();
        let bytes = hash_into(&mut file, &mut hasher).map_err(Error::io("read", &path))?;
        let mut path = TempPath::try_from_path(&path).map_err(Error::io("open", &path))?;
        path.disable_cleanup(true);
        Ok(Self { store, file: NamedTempFile::from_parts(file, path), hasher, bytes })
    }

    pub(super) fn fetch_path(store: &ArtifactStore, digest: Digest) -> PathBuf {
        store.dir().join(format!("{FETCH}{digest}"))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds what another one has from its byte `skip` on. That one stays as it is.
    pub(super) fn take_over(&mut self, other: &Self, skip: u64) -> Result<(), Error> {
        let path = other.file.path();
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        file.seek(SeekFrom::Start(skip)).map_err(Error::io("read", path))?;
        let mut left = other.bytes.saturating_sub(skip);
        while left > 0 {
            let mut chunk = Vec::new();
            let piece = left.min(WRITE_BYTES as u64);
            (&mut file).take(piece).read_to_end(&mut chunk).map_err(Error::io("read", path))?;
            if chunk.is_empty() {
                break;
            }
            left -= chunk.len() as u64;
            self.write(&[Bytes::from(chunk)])?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, chunks: &[Bytes]) -> Result<(), Error> {
        let dir = self.store.dir();
        // Not to the last byte: the state on the same disk must be able to go on.
        self.store.space().check(Use::Bulk).map_err(Error::full(dir))?;
        for chunk in chunks {
            self.file.write_all(chunk).map_err(Error::writing(dir))?;
            self.hasher.update(chunk);
            self.bytes += chunk.len() as u64;
        }
        Ok(())
    }

    /// Gives the blob its name, when it is the expected one. Bytes first, then the name, then the folder that holds the
    /// name: a crash in between leaves no blob or a whole one.
    pub(super) fn persist(self, expected: Option<Digest>) -> Result<Stored, Error> {
        let Self { store, file, hasher, bytes } = self;
        let digest = Digest::new(hasher.finalize().into());
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            remove_file(file);
            return Err(Error::Mismatch { expected, found: digest });
        }
        let dir = store.dir();
        file.as_file().sync_all().map_err(Error::writing(dir))?;
        store.name(file, digest)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir))?;
        Ok(Stored { digest, bytes })
    }

    /// Forgets what came.
    pub(super) fn discard(self) {
        remove_file(self.file);
    }

    #[cfg(test)]
    pub(super) fn file_mut(&mut self) -> &mut File {
        self.file.as_file_mut()
    }
}

fn remove_file(file: NamedTempFile) {
    let path = file.path().to_owned();
    drop(file);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished artifact");
        }
        _ => {}
    }
}
