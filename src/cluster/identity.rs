//! Which node of which cluster a data folder belongs to.

use serde::{Deserialize, Serialize};

use crate::model::{ClusterId, NodeId};

/// Written once by `init` or `join`, as the last step: a folder with this file is a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of this file.
    pub format: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node in it.
    pub node: NodeId,
}

impl Identity {
    /// The version that this program writes and the newest it reads.
    pub const FORMAT: u32 = 1;

    /// The identity of a node that was let into a cluster.
    pub fn joined(cluster: ClusterId, node: NodeId) -> Self {
        Self { format: Self::FORMAT, cluster, node }
    }

    /// The identity of the first node of a new cluster.
    pub fn founder(cluster: ClusterId) -> Self {
        Self { format: Self::FORMAT, cluster, node: NodeId::FOUNDER }
    }
}
