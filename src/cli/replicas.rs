//! Daily short forms about what runs: `ps`, `scale`, `rollback`.

use std::collections::BTreeSet;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::follow;
use super::output::{Table, age, node_name};
use super::session::{AppArg, ServiceArg, Session};
use super::value::Scale;
use super::wait::WaitArgs;
use crate::client::view::{Deployment, Instance};

/// Whose instances.
#[derive(Args, Debug)]
pub(super) struct PsArgs {
    /// App, by name or id [default: all]
    #[arg(short, long, env = "NARVANA_APP")]
    pub(super) app: Option<String>,
    /// Instances that have ended, too
    #[arg(long)]
    pub(super) all: bool,
}

/// How many of what.
#[derive(Args, Debug)]
pub(super) struct ScaleArgs {
    /// Services and how many instances each is to have
    #[arg(required = true, value_name = "SERVICE=N")]
    pub(super) services: Vec<Scale>,
    #[command(flatten)]
    pub(super) app: AppArg,
}

/// Back to what.
#[derive(Args, Debug)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    pub(super) service: ServiceArg,
    /// Version to go back to [default: the last one that worked]
    #[arg(long, value_name = "VERSION")]
    pub(super) to: Option<u64>,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// Lists instances.
pub(super) async fn ps(session: &Session, args: PsArgs) -> anyhow::Result<()> {
    let deployments = match &args.app {
        Some(app) => session.client.app_deployments(app).await?,
        None => session.client.deployments().await?,
    };
    let mut rows = Vec::new();
    let mut data = Vec::new();
    for (deployment, json) in deployments.view.iter().zip(deployments.json.as_array().into_iter().flatten()) {
        let jsons = json.get("instances").and_then(Value::as_array).into_iter().flatten();
        for (instance, json) in deployment.instances.iter().zip(jsons) {
            if args.all || !has_ended(instance) {
                rows.push((deployment, instance));
                data.push(json.clone());
            }
        }
    }
    if rows.is_empty() && !session.output.for_programs() {
        session.output.note("nothing runs; `narvana deployment ls` shows what was deployed");
        return Ok(());
    }
    session.output.show_as(&data.into(), || instances(&rows))
}

pub(super) fn has_ended(instance: &Instance) -> bool {
    matches!(instance.status.as_str(), "stopped" | "failed" | "lost")
}

fn instances(rows: &[(&Deployment, &Instance)]) -> Table {
    let mut table =
        Table::new(["ID", "APP", "SERVICE", "VERSION", "NODE", "STATUS", "HEALTH", "AGE", "REASON", "+DEPLOYMENT"]);
    for (deployment, instance) in rows {
        let node = node_name(&instance.node_name, &instance.node_id);
        table.row([
            instance.id.to_string(),
            deployment.app_name.clone(),
            deployment.service_name.clone(),
            format!("v{}", deployment.version),
            node,
            instance.status.clone(),
            instance.health.clone(),
            age(instance.created_at),
            instance.reason.clone(),
            deployment.id.to_string(),
        ]);
    }
    table
}

/// Changes how many instances services have.
pub(super) async fn scale(session: &Session, args: ScaleArgs) -> anyhow::Result<()> {
    let app = session.app(&args.app).await?;
    let mut answers = Vec::new();
    for scale in &args.services {
        let answer = session.client.scale_service(&app, &scale.service, scale.replicas).await;
        answers.push(answer.with_context(|| format!("cannot scale {}", scale.service))?.json);
    }
    let data = if let [only] = answers.as_slice() { only.clone() } else { json!(answers) };
    let names: BTreeSet<String> =
        args.services.iter().map(|scale| format!("{} to {}", scale.service, scale.replicas)).collect();
    let names: Vec<String> = names.into_iter().collect();
    session.output.done(&data, &format!("scaling {}; `narvana ps --app {app}` shows it", names.join(", ")))
}

/// Says to which version a service goes back: nobody has to have named it.
pub(super) fn note_return(session: &Session, begun: &Deployment) {
    if let Some(older) = begun.cause_version {
        session.output.note(&format!("{} goes back to v{older}, as v{}", begun.service_name, begun.version));
    }
}

/// Goes back to an older version of a service.
pub(super) async fn rollback(session: &Session, args: RollbackArgs) -> anyhow::Result<()> {
    let (app, service) = session.service(&args.service).await?;
    let begun = session.client.rollback_service(&app, &service, args.to).await?;
    note_return(session, &begun.view);
    follow::finish(session, &begun, &args.wait).await
}
