//! What can go wrong in the store, by what the operator can do about it.

use std::io;
use std::path::PathBuf;

use super::envelope::{Unencodable, Unreadable};
use crate::model::{ClusterId, NodeId, Unsupported};

/// The store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the file.
    #[error("{} is in use by another process: is narvana already running on this data folder?", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of the program wrote the folder.
    #[error("{file} has format {found}, this program knows up to {supported}: run the newer version of narvana again")]
    Newer {
        /// The file.
        file: &'static str,
        /// As stored.
        found: u16,
        /// The newest that is known here.
        supported: u16,
    },
    /// The folder belongs to another node.
    #[error(
        "{file} belongs to node {found_node} of cluster {found_cluster}, not to node {node} of cluster {cluster}: \
         start the node on its own data folder"
    )]
    Foreign {
        /// The file.
        file: &'static str,
        /// As stored.
        found_cluster: ClusterId,
        /// As stored.
        found_node: NodeId,
        /// As started.
        cluster: ClusterId,
        /// As started.
        node: NodeId,
    },
    /// A file that must be there is gone.
    #[error(
        "{} is missing although the data folder was in use; the node must not start without what it promised to the others. \
         Make it a new node with `narvana node rebuild`; a copy of the folder may be too old",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// What was read is not what was written. The node must not go on: it would vote on a false history.
    #[error(
        "{file} is damaged in table {table}, {key}: {what}; the node stops and does not vote. \
         Check the disk, then rebuild the node"
    )]
    Damaged {
        /// The file.
        file: &'static str,
        /// The table in it.
        table: &'static str,
        /// Which kind of key, and which one where that is no secret.
        key: String,
        /// What was noticed.
        what: String,
    },
    /// The same, found while the node ran, in the words of the error that said so first.
    #[error("{reason}")]
    FoundDamaged {
        /// The file, the table, the kind of key and what was noticed.
        reason: String,
    },
    /// A value was written by a newer version, or is not what belongs there.
    #[error("{file}, table {table}, {key} cannot be read")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// The table in it.
        table: &'static str,
        /// Which kind of key.
        key: String,
        /// Why.
        source: Unreadable,
    },
    /// The cluster is at a version that this program does not support.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A value cannot be brought into its stored form.
    #[error("the {what} cannot be stored")]
    Encoding {
        /// What.
        what: &'static str,
        /// Why.
        source: Unencodable,
    },
    /// A command is too large for the log.
    #[error("the command takes {bytes} bytes, at most {limit} fit: split it, or keep large values out of it")]
    TooLarge {
        /// Its size, encoded.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// The disk failed. Never retried: after a failed sync nobody knows what is on it.
    #[error("{file} cannot be written or read: {reason}; the node stops. Check the disk and its free space")]
    Disk {
        /// The file.
        file: &'static str,
        /// The database's words.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// There is no key file.
    #[error("the key file {} is missing: without it the data folder cannot be read; restore it, or rebuild the node", path.display())]
    KeyMissing {
        /// The file.
        path: PathBuf,
    },
    /// There is a key file already.
    #[error("the key file {} exists already: it is not replaced, since the data folder depends on it", path.display())]
    KeyExists {
        /// The file.
        path: PathBuf,
    },
    /// Others may read the key file.
    #[error("the key file {} has mode {mode:o}, so others may read it: run `chmod 600 {}`", path.display(), path.display())]
    KeyMode {
        /// The file.
        path: PathBuf,
        /// Its mode bits.
        mode: u32,
    },
    /// The key file does not hold a key.
    #[error("the key file {} holds {bytes} bytes, not 32: restore it, or rebuild the node", path.display())]
    KeyLength {
        /// The file.
        path: PathBuf,
        /// How many.
        bytes: usize,
    },
    /// Work on the store panicked: a defect of the program, not of the disk.
    #[error(
        "a defect of narvana stopped the store; the lines before this one in the log say where: please report them"
    )]
    Defect,
    /// The store was closed, or stopped after an earlier error.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// A value in this place that cannot be read. That it takes a newer program is not the folder's fault.
    pub(super) fn unreadable(file: &'static str, table: &'static str, key: String, source: Unreadable) -> Self {
        match source {
            Unreadable::Unsupported(unsupported) => Self::Unsupported(unsupported),
            source => Self::Unreadable { file, table, key, source },
        }
    }

    /// Whether the data folder is damaged, or not one this node can use: starting again gives the same answer until
    /// somebody does what the message says.
    pub fn is_unusable_folder(&self) -> bool {
        match self {
            Self::Newer { .. }
            | Self::Foreign { .. }
            | Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::FoundDamaged { .. }
            | Self::Unreadable { .. }
            | Self::Unsupported(_)
            | Self::KeyMissing { .. }
            | Self::KeyExists { .. }
            | Self::KeyMode { .. }
            | Self::KeyLength { .. } => true,
            Self::InUse { .. }
            | Self::Encoding { .. }
            | Self::TooLarge { .. }
            | Self::Disk { .. }
            | Self::Io { .. }
            | Self::Defect
            | Self::Closed => false,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(Chain(error))
    }
}

/// openraft keeps the text of an error only, so the text that crosses it holds the whole chain.
#[derive(Debug)]
struct Chain(Error);

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(&self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Chain {}
