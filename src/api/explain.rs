//! Why things are as they are, word for word as the deciding functions say it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock;
use crate::model::{Deployment, DeploymentId, Instance, InstanceId, Role};

use super::Error;
use super::extract::{At, Reader};
use super::gate::Gate;

/// Why something is as it is.
#[derive(Serialize, ToSchema)]
#[schema(as = Explanation)]
pub(super) struct ExplanationView {
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    /// Sentences, the most important first.
    lines: Vec<String>,
}

/// Why an app is as it is
#[utoipa::path(get, path = "/v1/apps/{app}/explain", tag = "apps", params(("app" = String, Path, description = "Its id or name")),
    responses((status = 200, body = ExplanationView)))]
pub(super) async fn app(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(app): At<String>,
) -> Result<Json<ExplanationView>, Error> {
    let lines = caller.app(Role::Viewer, &app)?.explain(&gate.options().decide, clock::now());
    Ok(Json(ExplanationView { status: None, lines }))
}

/// Why a deployment is as it is
#[utoipa::path(get, path = "/v1/deployments/{deployment}/explain", tag = "deployments",
    params(("deployment" = String, Path, description = "Its id")), responses((status = 200, body = ExplanationView)))]
pub(super) async fn deployment(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(id): At<DeploymentId>,
) -> Result<Json<ExplanationView>, Error> {
    let deployment = caller.load::<Deployment>(Role::Viewer, id)?;
    let lines = deployment.explain(&gate.options().decide, clock::now());
    Ok(Json(ExplanationView { status: Some(deployment.told_status().as_str()), lines }))
}

/// Why an instance is where it is
#[utoipa::path(get, path = "/v1/instances/{instance}/explain", tag = "deployments",
    params(("instance" = String, Path, description = "Its id")), responses((status = 200, body = ExplanationView)))]
pub(super) async fn instance(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(id): At<InstanceId>,
) -> Result<Json<ExplanationView>, Error> {
    let instance = caller.load::<Instance>(Role::Viewer, id)?;
    let lines = instance.explain(&gate.options().decide, clock::now());
    Ok(Json(ExplanationView { status: Some(instance.status.state.as_str()), lines }))
}
