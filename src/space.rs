//! How much space is free on a file system, and who may still use it: so that what grows without bound (logs, sources,
//! builds) stops first, then what people change, then what the node itself must put on record. The database itself
//! never meets a full disk, unless somebody else fills it.
//!
//! | use | stops below |
//! |---|---|
//! | [`Use::Bulk`] | the next level and the floor once more |
//! | [`Use::Changes`] | the floor, or what the next two levels need together when that is more |
//! | [`Use::Snapshot`] | 1/4 of the floor, and a copy of the state |
//! | [`Use::Records`] | 1/4 of the floor |
//!
//! The floor is 1/20 of the file system, at least 8 MiB, at most 64 MiB. The state has a copy in its file, one in the
//! newest snapshot, and one more while the next snapshot is made; so a large state makes the levels rise, and a snapshot
//! that does not fit is put off: meanwhile the log is longer, and nothing else is different.
//!
//! A reserve file of half the floor is given up when space runs out all the same, so that a node can still start, record
//! and delete. Nothing is counted ahead: each look asks the system, which takes about a microsecond.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

const FLOOR_SHARE: u64 = 20;
const FLOOR_MIN: u64 = 8 << 20;
const FLOOR_MAX: u64 = 64 << 20;
/// File in the data folder whose only purpose is its size.
const RESERVE: &str = "reserve";

/// The file system of a folder. Cheap to clone; clones know the same state.
#[derive(Clone, Debug)]
pub struct Space {
    folder: PathBuf,
    /// Encoded bytes of the state that is kept there.
    state: Arc<AtomicU64>,
}

/// What space is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Logs, uploaded sources, builds.
    Bulk,
    /// Changes that somebody asked for.
    Changes,
    /// One more copy of the state.
    Snapshot,
    /// What frees space, and what the node observed and decided.
    Records,
}

/// Too little space is free. Nothing was written; it goes on by itself when there is more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of {} is full: {} MiB are free and {} MiB must be for this. Free some space there; \
     reading goes on meanwhile, and changes are taken again as soon as there is space",
    folder.display(), free >> 20, needed.div_ceil(1 << 20)
)]
pub struct Full {
    /// Where.
    pub folder: PathBuf,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that must be.
    pub needed: u64,
}

impl Space {
    /// The file system that holds this folder.
    pub fn of(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), state: Arc::default() }
    }

    /// A folder on the same file system.
    pub fn at(&self, folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), state: Arc::clone(&self.state) }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says how large the state is by now, encoded.
    pub fn holds_state(&self, bytes: u64) {
        self.state.store(bytes, Ordering::Relaxed);
    }

    /// Refuses when too little is free. A file system that does not answer is not taken for a full one.
    pub fn check(&self, what: Use) -> Result<(), Full> {
        let Ok((free, total)) = free_and_total(&self.folder) else { return Ok(()) };
        let needed = needed(what, floor(total), self.state.load(Ordering::Relaxed));
        if free < needed { Err(Full { folder: self.folder.clone(), free, needed }) } else { Ok(()) }
    }

    /// Gives the reserve up when records have no space any more; makes it again when there is plenty.
    pub fn tend_reserve(&self) -> io::Result<()> {
        let path = self.folder.join(RESERVE);
        let exists = path.exists();
        if exists && self.check(Use::Records).is_err() {
            tracing::warn!(path = %path.display(), "the disk is full; the reserve is given up for what must be written");
            return fs::remove_file(&path);
        }
        let (free, total) = free_and_total(&self.folder)?;
        let floor = floor(total);
        if !exists && free > 3 * floor {
            return make_reserve(&path, floor / 2);
        }
        Ok(())
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Space {
    fn from(folder: &P) -> Self {
        Self::of(folder.as_ref())
    }
}

impl From<PathBuf> for Space {
    fn from(folder: PathBuf) -> Self {
        Self::of(folder)
    }
}

/// Bytes that are free on the file system, and that it has.
fn free_and_total(folder: &Path) -> io::Result<(u64, u64)> {
    #[cfg(test)]
    if let Some(space) = crate::host::space() {
        return Ok(space);
    }
    let system = statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
    Ok((bytes(system.f_bavail), bytes(system.f_blocks)))
}

fn floor(total: u64) -> u64 {
    (total / FLOOR_SHARE).clamp(FLOOR_MIN, FLOOR_MAX)
}

fn needed(what: Use, floor: u64, state: u64) -> u64 {
    match what {
        Use::Bulk => needed(Use::Changes, floor, state) + floor,
        // Records that come after the last change may take their quarter before the snapshot is made.
        Use::Changes => floor.max(needed(Use::Records, floor, state) + needed(Use::Snapshot, floor, state)),
        Use::Snapshot => floor / 4 + state.saturating_add(state / 4),
        Use::Records => floor / 4,
    }
}

/// Takes the space, not only the length.
fn make_reserve(path: &Path, bytes: u64) -> io::Result<()> {
    let taken = File::create(path).and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?));
    taken.inspect_err(|_| {
        // Half a reserve would be taken for a whole one.
        let _best_effort = fs::remove_file(path);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_follows_the_size_of_the_disk_and_the_uses_stop_one_after_the_other() {
        let mib = |mib: u64| mib << 20;
        for (total, state, [bulk, changes, snapshot, records]) in [
            (mib(64), 0, [mib(16), mib(8), mib(2), mib(2)]),
            (mib(640), 0, [mib(64), mib(32), mib(8), mib(8)]),
            (mib(1 << 20), 0, [mib(128), mib(64), mib(16), mib(16)]),
            (mib(1 << 20), mib(8), [mib(128), mib(64), mib(26), mib(16)]),
            (mib(1 << 20), mib(128), [mib(256), mib(192), mib(176), mib(16)]),
            (mib(64), mib(16), [mib(32), mib(24), mib(22), mib(2)]),
        ] {
            let of = |what| needed(what, floor(total), state);
            let levels = [Use::Bulk, Use::Changes, Use::Snapshot, Use::Records].map(of);
            assert_eq!(levels, [bulk, changes, snapshot, records], "{total}, {state}");
        }
    }

    #[test]
    fn what_is_on_the_disk_of_a_large_state_stops_earlier_and_records_do_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = Space::of(folder.path());
        let logs = space.at(folder.path().join("."));
        logs.check(Use::Bulk).expect("tests have some space");
        space.holds_state(1 << 60);
        for what in [Use::Bulk, Use::Changes, Use::Snapshot] {
            assert!(logs.check(what).is_err(), "{what:?}");
        }
        logs.check(Use::Records).expect("what frees space is always possible");
        space.holds_state(0);
        logs.check(Use::Bulk).expect("it goes on");
    }

    #[test]
    fn a_refusal_says_what_is_full_and_how_much_is_needed() {
        let full = Full { folder: "/var/lib/narvana".into(), free: 3 << 20, needed: 8 << 20 };
        let text = full.to_string();
        assert!(text.contains("/var/lib/narvana") && text.contains("3 MiB") && text.contains("8 MiB"), "{text}");
    }
}
