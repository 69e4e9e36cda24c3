//! The end of a node's membership: it finds out, stops what it runs, and ends.
//!
//! A removed node may not hear of it through the log, which it is not sent any more. But every member that it calls says so,
//! and every node greets the voters each second (`consensus::roll`).

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::agent;
use crate::cluster::{DataDir, Identity};
use crate::consensus::Consensus;
use crate::engine::{self, Engine};
use crate::model::ClusterId;
use crate::rpc::Refusal;
use crate::task::Supervisor;

/// The file in the data folder that says why the node is no member any more. Nobody may be there to tell it again when it dies
/// before its containers have ended.
const ENDED: &str = "ended";
/// How long the end of its containers is tried; the next start goes on with it.
pub(crate) const CLEAN_UP_MAX: Duration = Duration::from_secs(60);
/// Pause before an engine that failed is asked again.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The node is no member any more.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.words)]
pub struct Removed(Refusal);

impl Removed {
    /// The node itself lives on as another process.
    fn lives(&self) -> bool {
        self.0.lives
    }
}

/// How this node learns of its removal.
#[derive(Clone)]
pub(super) struct Membership {
    identity: Identity,
    consensus: Consensus,
    dir: Arc<DataDir>,
    /// What members said before this start that refuse it.
    kept: Option<Refusal>,
    /// What members say that refuse it.
    refused: watch::Receiver<Option<Refusal>>,
    /// Why containers of this node may still run after its end.
    left_running: Arc<OnceLock<String>>,
}

impl Membership {
    pub(super) fn new(
        dir: Arc<DataDir>,
        identity: Identity,
        consensus: Consensus,
        refused: watch::Receiver<Option<Refusal>>,
    ) -> anyhow::Result<Self> {
        let kept = told(&dir)?.map(Refusal::end);
        Ok(Self { identity, consensus, dir, kept, refused, left_running: Arc::default() })
    }

    /// Whether it has ended, as far as is known here.
    pub(super) fn ended(&self) -> Option<Removed> {
        if let Some(refusal) = self.kept.as_ref().or(self.refused.borrow().as_ref()) {
            return Some(Removed(refusal.clone()));
        }
        let view = self.consensus.latest();
        let own = view.state.admission(self.identity.node).filter(|own| own.fenced_at.is_some())?;
        Some(Removed(Refusal::end(own.farewell())))
    }

    /// What to say at the end of a node that was removed. While its containers may run that is no [`Removed`]: starting it
    /// again helps.
    pub(super) fn farewell(&self) -> Option<anyhow::Error> {
        let removed = self.ended()?;
        let Some(why) = self.left_running.get() else { return Some(removed.into()) };
        let ClusterId(cluster) = self.identity.cluster;
        Some(anyhow::anyhow!(
            "{removed}; its containers could not be ended: {why}; start this node again when its engine works, or remove those \
             labelled narvana.cluster={cluster} and narvana.node={}",
            self.identity.node
        ))
    }

    /// Ends what runs here, as soon as there is an engine.
    pub(super) async fn clean_up(&self, mut engine: watch::Receiver<Option<Arc<dyn Engine>>>, grace: Duration) {
        let deadline = Instant::now() + CLEAN_UP_MAX;
        let found = timeout_at(deadline, engine.wait_for(Option::is_some)).await;
        let Some(engine) = found.ok().and_then(Result::ok).and_then(|found| found.clone()) else {
            return self.gave_up("no container engine was found".to_owned());
        };
        while let Err(error) = agent::remove_all(&*engine, self.identity.cluster, self.identity.node, grace).await {
            tracing::warn!(%error, "cannot end the containers of this node");
            if Instant::now() + AGAIN_AFTER >= deadline {
                return self.gave_up(error.to_string());
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// Makes the end outlive this process. Not that of one whose node lives on: that is the process's own.
    async fn keep(&self, Removed(refusal): &Removed) {
        if refusal.lives {
            return;
        }
        let (dir, words) = (Arc::clone(&self.dir), refusal.words.clone());
        let written = tokio::task::spawn_blocking(move || dir.write(ENDED, words.as_bytes())).await;
        if let Err(error) = written.map_err(anyhow::Error::from).and_then(|written| Ok(written?)) {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "cannot keep that this node is no member any more: its next start has to be told again"
            );
        }
    }

    fn gave_up(&self, why: String) {
        // The first reason is as good as a later one.
        let _known = self.left_running.set(why);
    }

    /// Returns when it has ended.
    pub(super) async fn wait(&self) -> Removed {
        let mut refused = self.refused.clone();
        let mut views = self.consensus.watch();
        loop {
            if let Some(removed) = self.ended() {
                return removed;
            }
            tokio::select! {
                _ = views.changed() => {}
                _ = refused.changed() => {}
            }
        }
    }
}

/// What the node of a data folder was told, when it is no member any more.
pub(super) fn told(dir: &DataDir) -> anyhow::Result<Option<String>> {
    Ok(dir.read(ENDED)?.map(text))
}

/// The same of a folder that somebody else may have open.
pub(super) fn told_in(folder: &Path) -> Option<String> {
    std::fs::read(folder.join(ENDED)).ok().map(text)
}

fn text(words: Vec<u8>) -> String {
    String::from_utf8_lossy(&words).into_owned()
}

/// Forgets that: the node is about to begin an epoch of its own.
pub(super) fn forget(dir: &DataDir) -> anyhow::Result<()> {
    Ok(dir.remove(ENDED)?)
}

/// Waits for the end of the membership, which is that of the node: what it runs ends as the node stops.
pub(super) async fn watch(membership: Membership, quit: CancellationToken) -> Result<(), Removed> {
    let Some(removed) = quit.run_until_cancelled(membership.wait()).await else { return Ok(()) };
    membership.keep(&removed).await;
    tracing::error!("{removed}; stopping what runs here");
    Err(removed)
}

/// The same for a node that starts and is none any more.
pub(super) async fn clean_up(membership: &Membership, removed: &Removed, options: engine::Options, grace: Duration) {
    // What runs in the name of a node that lives is its own.
    if removed.lives() {
        return;
    }
    membership.keep(removed).await;
    let supervisor = Supervisor::new("clean up", CancellationToken::new());
    match engine::find(&options, &supervisor).await {
        Ok(found) => membership.clean_up(watch::channel(Some(found.engine)).1, grace).await,
        Err(error) => membership.gave_up(error.to_string()),
    }
    supervisor.stop(Duration::ZERO).await;
}
