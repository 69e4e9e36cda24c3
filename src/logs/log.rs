//! One log, as its writer and its followers share it.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::segment::View;
use super::{Error, LogKey};
use crate::space::Space;

/// A log that was opened in this process.
pub(super) struct Log {
    pub(super) key: LogKey,
    pub(super) dir: PathBuf,
    /// Of the disk it is on.
    pub(super) space: Space,
    /// What may be read. Only the writer changes it, and removing.
    pub(super) view: watch::Sender<View>,
    writing: AtomicBool,
}

impl Log {
    /// Reads the log's folder. Blocks.
    pub(super) fn load(key: LogKey, space: Space) -> Result<Self, Error> {
        let dir = space.folder().to_owned();
        let view = View::load(key, &dir)?;
        Ok(Self { key, dir, space, view: watch::Sender::new(view), writing: AtomicBool::new(false) })
    }

    /// Takes the right to write or remove, which one may hold at a time.
    pub(super) fn claim(self: &Arc<Self>) -> Result<Claim, Error> {
        match self.writing.swap(true, Ordering::AcqRel) {
            false => Ok(Claim(self.clone())),
            true => Err(Error::BeingWritten(self.key)),
        }
    }
}

/// The right to write one log, given back when dropped. It travels with whatever writes, so that a task that is aborted
/// does not give it back while its blocking work still runs.
pub(super) struct Claim(Arc<Log>);

impl Claim {
    /// Keeps the right for ever: the log is gone, and whoever still knows it must not bring it back.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Deref for Claim {
    type Target = Log;

    fn deref(&self) -> &Log {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.writing.store(false, Ordering::Release);
    }
}

/// For removing what may not be there.
pub(super) fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
