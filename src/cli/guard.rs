//! `guard`, which nodes start for themselves and people do not.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::logging::LogArgs;
use crate::model::NodeId;
use crate::node::{self, GuardOptions};

/// What a node tells its guard.
#[derive(Args, Debug)]
pub(super) struct GuardArgs {
    #[command(flatten)]
    log: LogArgs,
    /// The node's data folder
    #[arg(long)]
    data_dir: PathBuf,
    /// The node's cluster
    #[arg(long)]
    cluster: String,
    /// The node
    #[arg(long)]
    node: u64,
    /// The engine that the node found
    #[arg(long)]
    engine: String,
}

/// Stands guard until nothing is left to guard.
pub(super) async fn run(args: GuardArgs) -> anyhow::Result<()> {
    args.log.start()?;
    let options = GuardOptions {
        data_dir: args.data_dir,
        cluster: args.cluster.parse().context("--cluster is no id")?,
        node: NodeId(args.node),
        engine: args.engine,
    };
    node::guard(options).await
}
