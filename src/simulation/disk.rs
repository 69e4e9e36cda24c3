//! A machine's disk: what was synced stays, and what was not meets a fate that the seed chooses, when the machine dies.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::store::crash_disk::{Contents, Dice, Event, FILES, Fate, Platter};
use crate::store::disk::Disk;

/// How often a byte that was written is looked for.
const AIMS: usize = 32;
/// How large it is, in bytes: of a file system of this size `space` keeps 8 MiB from changes, and 2 MiB from records.
const SIZE: u64 = 160 << 20;

/// The files of a store that are databases. Clones share them. Other files are in the file system.
#[derive(Clone)]
pub(super) struct SimDisk(Arc<Mutex<Inner>>);

struct Inner {
    now: Contents,
    platter: Platter,
    /// Counts the deaths of the machine: files that were open before are of no use.
    life: u64,
    /// After so many writes and syncs the machine loses power.
    left: Option<usize>,
    /// Only those of this file count, if one is named.
    aim: Option<usize>,
    /// How many bytes of it others have taken.
    taken: u64,
    /// Whether a file was to grow and there was no space.
    was_full: bool,
}

impl Inner {
    fn free(&self) -> u64 {
        let own: usize = self.now.iter().map(Vec::len).sum();
        SIZE.saturating_sub(self.taken + own as u64)
    }
}

impl SimDisk {
    /// An empty one.
    pub(super) fn new() -> Self {
        let (now, platter) = (Contents::default(), Platter::new(Contents::default()));
        let inner = Inner { now, platter, life: 0, left: None, aim: None, taken: 0, was_full: false };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// The machine dies: this is what is left.
    pub(super) fn cut(&self, fate: Fate, dice: &mut Dice) {
        let mut inner = self.inner();
        (inner.left, inner.was_full) = (None, false);
        inner.now = inner.platter.crashed(fate, dice);
        inner.platter = Platter::new(inner.now.clone());
        inner.life += 1;
    }

    /// The power goes after so many writes and syncs, of one file or of both: in the middle of what the machine does then. Nothing is
    /// written any more, and [`Self::cut`] says what is left.
    pub(super) fn fail_after(&self, steps: usize, aim: Option<usize>) {
        let mut inner = self.inner();
        (inner.left, inner.aim) = (Some(steps), aim);
    }

    /// Whether that has happened.
    pub(super) fn has_failed(&self) -> bool {
        self.inner().left == Some(0)
    }

    /// Others fill it until only this is free.
    pub(super) fn leave_free(&self, bytes: u64) {
        let mut inner = self.inner();
        inner.taken += inner.free().saturating_sub(bytes);
    }

    /// Others give back what they took.
    pub(super) fn empty(&self) {
        self.inner().taken = 0;
    }

    /// How many bytes are free, and how many it has.
    pub(super) fn space(&self) -> (u64, u64) {
        (self.inner().free(), SIZE)
    }

    /// Whether there was no space for the store when it needed some, since the node was started.
    pub(super) fn was_full(&self) -> bool {
        self.inner().was_full
    }

    /// A node is started.
    pub(super) fn forget_was_full(&self) {
        self.inner().was_full = false;
    }

    /// Changes one bit, as a bad disk does: one that was written, if that is found soon, since most of a file is empty and nobody
    /// reads it.
    pub(super) fn flip(&self, file: usize, dice: &mut Dice) {
        let mut inner = self.inner();
        let bytes = &mut inner.now[file];
        let written =
            (0..AIMS).map(|_| dice.roll(bytes.len().max(1))).find(|at| bytes.get(*at).is_some_and(|byte| *byte != 0));
        if let Some(at) = written {
            bytes[at] ^= 1 << dice.roll(8);
        }
        inner.platter = Platter::new(inner.now.clone());
    }

    /// What is on it, to be put back.
    pub(super) fn contents(&self) -> Contents {
        self.inner().now.clone()
    }

    /// Puts that back.
    pub(super) fn restore(&self, contents: Contents) {
        let mut inner = self.inner();
        inner.platter = Platter::new(contents.clone());
        inner.now = contents;
    }

    /// Whether the bytes are anywhere on it.
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        self.inner().now.iter().any(|file| memchr::memmem::find(file, bytes).is_some())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn open(&self, builder: &redb::Builder, path: &Path) -> Result<redb::Database, redb::DatabaseError> {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a file of the store");
        let file = FILES.iter().position(|known| *known == name).expect("a file of the store");
        // The store looks whether its files are there.
        fs::File::create(path)?;
        let life = self.inner().life;
        builder.create_with_backend(Backend { disk: self.clone(), file, life })
    }
}

struct Backend {
    disk: SimDisk,
    file: usize,
    life: u64,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FILES[self.file])
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("files of simulations are small")
}

impl Backend {
    fn inner(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.inner();
        let lives = inner.life == self.life && inner.left != Some(0);
        if lives { Ok(inner) } else { Err(io::Error::other("the machine is dead")) }
    }

    /// The same for what changes something, and may be the last thing that does.
    fn changing(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.inner()?;
        let counts = inner.aim.is_none_or(|file| file == self.file);
        if let Some(left) = inner.left.as_mut().filter(|_| counts) {
            *left -= 1;
            if *left == 0 {
                return Err(io::Error::other("the machine loses power"));
            }
        }
        Ok(inner)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner()?.now[self.file].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = position(offset);
        let inner = self.inner()?;
        let bytes = inner.now[self.file].get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (file, bytes) = (self.file, position(len));
        let mut inner = self.changing()?;
        if bytes.saturating_sub(inner.now[file].len()) as u64 > inner.free() {
            inner.was_full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.now[file].resize(bytes, 0);
        inner.platter.take(Event::Length::<()> { file, bytes });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.changing()?.platter.take(Event::Sync::<()> { file: self.file, others: Arc::default() });
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (file, at) = (self.file, position(offset));
        let mut inner = self.changing()?;
        let target = inner.now[file].get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        target.copy_from_slice(data);
        inner.platter.take(Event::Write::<()> { file, at, data: data.to_vec() });
        Ok(())
    }
}
