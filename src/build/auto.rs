//! How a source is built: as its service says, or by what is found in it.

use std::path::Path;

use tokio::sync::mpsc;

use super::STRATEGIES;
use super::archive::what_is_packed;
use super::detect::{detect_in, recipe_in};
use super::job::{Failure, Job};
use super::recipe::Document;
use super::tree::{self, Limits};
use crate::decide::detect::{Detection, Undetected, UndetectedCode};
use crate::decide::generate::{self, Asked, Recipe, Unplanned};
use crate::model::{BuildCode, BuildStrategy, DetailField};
use crate::task::blocking;

/// By what a source is built.
pub(super) enum How {
    /// By its Dockerfile.
    Dockerfile,
    /// By its flake.
    Flake,
    /// By a flake that is generated for what was found.
    Generated(Box<Recipe>, Box<Detection>),
}

/// Why that is not known.
enum Unknown {
    Folder(tree::Error),
    Undetected(Undetected),
    Unplanned(Unplanned),
}

impl Job {
    /// What the service says, or what is found in its source: the log says that.
    pub(super) async fn how(&self, files: &Path, lines: &mpsc::Sender<String>) -> Result<How, Failure> {
        let spec = &self.deployment.spec.build;
        let strategy = match spec.strategy {
            // Whoever names a Dockerfile means it.
            BuildStrategy::Auto if spec.config.dockerfile.is_some() => BuildStrategy::Dockerfile,
            strategy => strategy,
        };
        let settled = match strategy {
            BuildStrategy::Dockerfile => Some(How::Dockerfile),
            BuildStrategy::Flake => Some(How::Flake),
            _ => None,
        };
        if let Some(how) = settled {
            self.say_unused(strategy, lines).await;
            return Ok(how);
        }
        let wanted = (strategy != BuildStrategy::Auto).then_some(strategy);
        let (files, root) = (files.to_owned(), self.root().to_owned());
        let (name, config) = (self.deployment.service_name.clone(), spec.config.clone());
        let looked = blocking(move || {
            let folder = tree::folder_inside(&files, &root).map_err(Unknown::Folder)?;
            let tree = what_is_packed(&folder, &Limits::default()).map_err(Unknown::Folder)?;
            let detection = detect_in(&tree, wanted).map_err(Unknown::Undetected)?;
            let system = format!("{}-linux", std::env::consts::ARCH);
            let asked = Asked { detection: &detection, root: &root, name: &name, system: &system, config: &config };
            let is_generated = generate::STRATEGIES.contains(&detection.strategy);
            let recipe = is_generated.then(|| recipe_in(&tree, &asked)).transpose().map_err(Unknown::Unplanned);
            Ok((detection, recipe))
        });
        let (found, recipe) = looked.await.map_err(failure)?;
        // The log is best effort, and its reader outlives this work.
        let _ = lines.send(format!("Found: {}.", found.strategy)).await;
        for warning in &found.warnings {
            let _ = lines.send(format!("Warning: {warning}.")).await;
        }
        self.say_unused(found.strategy, lines).await;
        if let Some(recipe) = recipe.map_err(failure)? {
            return Ok(How::Generated(Box::new(recipe), Box::new(found)));
        }
        let how = match found.strategy {
            BuildStrategy::Dockerfile => How::Dockerfile,
            BuildStrategy::Flake => How::Flake,
            _ => return Err(unavailable(&found)),
        };
        self.keep_recipe(&Document { detection: found.to_json(), ..Document::default() }).await;
        Ok(how)
    }

    /// Says what is said of the build and means nothing to it.
    async fn say_unused(&self, strategy: BuildStrategy, lines: &mpsc::Sender<String>) {
        let is_used = |name: &str| DetailField::named(name).is_some_and(|field| field.strategies.contains(&strategy));
        for name in self.deployment.spec.build.config.details.keys().filter(|name| !is_used(name)) {
            // The log is best effort, and its reader outlives this work.
            let _ = lines.send(format!("Warning: build_config.{name} means nothing to {strategy}.")).await;
        }
    }
}

fn failure(why: Unknown) -> Failure {
    match why {
        Unknown::Folder(error) => {
            let next_step = "correct --root (build_config.root_directory)";
            Failure::new(BuildCode::InvalidConfig, error.to_string(), next_step)
        }
        Unknown::Undetected(why) => {
            let message = format!("how it is built is not to be seen: {}", why.message);
            let code = match why.code {
                UndetectedCode::NoLanguageDetected => BuildCode::NoLanguageDetected,
                UndetectedCode::InvalidConfig => BuildCode::InvalidConfig,
            };
            Failure::new(code, message, why.suggestions.join("; or "))
        }
        Unknown::Unplanned(why) => Failure::new(why.code, why.message, why.next_step),
    }
}

/// What was found is not built by this version.
fn unavailable(found: &Detection) -> Failure {
    debug_assert!(!STRATEGIES.contains(&found.strategy), "{} is built", found.strategy);
    let message = format!("the source would be built by {}, which this version does not do yet", found.strategy);
    Failure::new(BuildCode::UnsupportedLanguage, message, "add a Dockerfile or a flake.nix, and deploy again")
}
