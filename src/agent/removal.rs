//! Everything that a node runs, ended: for a node that does not belong to the cluster any more.

use std::time::Duration;

use futures::future::join_all;

use super::container;
use crate::engine::{self, Engine};
use crate::model::{ClusterId, NodeId};

/// Stops and removes all containers of a node. Volumes stay: they hold data. Gives the first failure, after having tried with
/// every container.
pub async fn remove_all(
    engine: &dyn Engine,
    cluster: ClusterId,
    node: NodeId,
    grace: Duration,
) -> Result<(), engine::Error> {
    let containers = engine.list(&container::node_labels(cluster, node)).await?;
    let ends = containers.iter().map(|container| async {
        // One that cannot be asked to end is killed with its removal.
        let _asked = engine.stop(&container.id, grace).await;
        engine.remove(&container.id).await?;
        tracing::info!(container = container.id, "removed");
        Ok(())
    });
    join_all(ends).await.into_iter().collect()
}
