//! Keeps what the containers of this node find their app's services by: the names, and what listens behind them.
//!
//! A name leads through the node only when the node listens inside every container of the app here. Until then, and where
//! that cannot be, the engine is asked for it, which knows what runs on this node.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::agent::Hosts;
use crate::consensus::Consensus;
use crate::decide::discovery::discovery;
use crate::engine::Engine;
use crate::model::{AppId, Instance, InstanceId, InstanceState, NodeId};
use crate::network::{Discoveries, Relay};
use crate::task::blocking;

/// Pause before it is tried again to listen inside a container, or to write a file.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What keeps it.
pub(super) struct Keeper {
    pub(super) node: NodeId,
    pub(super) consensus: Consensus,
    pub(super) engine: watch::Receiver<Option<Arc<dyn Engine>>>,
    pub(super) relay: Relay,
    pub(super) discoveries: watch::Sender<Discoveries>,
    pub(super) hosts: Hosts,
}

/// What is so far.
#[derive(Default)]
struct Kept {
    /// Containers inside of which the node listens.
    open: BTreeMap<InstanceId, DropGuard>,
    /// Containers inside of which it cannot.
    refused: BTreeMap<InstanceId, (Instant, String)>,
    /// What was written last.
    texts: BTreeMap<AppId, String>,
    /// Something is to be tried again.
    unfinished: bool,
}

impl Keeper {
    pub(super) async fn keep(self, quit: CancellationToken) -> Result<(), Infallible> {
        let (mut views, mut engines) = (self.consensus.watch(), self.engine.clone());
        let mut kept = Kept::default();
        loop {
            views.borrow_and_update();
            let engine = engines.borrow_and_update().clone();
            self.pass(&mut kept, engine).await;
            let again = async {
                match kept.unfinished {
                    true => tokio::time::sleep(AGAIN_AFTER).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = quit.cancelled() => return Ok(()),
                changed = views.changed() => if changed.is_err() { return Ok(()) },
                changed = engines.changed() => if changed.is_err() { return Ok(()) },
                () = again => {}
            }
        }
    }

    async fn pass(&self, kept: &mut Kept, engine: Option<Arc<dyn Engine>>) {
        let state = self.consensus.latest().state;
        let mut here: BTreeMap<AppId, Vec<Arc<Instance>>> = BTreeMap::new();
        for instance in state.live_instances().filter(|instance| instance.placement.node == self.node) {
            here.entry(instance.app).or_default().push(Arc::clone(instance));
        }
        let found: Discoveries = Arc::new(here.keys().map(|app| (*app, discovery(&state, self.node, *app))).collect());
        self.discoveries.send_if_modified(|known| {
            let changed = *known != found;
            if changed {
                *known = Arc::clone(&found);
            }
            changed
        });
        for instances in here.values_mut() {
            instances.retain(|instance| instance.status.state == InstanceState::Running);
        }
        let runs = |id: &InstanceId| here.values().flatten().any(|instance| instance.id == *id);
        kept.open.retain(|id, _| runs(id));
        kept.refused.retain(|id, _| runs(id));
        if let Some(engine) = engine {
            let needed = here.iter().filter(|(app, _)| found[app].needs_relay()).flat_map(|(_, instances)| instances);
            self.listen(kept, &*engine, needed.cloned().collect()).await;
        }
        let listens = |instance: &Arc<Instance>| kept.open.contains_key(&instance.id);
        let texts = here.iter().map(|(app, instances)| (*app, found[app].hosts(instances.iter().all(listens))));
        let texts: BTreeMap<AppId, String> = texts.collect();
        let written = texts == kept.texts || self.write(kept, texts).await;
        kept.unfinished = !kept.refused.is_empty() || !written;
    }

    /// Listens inside those of these containers inside of which the node does not yet.
    async fn listen(&self, kept: &mut Kept, engine: &dyn Engine, needed: Vec<Arc<Instance>>) {
        let waits = |id: &InstanceId| kept.refused.get(id).is_some_and(|(since, _)| since.elapsed() < AGAIN_AFTER);
        let new = needed.into_iter().filter(|it| !kept.open.contains_key(&it.id) && !waits(&it.id));
        let attempts = join_all(new.map(async |instance| {
            let container = instance.status.container.as_deref().unwrap_or_default();
            let listener = engine.listen_inside(container).await;
            (instance.id, listener.and_then(|listener| self.relay.serve(instance.app, listener)))
        }));
        for (instance, attempt) in attempts.await {
            match attempt {
                Ok(guard) => {
                    kept.refused.remove(&instance);
                    kept.open.insert(instance, guard);
                }
                Err(error) => {
                    let reason = error.to_string();
                    if kept.refused.get(&instance).is_none_or(|(_, before)| *before != reason) {
                        tracing::warn!(
                            %instance,
                            reason,
                            "cannot listen inside a container: services of its app that run on other nodes are not found from there"
                        );
                    }
                    kept.refused.insert(instance, (Instant::now(), reason));
                }
            }
        }
    }

    /// Writes the texts that changed, and removes those of apps that are not here any more.
    async fn write(&self, kept: &mut Kept, texts: BTreeMap<AppId, String>) -> bool {
        let changed = texts.iter().filter(|(app, text)| kept.texts.get(app) != Some(text));
        let changed: Vec<_> = changed.map(|(app, text)| (*app, text.clone())).collect();
        let (hosts, here) = (self.hosts.clone(), texts.keys().copied().collect::<Vec<_>>());
        let written = blocking(move || {
            changed.iter().try_for_each(|(app, text)| hosts.write(*app, text))?;
            hosts.keep_only(|app| here.contains(&app))
        });
        match written.await {
            Ok(()) => kept.texts = texts,
            Err(error) => {
                tracing::warn!(%error, "cannot write the names by which containers find other services; trying again");
                return false;
            }
        }
        true
    }
}
