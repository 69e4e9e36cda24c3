//! What clients asked, when, and what they were told.

use std::time::Instant;

use serde::Serialize;

/// What is done to an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) enum Action {
    /// Makes one that must not exist.
    Create(String),
    /// Changes one that must exist, at that version if one is named.
    Replace(Option<u64>, String),
    /// Gives it a value, whatever it has.
    Set(String),
    Delete,
    Get,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) enum Outcome {
    Done,
    /// Refused for what the object is like now.
    Conflict,
    /// There is no such object.
    Missing,
    /// This is there; the version where there is one.
    Saw(Option<u64>, String),
    /// It did not happen.
    Refused,
    /// It may have happened, or happen yet.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Event {
    pub(super) client: u32,
    /// The node that was asked last.
    pub(super) node: usize,
    pub(super) object: String,
    pub(super) action: Action,
    pub(super) outcome: Outcome,
    /// Microseconds since the run began.
    pub(super) call: u64,
    pub(super) end: u64,
    /// What the answer was made from.
    pub(super) index: u64,
    /// How often it was asked, with one key.
    pub(super) attempts: u32,
    /// The status of each attempt, 0 without an answer.
    pub(super) statuses: Vec<u16>,
}

impl Event {
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.outcome, Outcome::Refused | Outcome::Unknown)
    }
}

/// Microseconds since then.
pub(super) fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}
