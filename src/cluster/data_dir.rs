//! The folder that holds everything a node keeps.
//!
//! | file | what |
//! |---|---|
//! | `narvana.lock` | locked by the process that uses the folder |
//! | `initialising` | `init` has begun and not ended; the next `init` starts over |
//! | `identity.json` | which node of which cluster this is; written last by `init` |
//! | `address` | where other nodes reach this one: host and port, as it was last |
//! | `doors` | members that may be asked who leads: a line for each, with node id, host and port |
//! | `joining` | the request by which `join` asks to be let in; the next `join` asks with the same |
//! | `peer.crt`, `peer.key` | certificate and key between nodes, from the admission, for the time before the state is here |
//! | `others` | which process spoke for each other node, and what it was heard to hold |
//! | `nix` | what builds learned that stays: which nixpkgs a reference meant, hashes of what never changes; can be removed |
//! | `ended` | why the node is no member any more; it only ends what it ran |
//! | `endpoints.json` | where the running node listens; gone while it does not run |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Identity;

/// Permission bits of a folder that a node does not trust.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const LOCK: &str = "narvana.lock";
const INITIALISING: &str = "initialising";
const IDENTITY: &str = "identity.json";
/// The file with where the running node listens.
pub const ENDPOINTS: &str = "endpoints.json";
const JOINING: &str = "joining";
/// In the root of every ext4 file system; a volume of its own is a good data folder.
const LOST_AND_FOUND: &str = "lost+found";

/// A data folder that cannot be used. Each says which folder and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it.
    #[error("{path} is in use by another narvana process{holder}; stop that one first, or choose another --data-dir")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// ` (process 1234)`, when known.
        holder: String,
    },
    /// There is no node in it.
    #[error(
        "{path} holds no node; run `narvana init --data-dir {path}` for the first node of a new cluster, or `narvana join` for one more of a cluster that exists"
    )]
    NotInitialised {
        /// The folder.
        path: PathBuf,
    },
    /// It has files that are not ours.
    #[error(
        "{path} is not empty and not a narvana data folder (it has {found}); choose an empty or a new folder with --data-dir"
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// Other users of the machine could replace what is in it.
    #[error(
        "{path} can be written by other users of this machine; run `chmod go-w {path}`, or choose another --data-dir"
    )]
    Shared {
        /// The folder.
        path: PathBuf,
    },
    /// Its identity cannot be understood.
    #[error(
        "{path} is damaged ({reason}), and says no more which node this is; `narvana node rebuild` puts a new node in its place"
    )]
    BadIdentity {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A newer program made it.
    #[error("{path} was written by a newer narvana (format {format}); use that version")]
    NewerIdentity {
        /// The file.
        path: PathBuf,
        /// The format of it.
        format: u32,
    },
    /// The file system failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// What `init` found.
#[derive(Debug)]
pub enum Occupied {
    /// An empty folder, locked and marked: go on and call [`DataDir::finish_init`].
    No(DataDir),
    /// A node is there already; nothing was changed.
    Yes(Identity),
}

/// A data folder locked by this process. The lock goes with the value, and with the process however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Takes a folder for a new node: makes it when it is missing, and refuses one that holds anything else.
    pub fn begin_init(path: &Path) -> Result<Occupied, Error> {
        if let Some(identity) = read_identity(path)? {
            return Ok(Occupied::Yes(identity));
        }
        refuse_foreign(path)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))?;
        let dir = Self::lock(path)?;
        // Somebody may have finished between the look and the lock.
        if let Some(identity) = read_identity(path)? {
            return Ok(Occupied::Yes(identity));
        }
        dir.clear_unfinished()?;
        dir.write(INITIALISING, b"")?;
        Ok(Occupied::No(dir))
    }

    /// Makes the folder a node. Everything else must be on disk before.
    pub fn finish_init(&self, identity: &Identity) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(identity).expect("an identity has a JSON form");
        self.write(IDENTITY, &text)?;
        self.remove(JOINING)?;
        self.remove(INITIALISING)
    }

    /// Opens the folder of an existing node.
    pub fn open(path: &Path) -> Result<(Self, Identity), Error> {
        let Some(identity) = read_identity(path)? else {
            refuse_foreign(path)?;
            return Err(Error::NotInitialised { path: path.to_owned() });
        };
        let dir = Self::lock(path)?;
        dir.remove(INITIALISING)?;
        dir.remove(JOINING)?;
        dir.remove(ENDPOINTS)?;
        Ok((dir, identity))
    }

    /// Opens the folder of a node whose identity cannot be read, to be moved aside.
    pub fn open_damaged(path: &Path) -> Result<Self, Error> {
        Self::lock(path)
    }

    /// Whose node a folder holds, if any; changes nothing, and works while the node runs.
    pub fn identity(path: &Path) -> Result<Option<Identity>, Error> {
        read_identity(path)
    }

    /// The file that the process locks which uses a folder; it may be missing.
    pub fn lock_file(path: &Path) -> PathBuf {
        path.join(LOCK)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The request that a `join` in this folder began with, if it did not end.
    pub fn joining(&self) -> Result<Option<String>, Error> {
        Ok(self.read(JOINING)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Forgets it: it was refused, or the node was removed that it led to.
    pub fn forget_joining(&self) -> Result<(), Error> {
        self.remove(JOINING)
    }

    /// Keeps the request that a `join` begins with: whoever does not know whether it was let in asks again with it.
    pub fn write_joining(&self, request: &str) -> Result<(), Error> {
        self.write(JOINING, request.as_bytes())
    }

    /// A file of this node, if it is there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// Says where the node listens. Called when it is ready to serve.
    pub fn write_endpoints(&self, json: &[u8]) -> Result<(), Error> {
        self.write(ENDPOINTS, json)
    }

    /// What the node of a folder, which another process may run, wrote about where it listens.
    pub fn endpoints(path: &Path) -> Result<Vec<u8>, Error> {
        let file = path.join(ENDPOINTS);
        fs::read(&file).map_err(io_error("read", &file))
    }

    /// Takes that back when the node stops.
    pub fn remove_endpoints(&self) -> Result<(), Error> {
        self.remove(ENDPOINTS)
    }

    /// Writes a file of its own for this node, complete or not at all.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        let unfinished = self.path.join(format!("{name}.tmp"));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(io_error("write", &path))
    }

    /// Removes a file of this node, if it is there.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn lock(path: &Path) -> Result<Self, Error> {
        let mode = fs::metadata(path).map_err(io_error("look at", path))?.permissions().mode();
        if mode & WRITABLE_BY_OTHERS != 0 {
            return Err(Error::Shared { path: path.to_owned() });
        }
        let lock_path = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io_error("open", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = fs::read_to_string(&lock_path).unwrap_or_default();
                let holder = match holder.trim().parse::<u32>() {
                    Ok(process) => format!(" (process {process})"),
                    Err(_) => String::new(),
                };
                return Err(Error::InUse { path: path.to_owned(), holder });
            }
            Err(error) => return Err(io_error("lock", &lock_path)(error.into())),
        }
        // Only a hint for the message above: that it is missing or old, as on a full disk, does no harm.
        let _hint = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Removes what an `init` or `join` left that was cut off. Only called on a folder without an identity that held nothing, or
    /// the mark of an unfinished `init`.
    fn clear_unfinished(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.path).map_err(io_error("read", &self.path))? {
            let path = entry.map_err(io_error("read", &self.path))?.path();
            let kept = [LOCK, INITIALISING, JOINING, LOST_AND_FOUND];
            if path.file_name().is_some_and(|name| kept.iter().any(|kept| name == *kept)) {
                continue;
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(io_error("remove", &path))?;
        }
        Ok(())
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path: path.clone(), source }
}

/// What every identity file has, whatever its version.
#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

fn read_identity(folder: &Path) -> Result<Option<Identity>, Error> {
    let path = folder.join(IDENTITY);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    // A newer one may have another shape, and is not damaged by that.
    if let Ok(Format { format }) = serde_json::from_slice(&text)
        && format > Identity::FORMAT
    {
        return Err(Error::NewerIdentity { path, format });
    }
    let identity = serde_json::from_slice(&text);
    identity.map(Some).map_err(|error| Error::BadIdentity { path, reason: error.to_string() })
}

/// Refuses a folder that holds something, unless it is what an unfinished `init` of ours left.
fn refuse_foreign(path: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    if path.join(INITIALISING).exists() {
        return Ok(());
    }
    for entry in entries {
        let name = entry.map_err(io_error("read", path))?.file_name();
        if name != LOCK && name != LOST_AND_FOUND {
            return Err(Error::NotOurs { path: path.to_owned(), found: name.to_string_lossy().into_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClusterId;
    use uuid::Uuid;

    fn identity() -> Identity {
        Identity::founder(ClusterId(Uuid::from_u128(1)))
    }

    fn initialised(path: &Path) -> DataDir {
        let Occupied::No(dir) = DataDir::begin_init(path).expect("begins") else { panic!("it was empty") };
        dir.finish_init(&identity()).expect("finishes");
        dir
    }

    #[test]
    fn init_then_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new");
        drop(initialised(&path));
        let (_dir, found) = DataDir::open(&path).expect("opens");
        assert_eq!(found, identity());
    }

    #[test]
    fn a_second_init_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(initialised(folder.path()));
        let Occupied::Yes(found) = DataDir::begin_init(folder.path()).expect("looks") else { panic!("it is a node") };
        assert_eq!(found, identity());
    }

    #[test]
    fn a_second_process_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = initialised(folder.path());
        let error = DataDir::open(folder.path()).expect_err("locked");
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    }

    #[test]
    fn a_foreign_folder_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("holiday.jpg"), b"x").expect("writes");
        assert!(matches!(DataDir::begin_init(folder.path()), Err(Error::NotOurs { .. })));
        assert!(matches!(DataDir::open(folder.path()), Err(Error::NotOurs { .. })));
        let left: Vec<_> = fs::read_dir(folder.path()).expect("reads").collect();
        assert_eq!(left.len(), 1, "nothing was added");
    }

    #[test]
    fn an_init_that_was_cut_off_starts_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let found = folder.path().join(LOST_AND_FOUND);
        fs::create_dir(&found).expect("a folder");
        let Occupied::No(dir) = DataDir::begin_init(folder.path()).expect("begins") else { panic!("it was empty") };
        dir.write("node.key", b"half").expect("writes");
        drop(dir);
        assert!(matches!(DataDir::open(folder.path()), Err(Error::NotInitialised { .. })));
        drop(initialised(folder.path()));
        assert!(!folder.path().join("node.key").exists(), "what the first one left is gone");
        assert!(found.exists(), "what the file system keeps there is not ours");
    }

    #[test]
    fn a_damaged_or_newer_identity_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(initialised(folder.path()));
        for (text, said) in [("{", "is damaged"), (r#"{"format":99,"nodes":[1]}"#, "newer narvana (format 99)")] {
            fs::write(folder.path().join(IDENTITY), text).expect("writes");
            let error = DataDir::open(folder.path()).expect_err("refused").to_string();
            assert!(error.contains(IDENTITY) && error.contains(said), "{error}");
        }
    }
}
