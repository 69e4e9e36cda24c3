//! The one-way switch from "something on disk is wrong" to "the node stops".

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use super::Error;

/// Remembers the first failure and cancels the node's token. Clones share it.
#[derive(Clone)]
pub struct Fatal {
    node: CancellationToken,
    /// The store's own: the node's is cancelled for other reasons too.
    failed: CancellationToken,
    first: Arc<OnceLock<String>>,
}

impl Fatal {
    /// Cancels the node's token at the first failure.
    pub fn new(node: CancellationToken) -> Self {
        Self { node, failed: CancellationToken::new(), first: Arc::default() }
    }

    /// Why the store failed, if it did: the words for the operator.
    pub fn reason(&self) -> Option<&str> {
        self.first.get().map(String::as_str)
    }

    /// Waits for the failure.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Stops the node. A closed store is an answer, not a failure.
    pub(super) fn report(&self, error: &Error) {
        if matches!(error, Error::Closed) {
            return;
        }
        if self.first.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the store failed; the node stops");
        }
        self.failed.cancel();
        self.node.cancel();
    }
}
