//! Join tokens: the right of a machine to become a node. For administrators of the cluster.

use std::time::Duration;

use axum::Json;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::cluster::{JoinSecret, TokenText, pin_of};
use crate::model::{
    Cluster, JoinToken, JoinTokenId, NodeRole, RotationStep, Timestamp, format_duration, parse_duration,
};
use crate::state::Command;
use crate::{clock, random};

use super::Error;
use super::extract::{At, Reader, Search, Write};
use super::page::{Order, Page, PageQuery};
use super::session::Empty;

/// How long a token is good when nothing is said.
const TTL: Duration = Duration::from_secs(3_600);
/// Longest time that a token is good.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Most nodes that one token lets in.
const USES_MAX: u32 = 1_000;

/// A join token to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CreateJoinToken {
    /// `voter-eligible` (when absent) or `worker`.
    role: Option<String>,
    /// How long it is good: `30m`, `24h`, `7d`; an hour when absent.
    ttl: Option<String>,
    /// How many nodes may join with it; one when absent.
    uses: Option<u32>,
}

/// A join token.
#[derive(Serialize, ToSchema)]
#[schema(as = JoinToken)]
pub(super) struct JoinTokenView {
    id: String,
    /// The token itself, secret included: only in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// The members that it names, where other nodes reach them: only in the answer to its creation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    /// What nodes that join with it may become: `voter-eligible` or `worker`.
    role: String,
    /// `usable`, `used`, `expired` or `revoked`.
    status: &'static str,
    /// How many nodes may still join.
    uses_left: u32,
    /// The user who made it.
    created_by: String,
    /// Their address, while they have an account.
    created_by_email: Option<String>,
    created_at: String,
    expires_at: String,
}

fn view(token: &JoinToken, caller: &Caller) -> JoinTokenView {
    JoinTokenView {
        id: token.id.to_string(),
        token: None,
        addresses: Vec::new(),
        role: token.role.to_string(),
        status: token.ended(clock::now()).map_or("usable", |end| end.as_str()),
        uses_left: token.uses_left,
        created_by: token.created_by.to_string(),
        created_by_email: caller.email_of(token.created_by),
        created_at: token.created_at.to_string(),
        expires_at: token.expires_at.to_string(),
    }
}

/// Join tokens
///
/// Those of no use any more are listed for a while. For administrators of the cluster.
#[utoipa::path(get, path = "/v1/join-tokens", tag = "cluster", params(PageQuery), responses((status = 200, body = Vec<JoinTokenView>)))]
pub(super) async fn list(
    Reader(caller): Reader,
    Search(page): Search<PageQuery>,
) -> Result<Page<JoinTokenView>, Error> {
    page.cut(Order::OldestFirst, caller.join_tokens()?, |token| token.id, |token| view(&token, &caller))
}

/// Make a join token
///
/// The answer holds the token, which is shown this once. For administrators of the cluster.
#[utoipa::path(post, path = "/v1/join-tokens", tag = "cluster", request_body = CreateJoinToken,
    responses((status = 201, body = JoinTokenView)))]
pub(super) async fn create(
    Write(change, input): Write<CreateJoinToken>,
) -> Result<(StatusCode, Json<JoinTokenView>), Error> {
    let secret = JoinSecret::new();
    let id: JoinTokenId = random::id();
    let role = match input.role.as_deref() {
        None => NodeRole::VoterEligible,
        Some(role) => role.parse().map_err(|problem: crate::model::Problem| Error::field("role", problem.0))?,
    };
    let ttl = match input.ttl.as_deref() {
        None => TTL,
        Some(ttl) => parse_duration(ttl).map_err(|problem| Error::field("ttl", problem.0))?,
    };
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(Error::field("ttl", format!("must be more than 0 and at most {}", format_duration(TTL_MAX))));
    }
    let uses = input.uses.unwrap_or(1);
    if !(1..=USES_MAX).contains(&uses) {
        return Err(Error::field("uses", format!("must be 1 to {USES_MAX}")));
    }
    let created_at = clock::now();
    let wanted = |created_by| JoinToken {
        id,
        digest: secret.digest(),
        role,
        uses_left: uses,
        expires_at: Timestamp(created_at.0).plus(ttl),
        revoked: false,
        created_by,
        created_at,
    };
    let cluster = change.gate().cluster()?;
    let (_, caller) = change
        .commit(|caller| {
            caller.require_admin()?;
            check_settled(&cluster)?;
            Ok(Command::CreateJoinToken(wanted(caller.user().id)))
        })
        .await?;
    // A repeated request made one before, whose secret nobody has any more.
    let Some(made) = caller.join_tokens()?.find(|token| token.id == id) else {
        return Err(Error::Conflict(
            "this request was answered before, and a join token is shown only once: make another one".to_owned(),
        ));
    };
    let cluster = change.gate().cluster()?;
    check_settled(&cluster)?;
    let pin = pin_of(cluster.signer().0).ok_or_else(|| Error::internal("the authority cannot be read"))?;
    let text = TokenText { id, secret, cluster: cluster.id, pin, addresses: caller.member_addresses()? };
    let shown = JoinTokenView { token: Some(text.to_string()), addresses: text.addresses, ..view(&made, &caller) };
    Ok((StatusCode::CREATED, Json(shown)))
}

/// A token names the authority that members show; while they learn of another one, it would name the one that goes.
fn check_settled(cluster: &Cluster) -> Result<(), Error> {
    match &cluster.rotation {
        Some(rotation) if rotation.step == RotationStep::Trust => Err(Error::Conflict(
            "the authority is being rotated, and not every member trusts the new one yet: make the token when `narvana ca \
             show` says that they do"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Revoke a join token
///
/// Nodes that joined with it stay. For administrators of the cluster.
#[utoipa::path(delete, path = "/v1/join-tokens/{token}", tag = "cluster",
    params(("token" = String, Path, description = "Its id")), responses((status = 200, body = JoinTokenView)))]
pub(super) async fn revoke(
    At(id): At<JoinTokenId>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<Json<JoinTokenView>, Error> {
    let (_, caller) = change
        .commit(|caller| {
            caller.require_admin()?;
            Ok(Command::RevokeJoinToken(id))
        })
        .await?;
    let revoked = caller.join_tokens()?.find(|token| token.id == id);
    let revoked = revoked.ok_or_else(|| Error::internal("a join token went away while it was revoked"))?;
    Ok(Json(view(&revoked, &caller)))
}
