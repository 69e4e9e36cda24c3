//! The registry that this node's engine pushes to and pulls from.

use std::sync::Arc;

use anyhow::Context;

use crate::artifact::oci::{Registry, RegistryHandle};
use crate::artifact::{ArtifactStore, Fetcher, Nobody};
use crate::task::Supervisor;

/// Starts it, over this store. What is not there is nowhere: other nodes cannot be asked yet.
pub(super) async fn start(artifacts: &ArtifactStore, part: &Supervisor) -> anyhow::Result<RegistryHandle> {
    let fetcher = Fetcher::new(artifacts.clone(), Arc::new(Nobody));
    let registry = Registry::bind(fetcher).await.context("cannot listen on loopback for the container engine")?;
    let handle = registry.handle();
    registry.run(part);
    Ok(handle)
}
