//! pnpm: packages by name and version, and where they are asked for.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::{ANEW, Fetched, Locked, MANIFEST, Manifest, Words, architecture, text_of};
use crate::decide::detect::files::Files;
use crate::decide::generate::names::beginning;
use crate::decide::generate::{Asked, Dependency, Unplanned};
use crate::model::{BuildCode, quoted};

const LOCK: &str = "pnpm-lock.yaml";
/// Says what is a part of a workspace, and in later versions how to install.
const SETTINGS: &str = "pnpm-workspace.yaml";
/// Forms of the lock file that are read, each with the names in nixpkgs of what reads it.
const FORMS: [(&str, &[&str]); 2] = [("9.0", &["pnpm_9", "pnpm_10", "pnpm"]), ("6.0", &["pnpm_8", "pnpm"])];

/// Keys of `.npmrc` that decide about what is installed where.
const LAYOUT: [&str; 9] = [
    "node-linker",
    "shamefully-hoist",
    "hoist",
    "hoist-pattern",
    "public-hoist-pattern",
    "auto-install-peers",
    "strict-peer-dependencies",
    "exclude-links-from-lockfile",
    "peers-suffix-max-length",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lock {
    #[serde(default)]
    lockfile_version: Value,
    #[serde(default)]
    importers: BTreeMap<String, Importer>,
    /// Of a lock file without importers, the importer itself.
    #[serde(flatten)]
    own: Importer,
    #[serde(default)]
    packages: BTreeMap<String, Package>,
    #[serde(default)]
    patched_dependencies: Value,
    /// That it was written with a program of the source's author.
    #[serde(default)]
    pnpmfile_checksum: Value,
    #[serde(default)]
    snapshots: BTreeMap<String, Snapshot>,
}

#[derive(Deserialize)]
struct Snapshot {
    #[serde(default)]
    optional: bool,
}

/// What is asked for, by names.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Importer {
    dependencies: BTreeMap<String, Value>,
    dev_dependencies: BTreeMap<String, Value>,
    optional_dependencies: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Package {
    resolution: Resolution,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    os: Words,
    #[serde(default)]
    cpu: Words,
}

#[derive(Deserialize)]
struct Resolution {
    integrity: Option<String>,
    tarball: Option<String>,
}

pub(super) fn locked(files: &Files<'_>, asked: &Asked<'_>, manifest: &Manifest) -> Result<Locked, Unplanned> {
    if !files.has(LOCK) {
        return Err(Unplanned::of(
            BuildCode::DependencyMissing,
            "there is no pnpm-lock.yaml, and nothing is installed that is not locked",
            "run `pnpm install`, commit pnpm-lock.yaml, and deploy again",
        ));
    }
    let broken =
        |what: &str, error: serde_norway::Error| Unplanned::new(format!("{what} cannot be read: {error}"), ANEW);
    let settings = files.text(SETTINGS).unwrap_or_default();
    let settings: BTreeMap<String, Value> = if settings.trim().is_empty() {
        BTreeMap::new()
    } else {
        serde_norway::from_str(settings).map_err(|error| broken(SETTINGS, error))?
    };
    if settings.contains_key("packages") {
        return Err(super::not_yet("workspaces"));
    }
    let read: Lock = serde_norway::from_str(text_of(files, LOCK)?).map_err(|error| broken(LOCK, error))?;
    let form = match &read.lockfile_version {
        Value::String(form) => form.clone(),
        other => other.to_string(),
    };
    let (_, readers) = FORMS.iter().find(|(known, _)| *known == form).ok_or_else(|| {
        let message = format!("pnpm-lock.yaml has the form {}, and 6.0 and 9.0 are read", quoted(&form));
        Unplanned::new(message, "run `pnpm install` with pnpm 8 or later, and commit what it writes")
    })?;
    if !read.patched_dependencies.is_null() {
        return Err(super::not_yet("packages that are patched (patchedDependencies)"));
    }
    if !read.pnpmfile_checksum.is_null() || files.has(".pnpmfile.cjs") {
        return Err(super::not_yet("packages that a program changes (.pnpmfile.cjs)"));
    }
    let importer = read.importers.get(".").unwrap_or(&read.own);
    check(importer, manifest)?;
    let dependencies = packages(&read, architecture(asked.system))?;
    let named = manifest.package_manager.as_str().and_then(|it| it.strip_prefix("pnpm@"));
    let named = named.and_then(|version| beginning(version, 1)).map(|parts| format!("pnpm_{}", parts[0]));
    // Only later ones know a file of settings that names no packages.
    let can_read = |name: &&&str| settings.is_empty() || !["pnpm_8", "pnpm_9"].contains(*name);
    let tools = named.into_iter().chain(readers.iter().filter(can_read).map(|name| (*name).to_owned()));
    let tools = tools.collect();
    let settings = (!settings.is_empty()).then_some(SETTINGS);
    Ok(Locked { lock: LOCK, flags: "", tools, settings, npmrc: npmrc(files), dependencies })
}

/// What a lock file names, each with its hash.
fn packages(read: &Lock, cpu: &str) -> Result<Vec<Dependency>, Unplanned> {
    let mut dependencies = Vec::new();
    for (key, package) in &read.packages {
        let refused = |why: &str| Unplanned::new(format!("pnpm-lock.yaml: {} {why}", quoted(key)), ANEW);
        let beside = format!("{key}(");
        let mut snapshots = read.snapshots.range(key.clone()..).take_while(|(name, _)| name.starts_with(key));
        let is_optional = package.optional
            || snapshots.any(|(name, snapshot)| (name == key || name.starts_with(&beside)) && snapshot.optional);
        let is_elsewhere = !(package.os.include("linux") && package.cpu.include(cpu));
        if is_optional && is_elsewhere {
            continue;
        }
        // `name@version`, in older forms `/name@version`, each with what it is installed beside in parentheses.
        let own = key.trim_start_matches('/');
        let own = own.split('(').next().unwrap_or(own);
        let at = own.get(1..).and_then(|rest| rest.find('@')).ok_or_else(|| refused("has no version"))?;
        let (name, version) = (&own[..=at], &own[at + 2..]);
        let Resolution { integrity, tarball } = &package.resolution;
        let fetched = Fetched { name, version, url: tarball.as_deref(), integrity: integrity.as_deref() };
        let place = tarball.clone().unwrap_or_else(|| fetched.path());
        dependencies.push(fetched.dependency(&place).map_err(refused)?);
    }
    dependencies.sort_by(|one, other| one.place.cmp(&other.place));
    dependencies.dedup_by(|one, other| one.place == other.place);
    Ok(dependencies)
}

/// The lines that say how packages are laid out, and those that the lock file has a copy of. Others are of no use here, or secret.
fn npmrc(files: &Files<'_>) -> String {
    let is_known = |line: &&str| {
        let key = line.split('=').next().unwrap_or_default().trim().trim_end_matches("[]");
        LAYOUT.contains(&key) && !line.contains('$')
    };
    let lines = files.text(".npmrc").unwrap_or_default().lines().map(str::trim).filter(is_known);
    lines.map(|line| format!("{line}\n")).collect()
}

/// That the lock file is of this manifest.
fn check(importer: &Importer, manifest: &Manifest) -> Result<(), Unplanned> {
    let Importer { dependencies, dev_dependencies, optional_dependencies } = importer;
    let kinds = [dependencies, dev_dependencies, optional_dependencies];
    let locked: BTreeSet<&str> = kinds.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let needed: BTreeSet<&str> = manifest.needs.all().map(|(name, _)| name).collect();
    if let Some(name) = needed.symmetric_difference(&locked).next() {
        let message = format!("pnpm-lock.yaml is not of this {MANIFEST}: they differ in {}", quoted(name));
        return Err(Unplanned::new(message, ANEW));
    }
    Ok(())
}
