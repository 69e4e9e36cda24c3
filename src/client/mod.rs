//! The typed HTTP client of the API, used by the command line.
//!
//! Runs nothing by itself. In: addresses of nodes, a token, calls. Out: answers, each as the JSON that the server sent and
//! as a [`view`] with the fields the command line shows; streams of server-sent events. A client knows several nodes
//! and goes on with the next one when one cannot be reached or has no quorum; also when a change may have been made, under the
//! same idempotency key, with which it is made once. Caching is absent on purpose.

mod answer;
mod api;
mod connection;
mod download;
mod error;
mod events;
mod exec;
pub mod view;

pub use answer::Answer;
pub use api::{Client, LogFilter, LogSource};
pub use connection::{Options, Progress};
pub use error::{Error, Refusal};
pub use events::{Event, Events};
pub use exec::{Command, Input as ExecInput, Output as ExecOutput, Outputs as ExecOutputs};
