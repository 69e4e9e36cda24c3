//! The composition root: what a running node is made of, in which order it starts, and in which order it stops.
//!
//! [`init`] founds a cluster and runs its first node, [`join`] adds a node to one, [`run`] runs a node that exists; all
//! stay until a signal or a failure ends them. [`found`] and [`enter`] only make the node. Everything a node consists of is made here and handed what it needs; nothing else in the program
//! knows the whole.

mod address;
mod api_certificate;
mod checkup;
mod copies;
mod discovery;
mod doctor;
mod drain;
mod endpoints;
mod engine_search;
mod engine_storage;
mod founding;
mod guard;
mod holders;
mod holes;
mod introduction;
mod joining;
mod left_behind;
mod machine;
mod memory;
mod options;
mod peer_port;
mod preflight;
mod rebuilding;
mod recovery;
mod registration;
mod registry;
mod removal;
mod restoring;
mod room;
mod routes;
mod running;
mod tidy;

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::backup::Restored;
use crate::cluster::{DataDir, Occupied, TokenText};
use crate::config::NodeConfig;

#[cfg(test)]
pub(crate) use peer_port::admit;
#[cfg(test)]
pub(crate) use registration::keep as keep_registered;
#[cfg(test)]
pub(crate) use removal::{AGAIN_AFTER as CLEAN_UP_AGAIN_AFTER, CLEAN_UP_MAX};
#[cfg(test)]
pub(crate) use room::watch as watch_space;

pub use checkup::{Check, Checkup, Verdict};
pub use doctor::examine;
pub use endpoints::Endpoints;
pub use guard::{GuardOptions, guard};
pub use machine::{default_data_dir, host_name};
pub use rebuilding::Rebuild;
pub use recovery::{Recovery, Unrecoverable};
pub use removal::Removed;
pub use restoring::Losses;
pub use running::Running;

/// How `init` or `join` ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Init {
    /// There is a new node now.
    Founded,
    /// There is a node already; nothing was changed.
    Exists,
}

/// Founds a cluster in an empty data folder and runs its first node until it is told to stop. `ready` is called when the
/// node serves, with the token that a first registration from another machine needs.
pub async fn init(config: NodeConfig, ready: impl FnOnce(&Endpoints, &str)) -> anyhow::Result<Init> {
    let begun = Instant::now();
    // The lock is given back and taken again: between the two the folder is a complete node like any other.
    if found(&config).await? == Init::Exists {
        return Ok(Init::Exists);
    }
    let running = Running::start(config).await?;
    tracing::info!(milliseconds = begun.elapsed().as_millis(), "ready");
    ready(running.endpoints(), running.setup_token());
    until_told(running).await?;
    Ok(Init::Founded)
}

/// Founds a cluster in an empty data folder, and leaves running its first node to somebody else.
pub async fn found(config: &NodeConfig) -> anyhow::Result<Init> {
    let dir = match DataDir::begin_init(&config.data_dir)? {
        Occupied::Yes(_) => return Ok(Init::Exists),
        Occupied::No(dir) => dir,
    };
    founding::found(&dir, config).await.context("cannot found the cluster")?;
    Ok(Init::Founded)
}

/// Refuses a backup whose cluster still answers somewhere, unless it is to be replaced.
pub async fn may_restore(backup: &Restored, replace: bool) -> anyhow::Result<()> {
    if replace { Ok(()) } else { restoring::look_for_the_old_one(backup).await }
}

/// Founds the cluster of a backup anew in an empty data folder and runs its only node until it is told to stop.
pub async fn restore(
    config: NodeConfig,
    backup: &Restored,
    begins: impl FnOnce(),
    ready: impl FnOnce(&Endpoints, &str),
) -> anyhow::Result<Init> {
    if found_from(&config, backup, begins).await? == Init::Exists {
        return Ok(Init::Exists);
    }
    let running = Running::start(config).await?;
    ready(running.endpoints(), running.setup_token());
    until_told(running).await?;
    Ok(Init::Founded)
}

/// Founds the cluster of a backup anew, and leaves running its node to somebody else. `begins` is called when the folder is
/// found to be empty.
pub async fn found_from(config: &NodeConfig, backup: &Restored, begins: impl FnOnce()) -> anyhow::Result<Init> {
    let dir = match DataDir::begin_init(&config.data_dir)? {
        Occupied::Yes(_) => return Ok(Init::Exists),
        Occupied::No(dir) => dir,
    };
    begins();
    restoring::found(&dir, config, backup).await.context("cannot restore the cluster")?;
    Ok(Init::Founded)
}

/// Joins the cluster that a token is for, and runs the new node until it is told to stop. `report` is called with what the
/// node found out about itself before it asked; `ready` when it is a member that serves, with whether it takes work.
pub async fn join(
    config: NodeConfig,
    token: &TokenText,
    report: impl FnOnce(&Checkup),
    ready: impl FnOnce(&Endpoints, Result<(), String>),
) -> anyhow::Result<Init> {
    if enter(&config, token, report).await? == Init::Exists {
        return Ok(Init::Exists);
    }
    let running = Running::start(config).await?;
    let takes_work = running.takes_work().await;
    ready(running.endpoints(), takes_work);
    until_told(running).await?;
    Ok(Init::Founded)
}

/// Joins a cluster from an empty data folder, and leaves running the node to somebody else.
pub async fn enter(config: &NodeConfig, token: &TokenText, report: impl FnOnce(&Checkup)) -> anyhow::Result<Init> {
    let dir = match DataDir::begin_init(&config.data_dir)? {
        Occupied::Yes(_) => return Ok(Init::Exists),
        Occupied::No(dir) => dir,
    };
    joining::join(&dir, config, token, report).await?;
    Ok(Init::Founded)
}

/// Where the node of a data folder, run by another process, serves, with the token that a first registration from another
/// machine needs.
pub fn serving(data_dir: &Path) -> anyhow::Result<(Endpoints, String)> {
    let endpoints = DataDir::endpoints(data_dir).context("the node does not serve")?;
    let setup_token = std::fs::read_to_string(data_dir.join(founding::SETUP_TOKEN_FILE)).unwrap_or_default();
    Ok((serde_json::from_slice(&endpoints)?, setup_token))
}

/// Runs the node of a data folder until it is told to stop.
pub async fn run(config: NodeConfig, ready: impl FnOnce(&Endpoints)) -> anyhow::Result<()> {
    let begun = Instant::now();
    let running = Running::start(config).await?;
    tracing::info!(milliseconds = begun.elapsed().as_millis(), "ready");
    ready(running.endpoints());
    until_told(running).await
}

/// Serves until SIGTERM, SIGINT or a failure that the node cannot go on with.
async fn until_told(running: Running) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping: told by SIGTERM; containers go on"),
        _ = interrupt.recv() => tracing::info!("stopping: told by SIGINT; containers go on"),
        () = running.failed() => tracing::error!("stopping: a part of the node failed"),
    }
    running.stop().await
}
