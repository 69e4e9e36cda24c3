//! Where a running node's log goes: standard error, as text for people or as JSON for machines.

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::consensus;

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
        let filter = format!("{},{}", consensus::LOG_FILTER, self.log);
        let filter =
            EnvFilter::try_new(&filter).with_context(|| format!("--log {:?} cannot be understood", self.log))?;
        let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let log = match self.log_format {
            Format::Text => log.with_ansi(false).with_target(false).boxed(),
            Format::Json => log.json().flatten_event(true).boxed(),
        };
        let log = log.with_filter(filter.and(filter_fn(holds_no_secret)));
        tracing_subscriber::registry().with(log).try_init().context("cannot start the log")
    }
}

/// Whether lines of this kind may be logged at all. Below `info` libraries print what they carry: the engine's client, for
/// one, the environment of every container. narvana's own lines name things and hold no secrets.
fn holds_no_secret(line: &Metadata<'_>) -> bool {
    line.target().split("::").next() == Some("narvana") || *line.level() <= Level::INFO
}
