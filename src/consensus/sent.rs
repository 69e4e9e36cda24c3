//! What a follower can say to the entries that it was sent.
//!
//! openraft takes its word for anything: told that somebody agrees with more than this node has, it looks for what comes after that, and
//! the node ends. A member whose store is damaged, or that somebody took over, would end one leader after the other.

use std::sync::atomic::{AtomicU64, Ordering};

use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};

use super::wire::Malformed;
use crate::store::TypeConfig;

/// What one follower was sent over one connection, and has said to it.
#[derive(Default)]
pub(super) struct Sent {
    /// The index after the last entry that it has to have after what it was sent.
    until: AtomicU64,
    /// The index after the last entry that it said to have.
    agreed: AtomicU64,
    /// The term of whoever sent it.
    term: AtomicU64,
}

impl Sent {
    /// Notes what is about to be sent.
    pub(super) fn note(&self, request: &AppendEntriesRequest<TypeConfig>) {
        self.term.fetch_max(request.vote.leader_id.term, Ordering::Relaxed);
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        if let Some(last) = last {
            self.until.fetch_max(last.index + 1, Ordering::Relaxed);
        }
    }

    /// The newest term in which something was sent.
    pub(super) fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// What was said, if it can be.
    pub(super) fn heard(
        &self,
        said: StreamAppendResult<TypeConfig>,
    ) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
        let (until, agreed) = (self.until.load(Ordering::Relaxed), self.agreed.load(Ordering::Relaxed));
        match &said {
            Ok(Some(last)) if last.index >= until => Err(Malformed::Ahead { index: last.index, until }),
            Ok(Some(last)) => {
                self.agreed.fetch_max(last.index + 1, Ordering::Relaxed);
                Ok(said)
            }
            Err(StreamAppendError::Conflict(at)) if at.index >= until => {
                Err(Malformed::Ahead { index: at.index, until })
            }
            Err(StreamAppendError::Conflict(at)) if at.index < agreed => {
                Err(Malformed::Reverted { index: at.index, agreed: agreed - 1 })
            }
            Ok(None) | Err(_) => Ok(said),
        }
    }
}
