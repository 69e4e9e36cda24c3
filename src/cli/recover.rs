//! `recover`: a node goes on alone when the majority is lost for good.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;

use super::environment;
use super::outcome::{Exit, failure};
use super::output::warn;
use crate::node::{self, Recovery};

/// What has to be typed to go on.
const WORD: &str = "recover";

/// Which node goes on.
#[derive(Args, Debug)]
pub(super) struct RecoverArgs {
    /// Data folder of the node, whose program is stopped [default: as with `narvana run`]
    #[arg(long, env = "NARVANA_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Do it without asking; the statement is printed all the same
    #[arg(long)]
    yes: bool,
}

/// Says what may be lost, asks, and makes the node the only member of its cluster.
pub(super) async fn run(args: RecoverArgs) -> anyhow::Result<()> {
    let data_dir =
        args.data_dir.unwrap_or_else(|| node::default_data_dir(std::env::home_dir(), environment::data_home()));
    let recovery = Recovery::look(&data_dir).await?;
    warn(&recovery.statement());
    if !args.yes && !confirmed()? {
        return Err(failure(Exit::Failed, "nothing was changed"));
    }
    recovery.carry_out().await?;
    warn(&format!(
        "\nDone. Next:
  narvana run --data-dir {}     on this machine
  narvana node ls               then let other machines join: narvana token create",
        data_dir.display()
    ));
    Ok(())
}

fn confirmed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(failure(
            Exit::Usage,
            "nothing was changed: there is no terminal to ask at; say --yes once you have read the above",
        ));
    }
    write!(io::stderr(), "\nType `{WORD}` to do this: ")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == WORD)
}
