//! Environment variables of a service.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;

use super::output::Table;
use super::session::{ServiceArg, Session};
use super::value::Pair;
use crate::client::Answer;
use crate::client::view::EnvVars;

/// Commands about environment variables. They take effect with the next deployment.
#[derive(Debug, Subcommand)]
pub(super) enum EnvCommand {
    /// List the variables with their values
    Ls {
        #[command(flatten)]
        service: ServiceArg,
    },
    /// Set variables; the others stay
    #[command(after_help = "Example:\n  narvana env set LOG_LEVEL=debug WORKERS=4 --app shop --service web")]
    Set {
        /// The variables
        #[arg(required = true, value_name = "KEY=VALUE")]
        variables: Vec<Pair>,
        #[command(flatten)]
        service: ServiceArg,
    },
    /// Remove variables
    Unset {
        /// Their names
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        service: ServiceArg,
    },
    /// Set the variables that a .env file names, all or none; the others stay
    #[command(after_help = "Example:\n  narvana env import .env --app shop --service web")]
    Import {
        /// The file; `-` reads standard input
        file: PathBuf,
        #[command(flatten)]
        service: ServiceArg,
    },
}

/// Runs a command about environment variables.
pub(super) async fn run(session: &Session, command: EnvCommand) -> anyhow::Result<()> {
    let (client, output) = (&session.client, &session.output);
    match command {
        EnvCommand::Ls { service } => {
            let (app, service) = session.service(&service).await?;
            output.show(&client.env(&app, &service).await?, list)
        }
        EnvCommand::Set { variables, service } => {
            let (app, service) = session.service(&service).await?;
            let variables: BTreeMap<String, String> =
                variables.into_iter().map(|pair| (pair.key, pair.value)).collect();
            changed(session, &client.set_env(&app, &service, &variables).await?, &app, &service)
        }
        EnvCommand::Unset { keys, service } => {
            let (app, service) = session.service(&service).await?;
            for key in &keys {
                client.remove_env(&app, &service, key).await.with_context(|| format!("cannot remove {key}"))?;
            }
            changed(session, &client.env(&app, &service).await?, &app, &service)
        }
        EnvCommand::Import { file, service } => {
            let (app, service) = session.service(&service).await?;
            let mut text = String::new();
            if file.as_os_str() == "-" {
                std::io::stdin().read_to_string(&mut text).context("cannot read the variables from standard input")?;
            } else {
                text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            }
            changed(session, &client.import_env(&app, &service, &text).await?, &app, &service)
        }
    }
}

/// What a change leaves behind: everything for programs, a hint for people.
fn changed(session: &Session, now: &Answer<EnvVars>, app: &str, service: &str) -> anyhow::Result<()> {
    let line = format!("done; `narvana deploy --app {app} --service {service}` puts it into effect");
    session.output.done(&now.json, &line)
}

fn list(env: &EnvVars) -> Table {
    let mut table = Table::new(["KEY", "VALUE"]);
    for variable in &env.variables {
        table.row([variable.key.clone(), variable.value.clone()]);
    }
    table
}
