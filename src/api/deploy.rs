//! Deploying: one service, or all services of an app.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::{Caller, Scoped};
use crate::model::{App, Cause, Role, Service, SettingKey, dependency_order};
use crate::random;
use crate::state::{Command, NewDeployment, Outcome};

use super::Error;
use super::deployment::{DeploymentView, view};
use super::extract::{At, Write};
use super::gate::Gate;

/// How to deploy a service.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeployService {
    /// Branch, tag or commit instead of the service's own; git only.
    git_ref: Option<String>,
    /// Build it, whatever was built before.
    #[serde(default)]
    no_cache: bool,
}

/// How to deploy an app.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeployApp {
    /// Branch, tag or commit instead of the services' own; for the services that come from git.
    git_ref: Option<String>,
    /// Only this service.
    service_name: Option<String>,
    /// Build it, whatever was built before.
    #[serde(default)]
    no_cache: bool,
}

/// One deployment when `service_name` was given, else all of them in the order in which they start.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "made once for an answer and written at once")]
pub(super) enum Deployed {
    /// The one that was asked for.
    One(DeploymentView),
    /// All of the app.
    All(Vec<DeploymentView>),
}

/// Deploy a service
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/deploy", tag = "deployments",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = DeployService, responses((status = 202, body = DeploymentView)))]
pub(super) async fn service(
    State(gate): State<Gate>,
    At((app, service)): At<(String, String)>,
    Write(change, input): Write<DeployService>,
) -> Result<(StatusCode, Json<DeploymentView>), Error> {
    let (outcome, caller) = change
        .commit(|caller| {
            let service = caller.service(Role::Member, &app, &service)?;
            Ok(command(vec![new(&service, input.git_ref)], input.no_cache))
        })
        .await?;
    accepted(one(&outcome, &caller, &gate)?)
}

/// Deploy an app
///
/// All its services, or one; all or nothing. A service starts when those it depends on run.
#[utoipa::path(post, path = "/v1/apps/{app}/deploy", tag = "deployments",
    params(("app" = String, Path, description = "Its id or name")),
    request_body = DeployApp, responses((status = 202, body = Deployed)))]
pub(super) async fn app(
    State(gate): State<Gate>,
    At(app): At<String>,
    Write(change, input): Write<DeployApp>,
) -> Result<(StatusCode, Json<Deployed>), Error> {
    let single = input.service_name.is_some();
    let (outcome, caller) = change
        .commit(|caller| {
            let app = caller.app(Role::Member, &app)?;
            let deployments = match &input.service_name {
                Some(name) => {
                    let service = app.service(name)?;
                    vec![new(&service, input.git_ref)]
                }
                None => all(&app, input.git_ref.as_deref())?,
            };
            Ok(command(deployments, input.no_cache))
        })
        .await?;
    if single {
        return accepted(Deployed::One(one(&outcome, &caller, &gate)?));
    }
    accepted(Deployed::All(made(&outcome, &caller, &gate)?))
}

/// Deploys, building what has to be built, or all of it.
pub(super) fn command(deployments: Vec<NewDeployment>, no_cache: bool) -> Command {
    if no_cache { Command::DeployAnew(deployments) } else { Command::Deploy(deployments) }
}

fn new(service: &Service, git_ref: Option<String>) -> NewDeployment {
    NewDeployment { id: random::id(), build: random::id(), service: service.id, cause: Cause::Deploy, git_ref }
}

fn all(app: &Scoped<App>, git_ref: Option<&str>) -> Result<Vec<NewDeployment>, Error> {
    let services: BTreeMap<String, Scoped<Service>> = app.services().map(|row| (row.name.clone(), row)).collect();
    if services.is_empty() {
        return Err(Error::Conflict(format!("app {} has no services to deploy", app.name)));
    }
    let graph: BTreeMap<&str, &BTreeSet<String>> =
        services.iter().map(|(name, service)| (name.as_str(), &service.spec.depends_on)).collect();
    // The state refuses cycles when they are made.
    let order = dependency_order(&graph).map_err(|problem| Error::Conflict(problem.0))?;
    let rows = order.iter().filter_map(|name| services.get(name));
    Ok(rows
        .map(|service| {
            let from_git = service.spec.source.type_name() == "git";
            new(service, git_ref.filter(|_| from_git).map(str::to_owned))
        })
        .collect())
}

/// The deployments that a command made.
fn made(outcome: &Outcome, caller: &Caller, gate: &Gate) -> Result<Vec<DeploymentView>, Error> {
    let Outcome::Deployments(ids) = outcome else {
        return Err(Error::internal("a deployment was answered with something else"));
    };
    let domain = caller.setting(SettingKey::ServerDomain);
    ids.iter().map(|id| Ok(view(&caller.load(Role::Viewer, *id)?, gate, domain))).collect()
}

/// The one deployment that a command made.
pub(super) fn one(outcome: &Outcome, caller: &Caller, gate: &Gate) -> Result<DeploymentView, Error> {
    let nothing = || Error::internal("a deployment was answered with none");
    made(outcome, caller, gate)?.into_iter().next().ok_or_else(nothing)
}

/// The answer to work that has only begun.
pub(super) fn accepted<T>(body: T) -> Result<(StatusCode, Json<T>), Error> {
    Ok((StatusCode::ACCEPTED, Json(body)))
}
