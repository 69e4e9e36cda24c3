//! Whether and how long a command waits for what it has begun.

use std::time::Duration;

use clap::Args;

use super::value::duration;

/// Whether and how long to wait.
#[derive(Args, Clone, Debug)]
pub(super) struct WaitArgs {
    /// Return as soon as the node has accepted it
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Longest time to wait; what was begun goes on after that, and the exit code is 6
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = duration, conflicts_with = "no_wait")]
    pub(super) timeout: Duration,
}
