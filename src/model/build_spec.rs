//! How an artifact is made from a source.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::service::check_words;
use super::word::word_enum;
use super::{EnvVars, Invalid, OLDEST_CLUSTER_VERSION, Problem, Source, check_env, check_nixpkgs, is_inner_path};

/// Longest time a build may be given, in seconds: a day.
const BUILD_TIMEOUT_SECONDS_MAX: u32 = 86_400;

/// How an artifact is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// By which method.
    pub strategy: BuildStrategy,
    /// Into which form.
    pub build_type: BuildType,
    /// Details.
    pub config: BuildConfig,
}

word_enum! {
    /// How source becomes an artifact.
    BuildStrategy {
        /// The repository's own flake.
        Flake = "flake",
        /// A generated flake for Go.
        AutoGo = "auto-go",
        /// A generated flake for Rust.
        AutoRust = "auto-rust",
        /// A generated flake for Node.js.
        AutoNode = "auto-node",
        /// A generated flake for Python.
        AutoPython = "auto-python",
        /// A managed database.
        AutoDatabase = "auto-database",
        /// The repository's Dockerfile, built by the node's engine.
        Dockerfile = "dockerfile",
        /// Nixpacks.
        Nixpacks = "nixpacks",
        /// Whatever detection finds.
        Auto = "auto",
    }
}

word_enum! {
    /// Which form an artifact has.
    BuildType {
        /// A container image.
        Oci = "oci",
        /// A Nix closure.
        PureNix = "pure-nix",
    }
}

/// Details of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct BuildConfig {
    /// Longest time it may take, in seconds; the node's default when absent.
    pub build_timeout_seconds: Option<u32>,
    /// Folder of the source that is the build's context; the root when absent.
    pub root_directory: Option<String>,
    /// Path of the Dockerfile inside the context; `Dockerfile` when absent.
    pub dockerfile: Option<String>,
    /// Build arguments.
    pub environment_vars: EnvVars,
    /// What is said over what is found in a source, by the names of the fields in the API: see [`DETAILS`].
    pub details: Details,
}

/// Values of fields, by their names.
pub type Details = BTreeMap<String, Detail>;

/// A value that is said over what is found in a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// A word or a command.
    Text(String),
    /// Words.
    List(Vec<String>),
}

/// A field of `build_config` that is said over what is found in a source.
#[derive(Clone, Copy, Debug)]
pub struct DetailField {
    /// Its name.
    pub name: &'static str,
    /// What it is in the API.
    pub kind: DetailKind,
    /// The version of the cluster that it came with: a member that does not know it must not be asked to apply it.
    pub since: u32,
    /// By which strategies it is used.
    pub strategies: &'static [BuildStrategy],
}

/// What a field is in the API. It is stored as a text, or as several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetailKind {
    /// A text.
    Text,
    /// Texts.
    List,
    /// Yes or no: `true` or `false`.
    Flag,
    /// A number from 1 to 255.
    Count,
}

/// Every one of them. What comes new belongs to a new version of the cluster, and so does another rule for what is there.
pub const DETAILS: [DetailField; 22] = {
    use BuildStrategy::{AutoGo, AutoNode, AutoPython, AutoRust};
    use DetailKind::{Count, Flag, List, Text};
    type By = &'static [BuildStrategy];
    const fn field(name: &'static str, kind: DetailKind, since: u32, strategies: By) -> DetailField {
        DetailField { name, kind, since, strategies }
    }
    const GENERATED: By = &[AutoGo, AutoNode, AutoPython, AutoRust];
    [
        field("build_command", Text, 4, &[AutoNode, AutoPython]),
        field("build_tags", List, 4, &[AutoGo]),
        field("cgo_enabled", Flag, 6, &[AutoGo]),
        field("django_options.collect_static", Flag, 6, &[AutoPython]),
        field("django_options.migrations", Flag, 6, &[AutoPython]),
        field("django_options.settings_module", Text, 6, &[AutoPython]),
        field("entry_point", Text, 4, GENERATED),
        field("extra_nix_packages", List, 6, GENERATED),
        field("fastapi_options.app_module", Text, 6, &[AutoPython]),
        field("fastapi_options.workers", Count, 6, &[AutoPython]),
        field("go_version", Text, 4, &[AutoGo]),
        field("ldflags", Text, 6, &[AutoGo]),
        field("nextjs_options.output_mode", Text, 6, &[AutoNode]),
        field("nixpkgs", Text, 6, GENERATED),
        field("node_version", Text, 4, &[AutoNode]),
        field("output_directory", Text, 6, &[AutoNode]),
        field("package_manager", Text, 6, &[AutoNode]),
        field("post_build_commands", List, 6, GENERATED),
        field("pre_build_commands", List, 6, GENERATED),
        field("python_version", Text, 5, &[AutoPython]),
        field("start_command", Text, 4, &[AutoNode, AutoPython]),
        field("workspace_module", Text, 6, &[AutoGo]),
    ]
};

impl DetailField {
    /// The one with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        DETAILS.iter().find(|field| field.name == name)
    }
}

/// The stored form of [`BuildConfig`]. Until cluster version 4 its first field was a number or none, and what says which of the two it is
/// is the same byte as that which says which variant this is: so the first two are that form.
#[derive(Serialize, Deserialize)]
enum Stored {
    Untimed(Files),
    Timed(u32, Files),
    Detailed { build_timeout_seconds: Option<u32>, files: Files, details: Details },
}

/// What the stored forms have in common.
#[derive(Serialize, Deserialize)]
struct Files {
    root_directory: Option<String>,
    dockerfile: Option<String>,
    environment_vars: EnvVars,
}

impl From<Stored> for BuildConfig {
    fn from(stored: Stored) -> Self {
        let (build_timeout_seconds, files, details) = match stored {
            Stored::Untimed(files) => (None, files, Details::new()),
            Stored::Timed(seconds, files) => (Some(seconds), files, Details::new()),
            Stored::Detailed { build_timeout_seconds, files, details } => (build_timeout_seconds, files, details),
        };
        let Files { root_directory, dockerfile, environment_vars } = files;
        Self { build_timeout_seconds, root_directory, dockerfile, environment_vars, details }
    }
}

impl From<BuildConfig> for Stored {
    fn from(config: BuildConfig) -> Self {
        let BuildConfig { build_timeout_seconds, root_directory, dockerfile, environment_vars, details } = config;
        let files = Files { root_directory, dockerfile, environment_vars };
        match build_timeout_seconds {
            _ if !details.is_empty() => Self::Detailed { build_timeout_seconds, files, details },
            None => Self::Untimed(files),
            Some(seconds) => Self::Timed(seconds, files),
        }
    }
}

impl BuildConfig {
    /// The version of the cluster that its stored form came with.
    fn since(&self) -> u32 {
        let fields = self.details.keys().filter_map(|name| DetailField::named(name));
        fields.map(|field| field.since).max().unwrap_or(OLDEST_CLUSTER_VERSION)
    }

    /// A field that is one text.
    pub fn text(&self, field: &str) -> Option<&str> {
        match self.details.get(field)? {
            Detail::Text(text) => Some(text),
            Detail::List(_) => None,
        }
    }

    /// A field that is a list; empty when nothing is said.
    pub fn list(&self, field: &str) -> &[String] {
        match self.details.get(field) {
            Some(Detail::List(words)) => words,
            _ => &[],
        }
    }

    fn check_details(&self, invalid: &mut Invalid) {
        for (name, detail) in &self.details {
            let field = format!("build_config.{name}");
            match detail {
                Detail::Text(text) => check_words(&field, std::slice::from_ref(text), invalid),
                Detail::List(words) => check_words(&field, words, invalid),
            }
            match (DetailField::named(name).map(|known| known.kind), self.text(name)) {
                (Some(DetailKind::List), None) | (Some(DetailKind::Text), Some(_)) => {}
                (Some(DetailKind::Flag), Some("true" | "false")) => {}
                (Some(DetailKind::Flag), Some(_)) => invalid.add(field, "must be true or false"),
                (Some(DetailKind::Count), Some(text)) if matches!(text.parse::<u8>(), Ok(1..)) => {}
                (Some(DetailKind::Count), Some(_)) => invalid.add(field, "must be a number from 1 to 255"),
                _ => invalid.add(field, "is not known here"),
            }
        }
        for field in ["entry_point", "output_directory"] {
            if let Some(path) = self.text(field).filter(|path| *path != ".") {
                invalid.check(format!("build_config.{field}"), check_path_in_source(path));
            }
        }
        for field in ["django_options.settings_module", "fastapi_options.app_module"] {
            let is_name = |text: &str| {
                let is_plain =
                    |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
                text.split(['.', ':']).all(is_plain) && text.matches(':').count() < 2
            };
            if self.text(field).is_some_and(|text| !is_name(text)) {
                invalid.add(format!("build_config.{field}"), "must be a module, such as app.settings or app.main:app");
            }
        }
        if self
            .text("nextjs_options.output_mode")
            .is_some_and(|mode| !["standalone", "export", "default"].contains(&mode))
        {
            invalid.add("build_config.nextjs_options.output_mode", "must be standalone, export or default");
        }
        if let Some(path) = self.text("workspace_module").filter(|path| *path != ".") {
            invalid.check("build_config.workspace_module", check_path_in_source(path));
        }
        let is_attribute = |name: &String| {
            let is_plain = |part: &str| {
                part.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_')
                    && part.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-+".contains(&it))
            };
            name.split('.').all(is_plain)
        };
        if !self.list("extra_nix_packages").iter().all(is_attribute) {
            let why = "must be names of packages in nixpkgs, such as ffmpeg or python3Packages.numpy";
            invalid.add("build_config.extra_nix_packages", why);
        }
        if let Some(reference) = self.text("nixpkgs") {
            invalid.check("build_config.nixpkgs", check_nixpkgs(reference));
        }
        if self.text("package_manager").is_some_and(|name| !["npm", "pnpm", "yarn"].contains(&name)) {
            invalid.add("build_config.package_manager", "must be npm, pnpm or yarn");
        }
        if self.text("start_command").is_some_and(|command| command.trim().is_empty()) {
            invalid.add("build_config.start_command", "must not be empty; leave it out for what is found");
        }
        for field in ["go_version", "node_version", "python_version"] {
            let is_version = |text: &str| {
                !text.is_empty()
                    && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit()))
            };
            if self.text(field).is_some_and(|text| !is_version(text)) {
                invalid.add(format!("build_config.{field}"), "must be a version, such as 1.24 or 22");
            }
        }
        let is_tag =
            |tag: &String| !tag.is_empty() && tag.bytes().all(|it| it.is_ascii_alphanumeric() || b"_.".contains(&it));
        if !self.list("build_tags").iter().all(is_tag) {
            invalid.add("build_config.build_tags", "must be of letters, digits, '_' and '.'");
        }
    }
}

impl BuildSpec {
    /// The version of the cluster that its stored form came with, and before which nobody builds so.
    pub fn since(&self) -> u32 {
        let strategy = match self.strategy {
            BuildStrategy::AutoGo | BuildStrategy::AutoNode => 4,
            BuildStrategy::AutoPython | BuildStrategy::AutoRust => 5,
            _ => OLDEST_CLUSTER_VERSION,
        };
        strategy.max(self.config.since())
    }

    /// Every rule of how a source is built, each by the name of its field in the API.
    pub(super) fn check(&self, source: &Source, invalid: &mut Invalid) {
        let config = &self.config;
        if matches!(config.build_timeout_seconds, Some(seconds) if !(1..=BUILD_TIMEOUT_SECONDS_MAX).contains(&seconds))
        {
            invalid.add("build_config.build_timeout", format!("must be from 1 to {BUILD_TIMEOUT_SECONDS_MAX} seconds"));
        }
        let paths = [("root_directory", &config.root_directory), ("dockerfile", &config.dockerfile)];
        for (name, path) in paths {
            if let Some(path) = path {
                invalid.check(format!("build_config.{name}"), check_path_in_source(path));
            }
        }
        for (key, value) in &config.environment_vars {
            invalid.check(format!("build_config.environment_vars.{key}"), check_env(key, value));
        }
        config.check_details(invalid);
        let oci_only = matches!(self.strategy, BuildStrategy::Dockerfile | BuildStrategy::Nixpacks);
        if source.needs_build() && oci_only && self.build_type == BuildType::PureNix {
            invalid.add("build_type", format!("{} builds are always oci", self.strategy));
        }
    }
}

/// A file or folder of a source. One whose name begins with '-' would be an option to some engine.
pub fn check_path_in_source(path: &str) -> Result<(), Problem> {
    if is_inner_path(path) && !path.starts_with('-') {
        return Ok(());
    }
    Err(Problem::new(
        "must be a relative path inside the source, without '..' or a leading '-', of printable characters",
    ))
}
