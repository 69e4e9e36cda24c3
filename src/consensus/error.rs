//! What can go wrong in consensus, by what the caller can do.

use crate::model::NodeId;
use crate::space::Full;
use crate::state::Rejection;
use crate::store;

/// A command got no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The cluster considered it and refused, on every node alike, or is at a version that does not permit it. Nothing
    /// changed.
    #[error("{0}")]
    Rejected(Rejection),
    /// No leader took it, so nothing changed. Ask the leader named here, or try again.
    #[error("{}", no_leader(*leader))]
    NoLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
        /// Where that node is reached between nodes.
        address: Option<String>,
    },
    /// It may or may not have happened. Repeat it with the same request id, on any node: that does it once.
    #[error("it is not known whether the change was made: repeat the request with the same idempotency key")]
    OutcomeUnknown,
    /// It happened, and this node has not heard of it yet. Repeated with the same request id it gets the same answer.
    #[error(
        "the change was made, as entry {index} of the log, and this node has not heard of it yet: ask another node, or this one \
         later; repeating the request with the same idempotency key is safe"
    )]
    NotYetHere {
        /// Its index in the log.
        index: u64,
    },
    /// It does not fit the log. Nothing changed.
    #[error("the command takes {bytes} bytes, at most {limit} fit: split it, or keep large values out of it")]
    TooLarge {
        /// Its size, encoded.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// Too little space is free for changes, so nothing changed.
    #[error(transparent)]
    DiskFull(#[from] Full),
    /// This node has stopped, so nothing changed.
    #[error("this node is stopping: ask another one")]
    Stopped,
}

/// A read cannot be given its guarantee.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead. Ask the leader named here, try again, or accept a stale answer.
    #[error("{}", no_leader(*leader))]
    NoLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
        /// Where that node is reached between nodes.
        address: Option<String>,
    },
    /// The cluster did not confirm in time, or this node has not caught up.
    #[error("the cluster did not confirm the read in time: too few members answer, or this node lags behind")]
    TimedOut,
    /// This node has stopped.
    #[error("this node is stopping: ask another one")]
    Stopped,
}

fn no_leader(leader: Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!("this node does not lead the cluster, node {leader} does"),
        None => "the cluster has no leader at the moment: too few of its voters answer".to_owned(),
    }
}

/// Consensus cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("the store cannot be used")]
    Store(#[from] store::Error),
    /// A setting makes no sense.
    #[error("the settings of consensus are refused: {0}")]
    Settings(String),
    /// The node is a member of a cluster already.
    #[error("this node already belongs to a cluster: initialise a new one in an empty data folder")]
    AlreadyInitialized,
    /// openraft stopped.
    #[error("consensus has stopped: {0}")]
    Stopped(String),
}
