//! Lock files of uv and Poetry: which files are the right ones.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::{Table, Value};

use super::super::Unplanned;
use super::requirement::{Lines, is_marker, is_name, listed, requirement};
use crate::decide::detect::files::Files;
use crate::decide::detect::python::{PROJECT, entry, normalized};
use crate::model::{BuildCode, quoted};

/// A package manager that keeps a lock file.
pub(super) struct Manager {
    lock: &'static str,
    /// Makes the lock file anew.
    anew: &'static str,
}

pub(super) const UV: Manager = Manager { lock: "uv.lock", anew: "run `uv lock`, commit uv.lock, and deploy again" };
pub(super) const POETRY: Manager =
    Manager { lock: "poetry.lock", anew: "run `poetry lock`, commit poetry.lock, and deploy again" };

/// What a lock file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Locked {
    /// Its name.
    pub(super) file: &'static str,
    /// Hashes of files in hexadecimal, by normalized name and version.
    pub(super) hashes: BTreeMap<(String, String), BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Package>,
    #[serde(default)]
    metadata: Metadata,
}

/// Where Poetry had the hashes until 1.2.
#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    files: BTreeMap<String, Vec<File>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: String,
    version: Option<String>,
    #[serde(default)]
    source: BTreeMap<String, Value>,
    #[serde(default)]
    wheels: Vec<File>,
    #[serde(default)]
    files: Vec<File>,
    /// Of uv: when this one of several is meant.
    #[serde(default)]
    resolution_markers: Vec<String>,
    /// Of Poetry: the same, or one for each group.
    markers: Option<Value>,
}

#[derive(Clone, Deserialize)]
struct File {
    hash: Option<String>,
}

impl Package {
    /// Whether it is what is built.
    fn is_own(&self) -> bool {
        ["virtual", "editable"].iter().any(|kind| self.source.get(*kind).and_then(Value::as_str) == Some("."))
    }

    /// When it is meant, if it says so.
    fn marker(&self) -> Option<String> {
        let said: Vec<&str> = match self.markers.as_ref().and_then(Value::as_str) {
            Some(marker) => vec![marker],
            None => self.resolution_markers.iter().map(String::as_str).collect(),
        };
        let marker = said.iter().map(|it| format!("({it})")).collect::<Vec<_>>().join(" or ");
        (!marker.is_empty() && is_marker(&marker)).then_some(marker)
    }
}

/// What the manifest needs, at the versions that the lock file has, and what that says.
pub(super) fn of_lock(files: &Files<'_>, manager: &Manager, project: &Table) -> Result<(Lines, Locked), Unplanned> {
    let Manager { lock, anew } = manager;
    if !files.has(lock) {
        let message = format!("there is no {lock}, and nothing is installed that is not locked");
        return Err(Unplanned::of(BuildCode::DependencyMissing, message, *anew));
    }
    let text = files.lock(lock).map_err(|why| Unplanned::new(why.message, *anew))?.unwrap_or_default();
    let mut read: Lock = toml::from_str(text)
        .map_err(|error| Unplanned::new(format!("{lock} cannot be read: {}", quoted(error.message())), *anew))?;
    let mut hashes: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut constraints = Vec::new();
    let mut indexes = BTreeSet::new();
    let packages: Vec<Package> = read.package.into_iter().filter(|package| !package.is_own()).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    packages.iter().for_each(|package| *counts.entry(normalized(&package.name)).or_default() += 1);
    for package in packages {
        check_source(lock, &package, &mut indexes)?;
        let marker = package.marker();
        let name = normalized(&package.name);
        let version = package
            .version
            .filter(|version| is_version(version) && is_name(&name))
            .ok_or_else(|| Unplanned::new(format!("{lock} has no version of {}", quoted(&package.name)), *anew))?;
        match marker {
            _ if counts.get(&name) == Some(&1) => constraints.push(format!("{name}=={version}")),
            // Which of several is meant depends on where it runs, which pip knows.
            Some(marker) => constraints.push(format!("{name}=={version} ; {marker}")),
            None => {}
        }
        let old = read.metadata.files.remove(&package.name).unwrap_or_default();
        let found = package.wheels.into_iter().chain(package.files).chain(old).filter_map(|file| file.hash);
        let found = found.filter_map(|hash| hash.strip_prefix("sha256:").map(str::to_ascii_lowercase));
        hashes.entry((name, version)).or_default().extend(found);
    }
    let mut requirements = listed(project)?;
    requirements.extend(of_poetry(project)?);
    Ok((Lines { requirements, constraints }, Locked { file: lock, hashes }))
}

/// Refuses what is not of one index: pip would look for it there, and somebody else may have the same name.
fn check_source(lock: &str, package: &Package, indexes: &mut BTreeSet<String>) -> Result<(), Unplanned> {
    let kind = match package.source.get("type").and_then(Value::as_str) {
        Some(kind) => kind,
        None => package.source.keys().next().map_or("registry", String::as_str),
    };
    let next_step =
        "a generated flake takes wheels of one index only so far: use one of those, or add a Dockerfile or a flake.nix";
    if kind != "registry" {
        let message =
            format!("{lock} has {}, which is not from the usual index ({})", quoted(&package.name), quoted(kind));
        return Err(Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step));
    }
    indexes.extend(package.source.get("registry").and_then(Value::as_str).map(str::to_owned));
    if indexes.len() > 1 {
        let all: Vec<String> = indexes.iter().map(|index| quoted(index)).collect();
        let message = format!("{lock} has packages of several indexes: {}", all.join(", "));
        return Err(Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step));
    }
    Ok(())
}

/// `tool.poetry.dependencies` of the manifest, without versions: the lock file has those.
fn of_poetry(project: &Table) -> Result<Vec<String>, Unplanned> {
    let all = entry(project, &["tool", "poetry", "dependencies"]).and_then(Value::as_table).into_iter().flatten();
    let needed =
        all.filter(|(name, about)| *name != "python" && about.get("optional").and_then(Value::as_bool) != Some(true));
    let line = |(name, about): (&String, &Value)| {
        let said = |key: &str| about.get(key).and_then(Value::as_str);
        let extras = about.get("extras").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let extras: Vec<&str> = extras.collect();
        let platform = said("platform").map(|platform| format!("sys_platform == '{platform}'"));
        let python = said("python").into_iter().flat_map(|range| range.split(',')).filter_map(python_marker);
        let markers = said("markers").map(|marker| format!("({marker})"));
        let markers: Vec<String> = markers.into_iter().chain(platform).chain(python).collect();
        requirement(PROJECT, &format!("{name}[{}] ; {}", extras.join(","), markers.join(" and ")))
    };
    needed.map(line).collect()
}

/// A part of a range of versions of Python, as a marker. Poetry's own signs say what the lock file says as well.
fn python_marker(part: &str) -> Option<String> {
    let part = part.trim();
    let sign = ["<=", ">=", "==", "!=", "<", ">"].into_iter().find(|sign| part.starts_with(sign))?;
    Some(format!("python_full_version {sign} '{}'", part[sign.len()..].trim()))
}

/// Whether it can be nothing but a version.
pub(super) fn is_version(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+!-_".contains(&byte))
}
