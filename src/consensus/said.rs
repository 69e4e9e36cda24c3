//! What a follower can reply to what it was sent.
//!
//! openraft takes its word for anything: told that somebody agrees with more than this node has, it looks for what comes after that, and
//! the node ends. A member whose store is damaged, or that somebody took over, would end one leader after the other.

use std::sync::atomic::{AtomicU64, Ordering};

use narvana_proto::v1;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};

use super::wire::{self, Malformed};
use crate::store::{LogId, TypeConfig};

/// The index after the last entry that a follower has acknowledged over one connection.
#[derive(Default)]
pub(super) struct Agreed(AtomicU64);

impl Agreed {
    /// It has the log up to here.
    pub(super) fn note(&self, last: Option<LogId>) {
        self.0.fetch_max(last.map_or(0, |last| last.index.saturating_add(1)), Ordering::Relaxed);
    }
}

/// What a request said, and so what there is to reply: that the follower has the log up to its end, that it lacks what comes before it, or
/// a newer term.
pub(super) struct Said {
    term: u64,
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl Said {
    pub(super) fn to(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        Self {
            term: request.vote.leader_id.term,
            previous: request.prev_log_id,
            last: request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id),
        }
    }

    /// The reply, if it is one of those.
    pub(super) fn heard(
        self,
        reply: v1::AppendReply,
        agreed: &Agreed,
    ) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
        let result = wire::append_result(reply, self.term)?;
        match &result {
            Ok(last) if *last == self.last => {
                agreed.note(*last);
                Ok(result)
            }
            Err(StreamAppendError::Conflict(at)) if Some(*at) == self.previous => {
                match agreed.0.load(Ordering::Relaxed) {
                    next if at.index < next => Err(Malformed::Reverted { index: at.index, agreed: next - 1 }),
                    _ => Ok(result),
                }
            }
            Err(StreamAppendError::HigherVote(_)) => Ok(result),
            Ok(_) | Err(_) => Err(Malformed::Unasked),
        }
    }
}
