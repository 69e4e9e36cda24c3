//! Builds: reading, cancelling and repeating them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::auth::Scoped;
use crate::build::{Document, RecipeError};
use crate::decide::reuse::Reuse;
use crate::model::{Build, BuildId, Cause, Role};
use crate::random;
use crate::state::{Command, NewDeployment};

use super::Error;
use super::deploy::{accepted, command, one};
use super::deployment::DeploymentView;
use super::extract::{At, Reader, Search, Write};
use super::gate::Gate;
use super::page::{Order, Page, PageQuery};
use super::session::Empty;

/// A build.
#[derive(Serialize, ToSchema)]
#[schema(as = Build)]
pub(super) struct BuildView {
    id: String,
    deployment_id: String,
    app_id: String,
    app_name: Option<String>,
    service_id: String,
    service_name: Option<String>,
    source_type: Option<&'static str>,
    build_strategy: Option<&'static str>,
    /// `queued`, `running`, `succeeded`, `failed`, `cancelled` or `lost`.
    status: &'static str,
    /// 1, or 2 for the run that follows a lost one.
    attempt: u32,
    /// The node that works, or worked, on it.
    node_id: Option<u64>,
    node_name: Option<String>,
    cancel_requested: bool,
    /// Whether it was built before; null until its source was seen.
    cache: Option<CacheView>,
    image: Option<String>,
    git_commit: Option<String>,
    failure: Option<FailureView>,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
}

/// Whether a build has to run, or somebody has built the same.
#[derive(Serialize, ToSchema)]
#[schema(as = BuildCache)]
pub(super) struct CacheView {
    /// It takes the image of another build, which is made from the same, and runs nothing itself.
    hit: bool,
    /// That build, or one that was waited for in vain. It is waited for while it has not ended.
    build_id: Option<String>,
    /// Why it runs itself: what changed since the build before.
    reason: Option<String>,
}

/// Why a build failed.
#[derive(Serialize, ToSchema)]
#[schema(as = BuildFailure)]
pub(super) struct FailureView {
    /// For programs, such as `DOCKERFILE_NOT_FOUND`.
    code: &'static str,
    message: String,
    /// What to do about it.
    next_step: String,
    log_tail: Vec<String>,
}

pub(super) fn view(build: &Scoped<Build>) -> BuildView {
    let deployment = build.deployment();
    BuildView {
        id: build.id.to_string(),
        deployment_id: build.deployment.to_string(),
        app_id: build.app.to_string(),
        app_name: deployment.as_ref().and_then(Scoped::app_name),
        service_id: build.service.to_string(),
        service_name: deployment.as_ref().map(|deployment| deployment.service_name.clone()),
        source_type: deployment.as_ref().map(|deployment| deployment.spec.source.type_name()),
        build_strategy: deployment.as_ref().map(|deployment| deployment.spec.build.strategy.as_str()),
        status: build.status.as_str(),
        attempt: build.attempt,
        node_id: build.lease.map(|lease| lease.node.0),
        node_name: build.node_name(),
        cancel_requested: build.cancel_requested,
        cache: build.reuse().map(|reuse| match reuse {
            Reuse::Of(other) => CacheView { hit: true, build_id: Some(other.to_string()), reason: None },
            Reuse::WaitedFor(other) => {
                let reason = Some(format!("it waited for build {other}, which is made from the same"));
                CacheView { hit: false, build_id: Some(other.to_string()), reason }
            }
            Reuse::Built(reason) => CacheView { hit: false, build_id: None, reason: Some(reason) },
        }),
        image: build.artifact.as_ref().map(|artifact| artifact.image.clone()),
        git_commit: build.artifact.as_ref().and_then(|artifact| artifact.revision.clone()),
        failure: build.failure.as_ref().map(|failure| FailureView {
            code: failure.code.as_str(),
            message: failure.message.clone(),
            next_step: failure.next_step.clone(),
            log_tail: failure.log_tail.clone(),
        }),
        created_at: build.created_at.to_string(),
        started_at: build.started_at.map(|at| at.to_string()),
        finished_at: build.finished_at.map(|at| at.to_string()),
    }
}

/// Your builds, newest first
#[utoipa::path(get, path = "/v1/builds", tag = "builds", params(PageQuery), responses((status = 200, body = Vec<BuildView>)))]
pub(super) async fn list(Reader(caller): Reader, Search(page): Search<PageQuery>) -> Result<Page<BuildView>, Error> {
    page.cut(Order::NewestFirst, caller.builds(), |row| row.id, |row| view(&row))
}

/// A build
#[utoipa::path(get, path = "/v1/builds/{build}", tag = "builds", params(("build" = String, Path, description = "Its id")),
    responses((status = 200, body = BuildView)))]
pub(super) async fn show(Reader(caller): Reader, At(id): At<BuildId>) -> Result<Json<BuildView>, Error> {
    Ok(Json(view(&caller.load(Role::Viewer, id)?)))
}

/// How a source was built that does not say it itself.
#[derive(Serialize, ToSchema)]
#[schema(as = BuildRecipe)]
pub(super) struct RecipeView {
    /// What was found in the source, as `/v1/detect` says it.
    #[schema(value_type = Object)]
    detection: Value,
    /// The files that were made for it, by their names, and empty when its own Dockerfile or flake was found: `flake.nix`, `flake.lock`,
    /// and `plan.json` with everything in which it differs from other sources of its language. The source belongs into the folder `source`
    /// beside them.
    files: BTreeMap<String, String>,
}

/// How a build is done
///
/// What was found in the source, and the flake that was made for it. Of strategies that find nothing out (`dockerfile`, `flake`) there is
/// none, and of others there is one as soon as it is built.
#[utoipa::path(get, path = "/v1/builds/{build}/recipe", tag = "builds", params(("build" = String, Path, description = "Its id")),
    responses((status = 200, body = RecipeView)))]
pub(super) async fn recipe(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(id): At<BuildId>,
) -> Result<Json<RecipeView>, Error> {
    let build: Scoped<Build> = caller.load(Role::Viewer, id)?;
    let recipe = build.recipe().ok_or_else(|| {
        let why = "its strategy finds nothing out, or it has not come so far, or was built before recipes were kept";
        Error::NotFound(format!("build {id} has no recipe: {why}"))
    })?;
    let Document { detection, files, .. } = gate.inspector().recipe(&recipe).await?;
    Ok(Json(RecipeView { detection, files }))
}

impl From<RecipeError> for Error {
    fn from(error: RecipeError) -> Self {
        let message = format!("how it was built cannot be shown: {error}");
        match error {
            RecipeError::Away(_) => Self::NoQuorum(message),
            RecipeError::Store(_) | RecipeError::Broken(_) => Self::internal(message),
        }
    }
}

/// Cancel a build
///
/// A running one ends a moment later; its deployment fails.
#[utoipa::path(post, path = "/v1/builds/{build}/cancel", tag = "builds", params(("build" = String, Path, description = "Its id")),
    request_body = Empty, responses((status = 202, body = BuildView)))]
pub(super) async fn cancel(
    At(id): At<BuildId>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<(StatusCode, Json<BuildView>), Error> {
    let (_, caller) =
        change.commit(|caller| Ok(Command::CancelBuild(caller.load::<Build>(Role::Member, id)?.id))).await?;
    accepted(view(&caller.load(Role::Viewer, id)?))
}

/// Build again
///
/// Makes a new deployment of the service as it is specified now; with `no_cache` if this one had that.
#[utoipa::path(post, path = "/v1/builds/{build}/retry", tag = "builds", params(("build" = String, Path, description = "Its id")),
    request_body = Empty, responses((status = 202, body = DeploymentView)))]
pub(super) async fn retry(
    State(gate): State<Gate>,
    At(id): At<BuildId>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<(StatusCode, Json<DeploymentView>), Error> {
    let (outcome, caller) = change
        .commit(|caller| {
            let build: Scoped<Build> = caller.load(Role::Member, id)?;
            if !build.status.is_terminal() {
                return Err(Error::Conflict(format!("build {id} has not ended; cancel it first")));
            }
            let new = NewDeployment {
                id: random::id(),
                build: random::id(),
                service: build.service,
                cause: Cause::Deploy,
                git_ref: None,
            };
            Ok(command(vec![new], build.is_anew()))
        })
        .await?;
    accepted(one(&outcome, &caller, &gate)?)
}
