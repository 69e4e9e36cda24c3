//! When the version of the cluster is raised: as soon as every member supports a newer one, also those that are away.

use super::Situation;
use crate::state::Command;

/// The command that raises it, if it is time. Never to what the deciding program does not support itself, whatever is on
/// record of it from an earlier start.
pub(super) fn raise(situation: Situation<'_>) -> Option<Command> {
    let state = situation.state;
    // Without a cluster, or while somebody has not said what they support, there is nothing to raise to.
    let cluster = state.cluster()?;
    let newest = state.nodes().map(|node| node.cluster_version_max).min()?;
    let to = newest.min(situation.options.cluster_version_max);
    (to > cluster.cluster_version && state.held_back(to).next().is_none())
        .then_some(Command::RaiseClusterVersion { to })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::decide::Options;
    use crate::model::{Admission, Node, NodeId, Timestamp};
    use crate::state::{State, sample_records};

    /// A cluster at version 1 with members whose programs support up to these; 0 for one that has not come up.
    fn members(newest: &[u32]) -> State {
        let sample = State::from_records(sample_records());
        let node = sample.nodes().next().expect("a sample");
        let admission = sample.admissions().next().expect("a sample");
        let mut records = vec![sample.cluster().expect("a sample").as_ref().clone().into()];
        for (position, newest) in newest.iter().enumerate() {
            let id = NodeId(100 + position as u64);
            let name = format!("n{position}");
            records.push(Admission { node: id, name: name.clone(), ..Admission::clone(admission) }.into());
            if *newest > 0 {
                records.push(Node { id, name, cluster_version_max: *newest, ..Node::clone(node) }.into());
            }
        }
        State::from_records(records)
    }

    #[test]
    fn it_is_raised_when_every_member_supports_it_and_the_leader_too() {
        for (newest, own, to) in [
            (&[2, 2, 2][..], 2, Some(2)),
            (&[3, 2, 4], 4, Some(2)),
            (&[3, 3, 3], 2, Some(2)),
            (&[2, 2, 1], 2, None),
            (&[2, 2, 0], 2, None),
            (&[1, 1, 1], 2, None),
            (&[2, 2, 2], 1, None),
            (&[2], 2, Some(2)),
            (&[], 2, None),
        ] {
            let state = members(newest);
            let options = Options { cluster_version_max: own, ..Options::default() };
            let nobody = BTreeSet::new();
            let situation = Situation { state: &state, now: Timestamp(0), fenced: &nobody, options: &options };
            let wanted = to.map(|to| Command::RaiseClusterVersion { to });
            assert_eq!(raise(situation), wanted, "{newest:?}, the leader {own}");
        }
    }
}
