//! `detect`: what a source is, and how it would be built.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Global;
use super::outcome::{Exit, failure};
use super::output::Table;
use super::session::Session;
use crate::build::archive::what_is_packed;
use crate::build::tree::Limits;
use crate::build::{STRATEGIES, detect_in};
use crate::client::view::Detection;
use crate::decide::detect::Undetected;
use crate::model::BuildStrategy;

/// What is looked at.
#[derive(Args, Debug)]
pub(super) struct DetectArgs {
    /// The folder
    #[arg(default_value = ".", conflicts_with = "git")]
    path: PathBuf,
    /// A repository instead, which a node clones
    #[arg(long, value_name = "URL")]
    git: Option<String>,
    /// Its branch, tag or commit
    #[arg(long = "ref", value_name = "REF", requires = "git")]
    reference: Option<String>,
    /// The folder in it
    #[arg(long, value_name = "FOLDER", requires = "git")]
    root: Option<String>,
}

/// Looks, and says it.
pub(super) async fn run(global: &Global, args: DetectArgs) -> anyhow::Result<()> {
    let output = global.printer();
    let (json, found) = match &args.git {
        Some(url) => {
            let session = Session::open(global)?;
            let repository = json!({"git_url": url, "git_ref": args.reference, "root_directory": args.root});
            let answer = session.client.detect(&repository).await?;
            (answer.json, answer.view)
        }
        None => {
            let json = here(&args.path)?;
            let found = Detection::deserialize(&json).context("what was found has another form than expected")?;
            (json, found)
        }
    };
    output.show_as(&json, || table(&found))?;
    for warning in &found.warnings {
        output.note(warning);
    }
    if !STRATEGIES.map(BuildStrategy::as_str).contains(&found.strategy.as_str()) {
        output.note(&format!("this version does not build by {} yet: add a Dockerfile or a flake.nix", found.strategy));
    }
    Ok(())
}

/// Looks at a folder of this machine.
fn here(path: &Path) -> anyhow::Result<Value> {
    let folder = path.canonicalize().with_context(|| format!("cannot open the folder {}", path.display()))?;
    if !folder.is_dir() {
        return Err(failure(Exit::Usage, format!("{} is not a folder", path.display())));
    }
    let tree = what_is_packed(&folder, &Limits::default())?;
    let found = detect_in(&tree, None).map_err(|undetected| failure(Exit::Failed, refusal(&undetected)))?;
    Ok(found.to_json())
}

fn refusal(undetected: &Undetected) -> String {
    let Undetected { code, message, suggestions } = undetected;
    let next: String = suggestions.iter().map(|suggestion| format!("\n  next: {suggestion}")).collect();
    format!("{}: {message}{next}", code.as_str())
}

/// What was found, but for its warnings.
pub(super) fn table(found: &Detection) -> Table {
    let programs: Vec<String> = found
        .entry_points
        .iter()
        .map(|it| if it.path == it.name { it.name.clone() } else { format!("{} ({})", it.name, it.path) })
        .collect();
    let mut table = Table::of_fields([
        ("strategy", found.strategy.clone()),
        ("build type", found.recommended_build_type.clone()),
        ("framework", found.framework.clone()),
        ("version", found.version.clone()),
        ("toolchain", found.toolchain.clone()),
        ("programs", programs.join(", ")),
        ("port", found.port.map(|port| port.to_string()).unwrap_or_default()),
        ("confidence", format!("{:.0} %", found.confidence * 100.0)),
        ("branch", found.default_branch.clone()),
        ("commit", found.git_commit.clone()),
    ]);
    for (field, value) in &found.suggested_config {
        table.field(field, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    table
}
