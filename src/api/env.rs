//! Environment variables of a service.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::model::Role;
use crate::state::{Command, EnvExpectation, Outcome};

use super::change::Change;
use super::extract::{At, Reader, Write, WriteText};
use super::session::Empty;
use super::{Error, dotenv};

/// All variables of a service.
#[derive(Serialize, ToSchema)]
pub(super) struct Variables {
    variables: Vec<Variable>,
}

/// One variable.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Variable {
    key: String,
    value: String,
}

/// A variable's new value.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Value {
    value: String,
}

/// Several variables at once: as a map, or as the text of a `.env` file.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    #[serde(default)]
    variables: BTreeMap<String, String>,
    dotenv: Option<String>,
}

/// Variables of a service
#[utoipa::path(get, path = "/v1/apps/{app}/services/{service}/env", tag = "env",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    responses((status = 200, body = Variables)))]
pub(super) async fn list(
    Reader(caller): Reader,
    At((app, service)): At<(String, String)>,
) -> Result<Json<Variables>, Error> {
    Ok(Json(variables(&caller, &app, &service)?))
}

/// Add a variable
///
/// Refused when it exists. Takes effect with the next deployment, like all changes of variables.
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/env", tag = "env",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = Variable, responses((status = 201, body = Variable)))]
pub(super) async fn add(
    At((app, service)): At<(String, String)>,
    Write(change, input): Write<Variable>,
) -> Result<(StatusCode, Json<Variable>), Error> {
    let entry = BTreeMap::from([(input.key.clone(), input.value.clone())]);
    set(&change, &app, &service, entry, EnvExpectation::Absent).await?;
    Ok((StatusCode::CREATED, Json(input)))
}

/// Set several variables
///
/// All or nothing: those that exist are changed, the others are added. The body is JSON, or the text of a `.env` file
/// with the content type `text/plain`.
#[utoipa::path(put, path = "/v1/apps/{app}/services/{service}/env", tag = "env",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body = Import, responses((status = 200, body = Variables)))]
pub(super) async fn import(
    At((app, service)): At<(String, String)>,
    WriteText(change, input): WriteText<Import>,
) -> Result<Json<Variables>, Error> {
    let input = input.unwrap_or_else(|text| Import { variables: BTreeMap::new(), dotenv: Some(text) });
    let mut entries = input.dotenv.as_deref().map(dotenv::parse).transpose()?.unwrap_or_default();
    entries.extend(input.variables);
    let caller = set(&change, &app, &service, entries, EnvExpectation::Any).await?;
    Ok(Json(variables(&caller, &app, &service)?))
}

/// Change a variable
#[utoipa::path(put, path = "/v1/apps/{app}/services/{service}/env/{key}", tag = "env",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name"),
        ("key" = String, Path, description = "Its name")),
    request_body = Value, responses((status = 200, body = Variable)))]
pub(super) async fn replace(
    At((app, service, key)): At<(String, String, String)>,
    Write(change, input): Write<Value>,
) -> Result<Json<Variable>, Error> {
    let entry = BTreeMap::from([(key.clone(), input.value.clone())]);
    set(&change, &app, &service, entry, EnvExpectation::Present).await?;
    Ok(Json(Variable { key, value: input.value }))
}

/// Remove a variable
#[utoipa::path(delete, path = "/v1/apps/{app}/services/{service}/env/{key}", tag = "env",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name"),
        ("key" = String, Path, description = "Its name")),
    responses((status = 204)))]
pub(super) async fn remove(
    At((app, service, key)): At<(String, String, String)>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<StatusCode, Error> {
    change
        .commit(|caller| {
            let service = caller.service(Role::Member, &app, &service)?.id;
            Ok(Command::UnsetEnv { service, keys: BTreeSet::from([key]) })
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn variables(caller: &Caller, app: &str, service: &str) -> Result<Variables, Error> {
    let service = caller.service(Role::Viewer, app, service)?;
    let all = service.spec.env.iter();
    Ok(Variables { variables: all.map(|(key, value)| Variable { key: key.clone(), value: value.clone() }).collect() })
}

async fn set(
    change: &Change,
    app: &str,
    service: &str,
    entries: BTreeMap<String, String>,
    expectation: EnvExpectation,
) -> Result<Caller, Error> {
    let (outcome, caller) = change
        .commit(|caller| {
            let service = caller.service(Role::Member, app, service)?.id;
            Ok(Command::SetEnv { service, entries, expectation })
        })
        .await?;
    match outcome {
        Outcome::Service(_) => Ok(caller),
        _ => Err(Error::internal("variables were answered with something else")),
    }
}
