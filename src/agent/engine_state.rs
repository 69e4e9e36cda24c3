//! Whether this node's engine can be used, from all who notice.

use tokio::sync::watch;

/// What is known of this node's engine: its description, or why it cannot be used. The node says it to the cluster when
/// it changes.
#[derive(Clone, Debug)]
pub struct EngineState(watch::Sender<Known>);

#[derive(Debug)]
struct Known {
    found: Result<String, String>,
    /// Why it does not answer.
    silent: Option<String>,
    /// What it says instead of listing containers.
    refusal: Option<String>,
}

impl EngineState {
    /// Starts with a reason why it cannot be used yet.
    pub fn new(reason: &str) -> Self {
        Self(watch::Sender::new(Known { found: Err(reason.to_owned()), silent: None, refusal: None }))
    }

    /// Which engine was found, or why none.
    pub fn set_found(&self, found: Result<String, String>) {
        self.change(|known| known.found = found);
    }

    /// Why it does not answer; nothing when it does.
    pub fn set_silent(&self, trouble: Option<String>) {
        self.change(|known| known.silent = trouble);
    }

    /// Why it does not list containers although it answers; nothing when it does.
    pub fn set_refusal(&self, trouble: Option<String>) {
        self.change(|known| known.refusal = trouble);
    }

    /// Waits until what is known differs from this, and returns it. Never returns when nobody can say more.
    pub async fn differs_from(&self, known: &Result<String, String>) -> Result<String, String> {
        let mut changes = self.0.subscribe();
        loop {
            let now = changes.borrow_and_update().sum();
            if now != *known {
                return now;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Wakes watchers only when something they can see differs.
    fn change(&self, change: impl FnOnce(&mut Known)) {
        self.0.send_if_modified(|known| {
            let before = known.sum();
            change(known);
            before != known.sum()
        });
    }
}

impl Known {
    fn sum(&self) -> Result<String, String> {
        let trouble = self.silent.as_ref().or(self.refusal.as_ref());
        trouble.map_or_else(|| self.found.clone(), |reason| Err(reason.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trouble_is_enough_and_its_end_is_not_the_end_of_another() {
        let state = EngineState::new("looking");
        assert_eq!(state.0.borrow().sum(), Err("looking".to_owned()));
        state.set_found(Ok("podman 4".to_owned()));
        state.set_refusal(Some("its storage is broken".to_owned()));
        state.set_silent(Some("it hangs".to_owned()));
        assert_eq!(state.0.borrow().sum(), Err("it hangs".to_owned()));
        state.set_silent(None);
        assert_eq!(state.0.borrow().sum(), Err("its storage is broken".to_owned()));
        state.set_refusal(None);
        assert_eq!(state.0.borrow().sum(), Ok("podman 4".to_owned()));
    }
}
