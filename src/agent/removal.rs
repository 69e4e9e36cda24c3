//! Everything that a node runs, ended: for a node that does not belong to the cluster any more.

use std::time::Duration;

use futures::future::join_all;

use super::container;
use crate::engine::Engine;
use crate::model::{ClusterId, NodeId};

/// Stops and removes all containers of a node. Volumes stay: they hold data. What fails is logged, since nobody is left
/// who could be told.
pub async fn remove_all(engine: &dyn Engine, cluster: ClusterId, node: NodeId, grace: Duration) {
    let containers = match engine.list(&container::node_labels(cluster, node)).await {
        Ok(containers) => containers,
        Err(error) => return tracing::warn!(%error, "cannot list the containers of this node"),
    };
    let ends = containers.iter().map(|container| async {
        // One that cannot be asked to end is killed with its removal.
        let _asked = engine.stop(&container.id, grace).await;
        match engine.remove(&container.id).await {
            Ok(()) => tracing::info!(container = container.id, "removed"),
            Err(error) => tracing::warn!(%error, container = container.id, "cannot remove a container"),
        }
    });
    join_all(ends).await;
}
