//! Which nodes answer, from when the leader heard them last.
//!
//! Kept in the leader's memory; only what changes goes into the log, as [`Command::NoteAbsence`]. All times are measured by
//! the leader itself from the moment it began to lead, so that no clock is compared with another, and a new leader gives
//! everybody the full time. Comes in: the state, and how long each node was silent. Goes out: transitions, and the nodes
//! that were silent for so long that they have stopped what must not run twice (`isolation`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::NodeId;
use crate::state::{Command, State};

use super::isolation::FENCED_AFTER;

/// A node counts as back when it answered for this share of the threshold, and never fell silent for half of that.
const BACK_AFTER: u32 = 2;
const SILENCE: u32 = 4;
/// The leader looks this often in the time of a threshold.
const LOOKS: u32 = 12;

/// What a leader remembers of when it heard whom.
#[derive(Clone, Debug)]
pub struct Liveness {
    threshold: Duration,
    looked_at: Duration,
    nodes: BTreeMap<NodeId, Hearing>,
}

#[derive(Clone, Copy, Debug)]
struct Hearing {
    /// When it was heard last, or when the leader began to listen.
    last: Duration,
    /// Since when it was never silent for long.
    steady_since: Option<Duration>,
}

/// What the leader hears now.
#[derive(Clone, Debug)]
pub struct Heard<'a> {
    /// Time since it began to lead.
    pub at: Duration,
    /// Itself.
    pub leader: NodeId,
    /// For how long each member of the group has been silent; nothing for one that never answered this leader.
    pub silent_for: &'a BTreeMap<NodeId, Option<Duration>>,
    /// Who votes.
    pub voters: &'a BTreeSet<NodeId>,
}

/// What follows from that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What to put into the log.
    pub commands: Vec<Command>,
    /// Nodes, absent or removed, that have stopped what must not run twice.
    pub fenced: BTreeSet<NodeId>,
}

impl Liveness {
    /// The memory of a leader that has just begun. A node does not answer when it was silent for the threshold.
    pub fn new(threshold: Duration) -> Self {
        Self { threshold, looked_at: Duration::ZERO, nodes: BTreeMap::new() }
    }

    /// How often to look.
    pub fn look_every(&self) -> Duration {
        self.threshold / LOOKS
    }

    /// Whether there is nobody left to hear, so that looking now and then is enough: the group has one member, nobody
    /// else belongs to the cluster, and everybody who did has stopped what must not run twice.
    pub fn is_alone(state: &State, group: usize, fenced: &BTreeSet<NodeId>) -> bool {
        let mut gone = state.admissions().filter(|admission| admission.removed_at.is_some());
        group == 1 && state.members().count() <= 1 && gone.all(|admission| fenced.contains(&admission.node))
    }

    /// Takes note of what is heard.
    pub fn look(&mut self, state: &State, heard: &Heard<'_>) -> Findings {
        self.forgive_own_absence(heard.at);
        let mut findings = Findings::default();
        for admission in state.admissions().filter(|admission| admission.node != heard.leader) {
            let silent_for = heard.silent_for.get(&admission.node).copied().flatten();
            self.listen(admission.node, heard.at, silent_for);
        }
        let has_quorum = self.has_quorum(heard);
        for admission in state.admissions() {
            let node = admission.node;
            let (absent, removed) = (state.absence(node).is_some(), admission.removed_at.is_some());
            let (silent, steady) = match self.nodes.get(&node) {
                Some(hearing) => (heard.at.saturating_sub(hearing.last), self.is_steady(hearing, heard.at)),
                None => (Duration::ZERO, true),
            };
            if !removed && !absent && silent >= self.threshold && has_quorum {
                findings.commands.push(Command::NoteAbsence { node, absent: true });
            } else if !removed && absent && steady {
                findings.commands.push(Command::NoteAbsence { node, absent: false });
            }
            if (absent || removed) && silent >= FENCED_AFTER {
                findings.fenced.insert(node);
            }
        }
        findings
    }

    /// A leader that stood still heard nobody, which is nobody's fault but its own.
    fn forgive_own_absence(&mut self, at: Duration) {
        let pause = at.saturating_sub(self.looked_at);
        if pause > self.threshold / SILENCE {
            for hearing in self.nodes.values_mut() {
                hearing.last = (hearing.last + pause).min(at);
            }
        }
        self.looked_at = at;
    }

    fn listen(&mut self, node: NodeId, at: Duration, silent_for: Option<Duration>) {
        let hearing = self.nodes.entry(node).or_insert(Hearing { last: at, steady_since: None });
        let Some(silent_for) = silent_for else { return };
        hearing.last = hearing.last.max(at.saturating_sub(silent_for));
        let steady = silent_for < self.threshold / SILENCE;
        hearing.steady_since = if steady { hearing.steady_since.or(Some(at)) } else { None };
    }

    fn is_steady(&self, hearing: &Hearing, at: Duration) -> bool {
        hearing.steady_since.is_some_and(|since| at.saturating_sub(since) >= self.threshold / BACK_AFTER)
    }

    /// Whether most voters answer. A leader without a quorum is the one that is cut off: it learns nothing of others.
    fn has_quorum(&self, heard: &Heard<'_>) -> bool {
        let answers = |node: &&NodeId| {
            let hearing = self.nodes.get(*node);
            hearing.is_none_or(|hearing| heard.at.saturating_sub(hearing.last) < self.threshold)
        };
        heard.voters.iter().filter(answers).count() * 2 > heard.voters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::World;

    const THRESHOLD: Duration = Duration::from_secs(6);

    /// Node 1 leads three voters and two learners; half a second passes between two looks.
    struct Leader {
        world: World,
        liveness: Liveness,
        at: Duration,
        /// Since when each of the others is silent.
        silent_since: BTreeMap<NodeId, Duration>,
    }

    impl Leader {
        fn new() -> Self {
            let (world, liveness) = (World::with_nodes(5), Liveness::new(THRESHOLD));
            let mut leader = Self { world, liveness, at: Duration::ZERO, silent_since: BTreeMap::new() };
            leader.look();
            leader
        }

        fn silent(&mut self, nodes: &[u64]) {
            self.silent_since = nodes.iter().map(|node| (NodeId(*node), self.at)).collect();
        }

        fn look(&mut self) -> Findings {
            let silent_for = (2..=5)
                .map(NodeId)
                .map(|node| (node, Some(self.silent_since.get(&node).map_or(Duration::ZERO, |since| self.at - *since))))
                .collect();
            let voters = [1, 2, 3].map(NodeId).into();
            let heard = Heard { at: self.at, leader: NodeId(1), silent_for: &silent_for, voters: &voters };
            let findings = self.liveness.look(&self.world.state, &heard);
            for command in findings.commands.clone() {
                self.world.command(command);
            }
            findings
        }

        /// Looks for so long; each transition with when it was found.
        fn pass(&mut self, seconds: u64) -> Vec<(f64, u64, bool)> {
            let until = self.at + Duration::from_secs(seconds);
            let mut found = Vec::new();
            while self.at < until {
                self.at += self.liveness.look_every();
                for command in self.look().commands {
                    let Command::NoteAbsence { node, absent } = command else { panic!("{command:?}") };
                    found.push((self.at.as_secs_f64(), node.0, absent));
                }
            }
            found
        }

        fn fenced(&mut self) -> Vec<u64> {
            self.look().fenced.into_iter().map(|node| node.0).collect()
        }
    }

    #[test]
    fn a_silent_node_is_absent_after_the_threshold_and_back_after_half_of_it() {
        let mut leader = Leader::new();
        assert_eq!(leader.pass(10), []);
        leader.silent(&[4]);
        assert_eq!(leader.pass(10), [(16.0, 4, true)]);
        leader.silent(&[]);
        assert_eq!(leader.pass(10), [(23.5, 4, false)]);
    }

    #[test]
    fn one_that_comes_and_goes_stays_absent() {
        let mut leader = Leader::new();
        leader.silent(&[4]);
        assert_eq!(leader.pass(10), [(6.0, 4, true)]);
        for _ in 0..10 {
            leader.silent(&[]);
            assert_eq!(leader.pass(2), []);
            leader.silent(&[4]);
            assert_eq!(leader.pass(2), []);
        }
    }

    #[test]
    fn a_new_leader_gives_everybody_the_full_time_and_believes_what_was_found_before() {
        let mut leader = Leader::new();
        leader.liveness = Liveness::new(THRESHOLD);
        leader.world.command(Command::NoteAbsence { node: NodeId(5), absent: true });
        leader.world.command(Command::NoteAbsence { node: NodeId(1), absent: true });
        let silent_for = (2..=5).map(|node| (NodeId(node), None)).collect();
        let voters = [1, 2, 3].map(NodeId).into();
        let mut found = Vec::new();
        for halves in 0..14 {
            let at = Duration::from_millis(halves * 500);
            let heard = Heard { at, leader: NodeId(1), silent_for: &silent_for, voters: &voters };
            let findings = leader.liveness.look(&leader.world.state, &heard);
            assert_eq!(findings.fenced, BTreeSet::new());
            found.extend(findings.commands.iter().map(|command| (halves, command.clone())));
            for command in findings.commands {
                leader.world.command(command);
            }
        }
        // Itself it hears. Without the two other voters it finds nothing of anybody.
        assert_eq!(found, [(0, Command::NoteAbsence { node: NodeId(1), absent: false })]);
    }

    #[test]
    fn a_leader_that_is_cut_off_finds_nobody_absent() {
        let mut leader = Leader::new();
        leader.pass(1);
        leader.silent(&[2, 3, 4, 5]);
        assert_eq!(leader.pass(60), []);
    }

    #[test]
    fn a_leader_that_stood_still_blames_nobody() {
        let mut leader = Leader::new();
        leader.pass(1);
        leader.silent(&[4]);
        leader.at += Duration::from_secs(100);
        assert_eq!(leader.look().commands, []);
        assert_eq!(leader.pass(10), [(107.0, 4, true)]);
    }

    #[test]
    fn what_must_not_run_twice_has_ended_only_after_much_longer() {
        let mut leader = Leader::new();
        leader.silent(&[4]);
        leader.pass(FENCED_AFTER.as_secs() - 1);
        assert_eq!(leader.fenced(), Vec::<u64>::new());
        leader.pass(1);
        assert_eq!(leader.fenced(), [4]);
        // Whoever leads next counts for itself.
        leader.liveness = Liveness::new(THRESHOLD);
        leader.at = Duration::ZERO;
        leader.silent(&[4]);
        leader.look();
        leader.pass(FENCED_AFTER.as_secs() - 1);
        assert_eq!(leader.fenced(), Vec::<u64>::new());
        // A removed node is counted as well, and one that answers never is.
        leader.world.command(Command::RemoveNode(NodeId(4)));
        leader.pass(1);
        assert_eq!(leader.fenced(), [4]);
        // A leader that has nobody left to hear looks rarely, but not before, and that takes nothing back.
        let mut state = leader.world.state.clone();
        for node in [2, 3, 5] {
            assert!(!Liveness::is_alone(&state, 1, &BTreeSet::from([NodeId(4)])), "node {node} is there");
            leader.world.command(Command::RemoveNode(NodeId(node)));
            state = leader.world.state.clone();
        }
        let all = BTreeSet::from([2, 3, 4, 5].map(NodeId));
        assert!(!Liveness::is_alone(&state, 1, &BTreeSet::from([NodeId(4)])), "the others may still run something");
        assert!(Liveness::is_alone(&state, 1, &all) && !Liveness::is_alone(&state, 2, &all));
        for _ in 0..3 {
            leader.at += Duration::from_secs(10);
            assert!(leader.look().fenced.contains(&NodeId(4)));
        }
    }
}
