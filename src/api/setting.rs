//! Settings of the cluster: a flat map of text, as in the original.

use std::collections::BTreeMap;

use axum::Json;

use crate::auth::Caller;
use crate::model::{Invalid, SettingKey};
use crate::state::Command;

use super::Error;
use super::extract::{Reader, Write};

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

fn all(caller: &Caller) -> BTreeMap<String, String> {
    SettingKey::ALL.iter().map(|key| (key.as_str().to_owned(), caller.setting(*key).to_owned())).collect()
}
