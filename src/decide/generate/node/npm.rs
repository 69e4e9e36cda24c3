//! npm: a lock file that says of each package where it belongs.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ANEW, Fetched, Locked, MANIFEST, Needs, Words, architecture};
use crate::decide::detect::files::Files;
use crate::decide::generate::{Asked, Dependency, Unplanned};
use crate::model::{BuildCode, quoted};

const LOCKS: [&str; 2] = ["npm-shrinkwrap.json", "package-lock.json"];
/// The oldest form of a lock file that says of each package where it belongs.
const LOCK_VERSION_MIN: u64 = 2;

pub(super) fn locked(files: &Files<'_>, asked: &Asked<'_>, needs: &Needs) -> Result<Locked, Unplanned> {
    let Some(lock) = LOCKS.into_iter().find(|name| files.has(name)) else {
        return Err(Unplanned::of(
            BuildCode::DependencyMissing,
            "there is no package-lock.json, and nothing is installed that is not locked",
            "run `npm install`, commit package-lock.json, and deploy again",
        ));
    };
    let flags = if has_legacy_peers(files.text(".npmrc").unwrap_or_default()) { "--legacy-peer-deps" } else { "" };
    let text = super::text_of(files, lock)?;
    let dependencies = packages(lock, text, needs, architecture(asked.system))?;
    Ok(Locked { lock, flags, tools: Vec::new(), settings: None, npmrc: String::new(), dependencies })
}

/// Whether npm is told to take the packages as they are, whatever they say of each other.
fn has_legacy_peers(npmrc: &str) -> bool {
    let words = |line: &str| line.split('=').map(str::trim).map(str::to_owned).collect::<Vec<_>>();
    npmrc.lines().any(|line| words(line) == ["legacy-peer-deps", "true"])
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lock {
    #[serde(default)]
    lockfile_version: u64,
    #[serde(default)]
    packages: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: Option<String>,
    version: Option<String>,
    resolved: Option<String>,
    integrity: Option<String>,
    #[serde(default)]
    link: bool,
    #[serde(default)]
    in_bundle: bool,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    os: Words,
    #[serde(default)]
    cpu: Words,
    #[serde(flatten)]
    needs: Needs,
}

/// What a lock file names, each with its hash.
fn packages(lock: &str, text: &str, needs: &Needs, cpu: &str) -> Result<Vec<Dependency>, Unplanned> {
    let read: Lock =
        serde_json::from_str(text).map_err(|error| Unplanned::new(format!("{lock} cannot be read: {error}"), ANEW))?;
    if read.lockfile_version < LOCK_VERSION_MIN {
        let found = read.lockfile_version;
        let message = format!("{lock} has version {found}, and {LOCK_VERSION_MIN} and later are read");
        return Err(Unplanned::new(message, "run `npm install` with npm 7 or later, and commit what it writes"));
    }
    let locked = read.packages.get("").map(|own| own.needs.settled()).unwrap_or_default();
    if let Some(name) = needs.settled().difference(&locked) {
        let message = format!("{lock} is not of this {MANIFEST}: they differ in {}", quoted(name));
        return Err(Unplanned::new(message, ANEW));
    }
    let mut found = Vec::new();
    for (place, entry) in read.packages {
        let refused = |why: &str| Unplanned::new(format!("{lock}: {} {why}", quoted(&place)), ANEW);
        // The application itself; what comes in the archive of another one; what never runs here.
        let is_within = entry.in_bundle && entry.integrity.is_none();
        let is_elsewhere = entry.optional && !(entry.os.include("linux") && entry.cpu.include(cpu));
        if place.is_empty() || is_within || is_elsewhere {
            continue;
        }
        if entry.link {
            return Err(refused("is a link to a folder, for which no flake is generated yet"));
        }
        let (_, own) = place.rsplit_once("node_modules/").ok_or_else(|| refused("is no place of a package"))?;
        let fetched = Fetched {
            name: entry.name.as_deref().unwrap_or(own),
            version: entry.version.as_deref().ok_or_else(|| refused("has no version"))?,
            url: entry.resolved.as_deref(),
            integrity: entry.integrity.as_deref(),
        };
        let dependency = fetched.dependency(&place).map_err(refused)?;
        found.push(dependency);
    }
    Ok(found)
}
