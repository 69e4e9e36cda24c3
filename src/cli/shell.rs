//! What shells and `man` read.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::output::warn;

/// For which shell.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell
    pub(super) shell: Shell,
}

/// To where.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Folder to write the pages to; made when it does not exist
    pub(super) dir: PathBuf,
}

/// Prints completions.
pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "narvana", &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
    Ok(())
}

/// Writes a manual page for each command.
pub(super) fn man(args: &ManArgs) -> anyhow::Result<()> {
    write_pages(&args.dir).with_context(|| format!("cannot write manual pages to {}", args.dir.display()))?;
    warn(&format!("wrote the manual pages; `man -l {}/narvana.1` shows the first", args.dir.display()));
    Ok(())
}

fn write_pages(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), dir)?;
    Ok(())
}
