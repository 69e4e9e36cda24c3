//! How a source is built: as its service says, or by what is found in it.

use std::collections::BTreeMap;
use std::path::Path;

use tokio::sync::mpsc;

use super::STRATEGIES;
use super::archive::what_is_packed;
use super::detect::{detect_in, recipe_in};
use super::job::{Failure, Job};
use super::recipe::Document;
use super::tree::{self, Limits};
use crate::decide::detect::{Detection, Undetected, UndetectedCode};
use crate::decide::generate::{self, Asked, Recipe};
use crate::model::{BuildCode, BuildSpec, BuildStrategy, Detail, DetailField};
use crate::task::blocking;

/// By what a source is built.
pub(super) enum How {
    /// By its Dockerfile.
    Dockerfile,
    /// By its flake.
    Flake,
    /// By a flake that is generated for what was found.
    Generated(Box<Recipe>),
}

/// What is seen of how a source is built, before anything of it is done.
pub(super) struct Seen {
    /// By what, if that is not left to what is found.
    pub(super) how: How,
    /// What was found, if that was looked for.
    pub(super) found: Option<Detection>,
}

/// Looks at a source for the service of this name. Blocks.
///
/// # Errors
/// Why it cannot be built.
pub(super) fn look_at(files: &Path, name: &str, spec: &BuildSpec) -> Result<Seen, Failure> {
    let config = &spec.config;
    let strategy = match spec.strategy {
        // Whoever names a Dockerfile means it.
        BuildStrategy::Auto if config.dockerfile.is_some() => BuildStrategy::Dockerfile,
        strategy => strategy,
    };
    match strategy {
        BuildStrategy::Dockerfile => return Ok(Seen { how: How::Dockerfile, found: None }),
        BuildStrategy::Flake => return Ok(Seen { how: How::Flake, found: None }),
        _ => {}
    }
    let wanted = (strategy != BuildStrategy::Auto).then_some(strategy);
    let root = config.root_directory.as_deref().unwrap_or_default();
    let tree = tree::folder_inside(files, root).and_then(|folder| what_is_packed(&folder, &Limits::default()));
    let tree = tree.map_err(|error| no_folder(&error))?;
    let found = detect_in(&tree, wanted).map_err(undetected)?;
    let how = match found.strategy {
        BuildStrategy::Dockerfile => How::Dockerfile,
        BuildStrategy::Flake => How::Flake,
        strategy if generate::STRATEGIES.contains(&strategy) => {
            let system = format!("{}-linux", std::env::consts::ARCH);
            let asked = Asked { detection: &found, root, name, system: &system, config };
            let recipe = recipe_in(&tree, &asked);
            How::Generated(Box::new(recipe.map_err(|why| Failure::new(why.code, why.message, why.next_step))?))
        }
        _ => return Err(unavailable(&found)),
    };
    Ok(Seen { how, found: Some(found) })
}

impl Job {
    /// What the service says, or what is found in its source: the log says that.
    pub(super) async fn how(&self, files: &Path, lines: &mpsc::Sender<String>) -> Result<Seen, Failure> {
        let (files, name) = (files.to_owned(), self.deployment.service_name.clone());
        let spec = self.deployment.spec.build.clone();
        let seen = blocking(move || look_at(&files, &name, &spec)).await?;
        // The log is best effort, and its reader outlives this work.
        if let Some(found) = &seen.found {
            let _ = lines.send(format!("Found: {}.", found.strategy)).await;
            for warning in &found.warnings {
                let _ = lines.send(format!("Warning: {warning}.")).await;
            }
        }
        for warning in seen.unused(&self.deployment.spec.build) {
            let _ = lines.send(format!("Warning: {warning}.")).await;
        }
        // Of what is generated more is kept, once it is.
        if let (Some(found), How::Dockerfile | How::Flake) = (&seen.found, &seen.how) {
            self.keep_recipe(&Document::new(found.to_json(), BTreeMap::new())).await;
        }
        Ok(seen)
    }
}

impl Seen {
    /// By which strategy.
    pub(super) fn strategy(&self) -> BuildStrategy {
        match (&self.found, &self.how) {
            (Some(found), _) => found.strategy,
            (None, How::Flake) => BuildStrategy::Flake,
            (None, _) => BuildStrategy::Dockerfile,
        }
    }

    /// What is said of the build and means nothing to it.
    pub(super) fn unused(&self, spec: &BuildSpec) -> Vec<String> {
        let strategy = self.strategy();
        let unused = spec.config.details.keys().filter(|name| !is_used(name, strategy));
        unused.map(|name| format!("build_config.{name} means nothing to {strategy}")).collect()
    }

    /// What is said of the build and means something to it, by the names of the fields.
    pub(super) fn used<'a>(&self, spec: &'a BuildSpec) -> impl Iterator<Item = (&'a String, &'a Detail)> {
        let strategy = self.strategy();
        spec.config.details.iter().filter(move |(name, _)| is_used(name, strategy))
    }
}

fn is_used(field: &str, strategy: BuildStrategy) -> bool {
    DetailField::named(field).is_some_and(|field| field.strategies.contains(&strategy))
}

fn no_folder(error: &tree::Error) -> Failure {
    Failure::new(BuildCode::InvalidConfig, error.to_string(), "correct --root (build_config.root_directory)")
}

fn undetected(why: Undetected) -> Failure {
    let message = format!("how it is built is not to be seen: {}", why.message);
    let code = match why.code {
        UndetectedCode::NoLanguageDetected => BuildCode::NoLanguageDetected,
        UndetectedCode::InvalidConfig => BuildCode::InvalidConfig,
    };
    Failure::new(code, message, why.suggestions.join("; or "))
}

/// What was found is not built by this version.
fn unavailable(found: &Detection) -> Failure {
    debug_assert!(!STRATEGIES.contains(&found.strategy), "{} is built", found.strategy);
    let message = format!("the source would be built by {}, which this version does not do yet", found.strategy);
    Failure::new(BuildCode::UnsupportedLanguage, message, "add a Dockerfile or a flake.nix, and deploy again")
}
