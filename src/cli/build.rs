//! Builds.

use anyhow::Context;
use clap::Subcommand;

use super::detect;
use super::follow;
use super::logs;
use super::output::{Table, age, node_name, time};
use super::session::{ServiceArg, Session};
use super::wait::WaitArgs;
use crate::client::view::{Build, BuildRecipe, Preview};
use crate::client::{LogFilter, LogSource};

/// Commands about builds.
#[derive(Debug, Subcommand)]
pub(super) enum BuildCommand {
    /// List builds, newest first
    Ls,
    /// Show a build
    Show {
        /// Its id
        id: String,
    },
    /// Show how a service would be built, with nothing of it run
    Preview {
        #[command(flatten)]
        service: ServiceArg,
        /// Print this file instead: flake.nix or plan.json
        #[arg(long, value_name = "NAME")]
        file: Option<String>,
    },
    /// Show what was found in the source of a build, and the flake that was made for it
    ///
    /// With all files in a folder and the source in the folder `source` beside them, `nix build path:FOLDER` builds it by hand.
    Recipe {
        /// Its id
        id: String,
        /// Print this file instead: flake.nix, plan.json or flake.lock
        #[arg(long, value_name = "NAME")]
        file: Option<String>,
    },
    /// End a build
    Cancel {
        /// Its id
        id: String,
    },
    /// Build and deploy again what failed, was cancelled or lost
    Retry {
        /// Its id
        id: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Print the log of a build
    Logs {
        /// Its id
        id: String,
        /// How many lines, the newest ones
        #[arg(short = 'n', long, default_value_t = logs::TAIL_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1000))]
        tail: u32,
    },
}

/// Runs a command about builds.
pub(super) async fn run(session: &Session, command: BuildCommand) -> anyhow::Result<()> {
    let (client, output) = (&session.client, &session.output);
    match command {
        BuildCommand::Ls => {
            let builds = client.builds().await?;
            output.show_list(&builds, "there are no builds; `narvana deploy .` makes one", list)
        }
        BuildCommand::Show { id } => output.show(&client.build(&id).await?, fields),
        BuildCommand::Preview { service, file } => {
            let (app, service) = session.service(&service).await?;
            let answer = client.preview(&app, &service).await?;
            let Some(name) = file else { return output.show(&answer, preview_fields) };
            let plan = serde_json::to_string_pretty(&answer.view.plan)?;
            let files = [("flake.nix", &answer.view.generated_flake), ("plan.json", &plan)];
            let found = files
                .into_iter()
                .find(|(known, text)| *known == name && !answer.view.generated_flake.is_empty() && !text.is_empty());
            let (_, text) = found.with_context(|| {
                format!(
                    "there is no {name:?}: {} has flake.nix and plan.json if a flake is written for it",
                    answer.view.strategy
                )
            })?;
            output.text(text)
        }
        BuildCommand::Recipe { id, file: None } => output.show(&client.build_recipe(&id).await?, recipe_fields),
        BuildCommand::Recipe { id, file: Some(name) } => {
            let files = client.build_recipe(&id).await?.view.files;
            let text = files.get(&name).with_context(|| {
                let names: Vec<&str> = files.keys().map(String::as_str).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                format!("the recipe of build {id} has no file {name:?}: it has {names}")
            })?;
            output.text(text)
        }
        BuildCommand::Cancel { id } => {
            let answer = client.cancel_build(&id).await?;
            output.done(&answer.json, &format!("build {id} is being cancelled"))
        }
        BuildCommand::Retry { id, wait } => follow::finish(session, &client.retry_build(&id).await?, &wait).await,
        BuildCommand::Logs { id, tail } => {
            let build = client.build(&id).await?.view;
            let filter = LogFilter {
                source: Some(LogSource::Build),
                deployment: Some(build.deployment_id.0),
                build: Some(build.id.0),
                limit: Some(tail),
                ..LogFilter::default()
            };
            logs::print(session, &build.app_id.0, &filter).await
        }
    }
}

fn list(builds: &[Build]) -> Table {
    let mut table = Table::new(["ID", "SERVICE", "STATUS", "AGE", "REASON", "+APP", "+DEPLOYMENT", "+ATTEMPT"]);
    for build in builds {
        table.row([
            build.id.to_string(),
            build.service_name.clone(),
            build.status.clone(),
            age(build.created_at),
            reason(build),
            build.app_name.clone(),
            build.deployment_id.to_string(),
            build.attempt.to_string(),
        ]);
    }
    table
}

/// Why it ended as it did.
fn reason(build: &Build) -> String {
    if build.cache.hit { format!("the same as build {}", build.cache.build_id) } else { build.failure.message.clone() }
}

fn preview_fields(preview: &Preview) -> Table {
    let seconds = preview.estimated_build_time.map(|seconds| format!("{seconds} s, as the latest builds"));
    let mut table = Table::of_fields([
        ("strategy", preview.strategy.clone()),
        ("revision", preview.revision.clone()),
        ("version", preview.detection.version.clone()),
        ("framework", preview.detection.framework.clone()),
        ("dependencies", preview.dependencies.map(|count| count.to_string()).unwrap_or_default()),
        ("takes", seconds.unwrap_or_default()),
    ]);
    for warning in &preview.warnings {
        table.field("warning", warning.clone());
    }
    if !preview.generated_flake.is_empty() {
        table.field("file", "flake.nix, plan.json; --file prints one".to_owned());
    }
    table
}

fn recipe_fields(recipe: &BuildRecipe) -> Table {
    let mut table = detect::table(&recipe.detection);
    for warning in &recipe.detection.warnings {
        table.field("warning", warning.clone());
    }
    for (name, text) in &recipe.files {
        table.field("file", format!("{name} ({} bytes; --file {name} prints it)", text.len()));
    }
    table
}

fn fields(build: &Build) -> Table {
    let mut table = Table::of_fields([
        ("id", build.id.to_string()),
        ("service", build.service_name.clone()),
        ("deployment", build.deployment_id.to_string()),
        ("status", build.status.clone()),
        ("attempt", build.attempt.to_string()),
        ("node", node_name(&build.node_name, &build.node_id)),
        ("code", build.failure.build_code.clone()),
        ("reason", reason(build)),
        ("built since", build.cache.reason.clone()),
        ("next", build.failure.next_step.clone()),
        ("created", time(build.created_at)),
        ("began", time(build.started_at)),
        ("ended", time(build.finished_at)),
    ]);
    for line in &build.failure.log_tail {
        table.field("log", line.clone());
    }
    table
}
