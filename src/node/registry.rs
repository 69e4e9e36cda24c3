//! The registry that this node's engine pushes to and pulls from.

use anyhow::Context;

use crate::artifact::Fetcher;
use crate::artifact::oci::{Registry, RegistryHandle};
use crate::task::Supervisor;

/// Starts it, over this node's store; what is not there comes from other nodes.
pub(super) async fn start(fetcher: Fetcher, part: &Supervisor) -> anyhow::Result<RegistryHandle> {
    let registry = Registry::bind(fetcher).await.context("cannot listen on loopback for the container engine")?;
    let handle = registry.handle();
    registry.run(part);
    Ok(handle)
}
