//! Apps.

use axum::Json;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Scoped;
use crate::model::{App, OrgId, Role};
use crate::random;
use crate::state::{Command, NewApp, NewService, Outcome};

use super::Error;
use super::extract::{At, Reader, Search, Write};
use super::page::{Order, Page, PageQuery};
use super::service_input::{ServiceRequest, new_spec};
use super::session::Empty;

/// An app.
#[derive(Serialize, ToSchema)]
#[schema(as = App)]
pub(super) struct AppView {
    id: String,
    org_id: String,
    owner_id: String,
    name: String,
    description: String,
    icon_url: String,
    /// Name it in a change, which is refused when somebody else was faster.
    version: u64,
    /// Names of its services.
    services: Vec<String>,
    created_at: String,
    updated_at: String,
}

/// An app to be made, with services or without: all or nothing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateApp {
    /// A DNS label: it becomes part of host names.
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    icon_url: String,
    /// The organisation; the first in which you may make apps when absent.
    org_id: Option<String>,
    #[serde(default)]
    services: Vec<ServiceRequest>,
}

/// What to change of an app.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateApp {
    name: Option<String>,
    description: Option<String>,
    icon_url: Option<String>,
    /// The version you saw.
    version: u64,
}

fn view(app: &Scoped<App>) -> AppView {
    AppView {
        id: app.id.to_string(),
        org_id: app.org().to_string(),
        owner_id: app.owner.to_string(),
        name: app.name.clone(),
        description: app.description.clone(),
        icon_url: app.icon_url.clone(),
        version: app.version,
        services: app.services().map(|service| service.name.clone()).collect(),
        created_at: app.created_at.to_string(),
        updated_at: app.updated_at.to_string(),
    }
}

/// Your apps
#[utoipa::path(get, path = "/v1/apps", tag = "apps", params(PageQuery), responses((status = 200, body = Vec<AppView>)))]
pub(super) async fn list(Reader(caller): Reader, Search(page): Search<PageQuery>) -> Result<Page<AppView>, Error> {
    page.cut(Order::OldestFirst, caller.apps(), |app| app.id, |app| view(&app))
}

/// Make an app
#[utoipa::path(post, path = "/v1/apps", tag = "apps", request_body = CreateApp, responses((status = 201, body = AppView)))]
pub(super) async fn create(Write(change, input): Write<CreateApp>) -> Result<(StatusCode, Json<AppView>), Error> {
    let allow_loopback = change.gate().options().allow_loopback_sources;
    let (outcome, caller) = change
        .commit(|caller| {
            let org = match &input.org_id {
                Some(id) => {
                    let bad = |_| Error::field("org_id", "must be the id of an organisation");
                    caller.org(Role::Member, id.parse::<OrgId>().map_err(bad)?)?.id
                }
                None => caller
                    .first_org(Role::Member)
                    .ok_or_else(|| Error::Forbidden("this needs the role member in an organisation".to_owned()))?,
            };
            let mut services = Vec::new();
            for (position, request) in input.services.into_iter().enumerate() {
                let within = |error| prefixed(error, &format!("services[{position}]."));
                let name = request.required_name().map_err(within)?;
                let spec = new_spec(request, caller, allow_loopback).map_err(within)?;
                services.push(NewService { id: random::id(), name, spec });
            }
            Ok(Command::CreateApp(NewApp {
                id: random::id(),
                org,
                owner: caller.user().id,
                name: input.name,
                description: input.description,
                icon_url: input.icon_url,
                services,
            }))
        })
        .await?;
    let Outcome::App(id) = outcome else { return Err(Error::internal("an app was answered with something else")) };
    let app = caller.app(Role::Viewer, &id.to_string())?;
    Ok((StatusCode::CREATED, Json(view(&app))))
}

fn prefixed(error: Error, prefix: &str) -> Error {
    match error {
        Error::Invalid(mut invalid) => {
            let fields = std::mem::take(&mut invalid.fields);
            invalid.fields = fields.into_iter().map(|(field, reason)| (format!("{prefix}{field}"), reason)).collect();
            Error::Invalid(invalid)
        }
        other => other,
    }
}

/// An app
#[utoipa::path(get, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path, description = "Its id or name")),
    responses((status = 200, body = AppView)))]
pub(super) async fn show(Reader(caller): Reader, At(app): At<String>) -> Result<Json<AppView>, Error> {
    Ok(Json(view(&caller.app(Role::Viewer, &app)?)))
}

/// Change an app
///
/// Refused with `conflict` when the app is not at the `version` you saw any more.
#[utoipa::path(patch, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path, description = "Its id or name")),
    request_body = UpdateApp, responses((status = 200, body = AppView)))]
pub(super) async fn update(
    At(app): At<String>,
    Write(change, input): Write<UpdateApp>,
) -> Result<Json<AppView>, Error> {
    let (outcome, caller) = change
        .commit(|caller| {
            Ok(Command::UpdateApp {
                app: caller.app(Role::Member, &app)?.id,
                expected_version: input.version,
                name: input.name,
                description: input.description,
                icon_url: input.icon_url,
            })
        })
        .await?;
    let Outcome::App(id) = outcome else { return Err(Error::internal("an app was answered with something else")) };
    Ok(Json(view(&caller.app(Role::Viewer, &id.to_string())?)))
}

/// Delete an app
///
/// Deletes its services, deployments and logs with it, and stops its containers. Volumes and their data stay on their nodes, named `narvana-<service id>-<volume>`, and no later service gets them,
/// not even one of the same name. Remove one with `podman volume rm` or `docker volume rm`; its label `narvana.volume`
/// says what it held.
#[utoipa::path(delete, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path, description = "Its id or name")),
    responses((status = 204)))]
pub(super) async fn delete(At(app): At<String>, Write(change, Empty {}): Write<Empty>) -> Result<StatusCode, Error> {
    change.commit(|caller| Ok(Command::DeleteApp(caller.app(Role::Member, &app)?.id))).await?;
    Ok(StatusCode::NO_CONTENT)
}
