//! Deployments: reading them and going back to them.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Scoped;
use crate::model::{Cause, Deployment, DeploymentId, Role, SettingKey};
use crate::state::Command;

use super::Error;
use super::deploy::{accepted, one};
use super::extract::{At, Reader, Search, Write};
use super::gate::Gate;
use super::instance::{self, InstanceView};
use super::page::{Order, Page, PageQuery};
use super::service_action::of_older;
use super::service_output::{SpecView, spec, url};
use super::session::Empty;

/// A deployment.
#[derive(Serialize, ToSchema)]
#[schema(as = Deployment)]
pub(super) struct DeploymentView {
    id: String,
    app_id: String,
    app_name: Option<String>,
    service_id: String,
    service_name: String,
    /// 1, 2, 3 … per service.
    version: u64,
    /// `pending`, `building`, `built`, `scheduled`, `starting`, `running`, `stopping`, `stopped` or `failed`. What builds nothing goes
    /// from `pending` to `scheduled`.
    status: &'static str,
    /// Why it failed, or what it waits for.
    reason: Option<String>,
    /// What to do about a failed build.
    next_step: Option<String>,
    /// The last lines of what made it fail.
    log_tail: Vec<String>,
    /// Where its service is reached.
    url: Option<String>,
    instances: Vec<InstanceView>,
    /// `deploy`, `rollback`, `restart` or `start`.
    cause: &'static str,
    /// The older deployment that it repeats.
    cause_deployment_id: Option<String>,
    /// The version of that one, while it is on record.
    cause_version: Option<u64>,
    build_id: Option<String>,
    /// The image it runs, as soon as that exists.
    artifact: Option<String>,
    /// Commit or digest of the source it was built from.
    git_commit: Option<String>,
    source_id: Option<String>,
    /// What was wanted when it was made.
    config: SpecView,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
}

pub(super) fn view(deployment: &Scoped<Deployment>, gate: &Gate, server_domain: &str) -> DeploymentView {
    let (cause, older) = match deployment.cause {
        Cause::Deploy => ("deploy", None),
        Cause::Rollback(of) => ("rollback", Some(of)),
        Cause::Restart(of) => ("restart", Some(of)),
        Cause::Start(of) => ("start", Some(of)),
    };
    let service = deployment.service();
    DeploymentView {
        id: deployment.id.to_string(),
        app_id: deployment.app.to_string(),
        app_name: deployment.app_name(),
        service_id: deployment.service.to_string(),
        service_name: deployment.service_name.clone(),
        version: deployment.version,
        status: deployment.told_status().as_str(),
        reason: deployment.reason.clone(),
        next_step: next_step(deployment),
        log_tail: deployment.log_tail.clone(),
        url: service.and_then(|service| url(&service.host_label, &deployment.spec, gate, server_domain)),
        instances: deployment.instances().map(|row| instance::view(&row)).collect(),
        cause,
        cause_deployment_id: older.map(|id| id.to_string()),
        cause_version: older.and_then(|id| deployment.sibling(id)).map(|older| older.version),
        build_id: deployment.build.map(|id| id.to_string()),
        artifact: deployment.artifact.as_ref().map(|artifact| artifact.image.clone()),
        git_commit: deployment.artifact.as_ref().and_then(|artifact| artifact.revision.clone()),
        source_id: deployment.source.map(|id| id.to_string()),
        config: spec(&deployment.spec),
        created_at: deployment.created_at.to_string(),
        started_at: deployment.started_at.map(|at| at.to_string()),
        finished_at: deployment.finished_at.map(|at| at.to_string()),
    }
}

fn next_step(deployment: &Scoped<Deployment>) -> Option<String> {
    let newest = deployment.builds().last()?;
    newest.failure.as_ref().map(|failure| failure.next_step.clone())
}

/// Your deployments, newest first
#[utoipa::path(get, path = "/v1/deployments", tag = "deployments", params(PageQuery),
    responses((status = 200, body = Vec<DeploymentView>)))]
pub(super) async fn list(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    Search(page): Search<PageQuery>,
) -> Result<Page<DeploymentView>, Error> {
    let domain = caller.setting(SettingKey::ServerDomain);
    page.cut(Order::NewestFirst, caller.deployments(), |row| row.id, |row| view(&row, &gate, domain))
}

/// Deployments of an app, newest first
#[utoipa::path(get, path = "/v1/apps/{app}/deployments", tag = "deployments",
    params(("app" = String, Path, description = "Its id or name"), PageQuery),
    responses((status = 200, body = Vec<DeploymentView>)))]
pub(super) async fn list_of_app(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(app): At<String>,
    Search(page): Search<PageQuery>,
) -> Result<Page<DeploymentView>, Error> {
    let app = caller.app(Role::Viewer, &app)?;
    let domain = caller.setting(SettingKey::ServerDomain);
    page.cut(Order::NewestFirst, app.deployments(), |row| row.id, |row| view(&row, &gate, domain))
}

/// A deployment
#[utoipa::path(get, path = "/v1/deployments/{deployment}", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id")), responses((status = 200, body = DeploymentView)))]
pub(super) async fn show(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(id): At<DeploymentId>,
) -> Result<Json<DeploymentView>, Error> {
    let deployment = caller.load(Role::Viewer, id)?;
    Ok(Json(view(&deployment, &gate, caller.setting(SettingKey::ServerDomain))))
}

/// Go back to a deployment
///
/// Makes a new deployment with the same specification, environment and artifact.
#[utoipa::path(post, path = "/v1/deployments/{deployment}/rollback", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id")), request_body = Empty,
    responses((status = 202, body = DeploymentView)))]
pub(super) async fn rollback(
    State(gate): State<Gate>,
    At(id): At<DeploymentId>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<(StatusCode, Json<DeploymentView>), Error> {
    let (outcome, caller) = change
        .commit(|caller| {
            let older: Scoped<Deployment> = caller.load(Role::Member, id)?;
            Ok(Command::Deploy(vec![of_older(older.service, Cause::Rollback(older.id))]))
        })
        .await?;
    accepted(one(&outcome, &caller, &gate)?)
}
