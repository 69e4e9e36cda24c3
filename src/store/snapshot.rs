//! Snapshots: the whole state at one point of the log, as a file of sealed blocks.
//!
//! Layout: `NRVNSNAP | format u16 | file id [16]`, then blocks `length u32 | sealed bytes`: a header, chunks of rows, a
//! trailer with the counts and the hash of all chunks. Each block is bound to the file and to its number, so blocks
//! cannot be dropped, repeated, reordered or taken from another file. Memory stays at about one chunk, whatever the
//! size of the state. A file counts once it has its final name, which it gets after its contents are on disk.

use std::borrow::Borrow;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Error;
use super::envelope::{self, DECODED_BYTES_MAX, Stored};
use super::failpoint;
use super::raft_types::{LogId, SnapshotMeta, StoredMembership};
use super::seal::{Sealer, sync_folder_of};
use super::stored::{LogIdV1, SnapshotChunkV1, SnapshotHeaderV1, SnapshotTrailerV1, StoredMembershipV1};
use crate::random;
use crate::state::{Record, State};

const FILE: &str = "snapshot";
const MAGIC: &[u8; 8] = b"NRVNSNAP";
const FORMAT: u16 = 1;
const HEAD_BYTES: usize = MAGIC.len() + 2 + 16;
const UNFINISHED: &str = "unfinished";
const FINISHED: &str = "snapshot";

/// Rows are gathered until a chunk has about this size.
const CHUNK_BYTES: usize = 256 * 1024;

/// The folder of a node's snapshots.
pub(super) struct Folder {
    path: PathBuf,
    sealer: Arc<Sealer>,
}

impl Folder {
    /// Opens the folder, removes what a crash left half-written, and finds the newest snapshot. One whose head cannot
    /// be read is put aside with a warning: the state itself is in `state.redb`, and a new snapshot is made of it.
    pub(super) fn open(path: PathBuf, sealer: Arc<Sealer>) -> Result<(Self, Option<SnapshotFile>), Error> {
        let io = |doing| {
            let path = path.clone();
            move |source| Error::Io { path, doing, source }
        };
        fs::create_dir_all(&path).map_err(io("create"))?;
        let mut finished = Vec::new();
        for item in fs::read_dir(&path).map_err(io("list"))? {
            let file = item.map_err(io("list"))?.path();
            match file.extension().and_then(|ending| ending.to_str()) {
                Some(FINISHED) => finished.push(file),
                Some(UNFINISHED) => remove(&file)?,
                _ => {}
            }
        }
        // Names sort by log index.
        finished.sort();
        let mut newest = None;
        while let Some(file) = finished.pop() {
            match SnapshotFile::open(&file, Arc::clone(&sealer)) {
                Ok(snapshot) => {
                    newest = Some(snapshot);
                    break;
                }
                Err(error @ (Error::Damaged { .. } | Error::Unreadable { .. })) => {
                    tracing::warn!(file = %file.display(), %error, "a damaged snapshot is removed; it will be made anew");
                    remove(&file)?;
                }
                Err(error) => return Err(error),
            }
        }
        for older in finished {
            remove(&older)?;
        }
        Ok((Self { path, sealer }, newest))
    }

    /// Starts a new snapshot file.
    pub(super) fn create(&self, meta: &SnapshotMeta) -> Result<SnapshotWriter, Error> {
        SnapshotWriter::create(&self.path, Arc::clone(&self.sealer), meta)
    }

    /// Removes every snapshot but this one. Whoever still reads another one keeps its open file.
    pub(super) fn keep_only(&self, newest: &SnapshotFile) -> Result<(), Error> {
        let io = |doing| move |source| Error::Io { path: self.path.clone(), doing, source };
        for item in fs::read_dir(&self.path).map_err(io("list"))? {
            let file = item.map_err(io("list"))?.path();
            if file != newest.path && file.extension().is_some_and(|ending| ending == FINISHED) {
                remove(&file)?;
            }
        }
        Ok(())
    }

    pub(super) fn holds(&self, snapshot: &SnapshotFile) -> bool {
        snapshot.path.parent() == Some(self.path.as_path())
    }
}

fn remove(file: &Path) -> Result<(), Error> {
    fs::remove_file(file).map_err(|source| Error::Io { path: file.to_owned(), doing: "remove", source })
}

/// A finished snapshot, open for reading.
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
    id: [u8; 16],
    meta: SnapshotMeta,
    sealer: Arc<Sealer>,
}

impl SnapshotFile {
    pub(super) fn open(path: &Path, sealer: Arc<Sealer>) -> Result<Self, Error> {
        let failed = |doing| move |source| Error::Io { path: path.to_owned(), doing, source };
        let mut file = File::open(path).map_err(failed("open"))?;
        let mut head = [0; HEAD_BYTES];
        file.read_exact(&mut head).map_err(|_| damaged("head", "it is cut short"))?;
        let (magic, rest) = head.split_at(MAGIC.len());
        let (format, id) = rest.split_at(2);
        if magic != MAGIC {
            return Err(damaged("head", "this is no snapshot"));
        }
        let format = u16::from_be_bytes([format[0], format[1]]);
        if format != FORMAT {
            return Err(Error::Newer { file: FILE, found: format, supported: FORMAT });
        }
        let id = <[u8; 16]>::try_from(id).expect("the head was cut to this size");
        let input = Positioned { file: &file, at: HEAD_BYTES as u64 };
        let header: SnapshotHeaderV1 = Blocks { input, sealer: Arc::clone(&sealer), id, number: 0 }.read("header")?;
        let last_membership = StoredMembership::try_from(header.membership).map_err(unreadable("header"))?;
        let meta = SnapshotMeta { last_log_id: header.last_log_id.map(LogId::from), last_membership };
        Ok(Self { path: path.to_owned(), file, id, meta, sealer })
    }

    /// What it contains.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Another handle on the same snapshot.
    pub fn reopen(&self) -> Result<Self, Error> {
        Ok(Self {
            path: self.path.clone(),
            file: self.file.try_clone().map_err(|source| self.io("reopen", source))?,
            id: self.id,
            meta: self.meta.clone(),
            sealer: Arc::clone(&self.sealer),
        })
    }

    /// Reads it from its start, with a position of its own.
    pub fn read(&self) -> Result<Chunks, Error> {
        let file = self.file.try_clone().map_err(|source| self.io("reopen", source))?;
        let input = BufReader::new(Positioned { file, at: HEAD_BYTES as u64 });
        let mut blocks = Blocks { input, sealer: Arc::clone(&self.sealer), id: self.id, number: 0 };
        blocks.read::<SnapshotHeaderV1>("header")?;
        Ok(Chunks { blocks, hash: Sha256::new(), count: 0 })
    }

    /// Hands out every chunk in order. What was handed out counts only if this answers `Ok`.
    pub fn chunks<E: From<Error>>(&self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut chunks = self.read()?;
        while let Some(plain) = chunks.next()? {
            take(&plain)?;
        }
        Ok(())
    }

    /// Every row in order, encoded in its envelope. Same rule as for [`Self::chunks`].
    pub(super) fn rows<E: From<Error>>(&self, mut take: impl FnMut(&Bytes) -> Result<(), E>) -> Result<(), E> {
        self.chunks(|plain| {
            let chunk: SnapshotChunkV1 = envelope::decode(plain).map_err(unreadable("chunk"))?;
            chunk.rows.iter().try_for_each(&mut take)
        })
    }

    fn io(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Io { path: self.path.clone(), doing, source }
    }
}

/// The chunks of a snapshot, unsealed, in order, as [`SnapshotWriter::chunk`] takes them.
pub struct Chunks {
    blocks: Blocks<BufReader<Positioned<File>>>,
    hash: Sha256,
    count: u64,
}

impl Chunks {
    /// The next one; none when all were there and add up. Until then nothing counts.
    #[expect(clippy::should_implement_trait, reason = "after an error there is nothing more to ask for")]
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let plain = self.blocks.next("chunk or trailer")?;
        let Ok(trailer) = envelope::decode::<SnapshotTrailerV1>(&plain) else {
            self.hash.update(&plain);
            self.count += 1;
            return Ok(Some(plain));
        };
        if trailer.chunks != self.count || trailer.sha256 != <[u8; 32]>::from(self.hash.finalize_reset()) {
            return Err(damaged("trailer", "the contents do not add up"));
        }
        Ok(None)
    }
}

/// A snapshot being written.
pub struct SnapshotWriter {
    unfinished: PathBuf,
    finished: PathBuf,
    output: BufWriter<File>,
    id: [u8; 16],
    number: u64,
    sealer: Arc<Sealer>,
    hash: Sha256,
    chunks: u64,
    rows: u64,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
}

impl SnapshotWriter {
    fn create(folder: &Path, sealer: Arc<Sealer>, meta: &SnapshotMeta) -> Result<Self, Error> {
        let (term, index) = meta.last_log_id.map_or((0, 0), |id| (id.leader_id.term, id.index));
        let id: [u8; 16] = random::bytes();
        let name = format!("{index:020}-{term:020}-{}", hex::encode(&id[..4]));
        let unfinished = folder.join(format!("{name}.{UNFINISHED}"));
        let failed = |doing| {
            let path = unfinished.clone();
            move |source| Error::Io { path, doing, source }
        };
        let mut output = BufWriter::new(File::create(&unfinished).map_err(failed("create"))?);
        for part in [MAGIC.as_slice(), &FORMAT.to_be_bytes(), &id] {
            output.write_all(part).map_err(failed("write"))?;
        }
        let mut writer = Self {
            finished: folder.join(format!("{name}.{FINISHED}")),
            unfinished,
            output,
            id,
            number: 0,
            sealer,
            hash: Sha256::new(),
            chunks: 0,
            rows: 0,
            gathered: Vec::new(),
            gathered_bytes: 0,
        };
        failpoint::pass("snapshot.created");
        writer.block_of(&SnapshotHeaderV1 {
            last_log_id: meta.last_log_id.map(LogIdV1::from),
            membership: StoredMembershipV1::from(&meta.last_membership),
        })?;
        Ok(writer)
    }

    /// Adds one row in its envelope.
    fn row(&mut self, row: Vec<u8>) -> Result<(), Error> {
        self.gathered_bytes += row.len();
        self.gathered.push(row.into());
        if self.gathered_bytes >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Adds a chunk as [`SnapshotFile::chunks`] hands it out, on whichever node that was. Refuses one with a row that
    /// this program does not know: a node that is made to install what it cannot read has to stop.
    pub fn chunk(&mut self, plain: &[u8]) -> Result<(), Error> {
        let chunk: SnapshotChunkV1 = envelope::decode(plain).map_err(unreadable("chunk"))?;
        for row in &chunk.rows {
            envelope::decode::<Record>(row).map_err(unreadable("row"))?;
        }
        self.append(plain, chunk.rows.len())
    }

    /// Adds every row of a state, and finishes.
    pub(super) fn state(mut self, state: &State) -> Result<SnapshotFile, Error> {
        for record in state.records() {
            self.row(encode_row(&record)?)?;
        }
        self.finish()
    }

    /// Makes the file durable under its final name.
    pub fn finish(mut self) -> Result<SnapshotFile, Error> {
        self.flush()?;
        let sha256 = self.hash.clone().finalize().into();
        self.block_of(&SnapshotTrailerV1 { chunks: self.chunks, rows: self.rows, sha256 })?;
        self.output.flush().map_err(|source| self.io("write", source))?;
        failpoint::pass("snapshot.written");
        self.output.get_ref().sync_all().map_err(|source| self.io("sync", source))?;
        failpoint::pass("snapshot.synced");
        fs::rename(&self.unfinished, &self.finished).map_err(|source| self.io("rename", source))?;
        failpoint::pass("snapshot.renamed");
        sync_folder_of(&self.finished)?;
        SnapshotFile::open(&self.finished, Arc::clone(&self.sealer))
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let count = rows.len();
        self.append(&encode(&SnapshotChunkV1 { rows })?, count)
    }

    fn append(&mut self, plain: &[u8], rows: usize) -> Result<(), Error> {
        self.rows += rows as u64;
        self.chunks += 1;
        self.hash.update(plain);
        self.block(plain)
    }

    fn block_of<T: Stored>(&mut self, value: &T) -> Result<(), Error> {
        self.block(&encode(value)?)
    }

    fn block(&mut self, plain: &[u8]) -> Result<(), Error> {
        let sealed = self.sealer.seal(FILE, &block_key(self.id, self.number), plain);
        self.number += 1;
        let length = u32::try_from(sealed.len()).expect("an envelope is limited to far less than 4 GiB");
        self.output.write_all(&length.to_be_bytes()).map_err(|source| self.io("write", source))?;
        self.output.write_all(&sealed).map_err(|source| self.io("write", source))
    }

    fn io(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Io { path: self.unfinished.clone(), doing, source }
    }
}

/// A stream that was refused or broke off leaves nothing behind. Renamed, there is nothing to remove.
impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        let _best_effort = fs::remove_file(&self.unfinished);
    }
}

/// Reads a file from a position of its own: handles that share an open file must not move each other's.
struct Positioned<F> {
    file: F,
    at: u64,
}

impl<F: Borrow<File>> Read for Positioned<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.borrow().read_at(into, self.at)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}

/// Reads the blocks of a file one after the other.
struct Blocks<R> {
    input: R,
    sealer: Arc<Sealer>,
    id: [u8; 16],
    number: u64,
}

impl<R: Read> Blocks<R> {
    fn next(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(|_| damaged(name, "it is cut short"))?;
        let length = u32::from_be_bytes(length);
        if length as usize > DECODED_BYTES_MAX {
            return Err(damaged(name, "its length is impossible"));
        }
        let mut sealed = Vec::new();
        let read = (&mut self.input).take(u64::from(length)).read_to_end(&mut sealed);
        if !read.is_ok_and(|bytes| bytes == length as usize) {
            return Err(damaged(name, "it is cut short"));
        }
        let plain = self.sealer.open(FILE, &block_key(self.id, self.number), &sealed);
        self.number += 1;
        plain.map_err(|_| damaged(name, "it was not written in this place by this node"))
    }

    fn read<T: Stored>(&mut self, name: &'static str) -> Result<T, Error> {
        envelope::decode(&self.next(name)?).map_err(unreadable(name))
    }
}

fn block_key(id: [u8; 16], number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&id);
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

fn encode_row(record: &Record) -> Result<Vec<u8>, Error> {
    envelope::encode(record).map_err(|source| Error::Encoding { what: "row", source })
}

fn encode<T: Stored>(value: &T) -> Result<Vec<u8>, Error> {
    envelope::encode(value).map_err(|source| Error::Encoding { what: "snapshot", source })
}

fn damaged(key: &str, what: &str) -> Error {
    Error::Damaged { file: FILE, table: "blocks", key: key.to_owned(), what: what.to_owned() }
}

fn unreadable(key: &'static str) -> impl Fn(envelope::Unreadable) -> Error {
    move |source| Error::Unreadable { file: FILE, table: "blocks", key: key.to_owned(), source }
}
