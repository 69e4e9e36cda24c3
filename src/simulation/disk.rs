//! A machine's disk: what was synced stays, and what was not meets a fate that the seed chooses, when the machine dies.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::store::crash_disk::{Contents, Dice, Event, FILES, Fate, Platter};
use crate::store::disk::Disk;

/// The files of a store that are databases. Clones share them. Other files are in the file system.
#[derive(Clone)]
pub(super) struct SimDisk(Arc<Mutex<Inner>>);

struct Inner {
    now: Contents,
    platter: Platter,
    /// Counts the deaths of the machine: files that were open before are of no use.
    life: u64,
}

impl SimDisk {
    /// An empty one.
    pub(super) fn new() -> Self {
        let inner = Inner { now: Contents::default(), platter: Platter::new(Contents::default()), life: 0 };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// The machine dies: this is what is left.
    pub(super) fn cut(&self, fate: Fate, dice: &mut Dice) {
        let mut inner = self.inner();
        inner.now = inner.platter.crashed(fate, dice);
        inner.platter = Platter::new(inner.now.clone());
        inner.life += 1;
    }

    /// Whether the bytes are anywhere on it.
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        self.inner().now.iter().any(|file| file.windows(bytes.len()).any(|window| window == bytes))
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
        if inner.life == self.life { Ok(inner) } else { Err(io::Error::other("the machine is dead")) }
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
        let mut inner = self.inner()?;
        inner.now[file].resize(bytes, 0);
        inner.platter.take(Event::Length::<()> { file, bytes });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner()?.platter.take(Event::Sync::<()> { file: self.file, others: Arc::default() });
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (file, at) = (self.file, position(offset));
        let mut inner = self.inner()?;
        let target = inner.now[file].get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        target.copy_from_slice(data);
        inner.platter.take(Event::Write::<()> { file, at, data: data.to_vec() });
        Ok(())
    }
}
