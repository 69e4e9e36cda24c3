//! What can go wrong with a blob.

use std::io;
use std::path::{Path, PathBuf};

use super::Digest;
use crate::space::Full;

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream holds more bytes than allowed. Nothing was kept of it.
    #[error("the upload is larger than the limit of {limit} bytes: leave out what the build does not need")]
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// The disk or the quota is full. Nothing was kept.
    #[error("no space is left for artifacts in {}: free some disk space and try again", dir.display())]
    DiskFull {
        /// The store's folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The stream ended with an error. Nothing was kept of it.
    #[error("the upload broke off: send it again")]
    Stream {
        /// What the sender's side said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bytes are not those that were announced. They were forgotten.
    #[error("artifact {found} came where {expected} was announced: send it again")]
    Mismatch {
        /// What was announced.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The upload ended before, by its end or by an error.
    #[error("the upload is over: begin it again")]
    Over,
    /// There is no such blob on this node.
    #[error("there is no artifact {0} on this node")]
    NotFound(Digest),
    /// The bytes on disk are not those that were stored.
    #[error("the artifact {digest} is damaged on disk in {}: store it again, or remove it", path.display())]
    Damaged {
        /// Which blob.
        digest: Digest,
        /// Its file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}: check the permissions of the data folder", path.display())]
    Io {
        /// What was tried, as a verb: "read".
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: an I/O error with its action and path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// For `map_err`: what is left of the space is for others.
    pub(super) fn full(dir: &Path) -> impl FnOnce(Full) -> Self {
        move |full| Self::DiskFull { dir: dir.to_owned(), source: io::Error::new(io::ErrorKind::StorageFull, full) }
    }

    /// For `map_err` where bytes are written: tells a full disk apart, since its fix is another one.
    pub(super) fn writing(dir: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { dir: dir.to_owned(), source },
            _ => Self::Io { action: "write to", path: dir.to_owned(), source },
        }
    }
}
