//! Settings of the cluster.

use clap::Subcommand;
use serde_json::{Map, Value};

use super::nodes::plain;
use super::output::Table;
use super::session::Session;
use super::value::Pair;

/// Commands about settings.
#[derive(Debug, Subcommand)]
pub(super) enum SettingsCommand {
    /// List all settings
    Ls,
    /// Change settings
    #[command(after_help = "Example:\n  narvana settings set server_domain=apps.example.org")]
    Set {
        /// Names and values
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<Pair>,
    },
    /// Make a setting what it is by default
    Reset {
        /// Its name
        key: String,
    },
}

/// Runs a command about settings.
pub(super) async fn run(session: &Session, command: SettingsCommand) -> anyhow::Result<()> {
    let answer = match command {
        SettingsCommand::Ls => session.client.settings().await?,
        SettingsCommand::Set { settings } => {
            let change: Map<String, Value> = settings.into_iter().map(|pair| (pair.key, pair.value.into())).collect();
            session.client.change_settings(&change.into()).await?
        }
        SettingsCommand::Reset { key } => session.client.reset_setting(&key).await?,
    };
    session.output.show(&answer, list)
}

fn list(settings: &Value) -> Table {
    let mut table = Table::new(["KEY", "VALUE"]);
    for (key, value) in settings.as_object().into_iter().flatten() {
        table.row([key.clone(), plain(value)]);
    }
    table
}
