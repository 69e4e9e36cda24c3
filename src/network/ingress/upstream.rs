//! One instance as this ingress sees it: what is open on it, its idle connections, whether it is worth trying.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::counters::{InstanceNumbers, add};
use super::link::Link;
use crate::decide::route_table::Place;
use crate::model::InstanceId;

/// Shorter than the keep-alive time of common servers (Node's 5 s is the shortest of the wide-spread ones), so that it
/// is nearly always this side that closes an idle connection.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Idle connections kept per instance. More than this many requests at once are served all the same; their
/// connections are closed afterwards.
const IDLE_LINKS_MAX: usize = 256;
/// How long an instance that could not be reached comes last. Short: the health check decides for longer.
const SHUNNED_FOR: Duration = Duration::from_secs(2);

pub(super) struct Upstream {
    pub(super) instance: InstanceId,
    pub(super) place: Place,
    in_flight: AtomicUsize,
    requests: AtomicU64,
    unreachable: AtomicU64,
    /// Not in the table any more: gets no requests and keeps no connections.
    retired: AtomicBool,
    shunned_until: Mutex<Option<Instant>>,
    /// Mirrors whether `shunned_until` is set, so that the common case takes no lock.
    shunned: AtomicBool,
    idle: Mutex<Vec<Link>>,
    /// Told when the last open request of a retired upstream ends.
    drained: Arc<Notify>,
}

impl Upstream {
    pub(super) fn new(instance: InstanceId, place: Place, drained: Arc<Notify>) -> Self {
        Self {
            instance,
            place,
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            shunned_until: Mutex::new(None),
            shunned: AtomicBool::new(false),
            idle: Mutex::new(Vec::new()),
            drained,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    pub(super) fn set_retired(&self, retired: bool) {
        self.retired.store(retired, Ordering::SeqCst);
        if retired {
            self.forget_idle();
        }
    }

    pub(super) fn numbers(&self) -> InstanceNumbers {
        InstanceNumbers {
            in_flight: self.in_flight() as u64,
            requests: self.requests.load(Ordering::Relaxed),
            unreachable: self.unreachable.load(Ordering::Relaxed),
        }
    }

    /// It could not be reached: others come first for a while.
    pub(super) fn shun(&self) {
        add(&self.unreachable);
        self.put_last();
    }

    /// Others come first for a while.
    pub(super) fn put_last(&self) {
        *lock(&self.shunned_until) = Some(Instant::now() + SHUNNED_FOR);
        self.shunned.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_shunned(&self) -> bool {
        if !self.shunned.load(Ordering::Relaxed) {
            return false;
        }
        let mut until = lock(&self.shunned_until);
        let still = until.is_some_and(|until| Instant::now() < until);
        if !still {
            *until = None;
            self.shunned.store(false, Ordering::Relaxed);
        }
        still
    }

    /// The most recently used idle connection that is still open.
    pub(super) fn take_idle(&self) -> Option<Link> {
        loop {
            let mut link = lock(&self.idle).pop()?;
            if link.idle_for() < IDLE_MAX && link.is_usable() {
                return Some(link);
            }
        }
    }

    /// Keeps a connection for the next request, if it can carry one.
    pub(super) fn give_back(&self, mut link: Link) {
        if !link.rest() {
            return;
        }
        let mut idle = lock(&self.idle);
        // Checked under the lock: `set_retired` clears the list after it has set the flag.
        if !self.is_retired() && idle.len() < IDLE_LINKS_MAX {
            idle.push(link);
        }
    }

    pub(super) fn forget_idle(&self) {
        lock(&self.idle).clear();
    }

    /// Closes connections that were idle for too long or were closed by the instance.
    pub(super) fn sweep(&self) {
        lock(&self.idle).retain_mut(|link| link.idle_for() < IDLE_MAX && link.is_usable());
    }
}

/// One open request on an upstream, counted from its making to its drop.
pub(super) struct Lease {
    pub(super) upstream: Arc<Upstream>,
}

impl Lease {
    pub(super) fn new(upstream: &Arc<Upstream>) -> Self {
        upstream.in_flight.fetch_add(1, Ordering::SeqCst);
        add(&upstream.requests);
        Self { upstream: Arc::clone(upstream) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let before = self.upstream.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.upstream.is_retired() {
            self.upstream.drained.notify_waiters();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
