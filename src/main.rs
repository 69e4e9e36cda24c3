//! The `narvana` program: parse, run, print the error chain, exit code.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use narvana::cli::{self, Cli, Exit};

/// How long blocking work, such as reading a terminal, may hold the end of the program up.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let cli = match cli::run_alone(Cli::parse()) {
        ControlFlow::Break(outcome) => {
            return ExitCode::from(outcome.map_or_else(|error| cli::report(&error), |()| Exit::Done).code());
        }
        ControlFlow::Continue(cli) => cli,
    };
    // The only one in the program; a second installation would be a programmer's mistake.
    rustls::crypto::ring::default_provider().install_default().expect("no provider was installed before");
    let exit = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let outcome = runtime.block_on(cli::run(cli));
            runtime.shutdown_timeout(SHUTDOWN_GRACE);
            outcome.map_or_else(|error| cli::report(&error), |()| Exit::Done)
        }
        Err(error) => cli::report(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    ExitCode::from(exit.code())
}
