//! Registration of the first user, log-in and log-out.
//!
//! These take no idempotency key: its fingerprint would be a fast hash of a password in the state.

use std::net::IpAddr;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use crate::clock;
use crate::model::{Invalid, Session, UserId, check_email, check_password};
use crate::network::customer;
use crate::random;
use crate::state::{Actor, Command, NewUser, Outcome, Request};

use super::Error;
use super::context::Context;
use super::extract::{Open, Reader, Write};
use super::gate::Gate;

/// Name of the organisation that the first user gets.
const FIRST_ORG: &str = "My Organization";

/// Whether the first user exists.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Setup {
    setup_complete: bool,
    user_count: usize,
}

/// Whether anybody may register.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CanRegister {
    can_register: bool,
}

/// An account to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    /// Such as `ada@example.org`.
    email: String,
    /// 8 to 1024 bytes.
    password: String,
    /// Printed by `narvana init`; needed from another machine only.
    setup_token: Option<String>,
}

/// The first user, logged in.
#[derive(Serialize, ToSchema)]
pub(super) struct Registered {
    user_id: String,
    email: String,
    /// Send it as `Authorization: Bearer …`.
    token: String,
    /// Their role in the organisation.
    role: &'static str,
    /// That they may administer the cluster.
    is_admin: bool,
    org_id: String,
}

/// A log-in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    email: String,
    password: String,
}

/// A user, logged in.
#[derive(Serialize, ToSchema)]
pub(super) struct LoggedIn {
    user_id: String,
    email: String,
    /// Send it as `Authorization: Bearer …`.
    token: String,
}

/// That a token is good.
#[derive(Serialize, ToSchema)]
pub(super) struct Valid {
    status: &'static str,
    user_id: String,
}

/// Nothing to send.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}

/// Whether the first user exists
#[utoipa::path(get, path = "/auth/setup", tag = "auth", security(()), responses((status = 200, body = Setup)))]
pub(super) async fn setup(State(gate): State<Gate>) -> Json<Setup> {
    let user_count = gate.user_count();
    Json(Setup { setup_complete: user_count > 0, user_count })
}

/// Whether anybody may register
#[utoipa::path(get, path = "/auth/can-register", tag = "auth", security(()), responses((status = 200, body = CanRegister)))]
pub(super) async fn can_register(State(gate): State<Gate>) -> Json<CanRegister> {
    Json(CanRegister { can_register: gate.user_count() == 0 })
}

/// Register the first user
///
/// Makes the first user, who administers the cluster, and their organisation. Closed once there is a user. From another
/// machine it needs the `setup_token` that `narvana init` printed.
#[utoipa::path(post, path = "/auth/register", tag = "auth", security(()), request_body = Register,
    responses((status = 201, body = Registered)))]
pub(super) async fn register(
    State(gate): State<Gate>,
    Open(context, headers, input): Open<Register>,
) -> Result<(StatusCode, Json<Registered>), Error> {
    gate.by_address().take(&address(&context), Instant::now())?;
    if gate.user_count() > 0 {
        return Err(closed());
    }
    check_setup(&gate, &context, &headers, input.setup_token.as_deref())?;
    let email = input.email.to_ascii_lowercase();
    let mut invalid = Invalid::default();
    invalid.check("email", check_email(&email));
    invalid.check("password", check_password(&input.password));
    invalid.into_result()?;
    let password = gate.passwords().hash(input.password).await?;
    let user = NewUser { id: random::id(), email: email.clone(), password };
    let session = new_session(&gate, user.id);
    let command = Command::RegisterFirstUser {
        user,
        org: random::id(),
        org_name: FIRST_ORG.to_owned(),
        session: session.clone(),
    };
    let committed = match gate.submit(Actor::Anonymous, single_use(), command).await {
        // Somebody else was first, between the look above and this.
        Err(Error::Conflict(_)) => return Err(closed()),
        other => other?,
    };
    context.saw(committed.index);
    let Outcome::Registered { user, org, .. } = committed.outcome else {
        return Err(Error::internal("a registration was answered with something else"));
    };
    let token = gate.options().tokens.issue(&*gate.cluster()?, &session);
    let answer =
        Registered { user_id: user.to_string(), email, token, role: "owner", is_admin: true, org_id: org.to_string() };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Log in
#[utoipa::path(post, path = "/auth/login", tag = "auth", security(()), request_body = Login,
    responses((status = 200, body = LoggedIn)))]
pub(super) async fn login(
    State(gate): State<Gate>,
    Open(context, _, input): Open<Login>,
) -> Result<Json<LoggedIn>, Error> {
    let email = input.email.to_ascii_lowercase();
    let mut invalid = Invalid::default();
    invalid.check("email", check_email(&email));
    invalid.into_result()?;
    gate.by_address().take(&address(&context), Instant::now())?;
    gate.by_account().take(&email, Instant::now())?;
    let user = gate.account(&email).await?;
    let matches = gate.passwords().verify(user.as_ref().map(|user| user.password.clone()), input.password).await?;
    let Some(user) = user.filter(|_| matches) else {
        return Err(Error::Unauthorized("the e-mail address or the password is wrong".to_owned()));
    };
    gate.by_account().give_back(&email);
    let session = new_session(&gate, user.id);
    let committed = gate.submit(Actor::User(user.id), single_use(), Command::OpenSession(session.clone())).await?;
    context.saw(committed.index);
    let token = gate.options().tokens.issue(&*gate.cluster()?, &session);
    Ok(Json(LoggedIn { user_id: user.id.to_string(), email, token }))
}

/// Log out
///
/// Ends the session of this token. The token is refused at once, on every node that has heard of it.
#[utoipa::path(post, path = "/auth/logout", tag = "auth", request_body = Empty, responses((status = 204)))]
pub(super) async fn logout(Write(change, Empty {}): Write<Empty>) -> Result<StatusCode, Error> {
    let session = change.caller().session().id;
    change.submit(Command::CloseSession(session)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Check a token
#[utoipa::path(get, path = "/v1/auth/validate", tag = "auth", responses((status = 200, body = Valid)))]
pub(super) async fn validate(Reader(caller): Reader) -> Json<Valid> {
    Json(Valid { status: "ok", user_id: caller.user().id.to_string() })
}

fn new_session(gate: &Gate, user: UserId) -> Session {
    let created_at = clock::now();
    Session { id: random::id(), user, created_at, expires_at: created_at.plus(gate.options().tokens.lasting()) }
}

/// A request that is never repeated under the same identity.
fn single_use() -> Request {
    Request { id: random::id(), fingerprint: random::bytes() }
}

fn closed() -> Error {
    Error::Forbidden("registration is closed: the first user exists, and this version has only that one".to_owned())
}

/// Where a request comes from, for counting.
fn address(context: &Context) -> IpAddr {
    let unknown = IpAddr::from([0, 0, 0, 0]);
    customer(context.peer().map_or(unknown, |peer| peer.address.ip()))
}

/// The first registration belongs to whoever can log in to the machine, or was given the setup token.
fn check_setup(gate: &Gate, context: &Context, headers: &HeaderMap, token: Option<&str>) -> Result<(), Error> {
    if let (Some(given), Some(expected)) = (token, &gate.options().setup_token) {
        if bool::from(given.as_bytes().ct_eq(expected.expose())) {
            return Ok(());
        }
        return Err(Error::Forbidden("the setup token is wrong; `narvana init` printed the right one".to_owned()));
    }
    let local = context.peer().is_some_and(|peer| peer.address.ip().to_canonical().is_loopback());
    if local && !was_forwarded(headers) && names_this_machine(headers) {
        return Ok(());
    }
    if token.is_some() && gate.options().setup_token.is_none() {
        let words = "only the node that `narvana init` ran on knows the setup token: ask that one, or register on this machine itself";
        return Err(Error::Forbidden(words.to_owned()));
    }
    Err(Error::field("setup_token", "is required from another machine; `narvana init` printed it"))
}

/// A reverse proxy on this machine makes everybody look local.
fn was_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key("x-forwarded-for")
        || headers.contains_key(header::FORWARDED)
        || headers.contains_key(header::VIA)
}

/// A page whose name was made to point here (DNS rebinding) has its own name in `Host`.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<http::uri::Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}
