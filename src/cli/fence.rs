//! `fence`, which nodes start for themselves and people do not.

use std::ffi::OsString;

use clap::Args;

use crate::build::{FenceOptions, enter_fence};

/// What goes on inside.
#[derive(Args, Debug)]
pub(super) struct FenceArgs {
    /// Show the processes that are inside
    #[arg(long)]
    show_processes: bool,
    /// As whom the program runs
    #[arg(long)]
    user: Option<u32>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// Becomes the program.
pub(super) fn run(args: FenceArgs) -> anyhow::Result<()> {
    let options = FenceOptions { shows_processes: args.show_processes, user: args.user, program: args.program };
    match enter_fence(&options)? {}
}
