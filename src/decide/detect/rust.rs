//! Rust: packages, workspaces, binaries.

use serde_json::json;
use toml::{Table, Value};

use super::files::{Files, is_foreign, join};
use super::{Detection, EntryPoint, Undetected, broken, plain, settle};
use crate::model::{BuildStrategy, BuildType};

pub(in crate::decide) const MANIFEST: &str = "Cargo.toml";
/// Files that say which toolchain is wanted.
pub(in crate::decide) const TOOLCHAINS: [&str; 2] = ["rust-toolchain.toml", "rust-toolchain"];
/// What is taken when a manifest says nothing.
const USUAL_EDITION: &str = "2021";
/// Libraries by which it is known where a program usually listens.
const PORTS: [(&str, u16); 4] = [("axum", 3000), ("actix-web", 8080), ("rocket", 8000), ("warp", 3030)];
const USUAL_PORT: u16 = 8080;

pub(super) fn detect(files: &Files<'_>) -> Result<Detection, Undetected> {
    let mut detection = plain(BuildStrategy::AutoRust, BuildType::PureNix, 90);
    let manifest = table(files, MANIFEST)?.unwrap_or_default();
    let package = manifest.get("package").and_then(Value::as_table);
    let workspace = manifest.get("workspace").and_then(Value::as_table);
    let shared = workspace.and_then(|it| it.get("package")).and_then(Value::as_table);
    let said = |key: &str| {
        let own = package.and_then(|it| it.get(key)).and_then(Value::as_str);
        own.or_else(|| shared.and_then(|it| it.get(key)).and_then(Value::as_str))
    };
    let edition = said("edition");
    if edition.is_none() && package.is_some() {
        let warning = format!("Cargo.toml names no edition; {USUAL_EDITION} is assumed, and cargo takes 2015");
        detection.warnings.push(warning);
    }
    let edition = edition.unwrap_or(USUAL_EDITION);
    detection.version = Some(edition.to_owned());
    detection.suggested.insert("rust_edition", json!(edition));
    detection.toolchain = toolchain(files)?.or_else(|| said("rust-version").map(str::to_owned));
    if !files.has("Cargo.lock") {
        let warning = "Cargo.lock is missing: run `cargo generate-lockfile` and commit it, or dependencies are not what you tested";
        detection.warnings.push(warning.to_owned());
    }
    let mut entry_points = package.map(|package| binaries(files, "", &manifest, package)).unwrap_or_default();
    if let Some(workspace) = workspace {
        detection.suggested.insert("is_workspace", json!(true));
        for member in members(files, workspace) {
            let Some(manifest) = table(files, &join(&member, MANIFEST))? else { continue };
            let Some(package) = manifest.get("package").and_then(Value::as_table) else { continue };
            entry_points.extend(binaries(files, &member, &manifest, package));
        }
    }
    detection.entry_points = settle(entry_points);
    if let Some(default) = detection.entry_points.first() {
        detection.suggested.insert("entry_point", json!(default.name));
    }
    match detection.entry_points.as_slice() {
        [] => detection.warnings.push("no binary was found: no src/main.rs, src/bin or [[bin]]".to_owned()),
        [_] => {}
        [default, ..] => {
            let all: Vec<&str> = detection.entry_points.iter().map(|it| it.name.as_str()).collect();
            let what = if workspace.is_some() { "a workspace with several binaries" } else { "several binaries" };
            let warning = format!("{what}: {}; {} is run: set entry_point", all.join(", "), default.name);
            detection.warnings.push(warning);
        }
    }
    let dependencies = manifest.get("dependencies").and_then(Value::as_table);
    let known = PORTS.iter().find(|(name, _)| dependencies.is_some_and(|it| it.contains_key(*name)));
    detection.port = Some(known.map_or(USUAL_PORT, |(_, port)| *port));
    Ok(detection)
}

fn table(files: &Files<'_>, path: &str) -> Result<Option<Table>, Undetected> {
    files
        .manifest(path)?
        .map(|text| text.parse().map_err(|error: toml::de::Error| broken(path, error.message())))
        .transpose()
}

/// What `rust-toolchain.toml` or `rust-toolchain` asks for.
fn toolchain(files: &Files<'_>) -> Result<Option<String>, Undetected> {
    if let Some(table) = table(files, TOOLCHAINS[0])? {
        let channel = table.get("toolchain").and_then(|it| it.get("channel")).and_then(Value::as_str);
        return Ok(channel.map(str::to_owned));
    }
    let Some(text) = files.text(TOOLCHAINS[1]) else { return Ok(None) };
    if text.contains('[') {
        let table: Table = text.parse().map_err(|error: toml::de::Error| broken(TOOLCHAINS[1], error.message()))?;
        return Ok(table.get("toolchain").and_then(|it| it.get("channel")).and_then(Value::as_str).map(str::to_owned));
    }
    Ok(text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned))
}

/// Binaries of one package: those that the manifest names, and those that lie where cargo looks for them.
fn binaries(files: &Files<'_>, folder: &str, manifest: &Table, package: &Table) -> Vec<EntryPoint> {
    let path = if folder.is_empty() { "." } else { folder };
    let entry_point = |name: &str, is_default| EntryPoint { name: name.to_owned(), path: path.to_owned(), is_default };
    let default = package.get("default-run").and_then(Value::as_str);
    let listed = manifest.get("bin").and_then(Value::as_array).into_iter().flatten();
    let bins: Vec<&Value> = listed.collect();
    let said = |key: &str| -> Vec<&str> { bins.iter().filter_map(|bin| bin.get(key)?.as_str()).collect() };
    let (listed, paths) = (said("name"), said("path"));
    let mut found = Vec::new();
    for (index, name) in listed.iter().enumerate() {
        // The first that is listed, unless the manifest says which.
        found.push(entry_point(name, default.map_or(index == 0, |it| it == *name)));
    }
    let own = package.get("name").and_then(Value::as_str);
    // Cargo builds it too, unless a listed one is made of it.
    let is_taken = paths.contains(&"src/main.rs") || own.is_some_and(|own| listed.contains(&own));
    if let Some(own) = own
        && files.has(&join(folder, "src/main.rs"))
        && !is_taken
    {
        found.iter_mut().for_each(|listed| listed.is_default = default == Some(listed.name.as_str()));
        found.push(entry_point(own, default.is_none_or(|it| it == own)));
    }
    let bins = join(folder, "src/bin");
    for file in files.below(&bins) {
        let rest = &file[bins.len() + 1..];
        let name =
            rest.strip_suffix(".rs").filter(|name| !name.contains('/')).or_else(|| rest.strip_suffix("/main.rs"));
        let is_listed = paths.iter().any(|path| join(folder, path) == file);
        if let Some(name) = name.filter(|name| !name.contains('/') && !listed.contains(name) && !is_listed) {
            found.push(entry_point(name, default == Some(name)));
        }
    }
    found
}

/// Folders of the members of a workspace; of patterns, only a last part `*` is known.
fn members(files: &Files<'_>, workspace: &Table) -> Vec<String> {
    let listed = |key: &str| {
        let listed = workspace.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        listed.map(|it| it.trim_start_matches("./").trim_end_matches('/').to_owned()).collect::<Vec<_>>()
    };
    let excluded = listed("exclude");
    let mut members = Vec::new();
    for pattern in listed("members") {
        match pattern.strip_suffix('*') {
            Some(parent) if parent.is_empty() || parent.ends_with('/') => {
                let parent = parent.trim_end_matches('/');
                members.extend(files.folders(parent).into_iter().map(|name| join(parent, name)));
            }
            _ => members.push(pattern),
        }
    }
    members.retain(|folder| !is_foreign(folder) && !excluded.contains(folder) && files.has(&join(folder, MANIFEST)));
    members
}
