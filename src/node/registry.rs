//! The registry that this node's engine pushes to and pulls from.

use std::sync::Arc;

use anyhow::Context;

use crate::artifact::oci::{Registry, RegistryHandle};
use crate::artifact::{ArtifactStore, Fetcher};
use crate::rpc::PeerBlobs;
use crate::task::Supervisor;

/// Starts it, over this store; what is not there comes from other nodes.
pub(super) async fn start(
    artifacts: &ArtifactStore,
    others: PeerBlobs,
    part: &Supervisor,
) -> anyhow::Result<RegistryHandle> {
    let fetcher = Fetcher::new(artifacts.clone(), Arc::new(others));
    let registry = Registry::bind(fetcher).await.context("cannot listen on loopback for the container engine")?;
    let handle = registry.handle();
    registry.run(part);
    Ok(handle)
}
