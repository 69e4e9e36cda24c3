//! Applying an entry, or what a planted bug makes of that: `state` is pure and knows of no bugs, so they change what it is
//! given.

use crate::model::{Admission, JoinToken, NodeId};
use crate::planted::{Bug, planted};
use crate::state::{self, Applied, Command, LogEntry, Record, State};

/// [`state::apply`], with the planted bug.
pub(super) fn apply(state: &State, index: u64, entry: &LogEntry) -> Applied {
    match (planted(), &entry.command) {
        (Some(Bug::ForgetRequests), _) => state::apply(state, index, &LogEntry { request: None, ..entry.clone() }),
        (Some(Bug::ReuseNodeId), Command::AdmitNode { .. }) => match removed_node(state) {
            Some(id) => state::apply(&without_admission(state, id), id.0, entry),
            None => state::apply(state, index, entry),
        },
        (Some(Bug::UsedToken), Command::AdmitNode { token, .. }) => match state.join_token(*token) {
            Some(used) if used.uses_left == 0 => {
                state::apply(&state.with(JoinToken { uses_left: 1, ..JoinToken::clone(used) }), index, entry)
            }
            _ => state::apply(state, index, entry),
        },
        _ => state::apply(state, index, entry),
    }
}

fn removed_node(state: &State) -> Option<NodeId> {
    let removed = |admission: &Admission| admission.removed_at.is_some() && admission.token.is_some();
    state.admissions().find(|admission| removed(admission)).map(|admission| admission.node)
}

fn without_admission(state: &State, id: NodeId) -> State {
    State::from_records(
        state.records().filter(|record| !matches!(record, Record::Admission(admission) if admission.node == id)),
    )
}
