//! Where a running node's log goes: standard error, as text for people or as JSON for machines.

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// What is logged, and how it looks.
#[derive(Args, Debug)]
pub(super) struct LogArgs {
    /// What is logged: a level, or levels by module such as `info,narvana::agent=debug`
    #[arg(long, env = "NARVANA_LOG", default_value = "info")]
    log: String,
    /// How the log looks
    #[arg(long, env = "NARVANA_LOG_FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl LogArgs {
    /// Starts logging for the rest of the process.
    pub(super) fn start(&self) -> anyhow::Result<()> {
        // openraft reports each of its steps at `info`; what concerns an operator is said by narvana itself.
        let filter = format!("openraft=warn,{}", self.log);
        let filter =
            EnvFilter::try_new(&filter).with_context(|| format!("--log {:?} cannot be understood", self.log))?;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let started = match self.log_format {
            Format::Text => log.with_ansi(false).with_target(false).try_init(),
            Format::Json => log.json().flatten_event(true).try_init(),
        };
        started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
    }
}
