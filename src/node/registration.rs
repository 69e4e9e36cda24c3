//! Says to the cluster what this node is: once at start, and again when its engine comes or goes.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::agent::EngineState;
use crate::clock;
use crate::consensus::{Consensus, ProposeError};
use crate::state::{Actor, Command, LogEntry, NodeFacts};

/// Pause before a leader that did not answer is told again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Puts the node's facts on record, and says whether that is done: a cluster that cannot decide is told later.
pub(super) async fn register(consensus: &Consensus, facts: &NodeFacts) -> anyhow::Result<bool> {
    match propose(consensus, facts).await {
        Ok(()) => Ok(true),
        Err(ProposeError::Rejected(rejection)) => Err(rejection).context("the cluster refuses this node"),
        Err(error) => {
            tracing::warn!(%error, "cannot put this node on record; trying again");
            Ok(false)
        }
    }
}

async fn propose(consensus: &Consensus, facts: &NodeFacts) -> Result<(), ProposeError> {
    let entry = LogEntry {
        proposed_at: clock::now(),
        actor: Actor::Node(facts.id),
        request: None,
        command: Command::RegisterNode(facts.clone()),
    };
    consensus.propose(entry).await.map(drop)
}

/// Keeps the record of the node true until told to stop.
pub(crate) async fn keep(
    consensus: Consensus,
    mut facts: NodeFacts,
    mut registered: bool,
    engine: EngineState,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        if registered {
            tokio::select! {
                now = engine.differs_from(&facts.engine) => facts.engine = now,
                () = quit.cancelled() => return Ok(()),
            }
        }
        while let Err(error) = propose(&consensus, &facts).await {
            tracing::warn!(%error, "cannot put what changed about this node on record; trying again");
            tokio::select! {
                () = tokio::time::sleep(AGAIN_AFTER) => {}
                () = quit.cancelled() => return Ok(()),
            }
        }
        registered = true;
    }
}
