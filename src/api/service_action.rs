//! What is done with a service: stop, start, restart, scale, roll back.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::auth::Scoped;
use crate::model::{Cause, Deployment, DeploymentId, Desired, Role, Service};
use crate::random;
use crate::state::{Command, NewDeployment};

use super::Error;
use super::change::Change;
use super::deploy::{accepted, one};
use super::deployment::DeploymentView;
use super::extract::{At, Write};
use super::gate::Gate;
use super::service::shown;
use super::service_output::ServiceView;
use super::session::Empty;

/// How many instances.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Scale {
    replicas: u32,
}

/// Where to go back to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackService {
    /// Number of the deployment; the newest that served before the present one when absent.
    version: Option<u64>,
}

/// Stop a service
///
/// Its instances end; its specification and deployments stay.
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/stop", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = Empty, responses((status = 200, body = ServiceView)))]
pub(super) async fn stop(
    State(gate): State<Gate>,
    At((app, service)): At<(String, String)>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<Json<ServiceView>, Error> {
    let (outcome, caller) = change
        .commit(|caller| {
            let service = caller.service(Role::Member, &app, &service)?.id;
            Ok(Command::SetDesired { service, desired: Desired::Stopped })
        })
        .await?;
    Ok(Json(shown(&outcome, &caller, &gate)?))
}

/// Start a stopped service
///
/// Makes a new deployment of what ran last.
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/start", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = Empty, responses((status = 202, body = DeploymentView)))]
pub(super) async fn start(
    State(gate): State<Gate>,
    At((app, service)): At<(String, String)>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<(StatusCode, Json<DeploymentView>), Error> {
    again(&gate, &change, &app, &service, Cause::Start, |service| {
        if service.desired == Desired::Running && service.serving().is_some() {
            return Err(Error::Conflict(format!("service {} is running already", service.name)));
        }
        last_run(service)
    })
    .await
}

/// Restart a service
///
/// Makes a new deployment of what runs now: new instances, then the old ones end.
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/restart", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = Empty, responses((status = 202, body = DeploymentView)))]
pub(super) async fn restart(
    State(gate): State<Gate>,
    At((app, service)): At<(String, String)>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<(StatusCode, Json<DeploymentView>), Error> {
    again(&gate, &change, &app, &service, Cause::Restart, running).await
}

/// Restart a service (the original's name)
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/reload", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = Empty, responses((status = 202, body = DeploymentView)))]
pub(super) async fn reload(
    State(gate): State<Gate>,
    At((app, service)): At<(String, String)>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<(StatusCode, Json<DeploymentView>), Error> {
    again(&gate, &change, &app, &service, Cause::Restart, running).await
}

/// Change the number of instances
///
/// Takes effect at once, without a new deployment.
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/scale", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = Scale, responses((status = 200, body = ServiceView)))]
pub(super) async fn scale(
    State(gate): State<Gate>,
    At((app, service)): At<(String, String)>,
    Write(change, input): Write<Scale>,
) -> Result<Json<ServiceView>, Error> {
    let (outcome, caller) = change
        .commit(|caller| {
            let service = caller.service(Role::Member, &app, &service)?.id;
            Ok(Command::Scale { service, replicas: input.replicas })
        })
        .await?;
    Ok(Json(shown(&outcome, &caller, &gate)?))
}

/// Roll a service back
///
/// Makes a new deployment of an older one: its specification, environment and artifact.
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/rollback", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = RollbackService, responses((status = 202, body = DeploymentView)))]
pub(super) async fn rollback(
    State(gate): State<Gate>,
    At((app, service)): At<(String, String)>,
    Write(change, input): Write<RollbackService>,
) -> Result<(StatusCode, Json<DeploymentView>), Error> {
    again(&gate, &change, &app, &service, Cause::Rollback, |service| match input.version {
        Some(version) => {
            let missing = || Error::NotFound(format!("version {version} of service {} does not exist", service.name));
            service.deployments().find(|deployment| deployment.version == version).ok_or_else(missing)
        }
        None => previous(service),
    })
    .await
}

/// A new deployment of an older one that `pick` chooses.
async fn again(
    gate: &Gate,
    change: &Change,
    app: &str,
    service: &str,
    cause: fn(DeploymentId) -> Cause,
    pick: impl FnOnce(&Scoped<Service>) -> Result<Scoped<Deployment>, Error>,
) -> Result<(StatusCode, Json<DeploymentView>), Error> {
    let (outcome, caller) = change
        .commit(|caller| {
            let service = caller.service(Role::Member, app, service)?;
            let of = pick(&service)?.id;
            Ok(Command::Deploy(vec![of_older(service.id, cause(of))]))
        })
        .await?;
    accepted(one(&outcome, &caller, gate)?)
}

/// A deployment of the same thing as an older one.
pub(super) fn of_older(service: crate::model::ServiceId, cause: Cause) -> NewDeployment {
    NewDeployment { id: random::id(), build: random::id(), service, cause, git_ref: None }
}

fn running(service: &Scoped<Service>) -> Result<Scoped<Deployment>, Error> {
    service
        .serving()
        .ok_or_else(|| Error::Conflict(format!("service {} is not running; deploy or start it", service.name)))
}

/// What ran last: the newest deployment that had instances.
fn last_run(service: &Scoped<Service>) -> Result<Scoped<Deployment>, Error> {
    let nothing = || Error::Conflict(format!("service {} has nothing to start; deploy it first", service.name));
    let ran = |deployment: &Scoped<Deployment>| deployment.artifact.is_some() && deployment.started_at.is_some();
    service.deployments().find(ran).ok_or_else(nothing)
}

/// The newest deployment before the present one that came up.
fn previous(service: &Scoped<Service>) -> Result<Scoped<Deployment>, Error> {
    let newest_first = service.deployments();
    let present = service.serving().map(|deployment| deployment.version);
    let below = present.unwrap_or(service.last_version);
    let came_up = |deployment: &Scoped<Deployment>| {
        let failed = deployment.status.as_str() == "failed";
        deployment.version < below && deployment.artifact.is_some() && !failed
    };
    let mut candidates = newest_first.filter(came_up);
    candidates
        .next()
        .ok_or_else(|| Error::Conflict(format!("service {} has no older version to go back to", service.name)))
}
