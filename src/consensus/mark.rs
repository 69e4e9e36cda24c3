//! What a node's store holds for certain, in a form that other members can remember.

use narvana_proto::v1;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use super::{Metrics, Raft};
use crate::store::{LogId, LogStore, Vote};

/// A vote and a position in the log, both on disk. A node's own never goes back, unless its data folder did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Term, node, and whether that node was elected.
    pub vote: Option<(u64, u64, bool)>,
    /// Term, leader and index of an entry. In a mark that others are told it is agreed on, so that it is never taken away.
    pub last: Option<(u64, u64, u64)>,
}

impl Mark {
    /// All that the log holds, agreed on or not: what a start finds.
    pub fn found(log: &LogStore) -> Self {
        Self::of(log.held())
    }

    /// What the log holds of what is agreed on.
    pub(super) fn now(raft: &Raft, log: &LogStore) -> Self {
        let applied = Metrics::clone(&raft.metrics().borrow_watched()).last_applied;
        // Entries may be agreed on by others before they are on this disk.
        let (vote, last) = log.held();
        Self::of((vote, last.min(applied)))
    }

    fn of((vote, last): (Option<Vote>, Option<LogId>)) -> Self {
        Self {
            vote: vote.map(|vote| (vote.leader_id.term, vote.leader_id.node_id, vote.committed)),
            last: last.map(|last| (last.leader_id.term, last.leader_id.node_id, last.index)),
        }
    }

    /// Whether whoever holds this holds all of the other.
    pub fn reaches(&self, other: &Self) -> bool {
        self.vote >= other.vote && self.last >= other.last
    }

    /// Whether a node whose store is here may not have acknowledged the other to the leader of its vote: under one leader a log only
    /// grows.
    pub fn is_before(&self, acknowledged: &Self) -> bool {
        (self.vote, self.last) < (acknowledged.vote, acknowledged.last)
    }

    /// All of both.
    pub fn with(self, other: Self) -> Self {
        Self { vote: self.vote.max(other.vote), last: self.last.max(other.last) }
    }
}

impl From<Mark> for v1::Mark {
    fn from(mark: Mark) -> Self {
        Self {
            vote: mark.vote.map(|(term, node, committed)| v1::Ballot { term, node, committed }),
            last: mark.last.map(|(term, leader, index)| v1::LogId { term, leader, index }),
        }
    }
}

impl From<v1::Mark> for Mark {
    fn from(mark: v1::Mark) -> Self {
        Self {
            vote: mark.vote.map(|vote| (vote.term, vote.node, vote.committed)),
            last: mark.last.map(|last| (last.term, last.leader, last.index)),
        }
    }
}
