//! The one-way switch from "something on disk is wrong" to "the node stops".

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use super::Error;
use crate::model::Unsupported;

/// Remembers the first failure and cancels the node's token. Clones share it.
#[derive(Clone)]
pub struct Fatal {
    node: CancellationToken,
    /// The store's own: the node's is cancelled for other reasons too.
    failed: CancellationToken,
    first: Arc<OnceLock<First>>,
}

/// The first failure.
struct First {
    /// The words for the operator.
    reason: String,
    is_unusable_folder: bool,
    /// That the program is of the wrong version, and nothing else is wrong.
    unsupported: Option<Unsupported>,
}

impl Fatal {
    /// Cancels the node's token at the first failure.
    pub fn new(node: CancellationToken) -> Self {
        Self { node, failed: CancellationToken::new(), first: Arc::default() }
    }

    /// Why the store failed, if it did: the words for the operator.
    pub fn reason(&self) -> Option<&str> {
        self.first.get().map(|first| first.reason.as_str())
    }

    /// The failure, when starting again would give the same: the data folder was found damaged, or to need another version
    /// of the program.
    pub fn damage(&self) -> Option<Error> {
        let first = self.first.get().filter(|first| first.is_unusable_folder)?;
        if let Some(unsupported) = first.unsupported {
            return Some(unsupported.into());
        }
        Some(Error::FoundDamaged { reason: first.reason.clone() })
    }

    /// Waits for the failure.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Stops the node since another member sent what this program does not understand.
    pub fn meets(&self, unsupported: Unsupported) {
        self.report(&unsupported.into());
    }

    /// Stops the node. A closed store is an answer, not a failure.
    pub fn report(&self, error: &Error) {
        if matches!(error, Error::Closed) {
            return;
        }
        let unsupported = match error {
            Error::Unsupported(unsupported) => Some(*unsupported),
            _ => None,
        };
        let first = First { reason: error.to_string(), is_unusable_folder: error.is_unusable_folder(), unsupported };
        if self.first.set(first).is_ok() {
            match unsupported {
                Some(unsupported) => tracing::error!("the node stops: {unsupported}"),
                None => tracing::error!(%error, "the store failed; the node stops"),
            }
        }
        self.failed.cancel();
        self.node.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_that_is_found_while_running_is_told_from_a_disk_that_fails() {
        let disk = Error::Disk { file: "raft.redb", reason: "EIO".to_owned() };
        let damaged = Error::Damaged {
            file: "raft.redb",
            table: "log",
            key: "log index 7".to_owned(),
            what: "flipped".to_owned(),
        };
        let text = damaged.to_string();
        for (first, second, is_damage) in [(&disk, &damaged, false), (&damaged, &disk, true)] {
            let node = CancellationToken::new();
            let fatal = Fatal::new(node.clone());
            fatal.report(&Error::Closed);
            assert!(!node.is_cancelled() && fatal.damage().is_none());
            fatal.report(first);
            fatal.report(second);
            assert!(node.is_cancelled());
            assert_eq!(fatal.damage().is_some(), is_damage);
            if let Some(found) = fatal.damage() {
                assert!(found.is_unusable_folder() && found.to_string() == text, "{found}");
            }
        }
    }
}
