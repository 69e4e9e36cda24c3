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
    #[arg(long)]
    data_dir: PathBuf,
    #[arg(long)]
    cluster: String,
    #[arg(long)]
    node: u64,
    #[arg(long)]
    engine: Option<String>,
    #[arg(long)]
    podman_socket: Option<String>,
    #[arg(long)]
    docker_host: Option<String>,
    #[arg(long)]
    runtime_dir: Option<PathBuf>,
}

/// Stands guard until nothing is left to guard.
pub(super) async fn run(args: GuardArgs) -> anyhow::Result<()> {
    args.log.start()?;
    let options = GuardOptions {
        data_dir: args.data_dir,
        cluster: args.cluster.parse().context("--cluster is no id")?,
        node: NodeId(args.node),
        engine: args.engine,
        podman_socket: args.podman_socket,
        docker_host: args.docker_host,
        runtime_dir: args.runtime_dir,
    };
    node::guard(options).await
}
