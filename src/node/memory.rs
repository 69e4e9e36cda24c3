//! What this node remembers of others over its own end: which process speaks for each, and what it was heard to hold
//! (`rpc::Witness`). Without it, a cluster that was off as a whole would take an old copy of a node's data folder for the node.
//! And where some of them are (`joining::DOORS`), for a start at which no voter is where it was, and for `doctor`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::cluster::DataDir;
use crate::consensus::Consensus;
use crate::model::NodeId;
use crate::rpc::{Memory, Witness};
use crate::state::State;

use super::joining::DOORS;

/// The file in the data folder.
const FILE: &str = "others";
/// How often it is written, when there is news. A copy of a folder is mostly older.
const EVERY: Duration = Duration::from_secs(5);

/// Members that are asked who leads when no voter answers, at most.
const DOORS_MAX: usize = 8;

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
    own: NodeId,
    witness: Witness,
    consensus: Consensus,
    dir: Arc<DataDir>,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    let (mut written, mut doors_written) = (None, None);
    loop {
        let over = quit.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none();
        let state = consensus.latest().state;
        // Those that were removed never come back.
        let gone =
            |memory: &Memory| state.admission(memory.node).is_some_and(|admission| admission.fenced_at.is_some());
        let memory: Vec<Memory> = witness.memory().into_iter().filter(|memory| !gone(memory)).collect();
        if written.as_ref() != Some(&memory) {
            match write(&dir, FILE, serde_json::to_vec(&memory)).await {
                Ok(()) => written = Some(memory),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "cannot keep what other nodes were heard to hold");
                }
            }
        }
        // Whoever was let in just now knows nobody but the member that did.
        let doors = state.node(own).map(|_| doors(&state, own, &consensus.status().voters));
        if let Some(doors) = doors.filter(|doors| doors_written.as_ref() != Some(doors)) {
            match write(&dir, DOORS, Ok(doors.clone().into_bytes())).await {
                Ok(()) => doors_written = Some(doors),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "cannot keep where other members are"),
            }
        }
        if over {
            return Ok(());
        }
    }
}

/// Other members with their addresses, voters first.
fn doors(state: &State, own: NodeId, voters: &[NodeId]) -> String {
    let mut others: Vec<_> = state.nodes().filter(|node| node.id != own).collect();
    others.sort_by_key(|node| (!voters.contains(&node.id), node.id));
    others.into_iter().take(DOORS_MAX).map(|node| format!("{} {}\n", node.id, node.peer_address())).collect()
}

async fn write(dir: &Arc<DataDir>, file: &'static str, bytes: serde_json::Result<Vec<u8>>) -> anyhow::Result<()> {
    let (dir, bytes) = (Arc::clone(dir), bytes?);
    tokio::task::spawn_blocking(move || dir.write(file, &bytes)).await.context("the write was cut off")??;
    Ok(())
}
