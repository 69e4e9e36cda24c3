//! Settings of the cluster: a flat map of text, as in the original.

use std::collections::BTreeMap;

use axum::Json;

use crate::auth::Caller;
use crate::model::{Invalid, SettingKey, quoted};
use crate::state::Command;

use super::Error;
use super::extract::{At, Reader, Write};
use super::session::Empty;

/// The settings
#[utoipa::path(get, path = "/v1/settings", tag = "cluster", responses((status = 200, body = BTreeMap<String, String>)))]
pub(super) async fn show(Reader(caller): Reader) -> Json<BTreeMap<String, String>> {
    Json(all(&caller))
}

/// Change settings
///
/// Any subset; all or nothing. For administrators of the cluster.
#[utoipa::path(patch, path = "/v1/settings", tag = "cluster", request_body = BTreeMap<String, String>,
    responses((status = 200, body = BTreeMap<String, String>)))]
pub(super) async fn update(
    Write(change, input): Write<BTreeMap<String, String>>,
) -> Result<Json<BTreeMap<String, String>>, Error> {
    let (_, caller) = change
        .commit(|caller| {
            caller.require_admin()?;
            let mut values = BTreeMap::new();
            let mut invalid = Invalid::default();
            for (name, value) in input {
                match name.parse::<SettingKey>() {
                    Ok(key) => drop(values.insert(key, value)),
                    Err(problem) => invalid.add(name, problem.0),
                }
            }
            invalid.into_result()?;
            Ok(Command::SetSettings(values))
        })
        .await?;
    Ok(Json(all(&caller)))
}

/// Reset a setting to its default
///
/// For administrators of the cluster. Refused while the cluster is at cluster version 1.
#[utoipa::path(delete, path = "/v1/settings/{setting}", tag = "cluster", params(("setting" = String, Path, description = "Its name")),
    responses((status = 200, body = BTreeMap<String, String>)))]
pub(super) async fn reset(
    At(name): At<String>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<Json<BTreeMap<String, String>>, Error> {
    let (_, caller) = change
        .commit(|caller| {
            caller.require_admin()?;
            let unknown = |_| Error::NotFound(format!("setting {} does not exist", quoted(&name)));
            Ok(Command::ResetSetting(name.parse().map_err(unknown)?))
        })
        .await?;
    Ok(Json(all(&caller)))
}

fn all(caller: &Caller) -> BTreeMap<String, String> {
    SettingKey::ALL.iter().map(|key| (key.as_str().to_owned(), caller.setting(*key).to_owned())).collect()
}
