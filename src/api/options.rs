//! What the API needs from the node, and what the operator may choose.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::Exec;
use crate::artifact::Holdings;
use crate::auth::{Pace, Tokens};
use crate::build::Inspector;
use crate::consensus::Consensus;
use crate::decide;
use crate::logs::Library;
use crate::model::Secret;
use crate::rpc::{Rivals, SharedOptions};
use crate::telemetry::Metrics;

/// What the operator may choose.
#[derive(Clone)]
pub struct Options {
    /// Address to listen on.
    pub bind: IpAddr,
    /// Port to listen on; 0 for a free one.
    pub port: u16,
    /// Serve plain HTTP to others than loopback.
    pub allow_plain_http: bool,
    /// Certificates for HTTPS on the same port; none for plain HTTP only.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How session tokens are signed and how long they last.
    pub tokens: Tokens,
    /// What the first registration from another machine must show; none closes it to other machines.
    pub setup_token: Option<Secret>,
    /// Let services name git hosts on loopback and link-local addresses.
    pub allow_loopback_sources: bool,
    /// Port of this node's HTTP ingress, for the addresses of services; none when it is off.
    pub ingress_port: Option<u16>,
    /// Largest uploaded source, in bytes.
    pub source_bytes_max: u64,
    /// Longest wait for the head of a request, and for the TLS handshake.
    pub header_wait: Duration,
    /// Longest wait for the next part of a body, and for a client to take the next part of an answer.
    pub body_wait: Duration,
    /// Longest upload of a source, however steadily it drips.
    pub upload_wait: Duration,
    /// Connections at once.
    pub connections_max: usize,
    /// Of these, how many one address (or one IPv6 /64) may have.
    pub connections_per_address: usize,
    /// Largest head of a request, in bytes.
    pub head_bytes_max: usize,
    /// Log-ins and registrations of one address.
    pub pace_by_address: Pace,
    /// Failed log-ins to one account.
    pub pace_by_account: Pace,
    /// What the leader decides by; explanations are made from the same.
    pub decide: decide::Options,
    /// What nodes were started with.
    pub shared_options: SharedOptions,
    /// Who acts in this cluster's name beside it.
    pub rivals: Rivals,
    /// Time between two `ping` events of a stream.
    pub ping_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: IpAddr::from([0, 0, 0, 0]),
            port: 8080,
            allow_plain_http: false,
            tls: None,
            tokens: Tokens::default(),
            setup_token: None,
            allow_loopback_sources: false,
            ingress_port: None,
            source_bytes_max: 512 << 20,
            header_wait: Duration::from_secs(5),
            body_wait: Duration::from_secs(30),
            upload_wait: Duration::from_secs(30 * 60),
            connections_max: 4_096,
            // A sixteenth of all: a team behind one address has room, a slow reader in every corner has not.
            connections_per_address: 256,
            head_bytes_max: 32 * 1024,
            pace_by_address: Pace { burst: 30, every: Duration::from_secs(2) },
            pace_by_account: Pace { burst: 10, every: Duration::from_secs(6) },
            decide: decide::Options::default(),
            shared_options: SharedOptions::default(),
            rivals: Rivals::default(),
            ping_every: Duration::from_secs(15),
        }
    }
}

/// The parts of a node that the API stands on.
#[derive(Clone)]
pub struct Parts {
    /// The replicated state.
    pub consensus: Consensus,
    /// Logs of builds and instances on all nodes.
    pub logs: Library,
    /// Commands in instances of all nodes.
    pub exec: Exec,
    /// Where uploaded sources go, and what the other nodes have.
    pub artifacts: Holdings,
    /// Counters behind `/metrics`.
    pub metrics: Metrics,
    /// Looks at repositories that nobody builds yet.
    pub inspector: Inspector,
}
