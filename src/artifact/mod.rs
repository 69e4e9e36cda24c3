//! The content-addressed store of this node: blobs named by their SHA-256.
//!
//! In come streams of bytes (uploaded source archives; later image layers), out go blobs that were verified before their
//! first byte is handed out. A blob has its name only once it is whole and on disk, so whoever was told a digest can
//! rely on it. The same bytes are kept once.
//!
//! Absent on purpose: who may read a blob (`api`), what is still needed (whoever calls [`ArtifactStore::remove`]), and
//! blobs of other nodes (`rpc`).

mod blob;
mod digest;
mod error;
mod store;

pub use blob::Blob;
pub use digest::{Digest, MalformedDigest};
pub use error::Error;
pub use store::{ArtifactStore, Stored};
