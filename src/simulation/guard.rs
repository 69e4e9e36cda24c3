//! The guard of a simulated machine: another process there, which goes on when the node's is killed, and ends with the machine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::agent::{self, Guard, Standing, stand_guard};
use crate::clock;
use crate::decide::isolation::ISOLATED_AFTER;
use crate::engine::fake::FakeEngine;
use crate::host::{Hardware, Host};

/// What the node's process writes, and the guard that reads it. Clones are the same.
#[derive(Clone)]
pub(super) struct SimGuard {
    options: agent::Options,
    engine: Arc<FakeEngine>,
    hardware: Arc<Hardware>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// When the question was asked that was answered last, and whether nobody else could have been told.
    assured: Option<(Duration, bool)>,
    /// Where the guard runs, if one stands.
    host: Option<Host>,
}

impl SimGuard {
    pub(super) fn new(engine: Arc<FakeEngine>, options: agent::Options, hardware: Arc<Hardware>) -> Self {
        Self { options, engine, hardware, inner: Arc::default() }
    }

    /// The machine loses power.
    pub(super) fn end(&self) {
        let host = self.inner().host.take();
        if let Some(host) = host {
            host.kill();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standing(&self) -> Standing {
        match self.inner().assured {
            Some((_, true)) => Standing::OnlyMember,
            Some((asked, _)) if clock::since_boot().saturating_sub(asked) < ISOLATED_AFTER => Standing::Assured,
            _ => Standing::Over,
        }
    }
}

#[async_trait]
impl Guard for SimGuard {
    async fn stand(&self) -> Result<(), String> {
        if self.inner().host.is_none() {
            let host = Host::new(0, Arc::clone(&self.hardware));
            let guard = self.clone();
            host.spawn(async move {
                stand_guard(&guard.options, &*guard.engine, || guard.standing()).await;
                guard.inner().host = None;
            });
            self.inner().host = Some(host);
        }
        Ok(())
    }

    async fn assured(&self, asked: Duration, only: bool) {
        self.inner().assured = Some((asked, only));
    }
}
