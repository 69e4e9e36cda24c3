//! Whether a node may be removed, as far as the state says: asked before it is proposed, and decided when it is applied.

use crate::model::{Admission, NodeId, NodeRole};

use super::{Rejection, State};

impl State {
    /// Refuses the removal of a node without which nobody could lead. One that was removed already may be removed again.
    ///
    /// # Errors
    /// [`Rejection::NotFound`] when it never was let in, [`Rejection::Precondition`] when it has to stay.
    pub fn check_removal(&self, id: NodeId) -> Result<(), Rejection> {
        let admission = self.admission(id).ok_or_else(|| Rejection::NotFound(format!("node {id}")))?;
        let may_vote = |member: &Admission| member.role == NodeRole::VoterEligible && self.node(member.node).is_some();
        let could_lead =
            |member: &Admission| member.node != id && may_vote(member) && self.absence(member.node).is_none();
        if admission.removed_at.is_none() && may_vote(admission) && !self.members().any(|member| could_lead(member)) {
            return Err(Rejection::Precondition(format!(
                "node {} is the only one that answers and may vote; bring another one back, or let one join first with a \
                 token of role {}",
                admission.name,
                NodeRole::VoterEligible
            )));
        }
        Ok(())
    }
}
