//! The machine that a task runs on, in a simulation: its clock, its chance, and whether it lives. Only unit tests have this;
//! elsewhere there is one machine, and nothing of it is compiled.
//!
//! [`on_this`] ties a task to the machine that began it, and everything that the task asks of time and chance
//! ([`crate::clock`], [`crate::random`], [`crate::task`]) is answered by that machine. Killing a machine drops its tasks where
//! they stand. Outside of a simulation no machine is current, and the leaves do what they always do.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::model::Timestamp;

thread_local! {
    static CURRENT: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// What a simulated machine is, whatever runs on it.
pub(crate) struct Hardware {
    pub(crate) clocks: Clocks,
    /// How long its disk takes for one thing, at most.
    pub(crate) disk_time: Duration,
    /// How many bytes of its disk are free, and how many there are.
    pub(crate) space: Box<dyn Fn() -> (u64, u64) + Send + Sync>,
}

/// The clocks of a machine: they gain or lose, all alike, and somebody sets the one on the wall.
pub(crate) struct Clocks {
    booted: Instant,
    /// What the one on the wall shows at the start of the machine, and was set by since, in milliseconds.
    wall: AtomicI64,
    /// Millionths by which they are too fast.
    fast: i64,
}

impl Clocks {
    /// Of a machine that starts now, when it is this time, with clocks that are too fast by so many millionths.
    pub(crate) fn new(now: Timestamp, fast: i64) -> Self {
        Self { booted: Instant::now(), wall: AtomicI64::new(now.0), fast }
    }

    fn since_boot(&self) -> Duration {
        let micros = i64::try_from(self.booted.elapsed().as_micros()).unwrap_or(i64::MAX);
        let shown = i128::from(micros) * (1_000_000 + i128::from(self.fast)) / 1_000_000;
        Duration::from_micros(u64::try_from(shown).unwrap_or_default())
    }

    /// What the one on the wall shows.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::Relaxed)).plus(self.since_boot())
    }

    /// Sets that forward or back.
    pub(crate) fn set(&self, by_milliseconds: i64) {
        self.wall.fetch_add(by_milliseconds, Ordering::Relaxed);
    }
}

/// A process of a simulated machine, from its start to its end. Clones are the same.
#[derive(Clone)]
pub(crate) struct Host(Arc<Inner>);

struct Inner {
    hardware: Arc<Hardware>,
    chance: Mutex<StdRng>,
    life: Mutex<Life>,
    tasks: Mutex<Vec<Weak<Task>>>,
}

enum Life {
    Runs,
    /// Stopped in its tracks, with those who wait for it to go on.
    Paused(Vec<Waker>),
    Dead,
}

/// What a task still has to do; nothing once it is done or its machine is dead.
type Task = Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// A process that starts now on this machine.
    pub(crate) fn new(seed: u64, hardware: Arc<Hardware>) -> Self {
        Self(Arc::new(Inner {
            hardware,
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            life: Mutex::new(Life::Runs),
            tasks: Mutex::default(),
        }))
    }

    /// What the clock on the wall shows.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.hardware.clocks.now()
    }

    fn fill(&self, bytes: &mut [u8]) {
        lock(&self.0.chance).fill_bytes(bytes);
    }

    /// Begins a task on this machine.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let task = self.run(|| on_this(future));
        #[expect(clippy::disallowed_methods, reason = "its owner is the machine, which ends it")]
        drop(tokio::spawn(task));
    }

    /// Does something as if it were done on this machine.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let _back = Back(CURRENT.replace(Some(self.clone())));
        work()
    }

    /// Stops it in its tracks, as SIGSTOP does.
    pub(crate) fn pause(&self) {
        let mut life = lock(&self.0.life);
        if matches!(*life, Life::Runs) {
            *life = Life::Paused(Vec::new());
        }
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        let mut life = lock(&self.0.life);
        if let Life::Paused(waiting) = &mut *life {
            let waiting = std::mem::take(waiting);
            *life = Life::Runs;
            drop(life);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Ends everything on it at once, as SIGKILL does.
    pub(crate) fn kill(&self) {
        *lock(&self.0.life) = Life::Dead;
        let tasks = std::mem::take(&mut *lock(&self.0.tasks));
        for task in tasks.into_iter().filter_map(|task| task.upgrade()) {
            // One that is in the middle of something is dropped when that returns.
            let taken = task.try_lock().ok().and_then(|mut task| task.take());
            self.run(|| drop(taken));
        }
    }

    /// Whether it was killed.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(*lock(&self.0.life), Life::Dead)
    }

    /// Whether a task may go on; if not now, it is woken when it may.
    fn may_run(&self, context: &Context<'_>) -> bool {
        match &mut *lock(&self.0.life) {
            Life::Runs => true,
            Life::Paused(waiting) => {
                waiting.push(context.waker().clone());
                false
            }
            Life::Dead => false,
        }
    }

    fn keep(&self, task: &Arc<Task>) {
        let mut tasks = lock(&self.0.tasks);
        if tasks.len() == tasks.capacity() {
            tasks.retain(|task| task.strong_count() > 0);
        }
        tasks.push(Arc::downgrade(task));
    }
}

/// Puts back the machine that was current, also when what was done on another one panics.
struct Back(Option<Host>);

impl Drop for Back {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// The machine of the task that asks.
pub(crate) fn current() -> Option<Host> {
    CURRENT.with_borrow(Clone::clone)
}

/// What its clock on the wall shows, if there is one.
pub(crate) fn now() -> Option<Timestamp> {
    Some(current()?.now())
}

/// How long its machine has been on, if there is one.
pub(crate) fn since_boot() -> Option<Duration> {
    Some(current()?.0.hardware.clocks.since_boot())
}

/// How many bytes of its disk are free, and how many it has, if there is one.
pub(crate) fn space() -> Option<(u64, u64)> {
    Some((current()?.0.hardware.space)())
}

/// Fills the bytes with its chance. False when there is no machine to ask.
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    current().is_some_and(|host| {
        host.fill(bytes);
        true
    })
}

/// Waits as long as its disk takes for one thing.
pub(crate) async fn disk() {
    let Some(host) = current() else { return };
    some_time(host.0.hardware.disk_time).await;
}

/// Waits for up to so long, as the chance of the machine has it; not at all when there is none.
pub(crate) async fn some_time(most: Duration) {
    let Some(host) = current() else { return };
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
    let wait = lock(&host.0.chance).next_u64() % micros;
    tokio::time::sleep(Duration::from_micros(wait)).await;
}

/// The task, tied to the machine that it was begun on. It never returns when that one is killed.
pub(crate) fn on_this<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> OnHost<T> {
    let outcome = Arc::new(Mutex::new(None));
    let into = Arc::clone(&outcome);
    let task: Arc<Task> = Arc::new(Mutex::new(Some(Box::pin(async move {
        let done = future.await;
        *lock(&into) = Some(done);
    }))));
    let host = current();
    if let Some(host) = &host {
        host.keep(&task);
    }
    OnHost { host, task, outcome }
}

/// See [`on_this`].
pub(crate) struct OnHost<T> {
    host: Option<Host>,
    task: Arc<Task>,
    outcome: Arc<Mutex<Option<T>>>,
}

impl<T> Future for OnHost<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if self.host.as_ref().is_some_and(|host| !host.may_run(context)) {
            return Poll::Pending;
        }
        let mut work = || {
            let mut task = lock(&self.task);
            let Some(future) = task.as_mut() else { return };
            let polled = future.as_mut().poll(context);
            if polled.is_ready() || self.host.as_ref().is_some_and(Host::is_dead) {
                *task = None;
            }
        };
        match &self.host {
            Some(host) => host.run(work),
            None => work(),
        }
        lock(&self.outcome).take().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The chance of the machine that asks, for openraft.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chance;

impl rand::TryRng for Chance {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|bits| bits as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        if !fill(bytes) {
            rand::rng().fill_bytes(bytes);
        }
        Ok(())
    }
}
