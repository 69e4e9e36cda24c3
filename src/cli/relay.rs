//! `relay`, which nodes start for themselves and people do not.

use clap::Args;

use crate::engine::{RelayOptions, hand_out};

/// Which container is entered.
#[derive(Args, Debug)]
pub(super) struct RelayArgs {
    /// The container's whole id
    #[arg(long)]
    container: String,
    /// One of its processes
    #[arg(long)]
    process: i32,
}

/// Hands a socket that listens inside the container to whoever started this.
pub(super) fn run(args: RelayArgs) -> anyhow::Result<()> {
    hand_out(&RelayOptions { container: args.container, process: args.process })
}
