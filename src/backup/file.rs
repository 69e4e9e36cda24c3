//! Backup files: written whole or not at all, read to the end before anything of them counts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Opening, Passphrase, Sealing, Unopened};
use crate::state::{Key, Record, State};
use crate::store::{BackupHeader, BackupReader, BackupUnreadable};

/// Why a backup was not made or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is there already.
    #[error("{path} exists already; it is not replaced: choose another name, or move it away")]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The seal was not opened.
    #[error("{path} cannot be opened; {next}")]
    Sealed {
        /// Which file.
        path: PathBuf,
        /// What to do.
        next: &'static str,
        /// Why.
        source: Unopened,
    },
    /// It was opened, and does not hold a backup that this version can use.
    #[error("{path} was opened with this passphrase and cannot be used; {next}")]
    Contents {
        /// Which file.
        path: PathBuf,
        /// What to do.
        next: &'static str,
        /// Why.
        source: BackupUnreadable,
    },
    /// What the node sent is no backup.
    #[error(
        "what the node sent is not a whole backup; nothing was written: try again, with the version of narvana that the node runs"
    )]
    Sent(#[source] BackupUnreadable),
}

/// What is in a backup.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What it says of itself.
    pub header: BackupHeader,
    /// Size of the file.
    pub file_bytes: u64,
    /// How many rows of each kind matter to people.
    pub apps: usize,
    /// Services.
    pub services: usize,
    /// Users.
    pub users: usize,
    /// Members of the cluster.
    pub nodes: usize,
}

/// A backup in memory, whole and verified.
#[derive(Debug)]
pub struct Restored {
    /// What is in it.
    pub summary: Summary,
    /// The state.
    pub state: State,
}

impl Summary {
    fn new(header: BackupHeader) -> Self {
        Self { header, file_bytes: 0, apps: 0, services: 0, users: 0, nodes: 0 }
    }

    fn count(&mut self, records: &[Record]) {
        for record in records {
            match record.key() {
                Key::App(_) => self.apps += 1,
                Key::Service(_) => self.services += 1,
                Key::User(_) => self.users += 1,
                Key::Node(_) => self.nodes += 1,
                _ => {}
            }
        }
    }
}

/// Seals contents into a new file. They are verified as they pass; `progress` is told the bytes so far and about how many
/// there will be.
pub fn create(
    path: &Path,
    passphrase: &Passphrase,
    contents: impl Read,
    progress: impl FnMut(u64, u64),
) -> Result<Summary, Error> {
    if path.exists() {
        return Err(Error::Exists { path: path.to_owned() });
    }
    let partial = Partial::create(path)?;
    let output = BufWriter::new(partial.file.try_clone().map_err(io_error("write", &partial.path))?);
    let sealing = Sealing::begin(output, passphrase).map_err(io_error("write", &partial.path))?;
    let mut tee = Tee { input: contents, sealing, written: Ok(()) };
    let read = read_all(&mut tee, progress, |_| ());
    tee.written.map_err(io_error("write", &partial.path))?;
    let mut summary = read.map_err(Error::Sent)?;
    let output = tee.sealing.finish().map_err(io_error("write", &partial.path))?;
    output.into_inner().map_err(|error| io_error("write", &partial.path)(error.into_error()))?;
    summary.file_bytes = partial.keep(path)?;
    Ok(summary)
}

/// Reads a whole backup and says what is in it.
pub fn verify(path: &Path, passphrase: &Passphrase) -> Result<Summary, Error> {
    open(path, passphrase, |_| ())
}

/// Reads a whole backup into memory.
pub fn restore(path: &Path, passphrase: &Passphrase) -> Result<Restored, Error> {
    let mut records = Vec::new();
    let summary = open(path, passphrase, |rows| records.extend(rows))?;
    let state = State::from_records(records);
    if state.cluster().map(|cluster| cluster.id) != Some(summary.header.cluster) {
        return Err(contents(path)(BackupUnreadable::Damaged("it holds another cluster than it says, or none")));
    }
    Ok(Restored { summary, state })
}

fn open(path: &Path, passphrase: &Passphrase, take: impl FnMut(Vec<Record>)) -> Result<Summary, Error> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let file_bytes = file.metadata().map_err(io_error("look at", path))?.len();
    let mut opening = Opening::begin(BufReader::new(file), passphrase).map_err(sealed(path))?;
    let summary = read_all(&mut opening, |_, _| (), take).map_err(contents(path))?;
    Ok(Summary { file_bytes, ..summary })
}

fn read_all(
    input: &mut impl Read,
    mut progress: impl FnMut(u64, u64),
    mut take: impl FnMut(Vec<Record>),
) -> Result<Summary, BackupUnreadable> {
    let mut reader = BackupReader::begin(input)?;
    let mut summary = Summary::new(reader.header().clone());
    let mut bytes = 0;
    while let Some(records) = reader.next_rows()? {
        bytes += records.iter().map(Record::encoded_bytes).sum::<u64>();
        progress(bytes, summary.header.bytes);
        summary.count(&records);
        take(records);
    }
    Ok(summary)
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path: path.clone(), source }
}

fn sealed(path: &Path) -> impl Fn(Unopened) -> Error {
    let path = path.to_owned();
    move |source| {
        let next = match source {
            Unopened::Io(source) => return Error::Io { doing: "read", path: path.clone(), source },
            Unopened::Foreign | Unopened::OtherRecipient | Unopened::WorkFactor(_) => {
                "name a file that `narvana backup create` made"
            }
            Unopened::Newer(_) => "use the version of narvana that made it",
            Unopened::WrongPassphrase => "try the passphrase of the day it was made",
            Unopened::HeadChanged | Unopened::Changed(_) | Unopened::Truncated => {
                "use another copy of it, or an older backup: nothing of a damaged one is used"
            }
        };
        Error::Sealed { path: path.clone(), next, source }
    }
}

/// What was read through the seal failed; perhaps because of the seal.
fn contents(path: &Path) -> impl Fn(BackupUnreadable) -> Error {
    let path = path.to_owned();
    move |source| match source {
        BackupUnreadable::Io(error) => match error.downcast::<Unopened>() {
            Ok(unopened) => sealed(&path)(unopened),
            Err(source) => Error::Io { doing: "read", path: path.clone(), source },
        },
        source => {
            let next = "use the version of narvana that made it, or an older backup";
            Error::Contents { path: path.clone(), next, source }
        }
    }
}

/// Seals what is read through it.
struct Tee<R, W> {
    input: R,
    sealing: Sealing<W>,
    written: io::Result<()>,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.input.read(into)?;
        if let Err(error) = self.sealing.write_all(&into[..bytes]) {
            self.written = Err(error);
            return Err(io::Error::other("the backup cannot be written"));
        }
        Ok(bytes)
    }
}

/// A file that is gone unless it is kept.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn create(wanted: &Path) -> Result<Self, Error> {
        let mut name = wanted.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        // One that is there was left by a power cut.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(io_error("create", &path))?;
        Ok(Self { path, file })
    }

    /// Gives it its name, once it is on the disk.
    fn keep(self, wanted: &Path) -> Result<u64, Error> {
        self.file.sync_all().map_err(io_error("sync", &self.path))?;
        let bytes = self.file.metadata().map_err(io_error("look at", &self.path))?.len();
        match renameat_with(CWD, &self.path, CWD, wanted, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(Error::Exists { path: wanted.to_owned() }),
            // Some file systems cannot do that in one step.
            Err(Errno::INVAL | Errno::NOSYS) => {
                fs::rename(&self.path, wanted).map_err(io_error("rename", &self.path))?;
            }
            Err(error) => return Err(io_error("rename", &self.path)(error.into())),
        }
        let folder = wanted.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))?;
        Ok(bytes)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing of this name.
        let _best_effort = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClusterId, Timestamp};
    use crate::state::sample_records;
    use crate::store::{Unencodable, write_backup};

    fn passphrase() -> Passphrase {
        Passphrase::chosen("correct horse battery".to_owned()).expect("long enough")
    }

    fn sample() -> State {
        State::from_records(sample_records())
    }

    fn plain(cluster: u128) -> Vec<u8> {
        let cluster = ClusterId(uuid::Uuid::from_u128(cluster));
        let version = "0.1.0".to_owned();
        let header = BackupHeader { cluster, created_at: Timestamp(7), index: 300, term: 2, version, bytes: 0 };
        let mut bytes = Vec::new();
        let written = write_backup::<Unencodable>(&sample(), header, |block| {
            bytes.extend_from_slice(&block);
            Ok(())
        });
        written.expect("encodes");
        bytes
    }

    /// A sealed file at the least cost.
    fn sealed_at(path: &Path, plain: &[u8]) {
        let mut sealing = Sealing::begin_at(Vec::new(), &passphrase(), 1).expect("begins");
        sealing.write_all(plain).expect("writes");
        fs::write(path, sealing.finish().expect("finishes")).expect("writes");
    }

    #[test]
    fn a_backup_is_made_verified_and_restored_and_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster.age");
        let (mut calls, mut last) = (0, (0, 0));
        let made = create(&path, &passphrase(), &plain(1)[..], |done, all| (calls, last) = (calls + 1, (done, all)));
        let made = made.expect("made");
        assert!(calls > 0 && last.0 == last.1, "{last:?}");
        assert_eq!(made.file_bytes, fs::metadata(&path).expect("it is there").len());
        let found = verify(&path, &passphrase()).expect("whole");
        assert_eq!(found.header, made.header);
        assert_eq!((found.apps, found.services, found.users, found.nodes), (1, 2, 1, 1));
        assert_eq!(restore(&path, &passphrase()).expect("whole").state, sample());
        let before = fs::read(&path).expect("reads");
        assert!(matches!(create(&path, &passphrase(), &plain(1)[..], |_, _| ()), Err(Error::Exists { .. })));
        assert_eq!(fs::read(&path).expect("reads"), before);
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1, "nothing half-written is left");
        // Nothing of it is readable.
        let words = String::from_utf8_lossy(&before).into_owned();
        assert!(!words.contains("example.org") && !words.contains("CERTIFICATE"));
    }

    #[test]
    fn what_breaks_off_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, plain) = (folder.path().join("cluster.age"), plain(1));
        for length in [0, 3, 40, plain.len() - 1] {
            let made = create(&path, &passphrase(), &plain[..length], |_, _| ());
            assert!(matches!(made, Err(Error::Sent(BackupUnreadable::Truncated))), "cut at {length}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0);
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster.age");
        sealed_at(&path, &plain(1));
        let whole = fs::read(&path).expect("reads");
        verify(&path, &passphrase()).expect("whole");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            fs::write(&path, &bytes).expect("writes");
            let error = verify(&path, &passphrase()).expect_err("changed");
            assert!(matches!(error, Error::Sealed { .. }), "byte {at}: {error}");
            fs::write(&path, &whole[..at]).expect("writes");
            let error = verify(&path, &passphrase()).expect_err("cut");
            assert!(matches!(error, Error::Sealed { .. }), "cut at {at}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_cause() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster.age");
        let said = |error: Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error}: {cause}")
        };
        sealed_at(&path, &plain(1));
        let other = Passphrase::known("another one".to_owned()).expect("a passphrase");
        let text = said(verify(&path, &other).expect_err("refused"));
        assert!(text.contains("the passphrase is wrong") && text.contains("of the day it was made"), "{text}");
        sealed_at(&path, b"a diary");
        let text = said(verify(&path, &passphrase()).expect_err("refused"));
        assert!(text.contains("impossible length"), "{text}");
        sealed_at(&path, &plain(2));
        let text = said(restore(&path, &passphrase()).expect_err("refused"));
        assert!(text.contains("another cluster"), "{text}");
        let mut newer = plain(1);
        newer[8] = 9;
        sealed_at(&path, &newer);
        let text = said(verify(&path, &passphrase()).expect_err("refused"));
        assert!(text.contains("cannot be read") && text.contains("version of narvana that made it"), "{text}");
        fs::write(&path, b"PK\x03\x04").expect("writes");
        let text = said(verify(&path, &passphrase()).expect_err("refused"));
        assert!(text.contains("not a sealed file"), "{text}");
        let text = said(verify(folder.path(), &passphrase()).expect_err("a folder"));
        assert!(text.contains("directory"), "{text}");
    }
}
