//! `init`, `join` and `run`: from flags, variables and a file to a running node, here or under systemd.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, CommandFactory};

use super::environment;
use super::given::Given;
use super::logging::LogArgs;
use super::outcome::{Exit, failure};
use super::output::warn;
use super::session::Session;
use super::systemd::{self, Systemd};
use super::unit::Unit;
use crate::backup::Restored;
use crate::cluster::{TokenError, TokenText};
use crate::config::{self, NodeConfig, NodeSettings};
use crate::model::NodeId;
use crate::node::{self, Checkup, Endpoints, Init, Rebuild};

/// Longest wait until a node that was stopped is known to be: longer than the default of `--scheduler-health-threshold`.
const GONE_WITHIN: Duration = Duration::from_secs(15);
/// How often that is asked.
const GONE_EVERY: Duration = Duration::from_secs(1);

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

impl std::fmt::Debug for StartArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Settings hold a key.
        f.debug_struct("StartArgs").field("config", &self.config).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for NodeArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Settings hold a key.
        f.debug_struct("NodeArgs").field("service", &self.service).finish_non_exhaustive()
    }
}

impl StartArgs {
    pub(super) fn settle(self) -> anyhow::Result<NodeConfig> {
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

/// What a node joins with.
#[derive(Args)]
pub(super) struct JoinArgs {
    // First: the fields below take their values out of what was parsed.
    #[command(flatten)]
    node: NodeArgs,
    /// The join token, whole, as `narvana token create` printed it on a member of the cluster
    #[arg(required_unless_present = "token_file", conflicts_with = "token_file")]
    join_token: Option<String>,
    /// File with the join token, `-` for stdin: arguments can be read by everybody on this machine
    #[arg(long, env = "NARVANA_JOIN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl std::fmt::Debug for JoinArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        f.debug_struct("JoinArgs").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Longest file that is read as a join token.
const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;

impl JoinArgs {
    fn token(&self) -> anyhow::Result<TokenText> {
        let text = match (&self.join_token, &self.token_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => {
                let mut text = String::new();
                let source: Box<dyn Read> = match path.as_os_str() == "-" {
                    true => Box::new(std::io::stdin()),
                    false => {
                        Box::new(std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
                    }
                };
                source.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text).context("cannot read the join token")?;
                text
            }
            (None, None) => String::new(),
        };
        if self.join_token.is_some() {
            warn(
                "everybody on this machine can see the join token in the list of processes; --token-file - reads it from stdin",
            );
        }
        text.parse().map_err(|error: TokenError| failure(Exit::Usage, error.to_string()))
    }
}

/// Adds this machine to a cluster and runs its node.
pub(super) async fn join(args: JoinArgs) -> anyhow::Result<()> {
    let token = args.token()?;
    let NodeArgs { given, start, service } = args.node;
    let config = start.settle()?;
    join_as(config, &token, &given, service).await
}

/// Puts a new node into the place of this machine's old one.
pub(super) async fn rebuild(session: &Session, args: JoinArgs) -> anyhow::Result<()> {
    let token = args.token()?;
    let NodeArgs { given, start, service } = args.node;
    let config = start.settle()?;
    let rebuild = Rebuild::look(&config, &token).await?;
    let old = rebuild.old_node();
    check_token(session, &token).await?;
    let shown = check_gone(session, old).await?;
    // First of all: two nodes of one name are refused, and nothing of the old one is needed from here on.
    match session.client.remove_node(&old.to_string(), true).await {
        // Never let in, as far as the cluster knows: it began anew from before that.
        Err(error) if error.is_not_found() => {}
        removed => {
            removed.with_context(|| {
                format!(
                    "nothing was changed here: {shown} was not removed from the cluster, which takes an administrator's log-in at a \
                     member (--api)"
                )
            })?;
        }
    }
    let aside = rebuild.clear(&config).await?;
    warn(&format!("{shown} is no member any more; its data folder is now {}", aside.display()));
    join_as(config, &token, &given, service).await
}

/// Refuses while the node of this folder is heard: then this is a copy of its folder, and removing it would end a node that works. One
/// whose program was stopped just now is waited for. Answers what to call it.
async fn check_gone(session: &Session, old: NodeId) -> anyhow::Result<String> {
    let begun = Instant::now();
    let mut shown = format!("node {old}");
    loop {
        let answers = match session.client.node(&old.to_string()).await {
            Ok(node) => {
                shown = format!("{} (node {old})", node.view.hostname);
                node.view.silent_since.0.is_none()
            }
            Err(error) if error.is_not_found() => false,
            Err(error) => {
                return Err(error).context(format!("nothing was changed: whether {shown} lives was not learnt"));
            }
        };
        if !answers {
            return Ok(shown);
        }
        if begun.elapsed() > GONE_WITHIN {
            let message = format!(
                "nothing was changed: {shown} answers the others still. If its program was stopped just now, ask again when \
                 `narvana node ls` says that it is away. Otherwise it runs elsewhere, and this data folder is a copy of that node's: \
                 to make this machine a node of its own, run `narvana join` with another --data-dir; to replace {shown}, stop its \
                 program first"
            );
            return Err(failure(Exit::Conflict, message));
        }
        if begun.elapsed() < GONE_EVERY {
            session.output.note(&format!("waiting until the cluster notices that {shown} is stopped"));
        }
        tokio::time::sleep(GONE_EVERY).await;
    }
}

/// Refuses a token that lets nobody in, before anything is changed.
async fn check_token(session: &Session, token: &TokenText) -> anyhow::Result<()> {
    let known = session.client.join_tokens().await.context(
        "nothing was changed: whether the join token is good was not learnt, which takes an administrator's log-in at a member (--api)",
    )?;
    let id = token.id.to_string();
    let status = known.view.iter().find(|known| known.id.0 == id).map_or("unknown", |known| &known.status);
    anyhow::ensure!(
        status == "usable",
        "nothing was changed: the join token is {status}; make another one with `narvana token create`"
    );
    Ok(())
}

async fn join_as(config: NodeConfig, token: &TokenText, given: &Given, service: bool) -> anyhow::Result<()> {
    let data_dir = config.data_dir.display().to_string();
    let report = |checkup: &Checkup| warn(&format!("Before joining:\n{checkup}"));
    let joined = match service.then(|| Service::new(&config, given)).transpose()? {
        None => {
            let ready = |endpoints: &Endpoints, takes_work: Result<(), String>| {
                let work = match takes_work {
                    Ok(()) => "It is a member of the cluster and takes work.".to_owned(),
                    Err(why) => format!(
                        "It is a member of the cluster and serves, and runs nothing until this has changed: {why}"
                    ),
                };
                warn(&format!("{}\n{work}", serving(endpoints)));
                systemd::tell_ready();
            };
            node::join(config, token, report, ready).await?
        }
        Some(service) => {
            let entered = node::enter(&config, token, report).await?;
            if entered == Init::Founded {
                let (endpoints, _) = service.start()?;
                warn(&format!(
                    "{}\nIt is a member of the cluster; `narvana node show {}` says whether it takes work.",
                    serving(&endpoints),
                    shown(&endpoints)
                ));
            }
            entered
        }
    };
    if joined == Init::Exists {
        return Err(failure(Exit::Conflict, occupied(&data_dir, service)));
    }
    Ok(())
}

fn occupied(data_dir: &str, service: bool) -> String {
    let service = if service { " --service" } else { "" };
    format!(
        "{data_dir} holds a node already; nothing was changed\n  next: `narvana run{service} --data-dir {data_dir}` runs it"
    )
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
        warn(&occupied(&data_dir, args.service));
    }
    Ok(())
}

/// Founds the cluster of a backup anew and runs its first node. The words are said once the folder was found empty.
pub(super) async fn restore(args: NodeArgs, backup: &Restored, words: &str) -> anyhow::Result<()> {
    let config = args.start.settle()?;
    let data_dir = config.data_dir.display().to_string();
    let ready = |endpoints: &Endpoints, _: &str| {
        warn(&format!(
            "{}

The cluster is restored. Next, in another terminal:
  narvana --api {} login            as a user of the backup
  narvana ps --all                  what runs, and what does not yet
  narvana token create              lets another machine join",
            serving(endpoints),
            endpoints.api
        ));
        systemd::tell_ready();
    };
    let founded = match args.service.then(|| Service::new(&config, &args.given)).transpose()? {
        None => node::restore(config, backup, || warn(words), ready).await?,
        Some(service) => {
            let founded = node::found_from(&config, backup, || warn(words)).await?;
            if founded == Init::Founded {
                let (endpoints, setup_token) = service.start()?;
                ready(&endpoints, &setup_token);
            }
            founded
        }
    };
    match founded {
        Init::Founded => Ok(()),
        Init::Exists => Err(failure(
            Exit::Conflict,
            format!(
                "{data_dir} holds a node already; nothing was changed: a backup is restored into an empty folder, \
                 choose another --data-dir"
            ),
        )),
    }
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

/// What to call a node that runs here.
fn shown(endpoints: &Endpoints) -> String {
    match endpoints.name.as_str() {
        "" => endpoints.node_id.to_string(),
        name => name.to_owned(),
    }
}

fn serving(endpoints: &Endpoints) -> String {
    let ingress = endpoints.ingress_http.as_deref().unwrap_or("off");
    format!("node {} serves: API {}, applications {ingress}", shown(endpoints), endpoints.api)
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
