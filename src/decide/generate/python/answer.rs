//! What pip answers: which wheels it would install, which are what is fetched then.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::super::names::store_name;
use super::super::{At, Dependency, Hash, Unplanned};
use super::lock::{Locked, is_version};
use crate::decide::detect::python::{PROJECT, normalized};
use crate::model::{BuildCode, quoted};

/// The part of pip's report that counts.
#[derive(Deserialize, Serialize)]
struct Report {
    install: Vec<Chosen>,
}

#[derive(Deserialize, Serialize)]
struct Chosen {
    download_info: Download,
    metadata: Metadata,
}

#[derive(Deserialize, Serialize)]
struct Download {
    url: String,
    archive_info: Archive,
}

#[derive(Deserialize, Serialize)]
struct Archive {
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

#[derive(Deserialize, Serialize)]
struct Metadata {
    name: String,
    version: String,
}

/// What of an answer counts: the rest of it is long.
pub(super) fn essence(answer: &[u8]) -> Option<String> {
    let report: Report = serde_json::from_slice(answer).ok()?;
    serde_json::to_string(&report).ok()
}

/// The wheels of an answer, and the normalized names of their packages.
///
/// # Errors
/// It cannot be read, or is not of what is locked.
pub(super) fn wheels(answer: &str, locked: Option<&Locked>) -> Result<(Vec<Dependency>, BTreeSet<String>), Unplanned> {
    let unreadable = |why: String| {
        let message = format!("pip answers what cannot be read: {why}");
        Unplanned::of(BuildCode::Infrastructure, message, "name a nixpkgs with pip 23 or newer with --nixpkgs")
    };
    let report: Report = serde_json::from_str(answer).map_err(|error| unreadable(error.to_string()))?;
    let mut dependencies = Vec::new();
    let mut names = BTreeSet::new();
    for Chosen { download_info: Download { url, archive_info }, metadata } in report.install {
        let name = normalized(&metadata.name);
        let file = url.split(['?', '#']).next().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
        let file = file.replace("%2B", "+").replace("%2b", "+").replace("%21", "!");
        let is_file = file.ends_with(".whl") && is_version(&file);
        let is_url = ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))
            && url.bytes().all(|byte| byte.is_ascii_graphic() && !b"[]{}\\".contains(&byte));
        let digest = archive_info.hashes.get("sha256").map(|digest| digest.to_ascii_lowercase());
        let bytes = digest.as_deref().and_then(|digest| hex::decode(digest).ok()).filter(|bytes| bytes.len() == 32);
        let (Some(digest), Some(bytes), true) = (digest, bytes, is_file && is_url) else {
            return Err(unreadable(format!("{} of {} is no wheel with a hash", quoted(&url), quoted(&name))));
        };
        if let Some(Locked { file, hashes }) = locked {
            let known = hashes.get(&(name.clone(), metadata.version.clone()));
            if !known.is_some_and(|hashes| hashes.contains(&digest)) {
                let what = quoted(&format!("{name} {}", metadata.version));
                let message = format!(
                    "{file} is not of this {PROJECT}, or the index has something else by now: {what} is needed, and is not in it as it is there"
                );
                return Err(Unplanned::new(message, "make the lock file anew, commit it, and deploy again"));
            }
        }
        let hash = Hash::Known(format!("sha256-{}", STANDARD.encode(bytes)));
        dependencies.push(Dependency { name: store_name(&file), place: file, at: At::Url(url), hash });
        names.insert(name);
    }
    dependencies.sort_by(|one, other| one.place.cmp(&other.place));
    Ok((dependencies, names))
}
