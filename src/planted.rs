//! Bugs that can be put into the program to see whether the tests of whole clusters notice them.
//!
//! `NARVANA_PLANT=ack-before-sync` makes a node of a debug build wrong in that way; a release build has nothing of it. What a
//! bug does stands where it is planted, one line each. Tests inside of this crate plant one for their thread.

#[cfg(test)]
use std::cell::Cell;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use crate::config;

/// One way of being wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Entries are acknowledged some time before they are written.
    AckBeforeSync,
    /// A linearizable read is answered from what this node happens to have.
    LocalRead,
    /// How far the state is applied reaches the disk in a transaction before that of the rows.
    SplitCheckpoint,
    /// A repeated request is carried out again.
    ForgetRequests,
    /// A node that does not answer counts at once as one that has stopped what must not run twice.
    NoFence,
    /// A new node gets the id of one that was removed.
    ReuseNodeId,
    /// A log that lost its end, or has entries that cannot be read, is cut there and used.
    CutDamagedLog,
    /// A join token lets one more node in after its last use.
    UsedToken,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AckBeforeSync,
        Self::LocalRead,
        Self::SplitCheckpoint,
        Self::ForgetRequests,
        Self::NoFence,
        Self::ReuseNodeId,
        Self::CutDamagedLog,
        Self::UsedToken,
    ];

    /// What it is called in `NARVANA_PLANT`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::LocalRead => "local-read",
            Self::SplitCheckpoint => "split-checkpoint",
            Self::ForgetRequests => "forget-requests",
            Self::NoFence => "no-fence",
            Self::ReuseNodeId => "reuse-node-id",
            Self::CutDamagedLog => "cut-damaged-log",
            Self::UsedToken => "used-token",
        }
    }
}

/// Whether this one is planted.
pub fn is(bug: Bug) -> bool {
    cfg!(debug_assertions) && planted() == Some(bug)
}

/// The one that is planted.
pub fn planted() -> Option<Bug> {
    static FOR_ALL: OnceLock<Option<Bug>> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return None;
    }
    #[cfg(test)]
    if let Some(bug) = FOR_THREAD.get() {
        return Some(bug);
    }
    *FOR_ALL.get_or_init(|| {
        let name = config::test_setting("NARVANA_PLANT")?;
        let bug = Bug::ALL.into_iter().find(|bug| bug.name() == name);
        assert!(bug.is_some(), "NARVANA_PLANT: there is no bug {name}");
        bug
    })
}

/// Widens the moment in which a planted bug does harm. Simulated time does not pass meanwhile: there the disk dies in between.
pub fn pause(time: Duration) {
    #[cfg(test)]
    if crate::host::current().is_some() {
        return;
    }
    thread::sleep(time);
}

#[cfg(test)]
thread_local! {
    static FOR_THREAD: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug for what this thread does, or takes it out again.
#[cfg(test)]
pub fn plant(bug: Option<Bug>) {
    FOR_THREAD.set(bug);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own_and_is_planted_for_one_thread() {
        let names: BTreeSet<_> = Bug::ALL.into_iter().map(Bug::name).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        assert!(!is(Bug::NoFence));
        plant(Some(Bug::NoFence));
        assert!(is(Bug::NoFence) && !is(Bug::UsedToken));
        assert!(!std::thread::spawn(|| is(Bug::NoFence)).join().expect("ends"), "another thread has none");
        plant(None);
        assert!(!is(Bug::NoFence));
    }
}
