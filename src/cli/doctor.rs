//! `doctor`: what is wrong with this machine.

use super::node::StartArgs;
use super::outcome::{Exit, failure};
use super::output::Output;
use crate::node;

/// Looks, and says it; fails when something is bad.
pub(super) async fn run(output: &Output, args: StartArgs) -> anyhow::Result<()> {
    let checkup = node::examine(&args.settle()?).await?;
    if output.for_programs() {
        output.data(&checkup)?;
    } else {
        for line in checkup.to_string().lines() {
            output.text(line.trim_start())?;
        }
    }
    match checkup.refusal() {
        None => Ok(()),
        Some(_) => Err(failure(Exit::Failed, "what is BAD above keeps a node from working")),
    }
}
