//! `detect`: what a folder is, and how it would be built.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::outcome::{Exit, failure};
use super::output::{Output, Table};
use crate::build::archive::what_is_packed;
use crate::build::detect_in;
use crate::build::tree::Limits;
use crate::decide::detect::{Detection, Undetected};
use crate::model::BuildStrategy;

/// What is looked at.
#[derive(Args, Debug)]
pub(super) struct DetectArgs {
    /// The folder
    #[arg(default_value = ".")]
    path: PathBuf,
}

/// Looks, and says it.
pub(super) fn run(output: &Output, args: &DetectArgs) -> anyhow::Result<()> {
    let folder = args.path.canonicalize().with_context(|| format!("cannot open the folder {}", args.path.display()))?;
    if !folder.is_dir() {
        return Err(failure(Exit::Usage, format!("{} is not a folder", args.path.display())));
    }
    let tree = what_is_packed(&folder, &Limits::default())?;
    let found = detect_in(&tree).map_err(|undetected| failure(Exit::Failed, refusal(&undetected)))?;
    output.show_as(&for_programs(&found), || table(&found))?;
    for warning in &found.warnings {
        output.note(warning);
    }
    if found.strategy != BuildStrategy::Dockerfile {
        output.note(&format!("this version builds Dockerfiles only, not yet by {}: add a Dockerfile", found.strategy));
    }
    Ok(())
}

fn refusal(undetected: &Undetected) -> String {
    let Undetected { code, message, suggestions } = undetected;
    let next: String = suggestions.iter().map(|suggestion| format!("\n  next: {suggestion}")).collect();
    format!("{}: {message}{next}", code.as_str())
}

fn for_programs(found: &Detection) -> Value {
    let entry_points: Vec<Value> = found
        .entry_points
        .iter()
        .map(|it| json!({ "name": it.name, "path": it.path, "is_default": it.is_default }))
        .collect();
    let alternatives: Vec<Value> = found
        .alternatives
        .iter()
        .map(|it| json!({ "strategy": it.strategy.as_str(), "because": it.because }))
        .collect();
    json!({
        "strategy": found.strategy.as_str(),
        "framework": found.framework.as_str(),
        "version": found.version,
        "toolchain": found.toolchain,
        "suggested_config": found.suggested,
        "recommended_build_type": found.build_type.as_str(),
        "entry_points": entry_points,
        "port": found.port,
        "confidence": f64::from(found.confidence) / 100.0,
        "warnings": found.warnings,
        "alternatives": alternatives,
    })
}

fn table(found: &Detection) -> Table {
    let programs: Vec<String> = found
        .entry_points
        .iter()
        .map(|it| if it.path == it.name { it.name.clone() } else { format!("{} ({})", it.name, it.path) })
        .collect();
    let mut table = Table::of_fields([
        ("strategy", found.strategy.to_string()),
        ("build type", found.build_type.to_string()),
        ("framework", found.framework.as_str().to_owned()),
        ("version", found.version.clone().unwrap_or_default()),
        ("toolchain", found.toolchain.clone().unwrap_or_default()),
        ("programs", programs.join(", ")),
        ("port", found.port.map(|port| port.to_string()).unwrap_or_default()),
        ("confidence", format!("{} %", found.confidence)),
    ]);
    for (field, value) in &found.suggested {
        table.field(field, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    table
}
