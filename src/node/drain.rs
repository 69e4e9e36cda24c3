//! Tells the agent when requests to an instance have ended; the ingress knows.

use std::time::Duration;

use async_trait::async_trait;

use crate::agent::Drain;
use crate::model::InstanceId;
use crate::network::IngressHandle;

/// Over the ingress of this node, if it has one.
pub(super) struct IngressDrain(pub(super) Option<IngressHandle>);

#[async_trait]
impl Drain for IngressDrain {
    async fn drained(&self, instance: InstanceId, limit: Duration) {
        let Some(ingress) = &self.0 else { return };
        if !ingress.drained(instance, tokio::time::Instant::now() + limit).await {
            tracing::info!(%instance, "requests are still open after the drain time; they are cut off");
        }
    }
}
