//! What makes a folder a node and a node a member: the data folder and its lock, the node's identity, the cluster's
//! certificate authority, the text of join tokens.
//!
//! Runs nothing. In: a data folder. Out: a [`DataDir`] that this process alone holds, the [`Identity`] in it, and
//! certificates. Absent: asking to be let in (`rpc`), and who is a member (`state`).

mod authority;
mod data_dir;
mod identity;
mod token;

pub use authority::{
    Authority, NodeCertificate, PEER_LIFE, RequestedKey, SigningError, SigningRequest, fingerprints, key_pin,
    peer_name, pin_of, valid_until,
};
pub use data_dir::{DataDir, ENDPOINTS, Error, Occupied};
pub use identity::Identity;
pub use token::{JoinSecret, TokenError, TokenText};
