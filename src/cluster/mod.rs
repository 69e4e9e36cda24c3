//! What makes a folder a node and a node a member: the data folder and its lock, the node's identity, the cluster's
//! certificate authority.
//!
//! Runs nothing. In: a data folder. Out: a [`DataDir`] that this process alone holds, the [`Identity`] in it, and
//! certificates. Joining, membership and recovery of clusters of more than one node are absent: this version has one.

mod authority;
mod data_dir;
mod identity;

pub use authority::{Authority, NodeCertificate, peer_name};
pub use data_dir::{DataDir, Error, Occupied};
pub use identity::Identity;
