//! The caller's own account.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Reader;

/// An account.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserView {
    id: String,
    email: String,
    name: String,
    /// Their highest role in an organisation.
    role: Option<&'static str>,
    /// May administer the cluster.
    is_admin: bool,
    created_at: String,
}

/// Your account
#[utoipa::path(get, path = "/v1/user/profile", tag = "users", responses((status = 200, body = UserView)))]
pub(super) async fn profile(Reader(caller): Reader) -> Json<UserView> {
    let user = caller.user();
    Json(UserView {
        id: user.id.to_string(),
        email: user.email.clone(),
        name: user.name.clone(),
        role: caller.orgs().map(|(_, role)| role).max().map(|role| role.as_str()),
        is_admin: user.is_admin,
        created_at: user.created_at.to_string(),
    })
}
