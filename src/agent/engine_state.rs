//! Whether the engine answers, as the agent sees it.

use tokio::sync::watch;

/// What is known of this node's engine: its description, or why it cannot be used. The node says it to the cluster when
/// it changes.
#[derive(Clone, Debug)]
pub struct EngineState(watch::Sender<Result<String, String>>);

impl EngineState {
    /// Starts with a reason why it cannot be used yet.
    pub fn new(reason: &str) -> Self {
        Self(watch::Sender::new(Err(reason.to_owned())))
    }

    /// Says what is known now; wakes watchers only when it differs.
    pub fn set(&self, now: Result<String, String>) {
        self.0.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    /// What is known, and its changes.
    pub fn watch(&self) -> watch::Receiver<Result<String, String>> {
        self.0.subscribe()
    }
}
