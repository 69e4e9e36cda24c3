//! The guard of a simulated machine: another process there, which lives when the node's is killed, and ends with the machine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use crate::agent::Guard;
use crate::decide::isolation::ISOLATED_AFTER;
use crate::engine::Engine;
use crate::engine::fake::FakeEngine;
use crate::host::Host;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the node's process writes and the guard reads. Clones are the same.
#[derive(Clone)]
pub(super) struct SimGuard {
    /// When the question was asked that was answered last.
    assured: Arc<Mutex<Option<Instant>>>,
    /// Where the guard runs, if one stands.
    host: Arc<Mutex<Option<Host>>>,
    engine: Arc<FakeEngine>,
}

impl SimGuard {
    pub(super) fn new(engine: Arc<FakeEngine>) -> Self {
        Self { assured: Arc::default(), host: Arc::default(), engine }
    }

    /// The machine loses power.
    pub(super) fn end(&self) {
        if let Some(host) = self.host.lock().unwrap_or_else(PoisonError::into_inner).take() {
            host.kill();
        }
    }

    fn is_over(&self) -> bool {
        let assured = self.assured.lock().unwrap_or_else(PoisonError::into_inner);
        assured.is_none_or(|at| at.elapsed() >= ISOLATED_AFTER)
    }
}

#[async_trait]
impl Guard for SimGuard {
    async fn stand(&self) -> Result<(), String> {
        let mut standing = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.is_none() {
            let host = Host::new(0, crate::clock::now(), Duration::ZERO);
            let guard = self.clone();
            // The same loop as `agent::stand_guard`, over what is simulated.
            host.spawn(async move {
                loop {
                    sleep(LOOK_EVERY).await;
                    let alone =
                        guard.engine.containers().into_iter().filter(|it| it.labels.contains_key("narvana.alone"));
                    for container in alone {
                        if guard.is_over() {
                            let _again = guard.engine.stop(&container.id, Duration::ZERO).await;
                        }
                    }
                }
            });
            *standing = Some(host);
        }
        Ok(())
    }

    fn assured(&self, age: Duration, _: bool) {
        *self.assured.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() - age);
    }
}
