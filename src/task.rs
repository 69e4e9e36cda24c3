//! The owner of every task: nothing runs in the background that is not listed here by name.
//!
//! A [`Supervisor`] spawns named tasks and knows what their failure means. Stopping cancels the token that every task
//! holds, waits for them within a grace period, then aborts what is left. The node's stop order is one readable list
//! of such stops (`node`).

use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the end of a task with an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The node cannot go on without it: the node stops.
    StopNode,
    /// The error is logged and nothing else happens.
    Log,
}

/// Spawns tasks and stops them. Clones share the same tasks.
#[derive(Clone)]
pub struct Supervisor {
    name: &'static str,
    tasks: Arc<Mutex<JoinSet<()>>>,
    stop: CancellationToken,
    fatal: CancellationToken,
}

impl Supervisor {
    /// A supervisor of its own, for one part of a node. `fatal` is cancelled when a [`OnError::StopNode`] task fails.
    pub fn new(name: &'static str, fatal: CancellationToken) -> Self {
        Self { name, tasks: Arc::new(Mutex::new(JoinSet::new())), stop: CancellationToken::new(), fatal }
    }

    /// Cancelled when this supervisor stops. Loops select on it; long work checks it.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs a task until it ends or the supervisor stops and its grace has passed.
    pub fn spawn<F, E>(&self, task: &'static str, on_error: OnError, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let fatal = self.fatal.clone();
        let name = self.name;
        let guarded = async move {
            // A panic is caught by the join set; the guard makes it as visible as an error.
            let guard = PanicGuard { task, armed: true, on_error, fatal: fatal.clone() };
            let result = future.await;
            guard.disarm();
            if let Err(error) = result {
                match on_error {
                    OnError::StopNode => {
                        tracing::error!(part = name, task, %error, "task failed; the node stops");
                        fatal.cancel();
                    }
                    OnError::Log => tracing::warn!(part = name, task, %error, "task failed"),
                }
            }
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Finished tasks are collected here, so that the set does not grow with every short task.
        while tasks.try_join_next().is_some() {}
        #[cfg(test)]
        let guarded = crate::host::on_this(guarded);
        tasks.spawn(guarded);
    }

    /// Tells every task to stop, waits at most `grace`, then aborts those still running.
    pub async fn stop(&self, grace: Duration) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all_ended).await.is_err() {
            tracing::warn!(part = self.name, "tasks did not stop within the grace period and are aborted");
            tasks.shutdown().await;
        }
    }
}

/// Runs work that blocks, such as on files or for a hash, off the async threads. A panic in it is one here.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(test)]
    if crate::host::current().is_some() {
        crate::host::disk().await;
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels blocking work; the caller is about to be dropped too.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Starts a thread that takes what comes through a queue, one after the other and with a look at what else waits, until that
/// breaks off or nobody can send any more.
pub fn worker<T: Send + 'static>(
    name: &str,
    mut queue: mpsc::Receiver<T>,
    mut take: impl FnMut(T, &mut mpsc::Receiver<T>) -> ControlFlow<()> + Send + 'static,
) -> io::Result<()> {
    #[cfg(test)]
    if let Some(host) = crate::host::current() {
        host.spawn(async move {
            while let Some(next) = queue.recv().await {
                crate::host::disk().await;
                if take(next, &mut queue).is_break() {
                    return;
                }
            }
        });
        return Ok(());
    }
    let run = move || {
        while let Some(next) = queue.blocking_recv() {
            if take(next, &mut queue).is_break() {
                return;
            }
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

struct PanicGuard {
    task: &'static str,
    armed: bool,
    on_error: OnError,
    fatal: CancellationToken,
}

impl PanicGuard {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if self.armed && std::thread::panicking() {
            tracing::error!(task = self.task, "task panicked");
            if self.on_error == OnError::StopNode {
                self.fatal.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failing_task_stops_the_node_only_when_it_says_so() {
        let fatal = CancellationToken::new();
        let supervisor = Supervisor::new("test", fatal.clone());
        supervisor.spawn("harmless", OnError::Log, async { Err("no") });
        supervisor.stop(Duration::from_secs(5)).await;
        assert!(!fatal.is_cancelled());

        let supervisor = Supervisor::new("test", fatal.clone());
        supervisor.spawn("vital", OnError::StopNode, async { Err("no") });
        tokio::time::timeout(Duration::from_secs(5), fatal.cancelled()).await.expect("the node is told to stop");
    }

    #[tokio::test]
    async fn a_panic_counts_as_a_failure() {
        let fatal = CancellationToken::new();
        let supervisor = Supervisor::new("test", fatal.clone());
        supervisor.spawn("vital", OnError::StopNode, async {
            if fatal_panic() {
                panic!("as planned");
            }
            Ok::<(), &str>(())
        });
        tokio::time::timeout(Duration::from_secs(5), fatal.cancelled()).await.expect("the node is told to stop");
    }

    fn fatal_panic() -> bool {
        true
    }

    #[tokio::test]
    async fn stop_cancels_then_aborts() {
        let supervisor = Supervisor::new("test", CancellationToken::new());
        let stopping = supervisor.stopping();
        supervisor.spawn("polite", OnError::Log, async move {
            stopping.cancelled().await;
            Ok::<(), &str>(())
        });
        supervisor.spawn("stubborn", OnError::Log, async {
            std::future::pending::<()>().await;
            Ok::<(), &str>(())
        });
        tokio::time::timeout(Duration::from_secs(5), supervisor.stop(Duration::from_millis(50))).await.expect("stops");
    }
}
