//! `init` and `run`: from flags, variables and a file to a running node.

use std::path::PathBuf;

use clap::Args;

use super::environment;
use super::logging::LogArgs;
use super::outcome::{Exit, failure};
use super::output::warn;
use crate::config::{NodeConfig, NodeSettings};
use crate::node::{self, Endpoints, Init};

/// What a node is started with.
#[derive(Args)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    settings: NodeSettings,
    #[command(flatten)]
    log: LogArgs,
    /// TOML file with the names of these flags, with `_` for `-`; flags and variables win over it
    #[arg(long, env = "NARVANA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl std::fmt::Debug for NodeArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Settings hold a key.
        f.debug_struct("NodeArgs").field("config", &self.config).finish_non_exhaustive()
    }
}

impl NodeArgs {
    fn settle(self) -> anyhow::Result<NodeConfig> {
        self.log.start().map_err(|error| failure(Exit::Usage, format!("{error:#}")))?;
        if self.settings.database_url.is_some() {
            warn("DATABASE_URL is set and ignored: narvana keeps its state itself and needs no database");
        }
        let usage = |error: crate::config::Error| failure(Exit::Usage, error.to_string());
        let file = match &self.config {
            Some(path) => NodeSettings::from_file(path).map_err(usage)?,
            None => NodeSettings::default(),
        };
        let data_dir = node::default_data_dir(std::env::home_dir(), environment::data_home());
        self.settings.settle(file, &node::host_name(), data_dir).map_err(usage)
    }
}

/// Makes the first node of a new cluster and runs it.
pub(super) async fn init(args: NodeArgs) -> anyhow::Result<()> {
    let config = args.settle()?;
    let data_dir = config.data_dir.display().to_string();
    match node::init(config, welcome).await? {
        Init::Ran => {}
        Init::Exists => warn(&format!(
            "{data_dir} holds a node already; nothing was changed\n  next: `narvana run --data-dir {data_dir}` runs it"
        )),
    }
    Ok(())
}

/// Runs a node that exists.
pub(super) async fn run(args: NodeArgs) -> anyhow::Result<()> {
    node::run(args.settle()?, |endpoints| warn(&serving(endpoints))).await
}

fn serving(endpoints: &Endpoints) -> String {
    let ingress = endpoints.ingress_http.as_deref().unwrap_or("off");
    format!("node {} serves: API {}, applications {ingress}", endpoints.node_id, endpoints.api)
}

fn welcome(endpoints: &Endpoints, setup_token: &str) {
    let api = &endpoints.api;
    warn(&format!(
        "{}

A new cluster is ready. Next, in another terminal:
  narvana --api {api} register you@example.org     the first user; this machine needs no token
  narvana deploy .                                 a folder with a Dockerfile
From another machine the first registration also needs
  --setup-token {setup_token}",
        serving(endpoints)
    ));
}
