//! Keeps the Raft group as the state wants it, one step at a time, while this node leads.
//!
//! Beside the rounds of the other decisions and not one of them: a change of the group waits for a quorum, and nothing
//! else should wait for that.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;

use super::changed_or;
use crate::clock;
use crate::consensus::{self, Consensus, MemberError, Peer, View};
use crate::decide::members::{Group, Step, next_step};
use crate::model::NodeId;
use crate::state::{Actor, Command, LogEntry};

/// How often a group of several is looked at although the state did not change: somebody may have caught up.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a group of one is: nothing can happen to it but what changes the state.
const LOOK_ALONE_EVERY: Duration = Duration::from_secs(10);
/// Pause after a step that failed.
pub(super) const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// A member that lacks no more entries than this has caught up: it gets them while the change is agreed on.
const BEHIND_MAX: u64 = 1_000;

/// Steps while this node leads in this term. May be dropped at any time: what was begun then ends with the next leader.
pub(super) async fn keep(consensus: &Consensus, term: u64) {
    let mut views = consensus.watch();
    while let Some(group) = consensus.group().filter(|group| group.term == term) {
        let view = views.borrow_and_update().clone();
        let alone = group.members.len() == 1;
        match next_step(&view.state, &as_seen(&group)) {
            None => changed_or(&mut views, if alone { LOOK_ALONE_EVERY } else { LOOK_EVERY }).await,
            Some(step) => take(consensus, term, &step, &mut views).await,
        }
    }
}

pub(super) async fn take(consensus: &Consensus, term: u64, step: &Step, views: &mut watch::Receiver<View>) {
    tracing::info!(?step, "changing the members of the Raft group");
    let taken = match step {
        Step::Fence(node) => return fence(consensus, term, *node, views).await,
        Step::Remove(nodes) => consensus.remove_learners(nodes).await,
        Step::Add(node, address) | Step::Readdress(node, address) => {
            consensus.add_learner(&Peer { node: *node, address: address.clone() }).await
        }
        Step::SetVoters(voters) => consensus.set_voters(voters).await,
        Step::HandOver(to) => consensus.hand_over(*to).await,
    };
    let Err(error) = taken else { return };
    match error {
        // Or is about to: while leadership is handed over, a leader that still counts as one refuses everything at once.
        MemberError::NoLeader { .. } => tracing::debug!(?step, "another node leads"),
        _ => tracing::warn!(?step, %error, "the members of the Raft group were not changed; trying again"),
    }
    changed_or(views, FAILED_PAUSE).await;
}

async fn fence(consensus: &Consensus, term: u64, node: NodeId, views: &mut watch::Receiver<View>) {
    let command = Command::FenceNode(node);
    let entry = LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command };
    if let Err(error) = consensus.propose_in_term(term, entry).await {
        tracing::warn!(%node, %error, "a removed node was not put on record as refused; trying again");
        changed_or(views, FAILED_PAUSE).await;
    }
}

/// What deciding needs of what the leader knows.
fn as_seen(group: &consensus::Group) -> Group {
    let those = |wanted: &dyn Fn(&consensus::GroupMember) -> bool| {
        group.members.iter().filter(|(_, member)| wanted(member)).map(|(node, _)| *node).collect::<BTreeSet<_>>()
    };
    Group {
        leader: group.leader,
        members: group.members.iter().map(|(node, member)| (*node, member.address.clone())).collect(),
        voters: those(&|member| member.votes),
        changing: group.changing,
        caught_up: those(&|member| member.behind.is_some_and(|entries| entries <= BEHIND_MAX)),
    }
}
