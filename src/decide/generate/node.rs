//! Node.js with npm: a manifest and the lock file beside it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::names::{beginning, is_plain_path, store_name};
use super::{Asked, At, Dependency, Hash, Recipe, Unplanned, Wanted, plan};
use crate::decide::detect::files::Files;
use crate::decide::detect::{Framework, Undetected};
use crate::model::{BuildCode, quoted};

const MANIFEST: &str = "package.json";
const LOCKS: [&str; 2] = ["npm-shrinkwrap.json", "package-lock.json"];
/// The oldest form of a lock file that says of each package where it belongs.
const LOCK_VERSION_MIN: u64 = 2;
/// Of a manifest, what decides about the packages: a change of the rest installs nothing anew.
const OF_PACKAGES: [&str; 9] = [
    "name",
    "version",
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "bundleDependencies",
    "overrides",
];
/// Scripts that npm runs by itself when it installs or starts, and a build here does not.
const NOT_RUN: [&str; 5] = ["preinstall", "postinstall", "prepare", "prestart", "poststart"];

pub(super) fn recipe(files: &Files<'_>, asked: &Asked<'_>) -> Result<Recipe, Unplanned> {
    let detection = asked.detection;
    let manager = asked.text("package_manager").unwrap_or("npm");
    if manager != "npm" {
        return Err(Unplanned::of(
            BuildCode::UnsupportedLanguage,
            format!("it is installed by {manager}, for which no flake is generated yet"),
            "commit a package-lock.json instead (`npm install`), or add a Dockerfile or a flake.nix",
        ));
    }
    let not_yet = |what: &str| {
        let message = format!("no flake is generated yet for {what}");
        Unplanned::of(BuildCode::UnsupportedLanguage, message, "add a Dockerfile or a flake.nix")
    };
    if matches!(detection.framework, Framework::Nextjs | Framework::React) {
        return Err(not_yet(detection.framework.as_str()));
    }
    let bad = |broken: Undetected| Unplanned::new(broken.message, broken.suggestions.join("; or "));
    let text = files.manifest(MANIFEST).map_err(bad)?.unwrap_or("{}").trim_start_matches('\u{feff}');
    let broken = |error: serde_json::Error| {
        Unplanned::new(format!("{MANIFEST} cannot be read: {error}"), format!("correct {MANIFEST}"))
    };
    let manifest: Manifest = serde_json::from_str(text).map_err(broken)?;
    let of_packages: BTreeMap<String, Value> = serde_json::from_str(text).map_err(broken)?;
    let of_packages: BTreeMap<String, Value> =
        of_packages.into_iter().filter(|(name, _)| OF_PACKAGES.contains(&name.as_str())).collect();
    if !manifest.workspaces.is_null() {
        return Err(not_yet("workspaces"));
    }
    let Some(lock) = LOCKS.into_iter().find(|name| files.has(name)) else {
        return Err(Unplanned::of(
            BuildCode::DependencyMissing,
            "there is no package-lock.json, and nothing is installed that is not locked",
            "run `npm install`, commit package-lock.json, and deploy again",
        ));
    };
    let flags = if has_legacy_peers(files.text(".npmrc").unwrap_or_default()) { "--legacy-peer-deps" } else { "" };
    let locked = files.lock(lock).map_err(bad)?.unwrap_or_default().trim_start_matches('\u{feff}');
    let dependencies = packages(lock, locked, &manifest.needs, architecture(asked.system))?;
    if let Some(path) = asked.config.text("entry_point").filter(|path| !is_plain_path(path)) {
        let message =
            format!("build_config.entry_point is {}, which has letters that builds by Nix do not take", quoted(path));
        return Err(Unplanned::new(message, "rename the file, or set build_config.start_command"));
    }
    let start = start(asked, &manifest).ok_or_else(|| {
        Unplanned::new(
            "nothing says what to run: package.json has no script \"start\" and no \"main\"",
            "add a script \"start\" to package.json, or say it: --build start_command=… (build_config.start_command)",
        )
    })?;
    let wanted = wanted(files, asked, manifest.engines.node.as_deref());
    let major = wanted.as_deref().and_then(|version| beginning(version, 1)).map(|parts| format!("nodejs_{}", parts[0]));
    let own = if manifest.scripts.contains_key("build") { "npm run build" } else { "" };
    let mut plan = plan(asked, major.into_iter().chain(["nodejs".to_owned()]).collect());
    let details = [
        ("manifest", json!(of_packages)),
        ("lock", json!(lock)),
        ("flags", json!(flags)),
        ("build", json!(asked.config.text("build_command").unwrap_or(own))),
        ("start", json!(start)),
    ];
    plan.details.extend(details.map(|(name, value)| (name.to_owned(), value)));
    let not_run: Vec<&str> = NOT_RUN.into_iter().filter(|name| manifest.scripts.contains_key(*name)).collect();
    let notes = match not_run.is_empty() {
        true => Vec::new(),
        false => vec![format!("scripts of {MANIFEST} that are not run: {}", not_run.join(", "))],
    };
    Ok(Recipe {
        flake: include_str!("node.nix"),
        plan,
        dependencies,
        lookup: None,
        notes,
        wanted: wanted.map(Wanted::Like),
        language: "Node.js",
        port: detection.port,
    })
}

/// What runs it: as the service says, else as the manifest does.
fn start(asked: &Asked<'_>, manifest: &Manifest) -> Option<String> {
    let program = |path: &str| is_plain_path(path).then(|| format!("node ./{path}"));
    let said = asked.config.text("start_command").map(str::to_owned);
    let named = || asked.config.text("entry_point").and_then(program);
    let script = || manifest.scripts.get("start").filter(|it| !it.trim().is_empty()).cloned();
    said.or_else(named).or_else(script).or_else(|| asked.text("entry_point").and_then(program))
}

/// The numbers of the version that is wanted. Most only say which is too old, and take any that is newer.
fn wanted(files: &Files<'_>, asked: &Asked<'_>, engines: Option<&str>) -> Option<String> {
    let from_file = [".nvmrc", ".node-version"].iter().any(|path| files.has(path));
    let found = if from_file { asked.detection.version.as_deref() } else { engines };
    let version = asked.config.text("node_version").or(found)?.trim().trim_start_matches(['v', '=', '^', '~', ' ']);
    let is_numeric = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let numbers: Vec<&str> = version.split('.').take_while(is_numeric).collect();
    // A range's first number says little of the others in it.
    let is_one = version.bytes().all(|byte| byte.is_ascii_digit() || b".xX*".contains(&byte));
    let is_exact = engines.is_none_or(|engines| !engines.starts_with(['^', '~'])) || from_file;
    let known = if is_exact { numbers.len() } else { 1 };
    (is_one && !numbers.is_empty()).then(|| numbers[..known.min(numbers.len())].join("."))
}

/// Whether npm is told to take the packages as they are, whatever they say of each other.
fn has_legacy_peers(npmrc: &str) -> bool {
    let words = |line: &str| line.split('=').map(str::trim).map(str::to_owned).collect::<Vec<_>>();
    npmrc.lines().any(|line| words(line) == ["legacy-peer-deps", "true"])
}

/// A processor, as npm names it.
fn architecture(system: &str) -> &str {
    match system.split('-').next() {
        Some("x86_64") => "x64",
        Some("aarch64") => "arm64",
        other => other.unwrap_or_default(),
    }
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    scripts: BTreeMap<String, String>,
    #[serde(default)]
    workspaces: Value,
    #[serde(default)]
    engines: Engines,
    #[serde(flatten)]
    needs: Needs,
}

#[derive(Default, Deserialize)]
struct Engines {
    node: Option<String>,
}

/// What is asked for, name to version. The lock file has a copy of it, by which it is told whether it is still that manifest's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Needs {
    dependencies: BTreeMap<String, String>,
    dev_dependencies: BTreeMap<String, String>,
    optional_dependencies: BTreeMap<String, String>,
}

impl Needs {
    /// Optional ones are listed among the others too, or are not, as npm happens to write them.
    fn settled(&self) -> Self {
        let mut settled = Self { optional_dependencies: BTreeMap::new(), ..self.clone() };
        settled.dependencies.extend(self.optional_dependencies.clone());
        settled
    }

    /// The first that is not the same in both.
    fn difference<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let pairs = [(&self.dependencies, &other.dependencies), (&self.dev_dependencies, &other.dev_dependencies)];
        pairs.into_iter().find_map(|(own, others)| {
            let differs = |name: &&String| own.get(*name) != others.get(*name);
            own.keys().chain(others.keys()).find(differs).map(String::as_str)
        })
    }
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

/// One word or several, as people write them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Default for Words {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Words {
    /// Whether a machine is meant, by npm's rules: what is named with `!` is not, and of what is named without it is one.
    fn include(&self, machine: &str) -> bool {
        let words = match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        };
        let is_out = words.iter().any(|word| word.strip_prefix('!') == Some(machine));
        let mut named = words.iter().filter(|word| !word.starts_with('!')).peekable();
        !is_out && (named.peek().is_none() || named.any(|word| word == machine || word == "any"))
    }
}

/// What a lock file names, each with its hash.
fn packages(lock: &str, text: &str, needs: &Needs, cpu: &str) -> Result<Vec<Dependency>, Unplanned> {
    let anew = "run `npm install`, commit the lock file, and deploy again";
    let read: Lock =
        serde_json::from_str(text).map_err(|error| Unplanned::new(format!("{lock} cannot be read: {error}"), anew))?;
    if read.lockfile_version < LOCK_VERSION_MIN {
        let found = read.lockfile_version;
        let message = format!("{lock} has version {found}, and {LOCK_VERSION_MIN} and later are read");
        return Err(Unplanned::new(message, "run `npm install` with npm 7 or later, and commit what it writes"));
    }
    let locked = read.packages.get("").map(|own| own.needs.settled()).unwrap_or_default();
    if let Some(name) = needs.settled().difference(&locked) {
        let message = format!("{lock} is not of this {MANIFEST}: they differ in {}", quoted(name));
        return Err(Unplanned::new(message, anew));
    }
    let mut found = Vec::new();
    for (place, entry) in read.packages {
        let refused = |why: &str| Unplanned::new(format!("{lock}: {} {why}", quoted(&place)), anew);
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
        let name = entry.name.as_deref().unwrap_or(own);
        let version = entry.version.as_deref().ok_or_else(|| refused("has no version"))?;
        let hash = entry.integrity.as_deref().and_then(strongest);
        let hash =
            hash.ok_or_else(|| refused("has no hash (integrity) that is known, so that it cannot be fetched"))?;
        let file = format!("{}-{version}.tgz", name.rsplit('/').next().unwrap_or(name));
        let at = match entry.resolved {
            // It is shown to whoever may see the service.
            Some(url) if url.starts_with("https://") && url.split('/').nth(2).is_some_and(|it| it.contains('@')) => {
                return Err(refused("has a user or a password in its address"));
            }
            Some(url) if url.starts_with("https://") => At::Url(url),
            Some(_) => return Err(refused("is fetched neither over HTTPS nor from a registry")),
            None => At::Registry(format!("{name}/-/{file}")),
        };
        // What fetches makes several of one with some of these.
        let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || "[]{}\\".contains(letter);
        if matches!(&at, At::Url(text) | At::Registry(text) if text.contains(is_odd)) {
            return Err(refused("has an address with letters that no address has"));
        }
        found.push(Dependency { name: store_name(&file), at, hash: Hash::Known(hash.to_owned()), place });
    }
    Ok(found)
}

/// Of several hashes of one file that which is hardest to forge.
fn strongest(integrity: &str) -> Option<&str> {
    let hashes: Vec<&str> = integrity.split_whitespace().map(|hash| hash.split('?').next().unwrap_or(hash)).collect();
    ["sha512-", "sha256-", "sha1-"].iter().find_map(|kind| hashes.iter().copied().find(|hash| hash.starts_with(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_named_as_npm_does() {
        let include = |words: &[&str]| Words::Many(words.iter().map(|it| (*it).to_owned()).collect()).include("linux");
        for meant in [&[][..], &["linux"], &["any"], &["!win32"], &["darwin", "linux"], &["!win32", "linux"]] {
            assert!(include(meant), "{meant:?}");
        }
        for not in [&["darwin"][..], &["!linux"], &["!linux", "linux"], &["!win32", "darwin"]] {
            assert!(!include(not), "{not:?}");
        }
        assert!(Words::One("linux".to_owned()).include("linux") && !Words::One("win32".to_owned()).include("linux"));
    }
}
