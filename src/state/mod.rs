//! The replicated state: what the cluster should be, and what was observed of it.
//!
//! In comes a [`LogEntry`]; [`apply`] answers with the next [`State`], the rows that changed and the answer for whoever
//! proposed it. It is pure and total: the same entries give the same state on every node, a refusal is a deterministic
//! [`Rejection`], never an error. Reactions to a change (starting a container, waking a follower of a log) are absent
//! here on purpose: they follow the published state.

mod apply;
mod command;
mod invariants;
mod record;
mod rejection;
mod removal;
mod samples;
mod table;
#[cfg(test)]
mod tests;
mod version;

pub use apply::{Applied, BUILD_ATTEMPTS_MAX, Beginning, Begun, apply, begin_epoch};
pub use command::{
    Actor, BuildResult, Command, EnvExpectation, LogEntry, NewApp, NewDeployment, NewInstance, NewService, NewUser,
    NodeFacts, Outcome, Request,
};
pub use invariants::violations;
pub use record::{Change, ChangeSet, Key, Record, RequestRecord};
pub use rejection::Rejection;
pub use samples::{sample_entries, sample_records};
pub use table::{Replacement, State};
pub use version::{HeldBack, Upgrade};
