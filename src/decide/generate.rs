//! Flakes for sources that have none: what `detect` found becomes a flake that builds it. Pure.
//!
//! The text of a flake is one of a few that are the same for every source of a language. What differs is data beside it, in
//! `plan.json`, so that nothing that a stranger wrote is ever a part of a program. All that is fetched is named with its hash, which
//! comes from the lock file of the language: nothing is looked up while it is built.
//!
//! Comes in: what was found, and the files that were asked for, as for `detect`. Goes out: a [`Recipe`]. What its toolchain says of itself
//! ([`Toolchain`]) and the hashes that no lock file has are found out by whoever builds, and make the [`Generated`] files of it.

mod go;
mod names;
mod node;
mod python;
mod rust;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use self::names::{is_plain_path, literal, store_name};
pub use self::python::Lookup;
use super::detect::files::{Files, Want};
use super::detect::{Contents, Detection, Listing};
use crate::model::{BuildCode, BuildConfig, BuildStrategy, EnvVars, quoted};

/// Where the source is, in the folder of the flake.
pub const SOURCE: &str = "source";
/// The package that says of its toolchain what [`Toolchain::read`] reads.
pub const TOOLCHAIN: &str = "toolchain";
/// Most that is fetched for one build. Large applications have some two thousand.
const DEPENDENCIES_MAX: usize = 5_000;

/// How a source is built by Nix.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    flake: &'static str,
    plan: Plan,
    /// What is fetched before it is built.
    pub dependencies: Vec<Dependency>,
    /// What its package manager has to be asked to know them.
    pub lookup: Option<Lookup>,
    /// What deserves a word.
    pub notes: Vec<String>,
    /// The version that is wanted, if one is.
    wanted: Option<Wanted>,
    /// What its language is called for people.
    language: &'static str,
    /// Where programs of this kind listen when nobody says otherwise.
    port: Option<u16>,
}

/// Something that is fetched before a source is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Where it belongs.
    pub place: String,
    /// What it is called in the store.
    pub name: String,
    /// From where.
    pub at: At,
    /// What it must be.
    pub hash: Hash,
}

/// Where something is fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// From this URL.
    Url(String),
    /// From this path in the registry that the toolchain names.
    Registry(String),
    /// From where nixpkgs has it from, whose function for it is used.
    Nixpkgs,
}

/// What something must be that is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Its hash, as Nix takes it: that of subresource integrity (`sha512-` and the digest in base64), or the digest of a SHA-256 in hexadecimal.
    Known(String),
    /// What the lock file says of it, which is no hash of the file. The same place with another one is another file; whoever builds checks it.
    Sum(String),
}

/// A version of a toolchain that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// This one, or a later one.
    AtLeast(String),
    /// One that begins with these numbers.
    Like(String),
    /// One from the first of these to before the second.
    Between(String, String),
}

/// What a flake reads, beside its dependencies.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Plan {
    system: String,
    name: String,
    root: String,
    /// Names in nixpkgs, the first choice first.
    toolchains: Vec<String>,
    environment: EnvVars,
    /// Lines of shell that run before it is built.
    before: String,
    /// The same, after it.
    after: String,
    /// Attributes of nixpkgs that are there while it is built.
    extra: Vec<Vec<String>>,
    #[serde(flatten)]
    details: serde_json::Map<String, serde_json::Value>,
}

/// What is asked of a source besides what was found in it.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// What was found.
    pub detection: &'a Detection,
    /// The folder of the source that is built; empty for all of it. Listing and contents are of that folder.
    pub root: &'a str,
    /// What the result is called.
    pub name: &'a str,
    /// The processor, as Nix names machines: `x86_64-linux`.
    pub system: &'a str,
    /// What the service says of its build: it goes before what was found.
    pub config: &'a BuildConfig,
}

impl Asked<'_> {
    /// A field of `build_config`, as it is said or else found.
    fn text(&self, field: &str) -> Option<&str> {
        let found = || self.detection.suggested.get(field).and_then(serde_json::Value::as_str);
        self.config.text(field).or_else(found)
    }
}

/// Why a source cannot be built by a flake of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplanned {
    /// Which kind of reason.
    pub code: BuildCode,
    /// The reason.
    pub message: String,
    /// What to do about it.
    pub next_step: String,
}

impl Unplanned {
    fn new(message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code: BuildCode::InvalidConfig, message: message.into(), next_step: next_step.into() }
    }

    fn of(code: BuildCode, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code, ..Self::new(message, next_step) }
    }
}

/// What can be said so far.
pub type Answer = Result<Result<Recipe, Unplanned>, Vec<Want>>;

/// Strategies that a flake is generated for.
pub const STRATEGIES: [BuildStrategy; 4] =
    [BuildStrategy::AutoGo, BuildStrategy::AutoNode, BuildStrategy::AutoPython, BuildStrategy::AutoRust];

/// How the source is built, or what else has to be read to say.
///
/// # Errors
/// What has to be read.
pub fn generate(listing: &Listing, contents: &Contents, asked: &Asked<'_>) -> Answer {
    let files = Files::new(listing, contents);
    let made = checked(asked).and_then(|()| match asked.detection.strategy {
        BuildStrategy::AutoGo => go::recipe(&files, asked),
        BuildStrategy::AutoNode => node::recipe(&files, asked),
        BuildStrategy::AutoPython => python::recipe(&files, asked),
        BuildStrategy::AutoRust => rust::recipe(&files, asked),
        other => Err(Unplanned::new(format!("no flake is generated for {other}"), "choose another strategy")),
    });
    let made = made.and_then(Recipe::checked);
    let wants = files.into_wants();
    if wants.is_empty() { Ok(made) } else { Err(wants) }
}

/// Refuses what would be more than data to Nix or to a shell.
fn checked(asked: &Asked<'_>) -> Result<(), Unplanned> {
    // Names of environment variables are names in a derivation too, where others than these mean something.
    let is_plain =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if let Some(name) = asked.config.environment_vars.keys().find(|name| !is_plain(name) || name.starts_with('_')) {
        return Err(Unplanned::new(
            format!("build_config.environment_vars has {}, and builds by Nix take upper-case names", quoted(name)),
            "rename it, and deploy again",
        ));
    }
    if !asked.root.is_empty() && !is_plain_path(asked.root) {
        return Err(Unplanned::new(
            format!("the folder {} has letters that builds by Nix do not take", quoted(asked.root)),
            "rename it, and correct --root (build_config.root_directory)",
        ));
    }
    Ok(())
}

impl Recipe {
    /// Refuses what no flake could hold or fetch.
    fn checked(self) -> Result<Self, Unplanned> {
        let count = self.dependencies.len();
        if count > DEPENDENCIES_MAX {
            let message = format!("it needs {count} things, and {DEPENDENCIES_MAX} are fetched for one build at most");
            return Err(Unplanned::new(message, "make it smaller, or add a Dockerfile"));
        }
        let text = serde_json::to_string(&self.plan).expect("it has nothing that JSON has not");
        if text.contains("\\u0000") {
            return Err(Unplanned::new("a manifest has a NUL letter in it", "remove that"));
        }
        Ok(self)
    }

    /// Whether its package manager always answers the same.
    pub fn is_locked(&self) -> bool {
        self.lookup.as_ref().is_none_or(Lookup::is_locked)
    }

    /// Takes in what its package manager answered to its lookup, if it has one.
    ///
    /// # Errors
    /// The answer cannot be read, or is not what the lock file names, or nothing of it can run the source.
    pub fn settle(mut self, answer: &str) -> Result<Self, Unplanned> {
        let Some(lookup) = &self.lookup else { return Ok(self) };
        let settled = lookup.settle(answer)?;
        self.dependencies = settled.dependencies;
        self.notes.extend(settled.note.map(str::to_owned));
        let details = [("start", json!(settled.start)), ("native", json!(settled.is_native))];
        self.plan.details.extend(details.map(|(name, value)| (name.to_owned(), value)));
        self.checked()
    }

    /// A flake that takes in nixpkgs and gives nothing.
    pub fn only_nixpkgs(nixpkgs: &str) -> String {
        format!("{{ inputs.nixpkgs.url = {}; outputs = _: {{ }}; }}\n", literal(nixpkgs))
    }

    /// Where its programs listen when nobody says otherwise.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// What its language is called in messages.
    pub fn language(&self) -> &'static str {
        self.language
    }

    /// The names of its toolchain in nixpkgs, the first choice first: what tells it from others of the same nixpkgs.
    pub fn toolchains(&self) -> String {
        format!("{} {}", self.plan.system, self.plan.toolchains.join(" "))
    }

    /// Whether a toolchain says all that has to be known of it.
    pub fn can_be_had_with(&self, toolchain: &Toolchain) -> bool {
        self.dependencies.iter().all(|it| matches!(it.at, At::Nixpkgs) || toolchain.url(&it.at).is_some())
    }

    /// Says when what was wanted of the toolchain is not what will be used.
    pub fn warning(&self, toolchain: &Toolchain) -> Option<String> {
        let numbers = |version: &str| -> Vec<u64> { version.split('.').map_while(|it| it.parse().ok()).collect() };
        let used = numbers(&toolchain.version);
        let (wanted, fits) = match self.wanted.as_ref()? {
            Wanted::AtLeast(wanted) => (wanted, used >= numbers(wanted)),
            Wanted::Between(oldest, limit) => {
                (&format!("{oldest} or newer, before {limit}"), used >= numbers(oldest) && used < numbers(limit))
            }
            // One without numbers is none that a nixpkgs has.
            Wanted::Like(wanted) => {
                let wanted_numbers = numbers(wanted);
                (wanted, !wanted_numbers.is_empty() && used.starts_with(&wanted_numbers))
            }
        };
        (!fits).then(|| {
            format!(
                "{} {} is asked for, which this nixpkgs does not have: {} is used; --nixpkgs names another one",
                self.language,
                quoted(wanted),
                toolchain.version
            )
        })
    }

    /// The files of a flake of which only the package [`TOOLCHAIN`] can be built.
    pub fn first_files(&self, nixpkgs: &str) -> Generated {
        self.generated(nixpkgs, &[])
    }

    /// The files of the flake, but for its lock, once it is known what its toolchain says of itself and what those dependencies hash to
    /// whose hash is not known, by their places.
    pub fn files(&self, nixpkgs: &str, toolchain: &Toolchain, hashes: &BTreeMap<String, String>) -> Generated {
        let fetched = |it: &Dependency| {
            let hash = match &it.hash {
                Hash::Known(hash) => hash,
                Hash::Sum(_) => hashes.get(&it.place).expect("all of them were found out"),
            };
            json!({"place": it.place, "name": it.name, "url": toolchain.url(&it.at), "hash": hash})
        };
        self.generated(nixpkgs, &self.dependencies.iter().map(fetched).collect::<Vec<_>>())
    }

    /// The files of the flake as far as they are known before a toolchain was asked: the rest is null.
    pub fn outline(&self, nixpkgs: &str) -> Generated {
        let fetched = |it: &Dependency| {
            let url = if let At::Url(url) = &it.at { Some(url) } else { None };
            let hash = if let Hash::Known(hash) = &it.hash { Some(hash) } else { None };
            json!({"place": it.place, "name": it.name, "url": url, "hash": hash})
        };
        self.generated(nixpkgs, &self.dependencies.iter().map(fetched).collect::<Vec<_>>())
    }

    /// Of equal sources it differs when they are built in different ways, and not by what the result is called.
    pub fn fingerprint(&self) -> String {
        let plan = Plan { name: String::new(), ..self.plan.clone() };
        let Generated { flake, plan } = Self { plan, ..self.clone() }.outline("");
        format!("{flake}\0{plan}\0{:?}\0{:?}", self.lookup, self.port)
    }

    fn generated(&self, nixpkgs: &str, dependencies: &[serde_json::Value]) -> Generated {
        let mut plan = self.plan.clone();
        plan.details.insert("dependencies".to_owned(), json!(dependencies));
        let plan = serde_json::to_string_pretty(&plan).expect("it has nothing that JSON has not");
        Generated { flake: self.flake.replace("NIXPKGS", &literal(nixpkgs)), plan }
    }
}

/// The files that are generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// `flake.nix`.
    pub flake: String,
    /// `plan.json`.
    pub plan: String,
}

/// What a toolchain says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Its version.
    pub version: String,
    /// Where it fetches from when nobody says otherwise, if that is its affair.
    pub registry: Option<String>,
}

impl Toolchain {
    /// Reads what the package [`TOOLCHAIN`] is: a line each. Of several registries the first one counts.
    pub fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let version = lines.next()?.trim().to_owned();
        let Some(registry) = lines.next() else { return Some(Self { version, registry: None }) };
        let registry = registry.split([',', '|']).next()?.trim();
        let is_url = ["https://", "http://"].iter().any(|scheme| registry.starts_with(scheme));
        is_url.then(|| Self { version, registry: Some(registry.to_owned()) })
    }

    /// Where something is fetched, if that is not for nixpkgs to say.
    pub fn url(&self, at: &At) -> Option<String> {
        match at {
            At::Url(url) => Some(url.clone()),
            At::Registry(path) => Some(format!("{}/{path}", self.registry.as_deref()?.trim_end_matches('/'))),
            At::Nixpkgs => None,
        }
    }
}

fn plan(asked: &Asked<'_>, toolchains: Vec<String>) -> Plan {
    let extra = asked.config.list("extra_nix_packages");
    Plan {
        system: asked.system.to_owned(),
        name: store_name(asked.name),
        root: asked.root.to_owned(),
        toolchains,
        environment: asked.config.environment_vars.clone(),
        before: asked.config.list("pre_build_commands").join("\n"),
        after: asked.config.list("post_build_commands").join("\n"),
        extra: extra.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect(),
        details: serde_json::Map::new(),
    }
}

#[cfg(test)]
mod tests;
