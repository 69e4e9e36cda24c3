//! Organisations.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{Org, OrgId, Role};

use super::Error;
use super::extract::{At, Reader, Search};
use super::page::{Order, Page, PageQuery};

/// An organisation the caller belongs to.
#[derive(Serialize, ToSchema)]
#[schema(as = Org)]
pub(super) struct OrgView {
    id: String,
    name: String,
    slug: String,
    description: String,
    /// What the caller may do in it.
    role: &'static str,
    created_at: String,
    updated_at: String,
}

fn view(org: &Org, role: Role) -> OrgView {
    OrgView {
        id: org.id.to_string(),
        name: org.name.clone(),
        slug: org.slug.clone(),
        description: org.description.clone(),
        role: role.as_str(),
        created_at: org.created_at.to_string(),
        updated_at: org.updated_at.to_string(),
    }
}

/// Your organisations
#[utoipa::path(get, path = "/v1/orgs", tag = "orgs", params(PageQuery), responses((status = 200, body = Vec<OrgView>)))]
pub(super) async fn list(Reader(caller): Reader, Search(page): Search<PageQuery>) -> Result<Page<OrgView>, Error> {
    page.cut(Order::OldestFirst, caller.orgs(), |(org, _)| org.id, |(org, role)| view(&org, role))
}

/// One of your organisations
#[utoipa::path(get, path = "/v1/orgs/{org}", tag = "orgs", params(("org" = String, Path, description = "Its id")),
    responses((status = 200, body = OrgView)))]
pub(super) async fn show(Reader(caller): Reader, At(id): At<OrgId>) -> Result<Json<OrgView>, Error> {
    let org = caller.org(Role::Viewer, id)?;
    let role = caller.role_in(id).unwrap_or(Role::Viewer);
    Ok(Json(view(&org, role)))
}
