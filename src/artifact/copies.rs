//! Which nodes keep a copy of what the state references, so that it outlives the node that it was made on. Pure.
//!
//! Every node finds by itself the same [`COPIES`] nodes for a blob: those that score highest for it. A node that comes or goes
//! changes only what it scores highest for itself, so little moves.

use std::cmp::Reverse;
use std::time::Duration;

use super::Digest;
use crate::model::{NodeId, NodeRole, Timestamp};
use crate::state::State;

/// Nodes that keep a copy, whoever made it and runs it: two may be lost.
pub const COPIES: usize = 3;
/// How long a node may be away before another one keeps what it kept: longer than a restart of its machine.
const AWAY_MAX: Duration = Duration::from_secs(5 * 60);

/// The nodes that may keep copies: members that came up and are not away for long. Workers come and go, so they keep some
/// only where there are not enough others.
pub fn keepers(state: &State, now: Timestamp) -> Vec<NodeId> {
    let here = |node: NodeId| state.absence(node).is_none_or(|absence| now.since(absence.since) <= AWAY_MAX);
    let (steady, workers): (Vec<_>, Vec<_>) = state
        .members()
        .filter(|member| state.node(member.node).is_some() && here(member.node))
        .partition(|member| member.role == NodeRole::VoterEligible);
    let chosen = if steady.len() >= COPIES { steady } else { [steady, workers].concat() };
    chosen.into_iter().map(|member| member.node).collect()
}

/// Whether a node, one of these, keeps a copy of a blob.
pub fn keeps(node: NodeId, keepers: &[NodeId], blob: &Digest) -> bool {
    let own = Reverse(score(node, blob));
    keepers.contains(&node) && keepers.iter().filter(|other| Reverse(score(**other, blob)) < own).count() < COPIES
}

/// Any function that is the same everywhere and looks random will do: the finaliser of SplitMix64.
fn score(node: NodeId, blob: &Digest) -> (u64, NodeId) {
    let (head, _) = blob.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
    let mut mixed = u64::from_le_bytes(*head) ^ node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31), node)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Absence, Admission, Node};
    use crate::state::{Record, sample_records};

    fn who(keepers: &[NodeId], blob: &Digest) -> Vec<NodeId> {
        keepers.iter().copied().filter(|node| keeps(*node, keepers, blob)).collect()
    }

    proptest! {
        #[test]
        fn as_many_as_there_should_be_and_one_that_goes_moves_only_its_own(
            count in 1_u64..12,
            gone in 0_usize..12,
            bytes in any::<[u8; 32]>(),
        ) {
            let blob = Digest::new(bytes);
            let all: Vec<NodeId> = (1..=count).map(NodeId).collect();
            let before = who(&all, &blob);
            prop_assert_eq!(before.len(), COPIES.min(all.len()));
            let gone = all[gone % all.len()];
            let left: Vec<NodeId> = all.iter().copied().filter(|node| *node != gone).collect();
            let after = who(&left, &blob);
            for node in before.iter().filter(|node| **node != gone) {
                prop_assert!(after.contains(node), "{node} keeps it on");
            }
        }
    }

    #[test]
    fn copies_are_spread() {
        let nodes: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let mut kept = [0; 5];
        for blob in 0..1_000_u16 {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&blob.to_le_bytes());
            for node in who(&nodes, &Digest::new(bytes)) {
                kept[usize::try_from(node.0).expect("small") - 1] += 1;
            }
        }
        assert!(kept.iter().all(|kept| (500..=700).contains(kept)), "{kept:?}");
    }

    #[test]
    fn members_that_came_up_and_are_not_away_for_long_keep_copies() {
        let now = Timestamp(1_800_000_000_000);
        let samples = State::from_records(sample_records());
        let node = Node::clone(samples.nodes().next().expect("a sample"));
        let admission = Admission::clone(samples.admission(node.id).expect("a sample"));
        let keepers_of = |fates: &[(u64, NodeRole, bool, Option<u64>)]| {
            let mut records: Vec<Record> = Vec::new();
            for (id, role, up, away) in fates {
                let id = NodeId(*id);
                records.push(Admission { node: id, role: *role, name: id.to_string(), ..admission.clone() }.into());
                if *up {
                    records.push(Node { id, name: id.to_string(), ..node.clone() }.into());
                }
                if let Some(seconds) = away {
                    let millis = i64::try_from(seconds * 1_000).expect("small");
                    records.push(Absence { node: id, since: Timestamp(now.0 - millis) }.into());
                }
            }
            keepers(&State::from_records(records), now).into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        let (votes, works) = (NodeRole::VoterEligible, NodeRole::Worker);
        let others = [(3, votes, false, None), (4, works, true, None), (5, votes, true, None)];
        let nodes = [[(1, votes, true, None), (2, votes, true, Some(10))].as_slice(), &others].concat();
        assert_eq!(keepers_of(&nodes), [1, 2, 5]);
        let nodes = [[(1, votes, true, None), (2, votes, true, Some(600))].as_slice(), &others].concat();
        assert_eq!(keepers_of(&nodes), [1, 5, 4], "one that is away for long does not count");
    }
}
