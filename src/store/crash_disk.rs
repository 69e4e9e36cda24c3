//! A disk for tests that remembers every write and sync, and can be crashed afterwards at any of them: what was not
//! synced is lost, kept, torn between sectors or reordered, and every file on its own.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::disk::Disk;
use super::{RAFT_FILE, STATE_FILE};

/// The redb files of a store.
pub(crate) const FILES: [&str; 2] = [RAFT_FILE, STATE_FILE];
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The contents of the two files.
pub(crate) type Contents = [Vec<u8>; 2];
/// The other files of the data folder, by their path in it.
pub(crate) type Others = Arc<BTreeMap<PathBuf, Arc<Vec<u8>>>>;

/// What happened to the files, in order.
pub(crate) enum Event<Mark> {
    Write {
        file: usize,
        at: usize,
        data: Vec<u8>,
    },
    Length {
        file: usize,
        bytes: usize,
    },
    /// With the other files of the folder as they were at that time.
    Sync {
        file: usize,
        others: Others,
    },
    /// Said by the test.
    Mark(Mark),
}

/// The disk. Clones share it.
pub(super) struct CrashDisk<Mark> {
    inner: Arc<Mutex<Inner<Mark>>>,
}

struct Inner<Mark> {
    folder: PathBuf,
    now: Contents,
    events: Vec<Event<Mark>>,
    others: Others,
    /// After so many syncs one fails.
    syncs_left: Option<usize>,
    /// The file whose sync failed.
    failed: Option<usize>,
    /// Of that file; the failed one counts.
    syncs_after_failure: usize,
}

impl<Mark> Clone for CrashDisk<Mark> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<Mark> CrashDisk<Mark> {
    /// A disk with these contents. `folder` is where the files are that are no redb files.
    pub(super) fn new(folder: &Path, now: Contents) -> Self {
        let others = Others::default();
        let inner = Inner {
            folder: folder.to_owned(),
            now,
            events: Vec::new(),
            others,
            syncs_left: None,
            failed: None,
            syncs_after_failure: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Puts a word of the test between the events.
    pub(super) fn mark(&self, mark: Mark) {
        self.inner().events.push(Event::Mark(mark));
    }

    /// What is in the files now, and everything that happened since the last call.
    pub(super) fn take(&self) -> (Contents, Vec<Event<Mark>>) {
        let mut inner = self.inner();
        (inner.now.clone(), std::mem::take(&mut inner.events))
    }

    /// The folder as it is now.
    pub(super) fn folder(&self) -> (Contents, Others) {
        let inner = self.inner();
        (inner.now.clone(), other_files(&inner.folder, &inner.others))
    }

    /// Lets this many syncs succeed; the next one fails, as on a disk that lost power.
    pub(super) fn fail_after(&self, syncs: usize) {
        self.inner().syncs_left = Some(syncs);
    }

    /// How often something was synced after a sync had failed.
    pub(super) fn retries(&self) -> usize {
        self.inner().syncs_after_failure.saturating_sub(1)
    }

    fn inner(&self) -> MutexGuard<'_, Inner<Mark>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Mark: Send + 'static> Disk for CrashDisk<Mark> {
    fn open(&self, builder: &redb::Builder, path: &Path) -> Result<redb::Database, redb::DatabaseError> {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a file of the store");
        let file = FILES.iter().position(|known| *known == name).expect("a file of the store");
        // The store looks whether its files are there.
        fs::File::create(path)?;
        builder.create_with_backend(Backend { disk: self.clone(), file })
    }
}

struct Backend<Mark> {
    disk: CrashDisk<Mark>,
    file: usize,
}

impl<Mark> fmt::Debug for Backend<Mark> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FILES[self.file])
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("files of tests are small")
}

impl<Mark: Send + 'static> StorageBackend for Backend<Mark> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner().now[self.file].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = position(offset);
        let inner = self.disk.inner();
        let bytes = inner.now[self.file].get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (file, bytes) = (self.file, position(len));
        let mut inner = self.disk.inner();
        inner.now[file].resize(bytes, 0);
        inner.events.push(Event::Length { file, bytes });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.inner();
        if inner.failed == Some(self.file) {
            inner.syncs_after_failure += 1;
        }
        match inner.syncs_left {
            Some(0) => {
                inner.syncs_left = None;
                inner.syncs_after_failure = 1;
                inner.failed = Some(self.file);
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            Some(left) => inner.syncs_left = Some(left - 1),
            None => {}
        }
        let others = other_files(&inner.folder, &inner.others);
        inner.others = Arc::clone(&others);
        inner.events.push(Event::Sync { file: self.file, others });
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (file, at) = (self.file, position(offset));
        let mut inner = self.disk.inner();
        let target = inner.now[file].get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        target.copy_from_slice(data);
        inner.events.push(Event::Write { file, at, data: data.to_vec() });
        Ok(())
    }
}

/// Everything in the folder but the redb files. What did not change is shared with the last look.
fn other_files(folder: &Path, last: &Others) -> Others {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // The test may have removed the folder while the store still closes.
        let Ok(items) = fs::read_dir(&next) else { continue };
        for item in items {
            let path = item.expect("item").path();
            let inner = path.strip_prefix(folder).expect("below it").to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !FILES.iter().any(|file| inner == Path::new(file)) {
                // A file may go while it is looked at.
                let Ok(bytes) = fs::read(&path) else { continue };
                let same = last.get(&inner).filter(|known| ***known == bytes);
                found.insert(inner, same.map_or_else(|| Arc::new(bytes), Arc::clone));
            }
        }
    }
    Arc::new(found)
}

/// Whether many cases are wanted.
pub(super) fn is_long() -> bool {
    std::env::var_os("NARVANA_LONG_TESTS").is_some()
}

/// Random numbers that a seed brings back (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("smaller than a usize")
    }
}

/// What a disk holds for certain, and what is under way to it.
pub(crate) struct Platter {
    durable: Contents,
    pending: [Vec<Pending>; 2],
}

enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// What becomes of writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// None is there.
    Lost,
    /// All are there: the process died, the machine did not.
    Kept,
    /// Each is there or not, whatever came before it.
    Reordered,
    /// Each is there, not there, or there in some of its sectors.
    Torn,
    /// All up to one, which is torn.
    CutOff,
}

impl Fate {
    pub(crate) const ALL: [Self; 5] = [Self::Lost, Self::Kept, Self::Reordered, Self::Torn, Self::CutOff];
}

impl Platter {
    pub(crate) fn new(durable: Contents) -> Self {
        Self { durable, pending: [Vec::new(), Vec::new()] }
    }

    /// Goes on by one event.
    pub(crate) fn take<Mark>(&mut self, event: Event<Mark>) {
        match event {
            Event::Write { file, at, data } => self.pending[file].push(Pending::Write(at, data)),
            Event::Length { file, bytes } => self.pending[file].push(Pending::Length(bytes)),
            Event::Sync { file, .. } => {
                let pending = std::mem::take(&mut self.pending[file]);
                reach(&mut self.durable[file], &pending, Fate::Kept, &mut Dice(0));
            }
            Event::Mark(_) => {}
        }
    }

    /// What a crash now leaves.
    pub(crate) fn crashed(&self, fate: Fate, dice: &mut Dice) -> Contents {
        let mut left = self.durable.clone();
        for (bytes, pending) in left.iter_mut().zip(&self.pending) {
            reach(bytes, pending, fate, dice);
        }
        left
    }
}

/// Has the changes meet their fate in a file.
fn reach(bytes: &mut Vec<u8>, pending: &[Pending], fate: Fate, dice: &mut Dice) {
    // Lengths are the file system's own, which keeps their order.
    let lengths = pending.iter().filter(|change| matches!(change, Pending::Length(_))).count();
    let mut lengths_left = match fate {
        Fate::Lost => 0,
        Fate::Kept => lengths,
        _ => dice.roll(lengths + 1),
    };
    let cut = dice.roll(pending.len() + 1);
    for (number, change) in pending.iter().enumerate() {
        match change {
            Pending::Length(_) if lengths_left == 0 => {}
            Pending::Length(length) => {
                lengths_left -= 1;
                bytes.resize(*length, 0);
            }
            Pending::Write(at, data) => match fate {
                Fate::Lost => {}
                Fate::Kept => put(bytes, *at, data),
                Fate::Reordered if dice.roll(2) == 0 => put(bytes, *at, data),
                Fate::Torn if dice.roll(3) > 0 => put_some(bytes, *at, data, dice),
                Fate::CutOff if number < cut => put(bytes, *at, data),
                Fate::CutOff if number == cut => put_some(bytes, *at, data, dice),
                Fate::Reordered | Fate::Torn | Fate::CutOff => {}
            },
        }
    }
}

/// Writes what fits: beyond the end of the file there is nothing to find later.
fn put(bytes: &mut [u8], at: usize, data: &[u8]) {
    let end = bytes.len().min(at + data.len());
    if at < end {
        bytes[at..end].copy_from_slice(&data[..end - at]);
    }
}

fn put_some(bytes: &mut [u8], at: usize, data: &[u8], dice: &mut Dice) {
    for (number, sector) in data.chunks(SECTOR_BYTES).enumerate() {
        if dice.roll(2) == 0 {
            put(bytes, at + number * SECTOR_BYTES, sector);
        }
    }
}
