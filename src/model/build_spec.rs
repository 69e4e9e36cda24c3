//! How an artifact is made from a source.

use serde::{Deserialize, Serialize};

use super::word::word_enum;
use super::{EnvVars, Invalid, Problem, Source, check_env, is_inner_path};

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
pub struct BuildConfig {
    /// Longest time it may take, in seconds; the node's default when absent.
    pub build_timeout_seconds: Option<u32>,
    /// Folder of the source that is the build's context; the root when absent.
    pub root_directory: Option<String>,
    /// Path of the Dockerfile inside the context; `Dockerfile` when absent.
    pub dockerfile: Option<String>,
    /// Build arguments.
    pub environment_vars: EnvVars,
}

impl BuildSpec {
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
