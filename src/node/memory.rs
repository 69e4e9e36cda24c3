//! What this node remembers of others over its own end: which process speaks for each, and what it was heard to hold
//! (`rpc::Witness`). Without it, a cluster that was off as a whole would take an old copy of a node's data folder for the node.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::cluster::DataDir;
use crate::consensus::Consensus;
use crate::rpc::{Memory, Witness};

/// The file in the data folder.
const FILE: &str = "others";
/// How often it is written, when there is news. A copy of a folder is mostly older.
const EVERY: Duration = Duration::from_secs(5);

/// What was remembered. A file that cannot be understood is warned of, and taken for none.
pub(super) fn read(dir: &DataDir) -> anyhow::Result<Vec<Memory>> {
    let Some(text) = dir.read(FILE)? else { return Ok(Vec::new()) };
    Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, "the file {FILE} in the data folder cannot be read: what other nodes held before is forgotten");
        Vec::new()
    }))
}

/// Keeps it until told to stop, and once more then.
pub(super) async fn keep(
    witness: Witness,
    consensus: Consensus,
    dir: Arc<DataDir>,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    let mut written = None;
    loop {
        let over = quit.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none();
        let state = consensus.latest().state;
        // Those that were removed never come back.
        let gone =
            |memory: &Memory| state.admission(memory.node).is_some_and(|admission| admission.fenced_at.is_some());
        let memory: Vec<Memory> = witness.memory().into_iter().filter(|memory| !gone(memory)).collect();
        if written.as_ref() != Some(&memory) {
            match write(&dir, &memory).await {
                Ok(()) => written = Some(memory),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "cannot keep what other nodes were heard to hold");
                }
            }
        }
        if over {
            return Ok(());
        }
    }
}

async fn write(dir: &Arc<DataDir>, memory: &[Memory]) -> anyhow::Result<()> {
    let (dir, text) = (Arc::clone(dir), serde_json::to_vec(memory)?);
    tokio::task::spawn_blocking(move || dir.write(FILE, &text)).await.context("the write was cut off")??;
    Ok(())
}
