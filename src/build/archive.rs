//! Uploaded sources: packing a folder into an archive, and unpacking an archive nobody vouches for.
//!
//! Comes in: a folder of the user's own ([`pack`]), or the bytes of a tar, tar.gz or tar.zst ([`unpack`]), told apart by
//! their first bytes and never by a name. Goes out: the same bytes for the same folder, or a folder in which nothing
//! points outside of it. An archive is taken whole or not at all: entries that would surprise are refused by number, not
//! skipped. Owners, times and all of a mode but its executable bit are dropped. A single folder at the top is kept as it is.
//! Deliberately absent: zip, sparse files, devices, extended attributes. Everything here blocks.

mod names;
mod pack;
mod source;
mod unpack;

use std::io;
use std::path::PathBuf;

pub use self::pack::{Compression, pack, what_is_packed};
pub use self::unpack::{Unpacked, unpack};

/// Why an archive was not packed or unpacked. Paths in it are escaped and cut.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One entry is refused.
    #[error("entry {number} ({path}) is refused: {reason}")]
    Entry {
        /// Counted from 1.
        number: usize,
        /// As in the archive.
        path: String,
        /// In a clause.
        reason: String,
    },
    /// Two entries that are one file on some machines.
    #[error("entry {number} ({path}) stands for the same file as {other}; names must differ in more than case")]
    Duplicate {
        /// Counted from 1.
        number: usize,
        /// As in the archive.
        path: String,
        /// The earlier one.
        other: String,
    },
    /// It holds more than a source may.
    #[error("the archive has more than {limit} {what}; leave files out with .narvanaignore or .dockerignore")]
    TooLarge {
        /// "bytes unpacked", "entries", …
        what: &'static str,
        /// The most that is allowed.
        limit: u64,
    },
    /// It is damaged, cut off, or more than one archive.
    #[error("the archive cannot be read: {0}; pack and upload it again")]
    Malformed(String),
    /// The first bytes are of no known kind.
    #[error("the upload is {0}; send a tar, tar.gz or tar.zst")]
    UnknownFormat(&'static str),
    /// The folder to pack.
    #[error("cannot pack the folder")]
    Tree(#[from] super::tree::Error),
    /// The bytes did not come or go.
    #[error("the archive did not arrive whole")]
    Stream(#[source] io::Error),
    /// The disk it is unpacked to.
    #[error("cannot write {}", path.display())]
    Io {
        /// What was written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The caller stopped it.
    #[error("unpacking was stopped")]
    Stopped,
}

/// Quotes bytes of an archive for a message.
fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(128)];
    let shown = cut.escape_ascii().to_string();
    if cut.len() < bytes.len() { format!("{shown}…") } else { shown }
}
