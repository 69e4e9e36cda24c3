//! Tells the agent when requests to an instance have ended: the ingress knows of those that came in here, and the port
//! between nodes of those that came in elsewhere.

use std::time::Duration;

use async_trait::async_trait;

use crate::agent::Drain;
use crate::model::InstanceId;
use crate::network::IngressHandle;
use crate::rpc::OpenTunnels;

/// Over the ingress of this node, if it has one, and those of the others.
pub(super) struct IngressDrain {
    pub(super) ingress: Option<IngressHandle>,
    pub(super) tunnels: OpenTunnels,
}

#[async_trait]
impl Drain for IngressDrain {
    async fn drained(&self, instance: InstanceId, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        let here = async {
            match &self.ingress {
                Some(ingress) => ingress.drained(instance, deadline).await,
                None => true,
            }
        };
        // The others close their connections when they hear of the stop, at the latest when what is open on them ends.
        let (here, elsewhere) = tokio::join!(here, self.tunnels.drained(instance, deadline));
        if !(here && elsewhere) {
            tracing::info!(%instance, "requests are still open after the drain time; they are cut off");
        }
    }
}
