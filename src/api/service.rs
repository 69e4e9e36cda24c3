//! Services: making, reading, changing and deleting them.

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::auth::Caller;
use crate::model::{Role, SettingKey};
use crate::random;
use crate::state::{Command, NewService, Outcome};

use super::Error;
use super::extract::{At, Reader, Search, Write};
use super::gate::Gate;
use super::page::{Order, Page, PageQuery};
use super::service_input::{ServiceRequest, changed_spec, new_spec};
use super::service_output::{ServiceView, view};
use super::session::Empty;

/// Services of an app
#[utoipa::path(get, path = "/v1/apps/{app}/services", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), PageQuery), responses((status = 200, body = Vec<ServiceView>)))]
pub(super) async fn list(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(app): At<String>,
    Search(page): Search<PageQuery>,
) -> Result<Page<ServiceView>, Error> {
    let app = caller.app(Role::Viewer, &app)?;
    let mut services: Vec<_> = app.services().collect();
    services.sort_by_key(|service| service.id);
    let domain = caller.setting(SettingKey::ServerDomain);
    page.cut(Order::OldestFirst, services.into_iter(), |row| row.id, |row| view(&row, &gate, domain))
}

/// Make a service
///
/// Needs `name` and one source. A git or upload source without a `build_strategy` is built from its Dockerfile.
#[utoipa::path(post, path = "/v1/apps/{app}/services", tag = "services",
    params(("app" = String, Path, description = "Its id or name")), request_body = ServiceRequest,
    responses((status = 201, body = ServiceView)))]
pub(super) async fn create(
    State(gate): State<Gate>,
    At(app): At<String>,
    Write(change, input): Write<ServiceRequest>,
) -> Result<(StatusCode, Json<ServiceView>), Error> {
    let (outcome, caller) = change
        .commit(|caller| {
            let app = caller.app(Role::Member, &app)?.id;
            let name = input.required_name()?;
            let spec = new_spec(input, caller, gate.options().allow_loopback_sources)?;
            Ok(Command::CreateService { app, service: NewService { id: random::id(), name, spec } })
        })
        .await?;
    Ok((StatusCode::CREATED, Json(shown(&outcome, &caller, &gate)?)))
}

/// A service
#[utoipa::path(get, path = "/v1/apps/{app}/services/{service}", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    responses((status = 200, body = ServiceView)))]
pub(super) async fn show(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At((app, service)): At<(String, String)>,
) -> Result<Json<ServiceView>, Error> {
    let service = caller.service(Role::Viewer, &app, &service)?;
    Ok(Json(view(&service, &gate, caller.setting(SettingKey::ServerDomain))))
}

/// Change a service
///
/// Any subset of its fields; lists and maps replace what was there. The change takes effect with the next deployment, but
/// for `replicas`, which take effect at once.
#[utoipa::path(patch, path = "/v1/apps/{app}/services/{service}", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = ServiceRequest, responses((status = 200, body = ServiceView)))]
pub(super) async fn update(
    State(gate): State<Gate>,
    At((app, service)): At<(String, String)>,
    Write(change, input): Write<ServiceRequest>,
) -> Result<Json<ServiceView>, Error> {
    let (outcome, caller) = change
        .commit_anew(|caller| {
            let service = caller.service(Role::Member, &app, &service)?;
            input.check_same_name(&service.name)?;
            let spec = changed_spec(service.spec.clone(), input.clone(), gate.options().allow_loopback_sources)?;
            Ok(Command::UpdateService { service: service.id, expected_generation: service.generation, spec })
        })
        .await?;
    Ok(Json(shown(&outcome, &caller, &gate)?))
}

/// Delete a service
///
/// Refused while another service of the app depends on it. Volumes and their data stay on their nodes, named `narvana-<service id>-<volume>`, and no later service gets them,
/// not even one of the same name. Remove one with `podman volume rm` or `docker volume rm`; its label `narvana.volume`
/// says what it held.
#[utoipa::path(delete, path = "/v1/apps/{app}/services/{service}", tag = "services",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    responses((status = 204)))]
pub(super) async fn delete(
    At((app, service)): At<(String, String)>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<StatusCode, Error> {
    change.commit(|caller| Ok(Command::DeleteService(caller.service(Role::Member, &app, &service)?.id))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The service that a change was about.
pub(super) fn shown(outcome: &Outcome, caller: &Caller, gate: &Gate) -> Result<ServiceView, Error> {
    let Outcome::Service(id) = outcome else {
        return Err(Error::internal("a service was answered with something else"));
    };
    let service = caller.load(Role::Viewer, *id)?;
    Ok(view(&service, gate, caller.setting(SettingKey::ServerDomain)))
}
