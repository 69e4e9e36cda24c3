//! What can go wrong in the network as a whole. What goes wrong with one request is an answer to its client instead.

use std::io;
use std::net::SocketAddr;

/// An error of the network module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on. Nothing was started.
    #[error(
        "the ingress cannot listen on {address}; stop what uses the port, or choose another with --ingress-http-port"
    )]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// Why the operating system refused.
        source: io::Error,
    },
}
