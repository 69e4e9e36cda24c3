//! The group as its leader sees it: who belongs to it, how far each is, and when it was last heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};

use super::{Consensus, Metrics, ServerMetrics};
use crate::model::NodeId;

/// A follower that answered no heartbeat for this long does not count when the leader is asked for a change. It would
/// have missed ten, and campaign by now.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);

/// What the leader knows of its group. It lives in the leader's memory only, and ends with its term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Who leads: this node.
    pub leader: NodeId,
    /// In which term.
    pub term: u64,
    /// That a change of the voters was begun and has not ended.
    pub changing: bool,
    /// Every member, the leader included.
    pub members: BTreeMap<NodeId, GroupMember>,
}

/// What the leader knows of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Host and port between nodes.
    pub address: String,
    /// Whether it votes, in the old or the new configuration.
    pub votes: bool,
    /// Entries of the leader's log that it is not known to have. Unknown until it answered once.
    pub behind: Option<u64>,
    /// Time since the newest heartbeat was sent that it has answered in this term: it was there then, or later. Nothing
    /// when it has answered none.
    pub silent_for: Option<Duration>,
}

impl Consensus {
    /// The group, while this node leads it.
    pub fn group(&self) -> Option<Group> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        leads(&metrics).then(|| Group::new(&metrics))
    }

    /// The term in which this node leads, if it does.
    pub fn leading_term(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        leads(&metrics).then_some(metrics.current_term)
    }

    /// Whether this node leads, and too few answer it for anything to be agreed on.
    pub(super) fn leads_nobody(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let follows = |node: &u64| {
            let heard = || metrics.heartbeat.as_ref().and_then(|all| *all.get(node)?);
            *node == metrics.id || heard().is_some_and(|at| at.elapsed() < FOLLOWS_WITHIN)
        };
        // While the voters change, a majority of the old ones and one of the new ones has to agree.
        let configurations = metrics.membership_config.membership().get_joint_config();
        let lost = |voters: &BTreeSet<u64>| voters.iter().filter(|node| follows(node)).count() <= voters.len() / 2;
        leads(&metrics) && configurations.iter().any(lost)
    }

    /// Returns as soon as this node does not lead in this term any more.
    pub async fn deposed(&self, term: u64) {
        // Those change with every heartbeat, and these only when something happens.
        let mut metrics = self.raft.server_metrics();
        let leads =
            |metrics: &ServerMetrics| metrics.state == ServerState::Leader && metrics.vote.leader_id.term <= term;
        while leads(&metrics.borrow_watched()) {
            // Without a sender openraft has ended.
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }
}

fn leads(metrics: &Metrics) -> bool {
    metrics.state == ServerState::Leader && metrics.running_state.is_ok()
}

impl Group {
    fn new(metrics: &Metrics) -> Self {
        let membership = metrics.membership_config.membership();
        let end = metrics.last_log_index.unwrap_or(0);
        let members = membership.nodes().map(|(id, member)| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(id)?.map(|id| id.index));
            let heard = metrics.heartbeat.as_ref().and_then(|all| *all.get(id)?);
            let own = *id == metrics.id;
            let member = GroupMember {
                address: member.address.clone(),
                votes: membership.voter_ids().any(|voter| voter == *id),
                behind: if own { Some(0) } else { matched.map(|index| end.saturating_sub(index)) },
                silent_for: if own { Some(Duration::ZERO) } else { heard.map(|at| at.elapsed()) },
            };
            (NodeId(*id), member)
        });
        Self {
            leader: NodeId(metrics.id),
            term: metrics.current_term,
            changing: membership.get_joint_config().len() > 1,
            members: members.collect(),
        }
    }
}
