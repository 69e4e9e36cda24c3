//! How a source would be built: fetched, looked at and checked, with nothing of it run.

use std::path::Path;

use crate::decide::detect::Detection;
use crate::decide::generate::Generated;
use crate::model::{BuildSpec, BuildStrategy, Source, UploadedSource};

use super::auto::{How, look_at};
use super::job::Failure;
use super::{dockerfile, nix};

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Previewed {
    /// Name of the service.
    pub name: String,
    /// How it is built.
    pub spec: BuildSpec,
    /// Where its source is.
    pub source: Source,
    /// What was uploaded, if that is its source.
    pub uploaded: Option<UploadedSource>,
    /// The nixpkgs of the cluster; that of the node when empty.
    pub nixpkgs: String,
}

/// How it would be built.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Commit or digest of what was looked at.
    pub revision: String,
    /// By which strategy.
    pub strategy: BuildStrategy,
    /// What was found, if that was looked for.
    pub detection: Option<Detection>,
    /// The flake that would be built, if one is written for it. What only the toolchain knows is null in its plan.
    pub generated: Option<Generated>,
    /// How many things would be fetched for it, where that is known before.
    pub dependencies: Option<usize>,
    /// What deserves a word.
    pub warnings: Vec<String>,
}

/// Looks at a source whose files are here. Blocks.
///
/// # Errors
/// Why it could not be built.
pub(super) fn preview(
    files: &Path,
    revision: String,
    asked: &Previewed,
    allow_loopback: bool,
    nixpkgs: &str,
) -> Result<Preview, Failure> {
    let seen = look_at(files, &asked.name, &asked.spec)?;
    let config = &asked.spec.config;
    let of_cluster = Some(asked.nixpkgs.as_str()).filter(|reference| !reference.is_empty());
    let nixpkgs = config.text("nixpkgs").or(of_cluster).unwrap_or(nixpkgs);
    let mut warnings = seen.found.as_ref().map(|found| found.warnings.clone()).unwrap_or_default();
    warnings.extend(seen.unused(&asked.spec));
    let strategy = seen.strategy();
    let (mut generated, mut dependencies) = (None, None);
    match seen.how {
        How::Dockerfile => {
            let scan = dockerfile::check(files, config, allow_loopback)?;
            warnings.extend(scan.warnings.iter().map(|warning| format!("Dockerfile, {warning}")));
        }
        How::Flake => {
            nix::check_flake(files, config.root_directory.as_deref().unwrap_or_default(), allow_loopback)?;
        }
        How::Generated(recipe) => {
            warnings.extend(recipe.notes.iter().cloned());
            match recipe.lookup {
                None => dependencies = Some(recipe.dependencies.len()),
                Some(_) => warnings.push("which wheels fit is asked of pip when it is built".to_owned()),
            }
            generated = Some(recipe.outline(nixpkgs));
        }
    }
    Ok(Preview { revision, strategy, detection: seen.found, generated, dependencies, warnings })
}
