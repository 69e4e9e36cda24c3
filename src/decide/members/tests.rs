//! Groups that follow the state, one step after the other.

use proptest::prelude::*;

use super::*;
use crate::decide::fixture::World;
use crate::model::{Absence, Admission, NodeRole};

/// Steps after which a group that does not come to rest never will.
const STEPS_MAX: usize = 40;

/// A cluster and its group, in which every step succeeds.
struct Cluster {
    world: World,
    group: Group,
}

fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().map(|number| NodeId(*number)).collect()
}

impl Cluster {
    /// So many nodes, the first of which leads a group of its own.
    fn of(nodes: u64) -> Self {
        let world = World::with_nodes(nodes);
        let members = BTreeMap::from([(NodeId(1), "127.0.0.1:9090".to_owned())]);
        let (voters, caught_up) = (ids(&[1]), ids(&[1]));
        Self { world, group: Group { leader: NodeId(1), members, voters, changing: false, caught_up } }
    }

    fn absent(&mut self, node: u64) {
        self.world.replace(Absence { node: NodeId(node), since: self.world.now }.into());
        self.group.caught_up.remove(&NodeId(node));
    }

    fn change(&mut self, node: u64, change: impl FnOnce(&mut Admission)) {
        let mut admission = Admission::clone(self.world.state.admission(NodeId(node)).expect("let in"));
        change(&mut admission);
        self.world.replace(admission.into());
    }

    fn removed(&mut self, node: u64) {
        let now = self.world.now;
        self.change(node, |admission| admission.removed_at = Some(now));
    }

    fn zone(&mut self, node: u64, zone: &str) {
        self.world.change_node(node, |node| drop(node.labels.insert("zone".to_owned(), zone.to_owned())));
    }

    fn next(&self) -> Option<Step> {
        next_step(&self.world.state, &self.group)
    }

    /// What the group is like after a step.
    fn take(&mut self, step: &Step) {
        match step {
            Step::Fence(node) => {
                assert!(*node != self.group.leader && !self.group.voters.contains(node), "the group needs it");
                let now = self.world.now;
                self.change(node.0, |admission| admission.fenced_at = Some(now));
            }
            Step::Remove(nodes) => self.group.members.retain(|node, _| !nodes.contains(node)),
            Step::Readdress(node, address) => {
                assert!(self.group.members.insert(*node, address.clone()).is_some(), "it was a member");
            }
            Step::Add(node, address) => {
                assert!(self.group.members.insert(*node, address.clone()).is_none(), "it was none");
                if self.world.state.absence(*node).is_none() {
                    self.group.caught_up.insert(*node);
                }
            }
            Step::SetVoters(voters) => {
                assert!(voters.contains(&self.group.leader), "the leader never takes its own vote");
                self.group.voters = voters.clone();
                self.group.changing = false;
            }
            Step::HandOver(to) => {
                assert!(self.group.voters.contains(to) && *to != self.group.leader);
                self.group.leader = *to;
            }
        }
        assert!(self.group.voters.iter().all(|voter| self.group.members.contains_key(voter)), "voters are members");
    }

    fn settle(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(step) = self.next() {
            self.take(&step);
            steps.push(step);
            assert!(steps.len() < STEPS_MAX, "never comes to rest: {steps:?}");
        }
        steps
    }

    fn settled(nodes: u64) -> Self {
        let mut cluster = Self::of(nodes);
        cluster.settle();
        cluster
    }
}

#[test]
fn one_three_then_five_vote() {
    for (nodes, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)] {
        let cluster = Cluster::settled(nodes);
        assert_eq!((cluster.group.voters.len(), cluster.group.members.len() as u64), (voters, nodes));
    }
}

#[test]
fn nobody_votes_before_it_has_caught_up() {
    let mut cluster = Cluster::settled(2);
    cluster.world.restart_node(3);
    cluster.take(&Step::Add(NodeId(3), "127.0.0.1:9090".to_owned()));
    cluster.group.caught_up.remove(&NodeId(3));
    assert_eq!(cluster.next(), None, "two voters would be worse than one");
    cluster.group.caught_up.insert(NodeId(3));
    assert_eq!(cluster.next(), Some(Step::SetVoters(ids(&[1, 2, 3]))));
}

#[test]
fn a_node_is_added_before_it_registered_and_followed_when_it_moves() {
    let mut cluster = Cluster::settled(1);
    let admission = Admission {
        node: NodeId(7),
        name: "seven".to_owned(),
        address: "10.0.0.7:9091".to_owned(),
        ..Admission::clone(cluster.world.state.admission(NodeId(1)).expect("let in"))
    };
    cluster.world.replace(admission.into());
    assert_eq!(cluster.settle(), [Step::Add(NodeId(7), "10.0.0.7:9091".to_owned())]);
    cluster.world.restart_node(7);
    cluster.world.change_node(7, |node| (node.address, node.grpc_port) = ("2001:db8::7".to_owned(), 9092));
    assert_eq!(cluster.settle(), [Step::Readdress(NodeId(7), "[2001:db8::7]:9092".to_owned())]);
}

#[test]
fn a_dead_voter_gives_its_vote_to_a_spare_member() {
    let mut cluster = Cluster::settled(4);
    assert_eq!(cluster.group.voters, ids(&[1, 2, 3]));
    cluster.group.caught_up.remove(&NodeId(4));
    cluster.absent(2);
    assert_eq!(cluster.settle(), [], "nobody has caught up");
    cluster.group.caught_up.insert(NodeId(4));
    assert_eq!(cluster.settle(), [Step::SetVoters(ids(&[1, 3, 4]))]);
}

#[test]
fn without_a_spare_a_dead_voter_stays_while_that_bears_as_much() {
    // (nodes, dead, voters left)
    for (nodes, dead, voters) in [
        (3, vec![3], vec![1, 2, 3]),
        (5, vec![5], vec![1, 2, 3, 4, 5]),
        (5, vec![2, 5], vec![1, 3, 4]),
        (6, vec![2, 5], vec![1, 2, 3, 4, 6]),
        (2, vec![2], vec![1]),
    ] {
        let mut cluster = Cluster::settled(nodes);
        for node in &dead {
            cluster.absent(*node);
        }
        cluster.settle();
        assert_eq!(cluster.group.voters, ids(&voters), "{nodes} with {dead:?} dead");
    }
}

#[test]
fn voters_are_in_different_zones_when_there_are_some() {
    let mut cluster = Cluster::of(6);
    for (node, zone) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c")] {
        cluster.zone(node, zone);
    }
    cluster.change(5, |admission| admission.role = NodeRole::Worker);
    cluster.change(3, |admission| admission.role = NodeRole::Worker);
    cluster.settle();
    assert_eq!(cluster.group.voters, ids(&[1, 4, 6]));
    // A voter is not replaced for a place that is as good.
    cluster.zone(2, "c");
    assert_eq!(cluster.next(), None);
    cluster.zone(6, "b");
    assert_eq!(cluster.next(), Some(Step::SetVoters(ids(&[1, 2, 4]))));
}

#[test]
fn a_removed_leader_hands_over_and_goes() {
    let mut cluster = Cluster::settled(4);
    cluster.removed(1);
    let steps = cluster.settle();
    assert_eq!(
        steps,
        [
            Step::SetVoters(ids(&[1, 2, 3, 4])),
            Step::HandOver(NodeId(2)),
            Step::SetVoters(ids(&[2, 3, 4])),
            Step::Fence(NodeId(1)),
            Step::Remove(ids(&[1])),
        ]
    );
}

#[test]
fn a_removed_leader_of_two_makes_the_other_one_a_voter_first() {
    let mut cluster = Cluster::settled(2);
    cluster.removed(1);
    cluster.group.caught_up.remove(&NodeId(2));
    assert_eq!(cluster.next(), None, "the only one that knows everything stays until another one does");
    cluster.group.caught_up.insert(NodeId(2));
    cluster.settle();
    assert_eq!((cluster.group.leader, &cluster.group.voters), (NodeId(2), &ids(&[2])));
    assert_eq!(cluster.group.members.len(), 1);
}

#[test]
fn a_removed_voter_is_refused_only_when_the_group_can_do_without_it() {
    let mut cluster = Cluster::settled(3);
    cluster.removed(3);
    assert_eq!(cluster.next(), Some(Step::SetVoters(ids(&[1]))));
    cluster.group.changing = true;
    assert!(matches!(cluster.next(), Some(Step::SetVoters(_))), "it may have to go back");
    cluster.group.changing = false;
    assert_eq!(cluster.settle(), [Step::SetVoters(ids(&[1])), Step::Fence(NodeId(3)), Step::Remove(ids(&[3]))]);
    // One that was never in the group is refused as well.
    let mut cluster = Cluster::settled(2);
    cluster.removed(2);
    cluster.group.members.remove(&NodeId(2));
    assert_eq!(cluster.settle(), [Step::Fence(NodeId(2))]);
}

#[test]
fn a_change_that_was_broken_off_is_ended() {
    let mut cluster = Cluster::settled(3);
    cluster.group.changing = true;
    assert_eq!(cluster.settle(), [Step::SetVoters(ids(&[1, 2, 3]))]);
}

#[test]
fn a_member_that_the_state_does_not_know_is_left_alone() {
    let mut cluster = Cluster::settled(1);
    cluster.group.members.insert(NodeId(9), "10.0.0.9:9090".to_owned());
    assert_eq!(cluster.next(), None);
}

#[derive(Clone, Debug)]
struct Fate {
    worker: bool,
    absent: bool,
    removed: bool,
    behind: bool,
    zone: u8,
}

fn fate() -> impl Strategy<Value = Fate> {
    let rarely = || prop::bool::weighted(0.25);
    (rarely(), rarely(), rarely(), rarely(), 0_u8..4).prop_map(|(worker, absent, removed, behind, zone)| Fate {
        worker,
        absent,
        removed,
        behind,
        zone,
    })
}

proptest! {
    #[test]
    fn groups_come_to_rest_odd_live_and_without_whom_they_must_not_have(
        before in prop::collection::vec(fate(), 1..8),
        after in prop::collection::vec(fate(), 7),
    ) {
        let mut cluster = Cluster::of(before.len() as u64);
        for (number, fate) in (1..).zip(&before) {
            let zone = if fate.zone == 0 { "" } else { ["a", "b", "c"][usize::from(fate.zone) - 1] };
            cluster.zone(number, zone);
            if fate.worker && number != 1 {
                cluster.change(number, |admission| admission.role = NodeRole::Worker);
            }
        }
        cluster.settle();
        // Then accidents happen, and the leader survives them.
        for (number, fate) in (1..).zip(&after).take(before.len()) {
            if fate.behind && number != 1 {
                cluster.group.caught_up.remove(&NodeId(number));
            }
            if fate.absent && number != 1 {
                cluster.absent(number);
            }
            let others = cluster.world.state.members().filter(|member| {
                member.role == NodeRole::VoterEligible && member.node != NodeId(number)
            });
            if fate.removed && others.count() > 0 {
                cluster.removed(number);
            }
        }
        let state = cluster.world.state.clone();
        let is_removed = |node: &NodeId| state.admission(*node).is_some_and(|member| member.removed_at.is_some());
        let answers = |node: &NodeId| *node == NodeId(1) || state.absence(*node).is_none();
        let was = cluster.group.clone();
        let mut leader_stays = false;
        for _ in 0..STEPS_MAX {
            let Some(step) = cluster.next() else { break };
            if let Step::SetVoters(voters) = &step {
                for new in voters.difference(&cluster.group.voters) {
                    prop_assert!(answers(new) && cluster.group.caught_up.contains(new) && !is_removed(new));
                    prop_assert_eq!(state.admission(*new).map(|member| member.role), Some(NodeRole::VoterEligible));
                }
            }
            cluster.take(&step);
        }
        prop_assert_eq!(cluster.next(), None, "it comes to rest");
        let group = &cluster.group;
        if is_removed(&group.leader) {
            // The rest waits for the next leader to catch up, or there is none.
            let eligible = |node: &&NodeId| {
                answers(node) && !is_removed(node)
                    && state.admission(**node).is_some_and(|member| member.role == NodeRole::VoterEligible)
            };
            let heirs: Vec<&NodeId> = group.members.keys().filter(eligible).collect();
            let waits = heirs.iter().any(|node| group.voters.contains(node) && !group.caught_up.contains(node));
            prop_assert!(waits || heirs.iter().all(|node| !group.caught_up.contains(node)), "{group:?}");
            leader_stays = true;
        }
        let removed_left: Vec<&NodeId> = group.members.keys().filter(|node| is_removed(node)).collect();
        if !leader_stays {
            prop_assert_eq!(removed_left, Vec::<&NodeId>::new());
            prop_assert!(group.voters.len() % 2 == 1, "{:?}", group.voters);
            // Whoever may still die after the accidents may still die after the changes.
            let live = |voters: &BTreeSet<NodeId>| voters.iter().filter(|node| answers(node) && !is_removed(node)).count();
            let bears = |voters: &BTreeSet<NodeId>| live(voters).cast_signed() - (voters.len() / 2 + 1).cast_signed();
            let may_vote = state.members().filter(|member| member.role == NodeRole::VoterEligible).count();
            let wanted = match may_vote { 0..=2 => 1, 3 | 4 => 3, _ => 5 };
            let (before, after) = (bears(&was.voters), bears(&group.voters));
            prop_assert!(after >= before.min((wanted - 1) / 2), "{was:?} {group:?}");
            let anybody_removed = was.voters.iter().any(is_removed);
            prop_assert!(anybody_removed || live(&group.voters) >= live(&was.voters), "{was:?} {group:?}");
        }
    }
}
