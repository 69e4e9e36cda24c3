//! How a source could be built: which language and framework it is in, which versions it asks for, where it begins.
//!
//! Comes in: the paths of a source, sorted, and the contents that were asked for so far. Goes out: what was found
//! ([`Detection`]), why nothing was ([`Undetected`]), or which contents are needed to say ([`Answer::Wants`]): the caller reads
//! those and asks again. So nothing here reads a file, and the same source always gets the same answer. Manifests are what a
//! stranger wrote: whatever they hold, the answer is one of the three. Deliberately absent: building, and where a source is
//! from.
//!
//! The order is flake, Dockerfile, Go, Rust, Node.js, Python, and then what Nixpacks knows. What else is there is named with the
//! choice.

pub(super) mod files;
pub(super) mod go;
mod node;
pub(super) mod python;
pub(super) mod rust;

use std::collections::BTreeMap;

use serde_json::json;

use crate::model::{BuildStrategy, BuildType, quoted};

use self::files::Files;
pub use self::files::{Contents, Listing, Want};

/// What runs in the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framework {
    /// None that is known.
    Generic,
    /// Next.js.
    Nextjs,
    /// Express.
    Express,
    /// React without a server of its own.
    React,
    /// Fastify.
    Fastify,
    /// Django.
    Django,
    /// FastAPI.
    Fastapi,
    /// Flask.
    Flask,
}

impl Framework {
    /// The word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Nextjs => "nextjs",
            Self::Express => "express",
            Self::React => "react",
            Self::Fastify => "fastify",
            Self::Django => "django",
            Self::Fastapi => "fastapi",
            Self::Flask => "flask",
        }
    }
}

/// A program in a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryPoint {
    /// What one calls it: a folder of Go, a binary of Rust, a script of Node.js, a file or command of Python.
    pub name: String,
    /// Where it is, relative to the source; `.` for the source itself.
    pub path: String,
    /// Whether it is taken when nobody says otherwise. At most one is.
    pub is_default: bool,
}

/// Values for fields of `build_config`, by their names there. What the user says goes before each of them.
pub type Suggested = BTreeMap<&'static str, serde_json::Value>;

/// What a source is.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// How it would be built.
    pub strategy: BuildStrategy,
    /// Into which form.
    pub build_type: BuildType,
    /// What runs in it.
    pub framework: Framework,
    /// Version of the language (of Rust: the edition) that it asks for, or the usual one.
    pub version: Option<String>,
    /// The exact toolchain that it asks for, when it does.
    pub toolchain: Option<String>,
    /// What follows from its files.
    pub suggested: Suggested,
    /// Programs in it, the default first.
    pub entry_points: Vec<EntryPoint>,
    /// Where programs of this kind listen when nobody says otherwise.
    pub port: Option<u16>,
    /// From 0 to 100: how sure this is.
    pub confidence: u8,
    /// What works and deserves a word, or will not work unless something is done.
    pub warnings: Vec<String>,
    /// What else it could be built with.
    pub alternatives: Vec<Alternative>,
}

impl Detection {
    /// As the API has it.
    pub fn to_json(&self) -> serde_json::Value {
        let entry_points = self.entry_points.iter();
        let alternatives = self.alternatives.iter();
        json!({
            "strategy": self.strategy.as_str(),
            "framework": self.framework.as_str(),
            "version": self.version,
            "toolchain": self.toolchain,
            "suggested_config": self.suggested,
            "recommended_build_type": self.build_type.as_str(),
            "entry_points": entry_points
                .map(|it| json!({"name": it.name, "path": it.path, "is_default": it.is_default}))
                .collect::<Vec<_>>(),
            "port": self.port,
            "confidence": f64::from(self.confidence) / 100.0,
            "warnings": self.warnings,
            "alternatives": alternatives
                .map(|it| json!({"strategy": it.strategy.as_str(), "because": it.because}))
                .collect::<Vec<_>>(),
        })
    }
}

/// Another way to build the same source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// How.
    pub strategy: BuildStrategy,
    /// The file that says so.
    pub because: String,
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undetected {
    /// Which kind of reason.
    pub code: UndetectedCode,
    /// The reason.
    pub message: String,
    /// What can be done about it.
    pub suggestions: Vec<String>,
}

/// Kinds of reasons, by the original's names of build errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndetectedCode {
    /// There is no file that says how it is built.
    NoLanguageDetected,
    /// A manifest cannot be read.
    InvalidConfig,
}

impl UndetectedCode {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoLanguageDetected => "NO_LANGUAGE_DETECTED",
            Self::InvalidConfig => "INVALID_CONFIG",
        }
    }
}

/// What can be said so far.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It was found out.
    Found(Box<Detection>),
    /// It was found out that it cannot be.
    NotFound(Undetected),
    /// These contents are needed.
    Wants(Vec<Want>),
}

/// How a source is recognised, in the order in which they are tried: the file, the strategy.
const MARKERS: [(&str, BuildStrategy); 8] = [
    ("flake.nix", BuildStrategy::Flake),
    ("Dockerfile", BuildStrategy::Dockerfile),
    (go::MANIFEST, BuildStrategy::AutoGo),
    (rust::MANIFEST, BuildStrategy::AutoRust),
    (node::MANIFEST, BuildStrategy::AutoNode),
    ("pyproject.toml", BuildStrategy::AutoPython),
    ("requirements.txt", BuildStrategy::AutoPython),
    ("setup.py", BuildStrategy::AutoPython),
];

/// Files by which Nixpacks knows a language that has no strategy of its own here.
const NIXPACKS: [(&str, &str); 14] = [
    ("Gemfile", "Ruby"),
    ("composer.json", "PHP"),
    ("pom.xml", "Java"),
    ("build.gradle", "Java"),
    ("build.gradle.kts", "Kotlin"),
    ("mix.exs", "Elixir"),
    ("deno.json", "Deno"),
    ("deno.jsonc", "Deno"),
    ("pubspec.yaml", "Dart"),
    ("stack.yaml", "Haskell"),
    ("build.zig", "Zig"),
    ("Package.swift", "Swift"),
    ("shard.yml", "Crystal"),
    ("index.html", "static files"),
];

/// How many folders are named in which there is something that the root has not.
const FOLDERS_NAMED: usize = 5;

/// Says what a source is, or what else has to be read.
pub fn detect(listing: &Listing, contents: &Contents) -> Answer {
    answer(listing, contents, choose)
}

fn answer(
    listing: &Listing,
    contents: &Contents,
    say: impl FnOnce(&Files<'_>) -> Result<Detection, Undetected>,
) -> Answer {
    let files = Files::new(listing, contents);
    let result = say(&files);
    let wants = files.into_wants();
    // What was answered without them is not an answer.
    if !wants.is_empty() {
        return Answer::Wants(wants);
    }
    match result {
        Ok(detection) => Answer::Found(Box::new(detection)),
        Err(undetected) => Answer::NotFound(undetected),
    }
}

/// Says what a source is for somebody who builds it in this way, whatever else is in it.
pub fn detect_as(strategy: BuildStrategy, listing: &Listing, contents: &Contents) -> Answer {
    answer(listing, contents, |files| {
        if MARKERS.iter().any(|(marker, of)| *of == strategy && files.has(marker)) {
            return found(strategy, files);
        }
        let markers: Vec<&str> = MARKERS.iter().filter(|(_, of)| *of == strategy).map(|(marker, _)| *marker).collect();
        let mut undetected = nothing(files);
        undetected.message = format!("there is no {} in it, by which {strategy} builds", markers.join(" or "));
        Err(undetected)
    })
}

fn choose(files: &Files<'_>) -> Result<Detection, Undetected> {
    let mut there: Vec<Alternative> = Vec::new();
    for (marker, strategy) in MARKERS {
        if files.has(marker) && there.iter().all(|known| known.strategy != strategy) {
            there.push(Alternative { strategy, because: marker.to_owned() });
        }
    }
    if there.is_empty() {
        return nixpacks(files).ok_or_else(|| nothing(files));
    }
    let chosen = there.remove(0);
    let mut detection = found(chosen.strategy, files)?;
    if !there.is_empty() {
        let others: Vec<String> = there.iter().map(|it| format!("{} ({})", it.strategy, it.because)).collect();
        detection.warnings.push(format!(
            "chosen: {} ({}); it could also be {}: --strategy (build_strategy) chooses",
            chosen.strategy,
            chosen.because,
            others.join(", ")
        ));
    }
    detection.alternatives = there;
    Ok(detection)
}

fn found(strategy: BuildStrategy, files: &Files<'_>) -> Result<Detection, Undetected> {
    Ok(match strategy {
        BuildStrategy::Flake => plain(BuildStrategy::Flake, BuildType::PureNix, 100),
        BuildStrategy::Dockerfile => plain(BuildStrategy::Dockerfile, BuildType::Oci, 80),
        BuildStrategy::AutoGo => go::detect(files)?,
        BuildStrategy::AutoRust => rust::detect(files)?,
        BuildStrategy::AutoNode => node::detect(files)?,
        _ => python::detect(files)?,
    })
}

fn plain(strategy: BuildStrategy, build_type: BuildType, confidence: u8) -> Detection {
    Detection {
        strategy,
        build_type,
        framework: Framework::Generic,
        version: None,
        toolchain: None,
        suggested: Suggested::new(),
        entry_points: Vec::new(),
        port: None,
        confidence,
        warnings: Vec::new(),
        alternatives: Vec::new(),
    }
}

fn nixpacks(files: &Files<'_>) -> Option<Detection> {
    let (marker, language) = NIXPACKS.into_iter().find(|(marker, _)| files.has(marker))?;
    let mut detection = plain(BuildStrategy::Nixpacks, BuildType::Oci, 60);
    detection.warnings.push(format!("{language} ({marker}) has no strategy of its own: Nixpacks would build it"));
    Some(detection)
}

fn nothing(files: &Files<'_>) -> Undetected {
    let folders: Vec<String> = files
        .folders_with(&MARKERS.map(|(marker, _)| marker))
        .take(FOLDERS_NAMED)
        .map(|(folder, marker)| format!("{} (it has a {marker})", quoted(folder)))
        .collect();
    let mut suggestions = Vec::new();
    if !folders.is_empty() {
        suggestions.push(format!("choose one with --root (build_config.root_directory): {}", folders.join(", ")));
    }
    suggestions.push("add a Dockerfile, or a flake.nix".to_owned());
    suggestions.push("say how it is built with --strategy (build_strategy)".to_owned());
    let message = if files.is_empty() {
        "the source is empty".to_owned()
    } else {
        "none of flake.nix, Dockerfile, go.mod, Cargo.toml, package.json, pyproject.toml, requirements.txt and setup.py is in the \
         root of the source"
            .to_owned()
    };
    Undetected { code: UndetectedCode::NoLanguageDetected, message, suggestions }
}

/// A manifest that cannot be read.
fn broken(path: &str, cause: &str) -> Undetected {
    Undetected {
        code: UndetectedCode::InvalidConfig,
        message: format!("{} cannot be read: {}", quoted(path), quoted(cause)),
        suggestions: vec![format!("correct {}", quoted(path))],
    }
}

/// Sorts entry points, each once, with the default first.
///
/// Which is the default: the one that the manifest says, else one that is called as programs usually are (`main`, `app`,
/// `server`, `api`), else the one in the root, else the first by its path.
fn settle(mut entry_points: Vec<EntryPoint>) -> Vec<EntryPoint> {
    const USUAL: [&str; 4] = ["main", "app", "server", "api"];
    entry_points.sort_by(|a, b| (&a.path, &a.name, !a.is_default).cmp(&(&b.path, &b.name, !b.is_default)));
    entry_points.dedup_by(|later, kept| (&later.path, &later.name) == (&kept.path, &kept.name));
    let rank = |it: &EntryPoint| {
        let usual = USUAL.iter().position(|name| it.name == *name).unwrap_or(USUAL.len());
        (!it.is_default, usual, it.path.contains('/'))
    };
    let first = entry_points.iter().enumerate().min_by_key(|(index, it)| (rank(it), *index)).map(|(index, _)| index);
    if let Some(first) = first {
        entry_points.iter_mut().for_each(|it| it.is_default = false);
        let mut default = entry_points.remove(first);
        default.is_default = true;
        entry_points.insert(0, default);
    }
    entry_points
}
