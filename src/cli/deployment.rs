//! Deployments.

use clap::Subcommand;

use super::follow;
use super::output::{Table, age, node_name, time};
use super::screen::short;
use super::session::{AppArg, Session};
use super::wait::WaitArgs;
use crate::client::view::Deployment;

/// Commands about deployments.
#[derive(Debug, Subcommand)]
pub(super) enum DeploymentCommand {
    /// List deployments, newest first; of one app, or of all
    Ls {
        #[command(flatten)]
        app: AppArg,
    },
    /// Show a deployment and its instances
    Show {
        /// Its id
        id: String,
    },
    /// Make a new deployment like this one
    #[command(after_help = "Example:\n  narvana deployment ls --app shop\n  narvana deployment rollback 0198f3a2-…")]
    Rollback {
        /// Id of the deployment to go back to
        id: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

/// Runs a command about deployments.
pub(super) async fn run(session: &Session, command: DeploymentCommand) -> anyhow::Result<()> {
    let (client, output) = (&session.client, &session.output);
    match command {
        DeploymentCommand::Ls { app } => {
            let deployments = match &app.app {
                Some(app) => client.app_deployments(app).await?,
                None => client.deployments().await?,
            };
            output.show_list(&deployments, "there are no deployments; `narvana deploy .` makes one", list)
        }
        DeploymentCommand::Show { id } => output.show(&client.deployment(&id).await?, fields),
        DeploymentCommand::Rollback { id, wait } => {
            let begun = client.rollback_deployment(&id).await?;
            super::replicas::note_return(session, &begun.view);
            follow::finish(session, &begun, &wait).await
        }
    }
}

pub(super) fn list(deployments: &[Deployment]) -> Table {
    let mut table = Table::new(["ID", "SERVICE", "VERSION", "STATUS", "AGE", "REASON", "+APP", "+BUILD", "+URL"]);
    for deployment in deployments {
        table.row([
            deployment.id.to_string(),
            deployment.service_name.clone(),
            format!("v{}", deployment.version),
            deployment.status.clone(),
            age(deployment.created_at),
            deployment.reason.clone(),
            deployment.app_name.clone(),
            deployment.build_id.to_string(),
            deployment.url.clone(),
        ]);
    }
    table
}

/// Which version it is once more, and why.
fn repeats(deployment: &Deployment) -> String {
    deployment.cause_version.map(|version| format!("v{version} ({})", deployment.cause)).unwrap_or_default()
}

pub(super) fn fields(deployment: &Deployment) -> Table {
    let mut table = Table::of_fields([
        ("id", deployment.id.to_string()),
        ("app", deployment.app_name.clone()),
        ("service", deployment.service_name.clone()),
        ("version", deployment.version.to_string()),
        ("repeats", repeats(deployment)),
        ("status", deployment.status.clone()),
        ("reason", deployment.reason.clone()),
        ("url", deployment.url.clone()),
        ("build", deployment.build_id.to_string()),
        ("image", deployment.artifact.clone()),
        ("created", time(deployment.created_at)),
        ("ended", time(deployment.finished_at)),
    ]);
    for instance in &deployment.instances {
        let node = node_name(&instance.node_name, &instance.node_id);
        let reason = if instance.reason.is_empty() { String::new() } else { format!(" ({})", instance.reason) };
        let state = format!("{} on {node}, {}{reason}", instance.status, instance.health);
        table.field(&format!("instance {}", short(&instance.id)), state);
    }
    for line in &deployment.log_tail {
        table.field("log", line.clone());
    }
    table
}
