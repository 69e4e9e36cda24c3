//! How a service would be built, before anything runs.

use axum::Json;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::auth::Scoped;
use crate::build::{Preview, Previewed};
use crate::decide::detect::Detection;
use crate::decide::reuse::Reuse;
use crate::model::{BuildStatus, Role, Service, SettingKey, Source};

use super::Error;
use super::build_config::BuildConfigBody;
use super::extract::{At, Write};
use super::service_input::built_otherwise;

/// Builds by which it is estimated how long one takes.
const BUILDS_LOOKED_AT: usize = 10;

/// How to build it for once.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewRequest {
    /// Instead of that of the service.
    build_strategy: Option<String>,
    /// Instead of that of the service.
    build_config: Option<BuildConfigBody>,
}

/// How a service would be built.
#[derive(Serialize, ToSchema)]
#[schema(as = Preview)]
pub(super) struct PreviewView {
    /// By what it would be built, after what is found when that is left open.
    strategy: &'static str,
    build_type: &'static str,
    /// Commit or digest of the source that was looked at.
    revision: String,
    /// What was found in the source, as `/v1/detect` says it; null where the strategy finds nothing out.
    #[schema(value_type = Option<Object>)]
    detection: Option<Value>,
    /// The flake that would be built, where one is written.
    generated_flake: Option<String>,
    /// Everything in which it differs from other sources of its language. What only its toolchain knows is null.
    #[schema(value_type = Option<Object>)]
    plan: Option<Value>,
    /// How many things would be fetched, where that is known before.
    dependencies: Option<usize>,
    /// Seconds: the median of the latest builds of this service that succeeded; null when there is none.
    estimated_build_time: Option<u64>,
    warnings: Vec<String>,
}

/// How a service would be built
///
/// Fetches the source on the node that is asked, looks at it, checks it, and throws it away: nothing of it runs. When it could not be built,
/// the status is 422, and `details` has a `build_code` and what to do.
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/preview", tag = "builds",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = PreviewRequest, responses((status = 200, body = PreviewView)))]
pub(super) async fn preview(
    At((app, service)): At<(String, String)>,
    Write(change, request): Write<PreviewRequest>,
) -> Result<Json<PreviewView>, Error> {
    let gate = change.gate();
    let service = change.caller().service(Role::Member, &app, &service)?;
    let PreviewRequest { build_strategy, build_config } = request;
    let allow_loopback = gate.options().allow_loopback_sources;
    let spec = built_otherwise(service.spec.clone(), build_strategy, build_config, allow_loopback)?;
    if !spec.source.needs_build() {
        let reason = format!("service {} runs an image that exists: nothing is built", service.name);
        return Err(Error::Conflict(reason));
    }
    let uploaded = service.uploaded_source();
    if spec.source == Source::Upload && uploaded.is_none() {
        let reason =
            format!("nothing was uploaded for service {0} yet: `narvana deploy PATH --service {0}`", service.name);
        return Err(Error::Conflict(reason));
    }
    let nixpkgs = change.caller().setting(SettingKey::Nixpkgs).to_owned();
    let (build_type, estimated_build_time) = (spec.build.build_type.as_str(), estimate(&service));
    let asked = Previewed { name: service.name.clone(), spec: spec.build, source: spec.source, uploaded, nixpkgs };
    let Preview { revision, strategy, detection, generated, dependencies, warnings } =
        gate.inspector().preview(asked).await?;
    let (generated_flake, plan) = generated.map(|files| (files.flake, files.plan)).unzip();
    Ok(Json(PreviewView {
        strategy: strategy.as_str(),
        build_type,
        revision,
        detection: detection.as_ref().map(Detection::to_json),
        generated_flake,
        plan: plan.and_then(|plan| serde_json::from_str(&plan).ok()),
        dependencies,
        estimated_build_time,
        warnings,
    }))
}

/// What its latest builds took, in seconds.
fn estimate(service: &Scoped<Service>) -> Option<u64> {
    let deployments: Vec<_> = service.deployments().collect();
    let builds = deployments.iter().flat_map(Scoped::builds).filter(|build| build.status == BuildStatus::Succeeded);
    // What takes the image of another one takes no time.
    let built = builds.filter(|build| !matches!(build.reuse(), Some(Reuse::Of(_))));
    let took = built.filter_map(|build| u64::try_from(build.finished_at?.0 - build.started_at?.0).ok());
    let mut took: Vec<u64> = took.take(BUILDS_LOOKED_AT).collect();
    took.sort_unstable();
    took.get(took.len() / 2).map(|millis| millis.div_ceil(1_000))
}
