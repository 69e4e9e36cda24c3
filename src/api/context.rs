//! What is known of one request: its id, where it came from, and how fresh its answer is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How the request reached this node. Put into the request by the server that accepted the connection; a request
/// without one is treated as coming from anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The other end of the connection.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// One request, shared by everything that works on it.
#[derive(Clone, Debug)]
pub(super) struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    peer: Option<Peer>,
    index: AtomicU64,
    has_changed: AtomicBool,
}

impl Context {
    pub(super) fn new(id: String, peer: Option<Peer>) -> Self {
        Self(Arc::new(Inner { id, peer, index: AtomicU64::new(0), has_changed: AtomicBool::new(false) }))
    }

    /// Names the request in answers and logs.
    pub(super) fn id(&self) -> &str {
        &self.0.id
    }

    /// Where it came from, when that is known.
    pub(super) fn peer(&self) -> Option<Peer> {
        self.0.peer
    }

    /// Notes that the answer is made from the state as of this index.
    pub(super) fn saw(&self, index: u64) {
        self.0.index.fetch_max(index, Ordering::Relaxed);
    }

    /// The newest index the answer was made from; 0 when it was made from none.
    pub(super) fn index(&self) -> u64 {
        self.0.index.load(Ordering::Relaxed)
    }

    /// Notes that what was asked for is done, now or by the same request before.
    pub(super) fn changed(&self) {
        self.0.has_changed.store(true, Ordering::Relaxed);
    }

    /// Whether it is: an answer that cannot be made after that must not read as if nothing was done.
    pub(super) fn has_changed(&self) -> bool {
        self.0.has_changed.load(Ordering::Relaxed)
    }
}
