//! What can go wrong with a log.

use std::io;
use std::path::{Path, PathBuf};

use super::LogKey;

/// Why a log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused. Nothing about the log itself is wrong.
    #[error("cannot {action} {}: check the permissions and the free space of the data folder", path.display())]
    Io {
        /// What was tried, as a verb: "read".
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A log has one writer, and there is one already.
    #[error("the log of {0} is being written: stop its writer first")]
    BeingWritten(LogKey),
    /// The node is stopping, or the log's writing task has ended; the line was not taken.
    #[error("the log of {0} takes no more lines because the node is stopping")]
    Stopped(LogKey),
    /// The file is shorter than what was written to it, or holds something other than lines.
    #[error("the log of {key} is damaged at line {seq} in {}: remove the file to read on", path.display())]
    Damaged {
        /// Which log.
        key: LogKey,
        /// First sequence number that cannot be read.
        seq: u64,
        /// The damaged file.
        path: PathBuf,
    },
}

impl Error {
    /// For `map_err`: an I/O error with its action and path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
