//! `init` and `run`: from flags, variables and a file to a running node, here or under systemd.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, CommandFactory};

use super::environment;
use super::given::Given;
use super::logging::LogArgs;
use super::outcome::{Exit, failure};
use super::output::warn;
use super::systemd::{self, Systemd};
use super::unit::Unit;
use crate::config::{self, NodeConfig, NodeSettings};
use crate::node::{self, Endpoints, Init};

/// What a node is started with.
#[derive(Args)]
pub(super) struct NodeArgs {
    // First: the fields below take their values out of what was parsed.
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    start: StartArgs,
    /// Install a systemd unit that runs the node with these settings, and start it, instead of staying here
    #[arg(long)]
    service: bool,
}

/// The part that describes the node.
#[derive(Args)]
pub(super) struct StartArgs {
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
        f.debug_struct("NodeArgs").field("service", &self.service).finish_non_exhaustive()
    }
}

impl StartArgs {
    fn settle(self) -> anyhow::Result<NodeConfig> {
        self.log.start().map_err(|error| failure(Exit::Usage, format!("{error:#}")))?;
        if self.settings.database_url.is_some() {
            warn("DATABASE_URL is set and ignored: narvana keeps its state itself and needs no database");
        }
        for warning in config::unused_variables(environment::names().iter().map(String::as_str), &known_variables()) {
            warn(&warning);
        }
        let usage = |error: config::Error| failure(Exit::Usage, error.to_string());
        let file = match &self.config {
            Some(path) => NodeSettings::from_file(path).map_err(usage)?,
            None => NodeSettings::default(),
        };
        let data_dir = node::default_data_dir(std::env::home_dir(), environment::data_home());
        self.settings.settle(file, &node::host_name(), data_dir).map_err(usage)
    }
}

/// Every variable that some command reads.
fn known_variables() -> std::collections::BTreeSet<String> {
    fn collect(command: &clap::Command, names: &mut std::collections::BTreeSet<String>) {
        let variables = command.get_arguments().filter_map(clap::Arg::get_env);
        names.extend(variables.map(|name| name.to_string_lossy().into_owned()));
        for below in command.get_subcommands() {
            collect(below, names);
        }
    }
    let mut names = environment::WITHOUT_FLAG.iter().map(|name| (*name).to_owned()).collect();
    collect(&super::Cli::command(), &mut names);
    names
}

/// Makes the first node of a new cluster and runs it.
pub(super) async fn init(args: NodeArgs) -> anyhow::Result<()> {
    let config = args.start.settle()?;
    let data_dir = config.data_dir.display().to_string();
    let service = args.service.then(|| Service::new(&config, &args.given)).transpose()?;
    let founded = match service {
        None => node::init(config, welcome).await?,
        Some(service) => {
            let founded = node::found(&config).await?;
            if founded == Init::Founded {
                let (endpoints, setup_token) = service.start()?;
                welcome(&endpoints, &setup_token);
            }
            founded
        }
    };
    if founded == Init::Exists {
        let service = if args.service { " --service" } else { "" };
        warn(&format!(
            "{data_dir} holds a node already; nothing was changed\n  next: `narvana run{service} --data-dir {data_dir}` runs it"
        ));
    }
    Ok(())
}

/// Runs a node that exists.
pub(super) async fn run(args: NodeArgs) -> anyhow::Result<()> {
    let config = args.start.settle()?;
    if args.service {
        let (endpoints, _) = Service::new(&config, &args.given)?.start()?;
        warn(&serving(&endpoints));
        return Ok(());
    }
    let ready = |endpoints: &Endpoints| {
        warn(&serving(endpoints));
        systemd::tell_ready();
    };
    node::run(config, ready).await
}

/// A node that systemd is to run.
struct Service {
    systemd: Systemd,
    data_dir: PathBuf,
    unit: String,
}

impl Service {
    /// Finds out whether it can be: nothing is made yet.
    fn new(config: &NodeConfig, given: &Given) -> anyhow::Result<Self> {
        let systemd = Systemd::of_this_user()?;
        systemd.check()?;
        let program = std::env::current_exe().context("cannot find out where this program is")?;
        let data_dir = std::path::absolute(&config.data_dir)?;
        let mut arguments = vec!["run".to_owned(), format!("--data-dir={}", text(&data_dir)?)];
        arguments.extend(given.flags()?);
        let unit = Unit {
            program: text(&program)?,
            arguments: &arguments,
            user: systemd.is_user(),
            shutdown_timeout: config.shutdown_timeout,
        };
        Ok(Self { unit: unit.text(), systemd, data_dir })
    }

    /// Has systemd run it, and waits until it serves.
    fn start(self) -> anyhow::Result<(Endpoints, String)> {
        self.systemd.install(&self.unit)?;
        warn(&format!("systemd runs the node; `{}` shows its log", self.systemd.log_command()));
        if self.systemd.is_user() {
            warn("it ends when you log out, unless `loginctl enable-linger` was called once");
        }
        node::serving(&self.data_dir)
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("a unit cannot name {}: it is not UTF-8", path.display()))
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
