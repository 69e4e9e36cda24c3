//! Who should belong to the Raft group, and who of them should vote: the next step from the group as it is.
//!
//! The state says who is a member of the cluster; the Raft group follows. Comes in: the state, and the group as its leader
//! sees it. Goes out: one step, or none when the group is as it should be. `voters` chooses who votes.

mod voters;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Admission, NodeId, NodeRole};
use crate::state::State;

pub use voters::Seat;

/// The Raft group as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Who leads, and asks.
    pub leader: NodeId,
    /// Every member, with host and port as the group knows them.
    pub members: BTreeMap<NodeId, String>,
    /// Who votes; while the voters change, the old and the new ones.
    pub voters: BTreeSet<NodeId>,
    /// That a change of the voters was begun and not ended, as when a leader died meanwhile.
    pub changing: bool,
    /// Members whose log is about as long as the leader's.
    pub caught_up: BTreeSet<NodeId>,
}

/// One change of the group. Each is safe on its own; the next one is decided from what it led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put on record that a removed node is not needed any more, so that every member refuses it. It neither votes nor leads.
    Fence(NodeId),
    /// Make nodes no members that are refused.
    Remove(BTreeSet<NodeId>),
    /// Note where a member is reached now.
    Readdress(NodeId, String),
    /// Take a node in, without a vote.
    Add(NodeId, String),
    /// Make exactly these the voters.
    SetVoters(BTreeSet<NodeId>),
    /// Let this voter lead, since the leader must not vote any more.
    HandOver(NodeId),
}

/// What brings the group nearer to what the state says; nothing when it is there, or has to wait for somebody to
/// catch up. Members that the state does not know are left alone: a group is founded before its state is.
pub fn next_step(state: &State, group: &Group) -> Option<Step> {
    // While the voters change, the group may still have to go back to the old ones.
    let dispensable = |node: NodeId| node != group.leader && !group.voters.contains(&node) && !group.changing;
    let leaving = |admission: &Admission| admission.removed_at.is_some() && admission.fenced_at.is_none();
    let next = state.admissions().find(|admission| leaving(admission) && dispensable(admission.node));
    if let Some(admission) = next {
        return Some(Step::Fence(admission.node));
    }
    let fenced = |node: NodeId| state.admission(node).is_some_and(|admission| admission.fenced_at.is_some());
    let gone: BTreeSet<NodeId> =
        group.members.keys().copied().filter(|node| fenced(*node) && dispensable(*node)).collect();
    if !gone.is_empty() {
        return Some(Step::Remove(gone));
    }
    for admission in state.members() {
        let node = admission.node;
        let registered = state.node(node).map(|node| node.peer_address());
        let address = registered.unwrap_or_else(|| admission.address.clone());
        match group.members.get(&node) {
            Some(known) if *known == address => {}
            Some(_) => return Some(Step::Readdress(node, address)),
            None => return Some(Step::Add(node, address)),
        }
    }
    change_of_voters(group, &voters::choose(&seats(state, group), group.leader))
}

fn change_of_voters(group: &Group, wanted: &BTreeSet<NodeId>) -> Option<Step> {
    if wanted.is_empty() {
        return None;
    }
    if wanted.contains(&group.leader) {
        let there = *wanted == group.voters && !group.changing;
        return (!there).then(|| Step::SetVoters(wanted.clone()));
    }
    // The leader has to go. It leads until another one can, so it votes until then.
    let mut with_leader = wanted.clone();
    with_leader.insert(group.leader);
    if group.changing || !wanted.is_subset(&group.voters) {
        return Some(Step::SetVoters(with_leader));
    }
    wanted.iter().find(|node| group.caught_up.contains(node)).map(|node| Step::HandOver(*node))
}

/// Who could have a vote.
fn seats(state: &State, group: &Group) -> BTreeMap<NodeId, Seat> {
    let mut seats = BTreeMap::new();
    for &node in group.members.keys() {
        let votes = group.voters.contains(&node);
        let may_vote = match state.admission(node) {
            Some(admission) => admission.removed_at.is_none() && admission.role == NodeRole::VoterEligible,
            None => votes,
        };
        if may_vote {
            // The leader hears itself, whatever an earlier one noted.
            let answers = node == group.leader || state.absence(node).is_none();
            let zone = state.node(node).map(|node| node.zone().to_owned()).unwrap_or_default();
            seats.insert(node, Seat { votes, answers, caught_up: group.caught_up.contains(&node), zone });
        }
    }
    seats
}

#[cfg(test)]
mod tests;
