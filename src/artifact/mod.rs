//! The content-addressed store of this node: blobs named by their SHA-256, and the images that are made of them.
//!
//! In come streams of bytes (uploaded source archives, layers of images), out go blobs that were verified before their
//! first byte is handed out. A blob has its name only once it is whole and on disk, so whoever was told a digest can
//! rely on it. The same bytes are kept once. [`oci`] is the face that the engine of this node pushes to and pulls from;
//! what is missing here comes through a [`BlobSource`], whoever that is.
//!
//! Absent on purpose: who may read a blob (`api`), when the collector looks (`node`; what it removes is decided in
//! [`garbage`]), when copies are fetched (`node`; which is decided in [`copies`]), and how other nodes are asked (`rpc`).

mod blob;
mod collector;
pub mod copies;
mod error;
mod fetch;
pub mod garbage;
mod holdings;
mod images;
pub mod oci;
mod partial;
mod store;
mod upload;

pub use crate::model::Digest;
pub use blob::Blob;
pub use collector::Collector;
pub use error::Error;
pub use fetch::{
    BLOB_BYTES_MAX, BlobSource, Fetch, FetchError, Fetcher, Nobody, OpenError, Progress, RemoteBlob, Unavailable, Whom,
};
pub use holdings::{Holdings, OnlyThere, OtherStores, held, not_here};
pub use images::{ImageError, Images};
pub use store::{ArtifactStore, Stored};
pub use upload::{Bounds, Upload};
