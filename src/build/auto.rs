//! Strategy `auto`: by which other one a source is built.

use std::path::Path;

use tokio::sync::mpsc;

use super::archive::what_is_packed;
use super::job::{Failure, Job};
use super::tree::{self, Limits};
use super::{STRATEGIES, detect_in};
use crate::decide::detect::{Detection, Undetected};
use crate::model::{BuildCode, BuildStrategy};
use crate::task::blocking;

impl Job {
    /// What the service says, or what is found in its source: the log says that.
    pub(super) async fn strategy(&self, files: &Path, lines: &mpsc::Sender<String>) -> Result<BuildStrategy, Failure> {
        let spec = &self.deployment.spec.build;
        if spec.strategy != BuildStrategy::Auto {
            return Ok(spec.strategy);
        }
        // Whoever names a Dockerfile means it.
        if spec.config.dockerfile.is_some() {
            return Ok(BuildStrategy::Dockerfile);
        }
        let (files, root) = (files.to_owned(), self.root().to_owned());
        let found = blocking(move || {
            let folder = tree::folder_inside(&files, &root)?;
            Ok::<_, tree::Error>(detect_in(&what_is_packed(&folder, &Limits::default())?))
        });
        let found = found.await.map_err(|error| {
            let next_step = "correct --root (build_config.root_directory)";
            Failure::new(BuildCode::InvalidConfig, error.to_string(), next_step)
        })?;
        let found = found.map_err(undetected)?;
        // The log is best effort, and its reader outlives this work.
        let _ = lines.send(format!("Found: {}.", found.strategy)).await;
        for warning in &found.warnings {
            let _ = lines.send(format!("Warning: {warning}.")).await;
        }
        taken(&found)
    }
}

fn undetected(why: Undetected) -> Failure {
    let message = format!("how it is built is not to be seen: {}", why.message);
    Failure::new(BuildCode::InvalidConfig, message, why.suggestions.join("; or "))
}

/// The strategy that was found, when this version builds by it.
fn taken(found: &Detection) -> Result<BuildStrategy, Failure> {
    let strategy = found.strategy;
    if STRATEGIES.contains(&strategy) {
        return Ok(strategy);
    }
    let message = format!("the source would be built by {strategy}, which this version does not do yet");
    Err(Failure::new(BuildCode::InvalidConfig, message, "add a Dockerfile or a flake.nix, and deploy again"))
}
