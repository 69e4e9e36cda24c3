//! The end of a node's membership: it finds out, stops what it runs, and ends.
//!
//! A removed node may not hear of it through the log, which it is not sent any more. But every member that it calls says so,
//! and it calls one now and then for this reason alone.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent;
use crate::cluster::Identity;
use crate::consensus::{Consensus, RaftRole, View};
use crate::engine::{self, Engine};
use crate::task::Supervisor;

/// How often a node that does not lead asks whether it still belongs. Removal takes effect within five seconds.
const ASK_EVERY: Duration = Duration::from_secs(3);

/// The node is no member any more.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Removed(String);

/// How this node learns of its removal.
#[derive(Clone)]
pub(super) struct Membership {
    identity: Identity,
    consensus: Consensus,
    /// What members say that refuse it.
    refused: watch::Receiver<Option<String>>,
}

impl Membership {
    pub(super) fn new(identity: Identity, consensus: Consensus, refused: watch::Receiver<Option<String>>) -> Self {
        Self { identity, consensus, refused }
    }

    /// Whether it has ended, as far as is known here.
    pub(super) fn ended(&self) -> Option<Removed> {
        let own = |view: &View| view.state.admission(self.identity.node).is_some_and(|own| own.removed_at.is_some());
        if let Some(words) = &*self.refused.borrow() {
            return Some(Removed(words.clone()));
        }
        own(&self.consensus.latest()).then(|| {
            Removed(format!(
                "node {} was removed from this cluster; this machine can come back as a new node, in an empty data folder, \
                 with `narvana join`",
                self.identity.node
            ))
        })
    }

    /// Returns when it has ended.
    pub(super) async fn wait(mut self) -> Removed {
        let mut views = self.consensus.watch();
        loop {
            if let Some(removed) = self.ended() {
                return removed;
            }
            tokio::select! {
                _ = views.changed() => {}
                _ = self.refused.changed() => {}
                () = tokio::time::sleep(ASK_EVERY) => {
                    if self.consensus.status().role != RaftRole::Leader {
                        // The answer does not matter: who refuses this node says why, which is noted where calls are made.
                        let _answer = self.consensus.linearizable().await;
                    }
                }
            }
        }
    }
}

/// Waits for the end of the membership, then ends what the node runs, and the node.
pub(super) async fn watch(
    membership: Membership,
    agent: Supervisor,
    engine: watch::Receiver<Option<std::sync::Arc<dyn Engine>>>,
    grace: Duration,
    quit: CancellationToken,
) -> Result<(), Removed> {
    let identity = membership.identity;
    let Some(removed) = quit.run_until_cancelled(membership.wait()).await else { return Ok(()) };
    tracing::error!("{removed}; stopping what runs here");
    // It would start and report what is no longer this node's.
    agent.stop(grace).await;
    let engine = engine.borrow().clone();
    if let Some(engine) = engine {
        agent::remove_all(&*engine, identity.cluster, identity.node, grace).await;
    }
    Err(removed)
}

/// The same for a node that starts and is none any more.
pub(super) async fn clean_up(options: engine::Options, identity: Identity, grace: Duration) {
    let supervisor = Supervisor::new("clean up", CancellationToken::new());
    match engine::find(&options, &supervisor).await {
        Ok(found) => agent::remove_all(&*found.engine, identity.cluster, identity.node, grace).await,
        Err(error) => tracing::warn!(%error, "cannot look for containers of this node"),
    }
    supervisor.stop(Duration::ZERO).await;
}
