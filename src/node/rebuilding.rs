//! A machine whose node is damaged, or was removed, becomes a new node: what `node rebuild` does before it joins.
//!
//! Nothing is deleted: the old data folder is moved aside. Dying before that leaves the old node, to be rebuilt again; after it,
//! a machine without a node, which joins as any other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::agent;
use crate::clock;
use crate::cluster::{DataDir, Error, Identity, TokenText};
use crate::config::NodeConfig;
use crate::engine;
use crate::model::NodeId;
use crate::store;
use crate::task::Supervisor;

use super::joining;
use super::options::{engine_options, scope};
use super::running::STOP_GRACE;

/// A node that can make way for another one on its machine. Its folder is locked, and its program is stopped.
pub struct Rebuild {
    dir: DataDir,
    identity: Identity,
}

impl Rebuild {
    /// Looks whether the data folder holds a node of the token's cluster, and whether that cluster answers. Changes
    /// nothing, but that a store which has to say whose it is may be repaired by that.
    pub async fn look(config: &NodeConfig, token: &TokenText) -> anyhow::Result<Self> {
        let (dir, identity) = match DataDir::open(&config.data_dir) {
            Err(error @ (Error::BadIdentity { .. } | Error::NotOurs { .. })) => nameless(&config.data_dir, error)?,
            opened => opened?,
        };
        if identity.cluster != token.cluster {
            anyhow::bail!(
                "this machine's node is of cluster {}, and the join token of cluster {}; choose another --data-dir, and \
                 `narvana join`",
                identity.cluster,
                token.cluster
            );
        }
        joining::reach(token).await.context("nothing was changed: no member of the cluster was reached")?;
        Ok(Self { dir, identity })
    }

    /// The node that goes.
    pub fn old_node(&self) -> NodeId {
        self.identity.node
    }

    /// Removes the containers of the old node and moves its data folder aside. Answers where it is now.
    pub async fn clear(self, config: &NodeConfig) -> anyhow::Result<PathBuf> {
        let Self { dir, identity } = self;
        end_containers(engine_options(config, dir.path(), scope(identity)), identity).await?;
        let path = std::path::absolute(dir.path())?;
        let mut aside = path.clone().into_os_string();
        aside.push(format!(".old-{}", clock::now().to_string().replace([':', '-'], "")));
        let aside = PathBuf::from(aside);
        // The lock goes with the folder, and ends with `dir`.
        std::fs::rename(&path, &aside).with_context(|| {
            format!(
                "cannot move {} to {}; if it is a file system of its own, move what is in it elsewhere and run `narvana join`",
                path.display(),
                aside.display()
            )
        })?;
        Ok(aside)
    }
}

/// A node whose identity is damaged or gone, when its store says whose it is.
fn nameless(folder: &Path, error: Error) -> anyhow::Result<(DataDir, Identity)> {
    // For its lock: whoever runs is told so.
    let damaged = matches!(error, Error::BadIdentity { .. });
    let locked = if damaged { Some(DataDir::open_damaged(folder)?) } else { None };
    match store::owner(folder) {
        Ok((cluster, node)) => {
            tracing::warn!(%error, %cluster, %node, "this folder is of the node that its store names");
            let dir = locked.map_or_else(|| DataDir::open_damaged(folder), Ok)?;
            Ok((dir, Identity::joined(cluster, node)))
        }
        Err(store_error) => {
            tracing::warn!(error = %store_error, "nor does its store say which node it is of");
            Err(error.into())
        }
    }
}

/// Ends what the old node ran. Without an engine that is for people to do.
async fn end_containers(options: engine::Options, identity: Identity) -> anyhow::Result<()> {
    let Identity { cluster, node, .. } = identity;
    let supervisor = Supervisor::new("end of containers", CancellationToken::new());
    let ended = match engine::find(&options, &supervisor).await {
        Ok(found) => agent::remove_all(&*found.engine, cluster, node, STOP_GRACE).await,
        Err(error) => {
            tracing::warn!(%error, %cluster, %node, "containers labelled with this cluster and node, if any, go on");
            Ok(())
        }
    };
    supervisor.stop(Duration::ZERO).await;
    ended.context("the containers of the old node cannot be ended; when the engine works, do this again")
}
