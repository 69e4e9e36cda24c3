//! Node.js: a manifest, the lock file of a package manager beside it, and what runs in the end: a program, or a site of files.

mod npm;
mod pnpm;
mod site;
mod yarn;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use self::site::Served;
use super::names::{beginning, is_plain_path, store_name};
use super::{Asked, At, Dependency, Hash, Recipe, Unplanned, Wanted, plan};
use crate::decide::detect::Undetected;
use crate::decide::detect::files::Files;
use crate::model::{BuildCode, quoted};

const MANIFEST: &str = "package.json";
/// Of a manifest, what decides about the packages: a change of the rest installs nothing anew.
const OF_PACKAGES: [&str; 11] = [
    "name",
    "version",
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "bundleDependencies",
    "overrides",
    "resolutions",
    "pnpm",
];
/// Scripts that package managers run by themselves when they install or start, and a build here does not.
const NOT_RUN: [&str; 5] = ["preinstall", "postinstall", "prepare", "prestart", "poststart"];
/// Scripts that only call another one, one after the other.
const CALLS_MAX: usize = 8;
/// What to do about a lock file that is not as it should be.
const ANEW: &str = "install with your package manager, commit the lock file that it writes, and deploy again";

/// What a lock file says.
struct Locked {
    /// Its name.
    lock: &'static str,
    /// Words that the package manager is given when it installs.
    flags: &'static str,
    /// Names of the package manager in nixpkgs, the first choice first; none for what comes with Node.js.
    tools: Vec<String>,
    /// A file with more of what decides about the packages.
    settings: Option<&'static str>,
    /// Lines of `.npmrc` that decide about them.
    npmrc: String,
    dependencies: Vec<Dependency>,
}

/// A package as a lock file has it.
struct Fetched<'a> {
    name: &'a str,
    version: &'a str,
    url: Option<&'a str>,
    integrity: Option<&'a str>,
}

pub(super) fn recipe(files: &Files<'_>, asked: &Asked<'_>) -> Result<Recipe, Unplanned> {
    let detection = asked.detection;
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
    let manager = asked.text("package_manager").unwrap_or("npm");
    let Locked { lock, flags, tools, settings, npmrc, dependencies } = match manager {
        "npm" => npm::locked(files, asked, &manifest.needs)?,
        "pnpm" => pnpm::locked(files, asked, &manifest)?,
        "yarn" => yarn::locked(files, &manifest.needs)?,
        other => {
            let message = format!("{} is no package manager that is known here", quoted(other));
            return Err(Unplanned::new(message, "say npm, pnpm or yarn (build_config.package_manager)"));
        }
    };
    for field in ["entry_point", "output_directory"] {
        if let Some(path) = asked.config.text(field).filter(|path| !is_plain_path(path)) {
            let message =
                format!("build_config.{field} is {}, which has letters that builds by Nix do not take", quoted(path));
            return Err(Unplanned::new(message, "rename it"));
        }
    }
    // npm is always there, and needs nothing else of the machine. It has to be made to run scripts of those who want another manager.
    let own = match manifest.scripts.contains_key("build") {
        false => "",
        true if manager == "npm" => "npm run build",
        true => "npm run --force build",
    };
    let build = asked.config.text("build_command").unwrap_or(own);
    let (served, start) = site::served(files, asked, &manifest, build)?;
    let wanted = wanted(files, asked, manifest.engines.node.as_deref());
    let major = wanted.as_deref().and_then(|version| beginning(version, 1)).map(|parts| format!("nodejs_{}", parts[0]));
    let mut plan = plan(asked, major.into_iter().chain(["nodejs".to_owned()]).collect());
    let details = [
        ("manifest", json!(of_packages)),
        ("manager", json!(manager)),
        ("managers", json!(tools)),
        ("lock", json!(lock)),
        ("settings", json!(settings)),
        ("npmrc", json!(npmrc)),
        // Scripts call it by its name.
        ("needs_manager", json!(manager != "npm" && start.contains(manager))),
        ("flags", json!(flags)),
        ("build", json!(build)),
        ("serves", json!(served.as_str())),
        ("outputs", json!(site::outputs(&manifest))),
        ("output", json!(asked.config.text("output_directory"))),
        ("output_mode", json!(asked.config.text("nextjs_options.output_mode").unwrap_or_default())),
        ("start", json!(start)),
        ("port", json!(detection.port)),
    ];
    plan.details.extend(details.map(|(name, value)| (name.to_owned(), value)));
    let mut notes = Vec::new();
    let not_run: Vec<&str> = NOT_RUN.into_iter().filter(|name| manifest.scripts.contains_key(*name)).collect();
    if !not_run.is_empty() && served == Served::Program {
        notes.push(format!("scripts of {MANIFEST} that are not run: {}", not_run.join(", ")));
    }
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

fn bad(broken: Undetected) -> Unplanned {
    Unplanned::new(broken.message, broken.suggestions.join("; or "))
}

fn not_yet(what: &str) -> Unplanned {
    let message = format!("no flake is generated yet for {what}");
    Unplanned::of(BuildCode::UnsupportedLanguage, message, "add a Dockerfile or a flake.nix")
}

/// A lock file that is there.
fn text_of<'a>(files: &Files<'a>, lock: &str) -> Result<&'a str, Unplanned> {
    Ok(files.lock(lock).map_err(bad)?.unwrap_or_default().trim_start_matches('\u{feff}'))
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

/// A processor, as npm names it.
fn architecture(system: &str) -> &str {
    match system.split('-').next() {
        Some("x86_64") => "x64",
        Some("aarch64") => "arm64",
        other => other.unwrap_or_default(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    scripts: BTreeMap<String, String>,
    #[serde(default)]
    main: Value,
    #[serde(default)]
    workspaces: Value,
    #[serde(default)]
    package_manager: Value,
    #[serde(default)]
    engines: Engines,
    #[serde(flatten)]
    needs: Needs,
}

impl Manifest {
    /// What a script does: where it only calls another one, what that does.
    fn script(&self, name: &str) -> Option<&str> {
        let mut found = self.scripts.get(name)?.trim();
        for _ in 0..CALLS_MAX {
            let words: Vec<&str> = found.split_whitespace().collect();
            let called = match words[..] {
                ["npm" | "pnpm" | "yarn", "run", called] | ["pnpm" | "yarn", called] => called,
                ["npm", "start"] => "start",
                _ => break,
            };
            let Some(script) = self.scripts.get(called) else { break };
            found = script.trim();
        }
        Some(found).filter(|script| !script.is_empty())
    }
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
    fn has(&self, name: &str) -> bool {
        self.all().any(|(known, _)| known == name)
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        let kinds = [&self.dependencies, &self.dev_dependencies, &self.optional_dependencies];
        kinds.into_iter().flatten().map(|(name, version)| (name.as_str(), version.as_str()))
    }

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

impl Fetched<'_> {
    /// Where a registry has it.
    fn path(&self) -> String {
        format!("{}/-/{}", self.name, self.file())
    }

    fn file(&self) -> String {
        // Of a build of a version there is one.
        let version = self.version.split('+').next().unwrap_or(self.version);
        format!("{}-{version}.tgz", self.name.rsplit('/').next().unwrap_or(self.name))
    }

    /// How it is fetched.
    ///
    /// # Errors
    /// Why it is not.
    fn dependency(&self, place: &str) -> Result<Dependency, &'static str> {
        let hash = self.integrity.and_then(strongest);
        let hash = hash.ok_or("has no hash (integrity) that is known, so that it cannot be fetched")?;
        let at = match self.url {
            // It is shown to whoever may see the service.
            Some(url) if url.starts_with("http") && url.split('/').nth(2).is_some_and(|it| it.contains('@')) => {
                return Err("has a user or a password in its address");
            }
            Some(url) if url.starts_with("https://") => At::Url(url.to_owned()),
            // Nobody on the way can put something else there.
            Some(url) if url.starts_with("http://") && !hash.starts_with("sha1-") => At::Url(url.to_owned()),
            Some(_) => return Err("is fetched neither over HTTPS nor from a registry"),
            None => At::Registry(self.path()),
        };
        // What fetches makes several of one with some of these.
        let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || "[]{}\\".contains(letter);
        if matches!(&at, At::Url(text) | At::Registry(text) if text.contains(is_odd)) {
            return Err("has an address with letters that no address has");
        }
        let (name, place) = (store_name(&self.file()), place.to_owned());
        Ok(Dependency { name, at, hash: Hash::Known(hash.to_owned()), place })
    }
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
    fn a_script_that_calls_another_one_is_that() {
        let scripts = r#"{"scripts":{"start":"npm run serve","serve":"yarn run:it","run:it":"node server.js -v","loop":"pnpm loop","odd":"npm run nothing"}}"#;
        let manifest: Manifest = serde_json::from_str(scripts).expect("reads");
        assert_eq!(manifest.script("start"), Some("node server.js -v"));
        assert_eq!(manifest.script("loop"), Some("pnpm loop"));
        assert_eq!(manifest.script("odd"), Some("npm run nothing"));
        assert_eq!(manifest.script("none"), None);
    }
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
