//! Log files of builds and instances on this node: append, rotate, tail, follow; and the way to those of other nodes
//! ([`Library`]).
//!
//! In come [`LogLine`]s, made harmless when they are made (a log line is whatever a stranger's program printed). Each
//! log has one [`LogWriter`] and a task that writes in batches; each line gets a sequence number, dense per log and
//! continuing after a restart. Out come [`Entry`]s: the last ones ([`LogStore::tail`]), a range ([`LogStore::read`]), or
//! the backlog and all that follows ([`LogStore::follow`]). Followers read from the files, never from the writer, so a
//! slow one costs the writer nothing.
//!
//! Lines are not synced to disk one by one: a sync is a thousand times dearer than a line, and a log is an observation,
//! not a promise. A kill of the process loses only lines still queued; a power cut loses what the kernel had not written.
//! Either way the engine still has the lines of an instance, and [`LogStore::resume`] says where to go on reading.
//!
//! Absent on purpose: who may read a log (`api`), how logs of other nodes are reached (`rpc` implements [`Elsewhere`]), reading from containers (`agent`), and
//! which logs are old enough to remove (`agent`, `build`).

mod appender;
mod clean;
mod cursor;
mod error;
mod follow;
mod key;
mod library;
mod line;
mod log;
mod segment;
mod split;
mod store;
mod time;
mod writer;

pub use error::Error;
pub use follow::Followed;
pub use key::LogKey;
pub use library::{Away, Elsewhere, Library, ReadError, Start};
pub use line::{Entry, LINE_BYTES_MAX, LogLine, LogStream};
pub use segment::Resume;
pub use split::LineSplitter;
pub use store::{LogStore, Options};
pub use time::LogTime;
pub use writer::LogWriter;
