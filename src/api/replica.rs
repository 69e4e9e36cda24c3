//! Where the API's state comes from: the Raft group; in tests of who may do what, a prepared state in memory.

use tokio::sync::watch;
use tokio::time::Instant;

use crate::consensus::{Committed, Consensus, ProposeError, Quorum, ReadError, Status, View};
use crate::state::LogEntry;

/// The replicated state. Clones share it.
#[derive(Clone)]
#[cfg_attr(test, expect(clippy::large_enum_variant, reason = "only tests have the small one"))]
pub(super) enum Replica {
    /// The Raft group.
    Group(Consensus),
    /// A state that is changed by the same `apply`, without a log.
    #[cfg(test)]
    Memory(std::sync::Arc<watch::Sender<View>>),
}

impl Replica {
    /// A state to begin with.
    #[cfg(test)]
    pub(super) fn memory(state: crate::state::State) -> Self {
        Self::Memory(std::sync::Arc::new(watch::channel(View { index: 1, state }).0))
    }

    pub(super) async fn propose(&self, entry: LogEntry) -> Result<Committed, ProposeError> {
        match self {
            Self::Group(group) => group.propose(entry).await,
            #[cfg(test)]
            Self::Memory(views) => {
                let mut result = None;
                views.send_modify(|view| {
                    let applied = crate::state::apply(&view.state, view.index + 1, &entry);
                    view.index += 1;
                    view.state = applied.state;
                    result = Some(applied.result.map(|outcome| Committed { index: view.index, outcome }));
                });
                result.expect("the closure ran").map_err(ProposeError::Rejected)
            }
        }
    }

    pub(super) async fn linearizable(&self) -> Result<View, ReadError> {
        match self {
            Self::Group(group) => group.linearizable().await,
            #[cfg(test)]
            Self::Memory(_) => Ok(self.latest()),
        }
    }

    pub(super) fn latest(&self) -> View {
        match self {
            Self::Group(group) => group.latest(),
            #[cfg(test)]
            Self::Memory(views) => views.borrow().clone(),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<View> {
        match self {
            Self::Group(group) => group.watch(),
            #[cfg(test)]
            Self::Memory(views) => views.subscribe(),
        }
    }

    pub(super) async fn wait_index(&self, index: u64, deadline: Instant) -> Result<View, ReadError> {
        match self {
            Self::Group(group) => group.wait_index(index, deadline).await,
            #[cfg(test)]
            Self::Memory(_) if self.latest().index >= index => Ok(self.latest()),
            #[cfg(test)]
            Self::Memory(_) => Err(ReadError::TimedOut),
        }
    }

    /// Which voters do not answer this node.
    pub(super) fn quorum(&self) -> Quorum {
        match self {
            Self::Group(group) => group.quorum(),
            #[cfg(test)]
            Self::Memory(_) => Quorum { voters: 1, needed: 1, missing: Vec::new() },
        }
    }

    pub(super) fn status(&self) -> Status {
        match self {
            Self::Group(group) => group.status(),
            #[cfg(test)]
            Self::Memory(views) => {
                let index = Some(views.borrow().index);
                let node = crate::model::NodeId::FOUNDER;
                Status {
                    node,
                    role: crate::consensus::RaftRole::Leader,
                    leader: Some(node),
                    term: 1,
                    last_log: index,
                    committed: index,
                    applied: index,
                    snapshot: None,
                    voters: vec![node],
                    learners: Vec::new(),
                    log_size: (0, 0),
                    log_syncs: 0,
                    failure: None,
                }
            }
        }
    }
}
