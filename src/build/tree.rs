//! A folder of source as one value: what is in it, its digest, and a stream of it.
//!
//! Comes in: a folder that is ours (a checkout, an unpacked upload) or the user's own (`narvana deploy .`), and rules of
//! what to leave out. Goes out: a sorted list, a digest that depends on paths, contents and the executable bit alone, and a
//! tar stream in bounded memory. Links are kept as links and never followed. Everything here blocks, except
//! [`Tree::into_stream`]. Deliberately absent: what the source means.

mod inside;
pub(super) mod link;
mod stream;
mod walk;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio_stream::wrappers::ReceiverStream;

pub use self::inside::{folder_inside, head_inside, read_inside};
pub use self::stream::stream;
use self::walk::Walk;
use super::ignore::Ignore;

const CHUNK: usize = 128 * 1024;
/// A `.dockerignore` has a few lines.
const MAX_IGNORE_FILE: u64 = 1024 * 1024;
/// What every file in a build context was last changed at: 1980-01-01, the oldest time that zip files (Python wheels,
/// Java archives) can hold.
const CONTEXT_MTIME: u64 = 315_532_800;

/// How large a source may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: usize,
    /// Folders within folders.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1024 * 1024 * 1024, entries: 200_000, depth: 64 }
    }
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path given by the user does not name something inside the source.
    #[error("{path:?} does not lead to a place inside the source: {reason}")]
    Path {
        /// As given, cut to a sensible length.
        path: String,
        /// In a clause.
        reason: &'static str,
    },
    /// The source is larger than allowed.
    #[error("the source has more than {limit} {what}; leave files out with .dockerignore")]
    TooLarge {
        /// "bytes", "files", …
        what: &'static str,
        /// The most that is allowed.
        limit: u64,
    },
    /// A file changed or disappeared while it was read.
    #[error("{} changed while it was read; try again", .0.display())]
    Changed(PathBuf),
    /// The disk.
    #[error("cannot read {}", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whoever takes the stream.
    #[error("cannot write the stream")]
    Write(#[source] io::Error),
}

/// One thing in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root, never empty, without `.` and `..`.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder; its contents are entries of their own.
    Folder,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Whether anyone may execute it: all that is kept of its mode.
        executable: bool,
    },
    /// A symbolic link and where it points.
    Link(PathBuf),
}

/// A list of what lies in a folder, sorted by the bytes of the paths.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
    entries: Vec<Entry>,
}

impl Tree {
    /// Lists a folder. `.git` is always left out, sockets and devices too; what `always` names is kept whatever the rules say.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Io`].
    pub fn scan(root: &Path, ignore: &Ignore, always: &[&str], limits: &Limits) -> Result<Self, Error> {
        let mut walk = Walk { root, ignore, always, limits, entries: Vec::new(), bytes: 0 };
        walk.folder(Path::new(""), 0, false)?;
        let mut entries = walk.entries;
        entries.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
        Ok(Self { root: root.to_owned(), entries })
    }

    /// A build context: the folder `sub` of a source (`""` for all of it), without what its `.dockerignore` names, or
    /// that of the Dockerfile (`<Dockerfile>.dockerignore`). `dockerfile` is relative to `sub`.
    ///
    /// # Errors
    /// [`Error::Path`] when `sub` leads elsewhere, else as [`Tree::scan`].
    pub fn context(root: &Path, sub: &str, dockerfile: &str, limits: &Limits) -> Result<Self, Error> {
        let folder = folder_inside(root, sub)?;
        let own = format!("{dockerfile}.dockerignore");
        let rules = match read_inside(&folder, &own, MAX_IGNORE_FILE)? {
            Some(rules) => Some(rules),
            None => read_inside(&folder, ".dockerignore", MAX_IGNORE_FILE)?,
        };
        let ignore = Ignore::parse(&String::from_utf8_lossy(&rules.unwrap_or_default()));
        Self::scan(&folder, &ignore, &[dockerfile.trim_start_matches("./"), ".dockerignore"], limits)
    }

    /// The folder that was listed.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is in it, sorted.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// SHA-256 in lower-case hex over sorted paths, kinds and contents: equal for equal trees wherever they lie.
    ///
    /// # Errors
    /// [`Error::Changed`] and [`Error::Io`].
    pub fn digest(&self) -> Result<String, Error> {
        let mut hash = Sha256::new();
        let field = |hash: &mut Sha256, bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        for entry in &self.entries {
            field(&mut hash, entry.path.as_os_str().as_bytes());
            match &entry.kind {
                Kind::Folder => hash.update(b"d"),
                Kind::File { size, executable } => {
                    hash.update(if *executable { b"x" } else { b"f" });
                    hash.update(size.to_be_bytes());
                    self.copy_file(entry, *size, &mut |chunk| {
                        hash.update(chunk);
                        Ok(())
                    })?;
                }
                Kind::Link(target) => {
                    hash.update(b"l");
                    field(&mut hash, target.as_os_str().as_bytes());
                }
            }
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// Writes all of it as a tar archive: sorted, owner 0, every time `mtime` (seconds since 1970), so that equal trees
    /// make equal bytes.
    ///
    /// # Errors
    /// [`Error::Changed`], [`Error::Io`] and [`Error::Write`].
    pub fn write_tar(&self, out: impl Write, mtime: u64) -> Result<(), Error> {
        let mut tar = tar::Builder::new(out);
        for entry in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(mtime);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            match &entry.kind {
                Kind::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(0o755);
                    tar.append_data(&mut header, &entry.path, io::empty()).map_err(Error::Write)?;
                }
                Kind::File { size, executable } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(if *executable { 0o755 } else { 0o644 });
                    header.set_size(*size);
                    // The name first: the builder then takes the contents in pieces, and a short file is our error.
                    let mut writer = FileInTar { tree: self, entry, size: *size, failed: None };
                    let result = writer.append(&mut tar, &mut header);
                    if let Some(failed) = writer.failed {
                        return Err(failed);
                    }
                    result.map_err(Error::Write)?;
                }
                Kind::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    link::append(&mut tar, &mut header, &entry.path, target).map_err(Error::Write)?;
                }
            }
        }
        tar.into_inner().and_then(|mut out| out.flush()).map_err(Error::Write)
    }

    /// The build context as a stream of a tar archive, for an engine. Reading stops when the stream is dropped.
    pub fn into_stream(self) -> ReceiverStream<io::Result<Bytes>> {
        stream(move |out| self.write_tar(out, CONTEXT_MTIME).map_err(io::Error::other))
    }

    fn copy_file(
        &self,
        entry: &Entry,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let path = self.root.join(&entry.path);
        let mut file = open_file(&path)?;
        let mut left = size;
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = file.read(&mut buffer[..want]).map_err(|source| Error::Io { path: path.clone(), source })?;
            if read == 0 {
                return Err(Error::Changed(path));
            }
            take(&buffer[..read])?;
            left -= read as u64;
        }
        Ok(())
    }
}

/// Opens a regular file that may not have become a link since it was listed.
fn open_file(path: &Path) -> Result<File, Error> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file =
        open(path, flags, Mode::empty()).map_err(|error| Error::Io { path: path.to_owned(), source: error.into() })?;
    Ok(File::from(file))
}

/// Feeds a file to the tar builder and keeps the reason when reading it fails.
struct FileInTar<'a> {
    tree: &'a Tree,
    entry: &'a Entry,
    size: u64,
    failed: Option<Error>,
}

impl FileInTar<'_> {
    fn append<W: Write>(&mut self, tar: &mut tar::Builder<W>, header: &mut tar::Header) -> io::Result<()> {
        let path = self.tree.root.join(&self.entry.path);
        let file = match open_file(&path) {
            Ok(file) => file,
            Err(error) => {
                self.failed = Some(error);
                return Ok(());
            }
        };
        let mut exact = Exact { file, left: self.size, short: false, error: None };
        let result = tar.append_data(header, &self.entry.path, &mut exact);
        if exact.short {
            self.failed = Some(Error::Changed(path));
        } else if let Some(source) = exact.error {
            self.failed = Some(Error::Io { path, source });
        }
        result
    }
}

/// Reads exactly the listed number of bytes: a tar archive with a header that lies would shift everything after it.
struct Exact {
    file: File,
    left: u64,
    short: bool,
    error: Option<io::Error>,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buffer[..want]) {
            Ok(0) => {
                self.short = true;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(read) => {
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) => {
                self.error = Some(io::Error::new(error.kind(), error.to_string()));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests;
