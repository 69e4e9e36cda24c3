//! Places at which a test can end the process: before and after every step that must be safe to die at.
//!
//! `NARVANA_FAILPOINT=log.committed:3` kills the process, as `kill -9` would, when it comes by for the third time.
//! Only debug builds look; in a release build nothing is left of it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::config;

/// Every place, in the order of a write's way.
pub const FAILPOINTS: [&str; 19] = [
    "log.begun",
    "log.committed",
    "log.noted",
    "log.answered",
    "log.purging",
    "log.purged",
    "state.applied",
    "state.published",
    "checkpoint.begun",
    "checkpoint.synced",
    "snapshot.created",
    "snapshot.written",
    "snapshot.synced",
    "snapshot.renamed",
    "snapshot.kept",
    "close.state",
    "close.log",
    "close.marked",
    "open.checked",
];

/// Every place in the installation of a snapshot that another node sent, in order.
pub const INSTALL_FAILPOINTS: [&str; 3] = ["install.begun", "install.written", "install.kept"];

/// Every place in the renewal of a store, in order.
pub const RENEWAL_FAILPOINTS: [&str; 3] = ["renewal.written", "renewal.decided", "renewal.moved"];

struct Armed {
    place: String,
    passes_left: AtomicU32,
}

fn is_known(place: &str) -> bool {
    [&FAILPOINTS[..], &INSTALL_FAILPOINTS, &RENEWAL_FAILPOINTS].concat().contains(&place)
}

/// Ends the process here, if it was asked to.
pub(super) fn pass(place: &'static str) {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return;
    }
    debug_assert!(is_known(place), "{place} is in a list");
    let armed = ARMED.get_or_init(|| {
        let text = config::test_setting("NARVANA_FAILPOINT")?;
        let (place, passes) = text.split_once(':')?;
        Some(Armed { place: place.to_owned(), passes_left: AtomicU32::new(passes.parse().ok()?) })
    });
    if let Some(armed) = armed
        && armed.place == place
        && armed.passes_left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        let _dead = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
