//! Keeps what the containers of this node find their app's services by: the names, and what listens behind them.
//!
//! A name leads through the node only in a container inside of which the node listens. Until then, and where that cannot be,
//! the engine is asked for it, which knows what runs on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::agent::Hosts;
use crate::consensus::Consensus;
use crate::decide::discovery::discovery;
use crate::engine::Engine;
use crate::model::{AppId, Instance, InstanceId, InstanceState, NodeId};
use crate::network::{Discoveries, Relay};
use crate::task::blocking;

/// Containers that are entered at once: each takes a process.
const ENTER_AT_ONCE: usize = 4;
/// Longest attempt to enter one; the engine is asked for its process first.
const ENTER_MAX: Duration = Duration::from_secs(20);
/// Pause after the first attempt that failed; each one after it doubles the pause.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Until this.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(300);
/// Pause before a file that could not be written is written again.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What keeps it.
pub(super) struct Keeper {
    pub(super) node: NodeId,
    pub(super) consensus: Consensus,
    pub(super) engine: watch::Receiver<Option<Arc<dyn Engine>>>,
    pub(super) relay: Relay,
    pub(super) discoveries: watch::Sender<Discoveries>,
    pub(super) hosts: Hosts,
}

/// A container that is to be entered, or was.
struct Entered {
    app: AppId,
    step: Step,
    /// Attempts that failed, one after the other, and why the last one did.
    failures: u32,
    reason: String,
}

enum Step {
    /// It is tried.
    Entering,
    /// The node listens inside.
    Open { _listens: DropGuard },
    /// It failed, and is tried again then.
    Refused(Instant),
}

/// What is so far.
#[derive(Default)]
struct Kept {
    containers: BTreeMap<InstanceId, Entered>,
    attempts: FuturesUnordered<BoxFuture<'static, (InstanceId, io::Result<TcpListener>)>>,
    /// What was written last.
    texts: BTreeMap<InstanceId, String>,
    /// When something is to be tried again.
    again: Option<Instant>,
}

impl Keeper {
    pub(super) async fn keep(self, quit: CancellationToken) -> Result<(), Infallible> {
        let (mut views, mut engines) = (self.consensus.watch(), self.engine.clone());
        let places = Arc::new(Semaphore::new(ENTER_AT_ONCE));
        let mut kept = Kept::default();
        loop {
            views.borrow_and_update();
            let engine = engines.borrow_and_update().clone();
            self.pass(&mut kept, engine, &places).await;
            let again = async {
                match kept.again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = quit.cancelled() => return Ok(()),
                changed = views.changed() => if changed.is_err() { return Ok(()) },
                changed = engines.changed() => if changed.is_err() { return Ok(()) },
                Some((instance, listener)) = kept.attempts.next() => {
                    if let Some(container) = kept.containers.get_mut(&instance) {
                        let outcome = listener.and_then(|listener| self.relay.serve(container.app, listener));
                        container.tried(instance, outcome);
                    }
                }
                () = again => {}
            }
        }
    }

    /// Compares what is with what should be, and begins what takes its time.
    async fn pass(&self, kept: &mut Kept, engine: Option<Arc<dyn Engine>>, places: &Arc<Semaphore>) {
        let state = self.consensus.latest().state;
        let here = state.live_instances().filter(|instance| instance.placement.node == self.node);
        let here: BTreeMap<InstanceId, &Arc<Instance>> = here.map(|instance| (instance.id, instance)).collect();
        let apps: BTreeSet<AppId> = here.values().map(|instance| instance.app).collect();
        let found = apps.into_iter().map(|app| (app, discovery(&state, self.node, app)));
        let found: Discoveries = Arc::new(found.collect());
        self.discoveries.send_if_modified(|known| {
            let changed = *known != found;
            if changed {
                *known = Arc::clone(&found);
            }
            changed
        });
        // One that is to stop has requests to finish, and needs what it needs for them.
        let is_needed = |it: &Instance| found[&it.app].needs_relay();
        kept.containers.retain(|id, _| here.get(id).is_some_and(|it| is_needed(it)));
        if let Some(engine) = engine {
            let running = here.values().filter(|it| it.status.state == InstanceState::Running && is_needed(it));
            for instance in running {
                let container = kept.containers.entry(instance.id).or_insert_with(|| Entered::new(instance.app));
                if let (Step::Refused(again), Some(id)) = (&container.step, &instance.status.container)
                    && *again <= Instant::now()
                {
                    container.step = Step::Entering;
                    let attempt = enter(Arc::clone(&engine), instance.id, id.clone(), Arc::clone(places));
                    kept.attempts.push(attempt.boxed());
                }
            }
        }
        let is_open = |id: &InstanceId| kept.containers.get(id).is_some_and(Entered::is_open);
        let texts = here.values().map(|it| (it.id, found[&it.app].hosts(is_open(&it.id))));
        let texts: BTreeMap<InstanceId, String> = texts.collect();
        let written = texts == kept.texts || self.write(&mut kept.texts, texts).await;
        let refused = kept.containers.values().filter_map(|container| match container.step {
            Step::Refused(again) => Some(again),
            Step::Entering | Step::Open { .. } => None,
        });
        kept.again = refused.chain((!written).then(|| Instant::now() + WRITE_AGAIN_AFTER)).min();
    }

    /// Writes the texts that changed, and removes those of instances that are no more. False when something is left to be done.
    async fn write(&self, known: &mut BTreeMap<InstanceId, String>, texts: BTreeMap<InstanceId, String>) -> bool {
        let changed = texts.iter().filter(|(instance, text)| known.get(instance) != Some(text));
        let changed: Vec<_> = changed.map(|(instance, text)| (*instance, text.clone())).collect();
        let (hosts, consensus) = (self.hosts.clone(), self.consensus.clone());
        let failed = blocking(move || {
            let mut failed = None;
            for (instance, text) in &changed {
                failed = hosts.write(*instance, text).err().or(failed);
            }
            // Looked at in this order: a file is made for an instance that the state has.
            let files = hosts.list();
            let state = consensus.latest().state;
            let lives = |id: InstanceId| state.instance(id).is_some_and(|it| !it.status.state.is_terminal());
            for instance in files.as_deref().unwrap_or_default().iter().filter(|id| !lives(**id)) {
                failed = hosts.remove(*instance).err().or(failed);
            }
            files.err().or(failed)
        })
        .await;
        match failed {
            None => *known = texts,
            Some(error) => {
                tracing::warn!(%error, "cannot write the names by which containers find services; trying again");
                return false;
            }
        }
        true
    }
}

impl Entered {
    /// One that has not been tried yet.
    fn new(app: AppId) -> Self {
        Self { app, step: Step::Refused(Instant::now()), failures: 0, reason: String::new() }
    }

    fn is_open(&self) -> bool {
        matches!(self.step, Step::Open { .. })
    }

    fn tried(&mut self, instance: InstanceId, outcome: io::Result<DropGuard>) {
        let reason = match outcome {
            Ok(guard) => {
                self.step = Step::Open { _listens: guard };
                return;
            }
            Err(error) => error.to_string(),
        };
        let pause = AGAIN_AFTER.saturating_mul(1 << self.failures.min(16)).min(AGAIN_AFTER_MAX);
        self.step = Step::Refused(Instant::now() + pause);
        self.failures += 1;
        // One that ended meanwhile is tried once.
        if self.failures > 1 && self.reason != reason {
            tracing::warn!(
                %instance,
                reason,
                "cannot listen inside a container: it does not find services of its app that run on other nodes"
            );
            self.reason = reason;
        }
    }
}

async fn enter(
    engine: Arc<dyn Engine>,
    instance: InstanceId,
    container: String,
    places: Arc<Semaphore>,
) -> (InstanceId, io::Result<TcpListener>) {
    let _place = places.acquire_owned().await.expect("never closed");
    let entered = timeout(ENTER_MAX, engine.listen_inside(&container)).await;
    (instance, entered.unwrap_or_else(|_| Err(io::Error::other("the container engine does not answer"))))
}
