//! Says to the cluster what this node is: once at start, and again when its engine comes or goes.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::agent::EngineState;
use crate::clock;
use crate::consensus::{Consensus, ProposeError};
use crate::state::{Actor, Command, LogEntry, NodeFacts};

/// Pause before a leader that did not answer is told again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Puts the node's facts on record.
pub(super) async fn register(consensus: &Consensus, facts: &NodeFacts) -> Result<(), ProposeError> {
    let entry = LogEntry {
        proposed_at: clock::now(),
        actor: Actor::Node(facts.id),
        request: None,
        command: Command::RegisterNode(facts.clone()),
    };
    consensus.propose(entry).await.map(drop)
}

/// Keeps the record of the engine true until told to stop.
pub(super) async fn keep(
    consensus: Consensus,
    mut facts: NodeFacts,
    engine: EngineState,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            now = engine.differs_from(&facts.engine) => facts.engine = now,
            () = quit.cancelled() => return Ok(()),
        }
        while let Err(error) = register(&consensus, &facts).await {
            tracing::warn!(%error, "cannot put the state of the engine on record; trying again");
            tokio::select! {
                () = tokio::time::sleep(AGAIN_AFTER) => {}
                () = quit.cancelled() => return Ok(()),
            }
        }
    }
}
