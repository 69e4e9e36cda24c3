//! Who may do what: passwords, session tokens, roles, and access to objects that is scoped to their organisation.
//!
//! In comes a token and the replicated state; out goes a [`Caller`], the only way from a request to a noun of the model:
//! every loader takes the caller and the [`Role`](crate::model::Role) that the action needs, and takes the organisation from the object it
//! loaded. What belongs to somebody else is answered like what does not exist. Also here: hashing passwords at a bounded
//! pace, and slowing down whoever guesses them.
//!
//! Absent on purpose: HTTP (`api`), and changing anything: sessions are opened and closed by commands.

mod caller;
mod error;
mod explain;
mod list;
mod password;
mod rate;
mod scope;
mod token;
mod what_if;

pub use caller::Caller;
pub use error::Error;
pub use list::Load;
pub use password::{Busy, Passwords};
pub use rate::{Pace, RateLimiter, Slow};
pub use scope::{Owned, Scoped};
pub use token::{Claims, Tokens};
pub use what_if::{Departure, Departures, Loss, Moving, Newcomer, Relocated};
