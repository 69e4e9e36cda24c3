//! One redb file: opened, checked, marked as ours, and every access guarded.
//!
//! redb panics on some kinds of damage. The guard turns a panic into [`Error::Damaged`]; the caller then stops the
//! node. All values are sealed here, so that no table is ever written or read in the clear.

use std::cell::Cell;
use std::io::ErrorKind;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Once, PoisonError, RwLock};

use redb::{Durability, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};

use super::Error;
use super::disk::Disk;
use super::envelope::{self, Stored};
use super::seal::Sealer;
use super::stored::IdentityV1;

/// Rows by bytes.
pub(super) type ByteTable = TableDefinition<'static, &'static [u8], &'static [u8]>;

const META: ByteTable = TableDefinition::new("meta");
const FORMAT_KEY: &[u8] = b"format";
const IDENTITY_KEY: &[u8] = b"identity";

/// The layout of tables in the files.
const FILE_FORMAT: u16 = 1;

/// redb's default is 1 GiB for each file. What is hot here is small, and the state lives in memory anyway.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// An open file.
pub(super) struct Database {
    file: &'static str,
    sealer: Arc<Sealer>,
    /// `None` once closed.
    redb: RwLock<Option<redb::Database>>,
    #[cfg(test)]
    broken: std::sync::atomic::AtomicBool,
}

/// Why work on a file failed, before it is known which file.
pub(super) enum Failure {
    Redb(redb::Error),
    Store(Error),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl Database {
    /// Opens the file, or makes it when it is not there. The checksums of all its pages are verified first, also after
    /// a clean stop: a disk can lose bits while nobody writes to it, and redb does not look when it reads.
    pub(super) fn open(
        disk: &dyn Disk,
        folder: &Path,
        file: &'static str,
        identity: IdentityV1,
        sealer: Arc<Sealer>,
    ) -> Result<Self, Error> {
        let path = folder.join(file);
        let redb = guarded(file, "all", || {
            let mut builder = redb::Builder::new();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            match disk.open(&builder, &path) {
                Ok(redb) => Ok(redb),
                Err(redb::DatabaseError::DatabaseAlreadyOpen | redb::DatabaseError::LockProtocolMismatch) => {
                    Err(Failure::Store(Error::InUse { path: path.clone() }))
                }
                Err(error) => Err(error.into()),
            }
        })?;
        let database = Self {
            file,
            sealer,
            redb: RwLock::new(Some(redb)),
            #[cfg(test)]
            broken: std::sync::atomic::AtomicBool::new(false),
        };
        database.claim(identity)?;
        Ok(database)
    }

    /// Whose a file is, as it says itself: it is neither checked nor is anything in it opened.
    pub(super) fn owner(folder: &Path, file: &'static str) -> Result<IdentityV1, Error> {
        guarded(file, "meta", || {
            let redb = redb::Builder::new().set_cache_size(CACHE_BYTES).open(folder.join(file))?;
            let table = redb.begin_read()?.open_table(META)?;
            let stored = table.get(IDENTITY_KEY)?.map(|value| value.value().to_vec()).unwrap_or_default();
            envelope::decode(&stored)
                .map_err(|source| Error::unreadable(file, "meta", "identity".to_owned(), source).into())
        })
    }

    /// Closes the file; whoever still holds it gets [`Error::Closed`].
    pub(super) fn close(&self) -> Result<(), Error> {
        let taken = self.redb.write().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            None => Ok(()),
            Some(redb) => guarded(self.file, "all", move || Ok(redb.close()?)),
        }
    }

    /// Reads, on one consistent view. `table` names what is at stake in messages.
    pub(super) fn read<T>(
        &self,
        table: &'static str,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let redb = self.redb.read().unwrap_or_else(PoisonError::into_inner);
        let redb = redb.as_ref().ok_or(Error::Closed)?;
        guarded(self.file, table, || work(&redb.begin_read()?))
    }

    /// Writes, all or nothing, and commits.
    pub(super) fn write<T>(
        &self,
        table: &'static str,
        commit: Commit,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let redb = self.redb.read().unwrap_or_else(PoisonError::into_inner);
        let redb = redb.as_ref().ok_or(Error::Closed)?;
        guarded(self.file, table, || {
            let mut transaction = redb.begin_write()?;
            match commit {
                Commit::Synced => transaction.set_durability(Durability::Immediate)?,
                #[cfg(test)]
                Commit::Unsynced => transaction.set_durability(Durability::None)?,
                Commit::Checkpoint => {
                    transaction.set_durability(Durability::Immediate)?;
                    transaction.set_quick_repair(true);
                }
            }
            let done = work(&transaction)?;
            #[cfg(test)]
            if self.broken.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(redb::Error::PreviousIo.into());
            }
            transaction.commit()?;
            Ok(done)
        })
    }

    /// Every later commit fails as on a failing disk.
    #[cfg(test)]
    pub(super) fn break_now(&self) {
        self.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// A value of the meta table.
    pub(super) fn meta<T: Stored>(&self, key: &'static str) -> Result<Option<T>, Error> {
        self.read("meta", |transaction| {
            let table = transaction.open_table(META)?;
            let Some(sealed) = table.get(key.as_bytes())? else { return Ok(None) };
            Ok(Some(self.unseal("meta", key.as_bytes(), || key.to_owned(), sealed.value())?))
        })
    }

    /// Writes a value of the meta table, or removes it.
    pub(super) fn put_meta<T: Stored>(
        &self,
        transaction: &WriteTransaction,
        key: &'static str,
        value: Option<&T>,
    ) -> Result<(), Failure> {
        let mut table = transaction.open_table(META)?;
        match value {
            None => drop(table.remove(key.as_bytes())?),
            Some(value) => {
                let sealed = self.seal("meta", key.as_bytes(), value)?;
                table.insert(key.as_bytes(), sealed.as_slice())?;
            }
        }
        Ok(())
    }

    /// A value as it is stored under this table and key.
    pub(super) fn seal<T: Stored>(&self, table: &'static str, key: &[u8], value: &T) -> Result<Vec<u8>, Error> {
        let plain = envelope::encode(value).map_err(|source| Error::Encoding { what: table, source })?;
        Ok(self.seal_bytes(table, key, &plain))
    }

    /// An already encoded value as it is stored under this table and key.
    pub(super) fn seal_bytes(&self, table: &'static str, key: &[u8], plain: &[u8]) -> Vec<u8> {
        self.sealer.seal(&self.place(table), key, plain)
    }

    /// What was stored under this table and key. `name` says in an error which kind of key it is.
    pub(super) fn unseal<T: Stored>(
        &self,
        table: &'static str,
        key: &[u8],
        name: impl Fn() -> String,
        sealed: &[u8],
    ) -> Result<T, Error> {
        let plain = self.sealer.open(&self.place(table), key, sealed).map_err(|_| Error::Damaged {
            file: self.file,
            table,
            key: name(),
            what: "the value was not written in this place by this node".to_owned(),
        })?;
        envelope::decode(&plain).map_err(|source| Error::unreadable(self.file, table, name(), source))
    }

    /// An error about a value of this file.
    pub(super) fn damaged(&self, table: &'static str, key: String, what: impl Into<String>) -> Error {
        Error::Damaged { file: self.file, table, key, what: what.into() }
    }

    fn place(&self, table: &str) -> String {
        format!("{}/{table}", self.file)
    }

    /// Marks a new file as this node's; refuses a file of another node or of a newer program.
    fn claim(&self, identity: IdentityV1) -> Result<(), Error> {
        let is_new = self.read("meta", |transaction| Ok(transaction.list_tables()?.next().is_none()))?;
        if is_new {
            return self.write("meta", Commit::Synced, |transaction| {
                let plain =
                    envelope::encode(&identity).map_err(|source| Error::Encoding { what: "identity", source })?;
                let mut table = transaction.open_table(META)?;
                table.insert(FORMAT_KEY, FILE_FORMAT.to_be_bytes().as_slice())?;
                table.insert(IDENTITY_KEY, plain.as_slice())?;
                drop(table);
                self.put_meta(transaction, "identity-seal", Some(&identity))
            });
        }
        let (format, stored) = self.read("meta", |transaction| {
            let table = transaction.open_table(META)?;
            let bytes = |key: &[u8]| Ok::<_, Failure>(table.get(key)?.map(|value| value.value().to_vec()));
            Ok((bytes(FORMAT_KEY)?, bytes(IDENTITY_KEY)?))
        })?;
        let missing = |key: &str| self.damaged("meta", key.to_owned(), "it is missing or malformed");
        let format = format.and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?)));
        match format {
            Some(FILE_FORMAT) => {}
            Some(found) if found > FILE_FORMAT => {
                return Err(Error::Newer { file: self.file, found, supported: FILE_FORMAT });
            }
            _ => return Err(missing("format")),
        }
        // In the clear, so that a folder of another node is told from a damaged one.
        let found: IdentityV1 = envelope::decode(&stored.ok_or_else(|| missing("identity"))?)
            .map_err(|source| Error::Unreadable { file: self.file, table: "meta", key: "identity".into(), source })?;
        if found != identity {
            return Err(Error::Foreign {
                file: self.file,
                found_cluster: found.cluster,
                found_node: found.node,
                cluster: identity.cluster,
                node: identity.node,
            });
        }
        // The first value that is unsealed: with another key nothing else opens either.
        match self.meta::<IdentityV1>("identity-seal") {
            Ok(Some(sealed)) if sealed == identity => Ok(()),
            Ok(_) => Err(missing("identity-seal")),
            Err(Error::Damaged { .. }) => {
                let what = "node.key does not open it: one of the two was changed, or is of another node";
                Err(self.damaged("meta", "identity-seal".to_owned(), what))
            }
            Err(error) => Err(error),
        }
    }
}

/// How a transaction reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commit {
    /// When the commit returns.
    Synced,
    /// Some time later: a bug that can be planted.
    #[cfg(test)]
    Unsynced,
    /// When the commit returns, and so that opening after a crash need not walk the file. Two syncs.
    Checkpoint,
}

impl Drop for Database {
    /// redb writes when it is dropped, and can panic on a damaged file then too.
    fn drop(&mut self) {
        let taken = self.redb.write().unwrap_or_else(PoisonError::into_inner).take();
        let _closed_as_far_as_possible = quietly(move || drop(taken));
    }
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs work that may panic on damage. The panic is not printed: the error that it becomes says more.
fn quietly<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_GUARDED.get() {
                print(info);
            }
        }));
    });
    let was_guarded = IS_GUARDED.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(was_guarded);
    done
}

/// Runs work on a file; a panic inside redb becomes an error.
fn guarded<T>(file: &'static str, table: &'static str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Error> {
    let damaged = |what: String| Error::Damaged { file, table, key: "any key".to_owned(), what };
    match quietly(work) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Failure::Store(error))) => Err(error),
        Ok(Err(Failure::Redb(error))) => Err(match error {
            // The file is not as long as its head says, or the head is not one.
            redb::Error::Io(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
                damaged(error.to_string())
            }
            redb::Error::Io(_) | redb::Error::PreviousIo => Error::Disk { file, reason: error.to_string() },
            redb::Error::DatabaseClosed => Error::Closed,
            _ => damaged(error.to_string()),
        }),
        Err(panic) => {
            let words = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "no reason given".to_owned());
            Err(damaged(format!("the database gave up: {words}")))
        }
    }
}
