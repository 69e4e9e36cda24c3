//! Beginnings of a cluster after its first one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::word::word_enum;
use super::{NodeId, Timestamp};

/// Each epoch has so many entries of the log to itself: its first index is a multiple of this. Nobody writes as many (a
/// thousand each second make thirty years), so that nodes let in by one epoch never have the ids of another, also when the
/// one before goes on somewhere. In decimal, so that people see both parts of an id.
const ENTRIES: u64 = 1_000_000_000_000;
/// What is restored from a backup begins with the next epoch that is a multiple of this: later than any that the cluster began
/// by recoveries after the backup, so that whoever is there of those ends too. One that was restored from the same backup, or an
/// older one, is of the same epoch: nobody can tell those apart.
const RESTORED_EACH: u64 = 100;

word_enum! {
    /// What an epoch was begun from.
    Origin {
        /// One member's own store, when the majority was lost.
        Recovered = "recovered",
        /// A backup.
        Restored = "restored",
    }
}

/// The cluster began anew with one node. Whoever was a member before is left behind: it may have gone on and know things
/// that this epoch does not, and is heard by nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counts from one; a cluster that never began anew has no such record.
    pub number: u64,
    /// From what.
    pub origin: Origin,
    /// When.
    pub begun_at: Timestamp,
    /// The members of the epoch before, with host and port between nodes: they are told.
    pub left_behind: BTreeMap<NodeId, String>,
}

impl Epoch {
    /// The number of the epoch that begins after the one of this number, or after none (0).
    pub fn after(number: u64, origin: Origin) -> u64 {
        match origin {
            Origin::Recovered => number + 1,
            Origin::Restored => (number / RESTORED_EACH + 1) * RESTORED_EACH,
        }
    }

    /// The index of the log at which the epoch of this number begins. Nodes that it let in have ids from there on.
    pub fn first_index(number: u64) -> u64 {
        number.saturating_mul(ENTRIES)
    }

    /// The number of the epoch that has this index of the log.
    pub fn of_index(index: u64) -> u64 {
        index / ENTRIES
    }
}
