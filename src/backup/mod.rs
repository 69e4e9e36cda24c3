//! A backup on a disk: the contents of `store`, sealed with a passphrase, in a file that any `age` program opens.
//!
//! Runs nothing. In: contents as a node sends them, or a file; a [`Passphrase`]. Out: a file that is complete or not there, or
//! what it holds. The sealing is the format age-encryption.org/v1 with a passphrase (`age`, about two hundred lines over
//! crates that the program has anyway), so that a cluster's owner never depends on this program to get at what is theirs;
//! everything in it is authenticated, its end included. Absent: talking to a node, and beginning a cluster (`node`).

mod age;
mod file;
mod passphrase;

pub use age::{Opening, Sealing, Unopened};
pub use file::{Error, Restored, Summary, create, restore, verify};
pub use passphrase::{Passphrase, PassphraseError};
