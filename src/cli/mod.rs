//! The command line: what users and scripts type, and what they see of it.
//!
//! Runs one command and ends. In: arguments, variables, the user's contexts. Out: data on stdout, everything else on
//! stderr, and an exit code. `init` and `run` hand over to `node`; every other command is a client of the API and can do
//! nothing that the API does not let its user do. Prompts other than for a password, and before `recover`, are absent on
//! purpose: a command does the same with and without a terminal.

mod account;
mod app;
mod backup;
mod build;
mod ca;
mod context;
mod debug;
mod deploy;
mod deployment;
mod detect;
mod doctor;
mod drain;
mod env;
mod environment;
mod exec;
mod explain;
mod fence;
mod follow;
mod given;
mod guard;
mod logging;
mod logs;
mod node;
mod nodes;
mod outcome;
mod output;
mod rebalance;
mod recover;
mod relay;
mod replicas;
mod screen;
mod service;
mod service_spec;
mod session;
mod settings;
mod shell;
mod systemd;
mod token;
mod unit;
mod value;
mod wait;

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use outcome::{Exit, exit_of};
pub use output::Format;

use output::Output;
use session::Session;

/// Turns a handful of Linux machines into one place to run applications
#[derive(Debug, Parser)]
#[command(
    name = "narvana",
    version,
    max_term_width = 100,
    after_help = "First steps:
  narvana init                    start the first node of a cluster here (in the foreground)
  narvana register ada@example.org
  narvana deploy .                build and run the folder you are in

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 no quorum, 6 still running after the time-out,
130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Default)]
pub struct Global {
    /// Address of a node's API; of several, separated by commas, the first that answers is used
    #[arg(
        long,
        global = true,
        env = "NARVANA_API",
        value_name = "URL",
        value_delimiter = ',',
        help_heading = "Global options"
    )]
    pub api: Vec<String>,
    /// Token of a log-in, instead of that of the context
    #[arg(long, global = true, env = "NARVANA_TOKEN", hide_env_values = true, help_heading = "Global options")]
    pub token: Option<String>,
    /// Context to use, instead of the current one
    #[arg(long, global = true, env = "NARVANA_CONTEXT", value_name = "NAME", help_heading = "Global options")]
    pub context: Option<String>,
    /// How data is written
    #[arg(short, long, global = true, env = "NARVANA_OUTPUT", value_name = "FORMAT", help_heading = "Global options")]
    pub output: Option<Format>,
    /// PEM file with the cluster's certificate authority
    #[arg(long, global = true, env = "NARVANA_CA_CERT", value_name = "FILE", help_heading = "Global options")]
    pub ca_cert: Option<PathBuf>,
    /// Read what one node knew last, also while the cluster has no quorum; changes are not affected
    #[arg(long, global = true, env = "NARVANA_STALE", value_parser = clap::builder::FalseyValueParser::new(), help_heading = "Global options")]
    pub stale: bool,
    /// Write data and errors only
    #[arg(short, long, global = true, env = "NARVANA_QUIET", value_parser = clap::builder::FalseyValueParser::new(), help_heading = "Global options")]
    pub quiet: bool,
}

impl std::fmt::Debug for Global {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of it.
        f.debug_struct("Global").field("api", &self.api).field("context", &self.context).finish_non_exhaustive()
    }
}

impl Global {
    fn printer(&self) -> Output {
        Output::new(self.output.unwrap_or_default(), self.quiet)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the first node of a new cluster, and keep running it
    Init(Box<node::NodeArgs>),
    /// Add this machine to a cluster, and keep running its node
    #[command(after_help = "Example:\n  narvana join --token-file - < token")]
    Join(Box<node::JoinArgs>),
    /// Run the node of a data folder
    Run(Box<node::NodeArgs>),
    /// Go on with this node alone, after the majority of the voters was lost for good
    #[command(after_help = "Example:\n  narvana recover --data-dir /var/lib/narvana

Run it on one node only, with its program stopped. It says what may be lost and asks before anything is changed.")]
    Recover(recover::RecoverArgs),
    /// Backups of what the cluster knows
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Say what is wrong with this machine; changes nothing and needs no log-in
    #[command(after_help = "Example:\n  narvana doctor --data-dir /var/lib/narvana")]
    Doctor(Box<node::StartArgs>),
    /// Say what a source is and how it would be built; changes nothing, and needs no log-in for a folder
    #[command(
        after_help = "Examples:\n  narvana detect . -o json\n  narvana detect --git github.com/o/r --root apps/web"
    )]
    Detect(detect::DetectArgs),
    /// For whoever looks for a defect
    #[command(subcommand)]
    Debug(debug::DebugCommand),
    /// End what must not run twice when the node's own program cannot; nodes start it
    #[command(hide = true)]
    Guard(guard::GuardArgs),
    /// Hand out a socket that listens inside a container; nodes start it
    #[command(hide = true)]
    Relay(relay::RelayArgs),
    /// Run a program inside the fence that this was started in; nodes start it
    #[command(hide = true)]
    Fence(fence::FenceArgs),
    /// Show the cluster at a glance
    Status,
    /// Register the first user of a cluster, and log in
    #[command(after_help = "Example:\n  printf '%s' \"$PASSWORD\" | narvana register ada@example.org --password-stdin")]
    Register(account::RegisterArgs),
    /// Log in; the context keeps the log-in
    #[command(after_help = "Examples:
  narvana login ada@example.org
  narvana --context prod --api https://n1.example.org:8080,https://n2.example.org:8080 login ada@example.org")]
    Login(account::Credentials),
    /// End the log-in
    Logout,
    /// Show who is logged in
    Whoami,
    /// Choose between clusters
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Apps: groups of services that belong together
    #[command(subcommand)]
    App(app::AppCommand),
    /// Services: the parts of an app that are deployed on their own
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Deploy a folder, a service or an app, and follow it until it runs
    #[command(after_help = "Examples:
  narvana deploy .                             the folder you are in, as an app and a service of its name
  narvana deploy ./web --app shop              as service `web` of app `shop`
  narvana deploy --app shop --service web      from the service's own source
  narvana deploy --app shop                    all services of an app

Prints the address when it runs. Otherwise the cause, the last log lines and what to do; what ran before goes on running.")]
    Deploy(Box<deploy::DeployArgs>),
    /// Deployments: attempts to bring a service up
    #[command(subcommand)]
    Deployment(deployment::DeploymentCommand),
    /// Builds: from source to image
    #[command(subcommand)]
    Build(build::BuildCommand),
    /// Print what programs or builds wrote
    #[command(after_help = "Examples:
  narvana logs --app shop --follow
  narvana logs --app shop --service web --build")]
    Logs(logs::LogsArgs),
    /// Run a command inside an instance, wherever it runs
    #[command(after_help = "Examples:
  narvana exec --app shop --service web              a shell in a running instance
  narvana exec --app shop --service web -- env       one command; its exit code is that of this one
  narvana exec --app shop --service db -i -- psql < dump.sql

The command sees what the program of the instance sees. When the connection breaks, a terminal gets Ctrl-C and Ctrl-D, and a
pipe its end; a command that heeds neither goes on until its instance ends.")]
    Exec(exec::ExecArgs),
    /// Environment variables of a service
    #[command(subcommand)]
    Env(env::EnvCommand),
    /// List what runs
    Ps(replicas::PsArgs),
    /// Change how many instances services have
    #[command(after_help = "Example:\n  narvana scale web=3 worker=2 --app shop")]
    Scale(replicas::ScaleArgs),
    /// Go back to an older version of a service
    #[command(after_help = "Example:\n  narvana rollback --app shop --service web --to 4")]
    Rollback(replicas::RollbackArgs),
    /// Say why something runs where it runs, or what it waits for
    #[command(after_help = "Example:\n  narvana explain shop")]
    Explain(explain::ExplainArgs),
    /// Nodes of the cluster
    #[command(subcommand)]
    Node(nodes::NodeCommand),
    /// Spread what runs better; says what it would move unless --apply is given
    #[command(after_help = "Examples:
  narvana rebalance                        what would move, and why
  narvana rebalance --apply --budget 20

Another instance works before one ends. Services with volumes and exclusive ones are left where they are.")]
    Rebalance(rebalance::RebalanceArgs),
    /// Ask what would happen; nothing does
    #[command(subcommand)]
    Simulate(nodes::SimulateCommand),
    /// Join tokens: what lets a machine become a node
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The authority that signs the certificates of nodes
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Settings of the cluster
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  narvana completions bash > /etc/bash_completion.d/narvana")]
    Completions(shell::CompletionsArgs),
    /// Write manual pages
    Man(shell::ManArgs),
}

/// Runs a command that has to be the only thread of its process. Any other one comes back.
///
/// # Errors
/// Whatever failed.
pub fn run_alone(cli: Cli) -> ControlFlow<anyhow::Result<()>, Cli> {
    match cli.command {
        Command::Relay(args) => ControlFlow::Break(relay::run(args)),
        Command::Fence(args) => ControlFlow::Break(fence::run(args)),
        _ => ControlFlow::Continue(cli),
    }
}

/// Runs the command that was given.
///
/// # Errors
/// Whatever failed; [`exit_of`] gives its exit code.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Init(args) => return node::init(*args).await,
        Command::Join(args) => return node::join(*args).await,
        Command::Run(args) => return node::run(*args).await,
        Command::Recover(args) => return recover::run(args).await,
        Command::Doctor(args) => return doctor::run(&global.printer(), *args).await,
        Command::Detect(args) => return detect::run(&global, args).await,
        Command::Guard(args) => return guard::run(args).await,
        Command::Debug(command) => return debug::run(&global, command).await,
        Command::Backup(command) => return backup::run(&global, command).await,
        Command::Register(args) => return account::register(&global, args).await,
        Command::Login(args) => return account::login(&global, args).await,
        Command::Logout => return account::logout(&global).await,
        Command::Context(command) => return context::run(command, &global.printer()),
        Command::Completions(args) => return shell::completions(&args),
        Command::Man(args) => return shell::man(&args),
        _ => {}
    }
    let session = &Session::open(&global)?;
    match command {
        Command::Status => nodes::status(session).await,
        Command::Whoami => account::whoami(session).await,
        Command::App(command) => app::run(session, command).await,
        Command::Service(command) => service::run(session, command).await,
        Command::Deploy(args) => deploy::run(session, *args).await,
        Command::Deployment(command) => deployment::run(session, command).await,
        Command::Build(command) => build::run(session, command).await,
        Command::Logs(args) => logs::run(session, args).await,
        Command::Exec(args) => exec::run(session, args).await,
        Command::Env(command) => env::run(session, command).await,
        Command::Ps(args) => replicas::ps(session, args).await,
        Command::Scale(args) => replicas::scale(session, args).await,
        Command::Rollback(args) => replicas::rollback(session, args).await,
        Command::Explain(args) => explain::run(session, args).await,
        Command::Node(command) => Box::pin(nodes::run(session, command)).await,
        Command::Rebalance(args) => rebalance::run(session, args).await,
        Command::Simulate(command) => nodes::simulate(session, command).await,
        Command::Token(command) => token::run(session, command).await,
        Command::Ca(command) => ca::run(session, command).await,
        Command::Settings(command) => settings::run(session, command).await,
        // Handled above.
        _ => Ok(()),
    }
}

/// Says on stderr why a command failed, unless nobody listens any more, and gives its exit code.
pub fn report(error: &anyhow::Error) -> Exit {
    let exit = exit_of(error);
    // A command in an instance has said what it had to say.
    if !outcome::is_broken_pipe(error) && !matches!(exit, Exit::Command(_)) {
        output::warn(&outcome::report(error));
    }
    exit
}
