//! Which host name is served by which instances: the shape in which routing is decided and handed to the ingress.
//!
//! Comes in: nothing; this file is types only. Goes out: [`RouteTable`], made from the replicated state by whoever
//! decides routes and read by `network`. Deliberately absent: how a table is made, health, certificates.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::model::{InstanceId, NodeId};

/// Host name → route. Two tables of the same state are equal, so "did it change?" is one comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Keys are lower-case host names without port and without a trailing dot.
    pub routes: BTreeMap<String, Route>,
}

/// Where requests for one host go.
///
/// A route without backends is not the same as no route: its host is known and answers 503 instead of 404.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Healthy instances only, in the order of their ids.
    pub backends: Vec<Backend>,
}

/// One instance that may be given requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Who answers; requests in flight are counted by it.
    pub instance: InstanceId,
    /// Where it listens for plain HTTP/1.1.
    pub place: Place,
}

/// Where an instance is reached, as seen from one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// On this machine.
    Here(SocketAddr),
    /// Through another node, which knows where it listens there.
    There {
        /// The node it runs on.
        node: NodeId,
        /// The port inside its container.
        port: u16,
    },
}

impl Place {
    /// The other node that has to be reached, if any.
    pub fn node(self) -> Option<NodeId> {
        match self {
            Self::Here(_) => None,
            Self::There { node, .. } => Some(node),
        }
    }
}
