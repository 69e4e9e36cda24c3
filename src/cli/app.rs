//! Apps.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::output::{Table, age, time};
use super::service::kept_volumes;
use super::session::Session;
use crate::client::view::App;

/// Commands about apps.
#[derive(Debug, Subcommand)]
pub(super) enum AppCommand {
    /// List apps
    Ls,
    /// Make an app
    #[command(after_help = "Example:\n  narvana app create shop --description 'The web shop'")]
    Create {
        /// Its name: lower-case letters, digits and '-'
        name: String,
        /// What it is
        #[arg(long)]
        description: Option<String>,
    },
    /// Show an app
    Show {
        /// Its name or id
        app: String,
    },
    /// Change an app
    #[command(after_help = "Example:\n  narvana app update shop --name store")]
    Update(UpdateArgs),
    /// Delete an app with all its services and their instances
    Delete {
        /// Its name or id
        app: String,
    },
}

/// What can be changed of an app.
#[derive(Args, Debug)]
pub(super) struct UpdateArgs {
    /// Its name or id
    pub(super) app: String,
    /// New name
    #[arg(long, required_unless_present_any = ["description", "icon_url"])]
    pub(super) name: Option<String>,
    /// New description
    #[arg(long)]
    pub(super) description: Option<String>,
    /// New picture
    #[arg(long)]
    pub(super) icon_url: Option<String>,
    /// Version that the change is based on; refused when somebody else was faster [default: the newest]
    #[arg(long)]
    pub(super) version: Option<u64>,
}

/// Runs a command about apps.
pub(super) async fn run(session: &Session, command: AppCommand) -> anyhow::Result<()> {
    let (client, output) = (&session.client, &session.output);
    match command {
        AppCommand::Ls => {
            let apps = client.apps().await?;
            output.show_list(&apps, "there are no apps; `narvana deploy .` makes one from a folder", |apps| {
                let mut table = Table::new(["NAME", "AGE", "DESCRIPTION", "+ID", "+VERSION"]);
                for app in apps {
                    let version = app.version.to_string();
                    table.row([
                        app.name.clone(),
                        age(app.created_at),
                        app.description.clone(),
                        app.id.to_string(),
                        version,
                    ]);
                }
                table
            })
        }
        AppCommand::Create { name, description } => {
            let mut app = json!({ "name": name });
            if let Some(description) = description {
                app["description"] = description.into();
            }
            output.show(&client.create_app(&app).await?, fields)
        }
        AppCommand::Show { app } => output.show(&client.app(&app).await?, fields),
        AppCommand::Update(args) => update(session, args).await,
        AppCommand::Delete { app } => {
            let services = client.services(&app).await?.json;
            let kept = kept_volumes(services.as_array().map_or(&[], Vec::as_slice));
            let answer = client.delete_app(&app).await?;
            let data = if answer.json == Value::Null { json!({ "deleted": app }) } else { answer.json };
            output.done(&data, &format!("app {app} is deleted{kept}"))
        }
    }
}

async fn update(session: &Session, args: UpdateArgs) -> anyhow::Result<()> {
    let version = match args.version {
        Some(version) => version,
        None => session.client.app(&args.app).await?.view.version,
    };
    let mut change = Map::from_iter([("version".to_owned(), version.into())]);
    for (field, value) in [("name", args.name), ("description", args.description), ("icon_url", args.icon_url)] {
        if let Some(value) = value {
            change.insert(field.to_owned(), value.into());
        }
    }
    let answer = session.client.update_app(&args.app, &change.into()).await?;
    session.output.show(&answer, fields)
}

fn fields(app: &App) -> Table {
    Table::of_fields([
        ("name", app.name.clone()),
        ("description", app.description.clone()),
        ("id", app.id.to_string()),
        ("organisation", app.org_id.to_string()),
        ("version", app.version.to_string()),
        ("created", time(app.created_at)),
        ("changed", time(app.updated_at)),
    ])
}
