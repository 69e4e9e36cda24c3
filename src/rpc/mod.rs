//! Between nodes: one port, mutual TLS, one identity per node.
//!
//! Runs here: the server of the node-to-node port ([`Server`]), the connections to other nodes ([`Peers`]), and the way in
//! for a node that is no member yet ([`Newcomer`]), and connections to instances of other nodes ([`Tunnels`]). In:
//! messages of other members, whose certificate says who they are; out: ours to them. Every connection proves both
//! ends: the certificate is signed by the cluster's authority and names the node, the process behind it is the one that speaks for that
//! node ([`Witness`]), a caller has to be the node that its message claims, and a node that was removed is refused on open connections too. TLS sessions are never resumed,
//! since a resumed one skips the certificate.
//!
//! Deliberately absent: what the messages mean (`consensus`), and who is a member (asked through [`Admit`]).

mod blobs;
mod caller;
mod entrance;
mod exec;
mod forward;
mod hello;
mod join;
mod logs;
mod newcomer;
mod peers;
mod probe;
mod raft;
mod refusal;
mod rivals;
mod server;
mod shared_options;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;
mod wire;
mod witness;

use std::sync::Arc;

use crate::model::{NodeId, NodeRole};

pub use blobs::PeerBlobs;
pub use entrance::OpenTunnels;
pub use exec::FarExec;
pub use logs::FarLogs;
pub use newcomer::{Admitted, Door, JoinError, Newcomer, Request};
pub use peers::{Peers, Told};
pub use probe::{Presence, Probe};
pub use refusal::Refusal;
pub use rivals::{Rival, Rivals};
pub use server::{Options, Parts, Server};
pub use shared_options::{OptionDifference, SharedOption, SharedOptions};
pub use tls::{Distrust, Tls, TlsError};
pub use tunnel::Tunnels;
pub use witness::{Hello, Memory, Witness};

/// Largest message in either direction. Entries have at most a mebibyte each and travel by up to four of them.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Whether a node may talk to this one and as what, asked for every call and for every message of a stream of entries;
/// the error says why not.
pub type Admit = Arc<dyn Fn(NodeId) -> Result<NodeRole, String> + Send + Sync>;
