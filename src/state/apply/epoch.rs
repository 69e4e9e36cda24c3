//! A new beginning of a cluster from one state of it: not a command, since there is nobody yet who could agree on it.

use std::collections::BTreeMap;

use crate::model::{
    Admission, Epoch, InstanceId, JoinToken, JoinTokenId, NodeId, NodeRole, Origin, SessionId, Timestamp,
};
use crate::state::{Key, Rejection, State};

use super::Draft;

/// What a cluster begins anew with.
#[derive(Clone, Debug)]
pub enum Beginning {
    /// A member whose store is whole; it keeps its id, and what it runs.
    Recovered(NodeId),
    /// A new node, on whose machine a backup is restored.
    Restored {
        /// Its name.
        name: String,
        /// Host and port between nodes.
        address: String,
    },
}

/// A cluster that begins anew.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The state to begin with.
    pub state: State,
    /// The only member.
    pub node: NodeId,
    /// The log goes on after this index.
    pub index: u64,
}

/// Begins a new epoch from a state that had applied the log up to an index. All members but the first are removed and
/// their instances lost, so that others take their place; join tokens are revoked, since whoever holds one may have used it
/// meanwhile. Sessions of a backup end: any of them may have been ended after it was made.
pub fn begin_epoch(state: &State, index: u64, at: Timestamp, beginning: &Beginning) -> Result<Begun, Rejection> {
    if state.cluster().is_none() {
        return Err(Rejection::Precondition("this node was never told the state of its cluster".to_owned()));
    }
    let before = state.epoch().map_or(0, |epoch| epoch.number);
    let origin = match beginning {
        Beginning::Recovered(_) => Origin::Recovered,
        Beginning::Restored { .. } => Origin::Restored,
    };
    let number = Epoch::after(before.max(Epoch::of_index(index)), origin);
    let index = Epoch::first_index(number);
    let node = match beginning {
        Beginning::Recovered(node) => *node,
        // Where the log begins, so that every later id is larger.
        Beginning::Restored { .. } => NodeId(index),
    };
    let mut draft = Draft { state: state.clone(), changes: Vec::new(), index, now: at };
    let left_behind = draft.leave_behind(node, origin)?;
    draft.take_first(node, beginning)?;
    draft.put(Epoch { number, origin, begun_at: at, left_behind });
    for token in draft.state.join_tokens().filter(|token| !token.revoked).cloned().collect::<Vec<_>>() {
        draft.put(JoinToken { revoked: true, ..JoinToken::clone(&token) });
    }
    if origin == Origin::Restored {
        for session in draft.state.sessions().map(|session| session.id).collect::<Vec<SessionId>>() {
            draft.delete(Key::Session(session));
        }
    }
    // Those whom it waited for are gone.
    draft.advance_rotation();
    Ok(Begun { state: draft.state, node, index })
}

impl Draft {
    /// Removes every member but one, and says who they were and where.
    fn leave_behind(&mut self, first: NodeId, origin: Origin) -> Result<BTreeMap<NodeId, String>, Rejection> {
        let members: Vec<_> = self.state.members().filter(|member| member.node != first).cloned().collect();
        // Whoever an earlier epoch left behind may not know it yet.
        let mut left_behind = self.state.epoch().map_or_else(BTreeMap::new, |before| before.left_behind.clone());
        for member in members {
            let id = member.node;
            let registered = self.state.node(id).map(|node| node.peer_address());
            left_behind.insert(id, registered.unwrap_or_else(|| member.address.clone()));
            let on_it = self.state.live_instances().filter(|instance| instance.placement.node == id);
            let on_it: Vec<InstanceId> = on_it.map(|instance| instance.id).collect();
            let reason = format!("node {} was left behind when the cluster was {origin}", member.name);
            self.lose_instances(&on_it, &reason)?;
            self.delete(Key::Node(id));
            self.delete(Key::Absence(id));
            self.put(Admission { removed_at: Some(self.now), fenced_at: Some(self.now), ..Admission::clone(&member) });
        }
        // The group that could not do without them is no more.
        let open = |admission: &Admission| admission.removed_at.is_some() && admission.fenced_at.is_none();
        for admission in self.state.admissions().filter(|admission| open(admission)).cloned().collect::<Vec<_>>() {
            self.put(Admission { fenced_at: Some(self.now), ..Admission::clone(&admission) });
        }
        Ok(left_behind)
    }

    /// Lets the only member in, or makes sure that it belongs and may lead.
    fn take_first(&mut self, node: NodeId, beginning: &Beginning) -> Result<(), Rejection> {
        let admission = match beginning {
            Beginning::Restored { name, address } => {
                self.check_new(Key::Admission(node))?;
                Admission {
                    node,
                    name: name.clone(),
                    address: address.clone(),
                    role: NodeRole::VoterEligible,
                    token: None::<JoinTokenId>,
                    admitted_at: self.now,
                    removed_at: None,
                    fenced_at: None,
                }
            }
            Beginning::Recovered(_) => match self.state.admission(node) {
                Some(own) if own.removed_at.is_none() => {
                    Admission { role: NodeRole::VoterEligible, ..Admission::clone(own) }
                }
                _ => {
                    return Err(Rejection::Precondition(format!(
                        "node {node} was removed from the cluster: what it knows ends there"
                    )));
                }
            },
        };
        self.delete(Key::Absence(node));
        self.put(admission);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cluster, Instance, InstanceState, Rotation, RotationStep, Secret};
    use crate::state::{Actor, Command, LogEntry, Outcome, Record, apply, sample_records, violations};

    const AT: Timestamp = Timestamp(1_760_000_000_000);

    /// The sample rows, with the instance alive.
    fn sample() -> State {
        let records = sample_records().into_iter().filter(|record| record.key() != Key::Epoch);
        State::from_records(records.map(|record| match record {
            Record::Instance(instance) => {
                let mut instance = Instance::clone(&instance);
                instance.status.state = InstanceState::Running;
                instance.into()
            }
            other => other,
        }))
    }

    fn restored(state: &State, index: u64) -> Begun {
        let beginning = Beginning::Restored { name: "new".to_owned(), address: "10.0.0.9:9090".to_owned() };
        begin_epoch(state, index, AT, &beginning).expect("begins")
    }

    #[test]
    fn a_restored_cluster_has_one_new_member_and_nobody_else_gets_in() {
        let before = sample();
        let live = before.live_instances().count();
        let begun = restored(&before, 4_711);
        assert_eq!(violations(&begun.state), Vec::<String>::new());
        assert_eq!((begun.node, begun.index), (NodeId(100_000_000_000_000), 100_000_000_000_000));
        assert_eq!(begun.state.members().map(|member| member.node).collect::<Vec<_>>(), [begun.node]);
        let old = begun.state.admission(NodeId::FOUNDER).expect("a tombstone");
        assert_eq!((old.removed_at, old.fenced_at), (Some(AT), Some(AT)));
        let epoch = begun.state.epoch().expect("an epoch");
        assert_eq!(epoch.left_behind.keys().copied().collect::<Vec<_>>(), [NodeId::FOUNDER]);
        assert!(live > 0 && begun.state.live_instances().count() == 0);
        let lost = begun.state.instances().find(|instance| instance.status.state == InstanceState::Lost);
        assert!(lost.expect("it was").status.reason.as_deref().is_some_and(|why| why.contains("was restored")));
        assert!(begun.state.join_tokens().all(|token| token.revoked));
        assert_eq!((begun.state.sessions().count(), before.sessions().count()), (0, 1));
    }

    #[test]
    fn a_recovered_node_keeps_its_id_its_instances_and_its_log_ins() {
        let mut before = sample();
        let other = Admission {
            node: NodeId(20),
            name: "two".to_owned(),
            address: "10.0.0.2:9090".to_owned(),
            role: NodeRole::Worker,
            token: None,
            admitted_at: AT,
            removed_at: None,
            fenced_at: None,
        };
        before = State::from_records(before.records().chain([other.into()]));
        let live = before.live_instances().count();
        let begun = begin_epoch(&before, 30, AT, &Beginning::Recovered(NodeId::FOUNDER)).expect("begins");
        assert_eq!(violations(&begun.state), Vec::<String>::new());
        assert_eq!(begun.node, NodeId::FOUNDER);
        assert_eq!(begun.state.live_instances().count(), live);
        assert_eq!(begun.state.sessions().count(), before.sessions().count());
        assert!(begun.state.absence(NodeId::FOUNDER).is_none() && begun.state.node(NodeId::FOUNDER).is_some());
        // A worker may be all that is left.
        let begun = begin_epoch(&before, 30, AT, &Beginning::Recovered(NodeId(20))).expect("begins");
        assert_eq!(begun.state.admission(NodeId(20)).map(|own| own.role), Some(NodeRole::VoterEligible));
        assert!(begin_epoch(&begun.state, begun.index, AT, &Beginning::Recovered(NodeId::FOUNDER)).is_err());
        assert!(begin_epoch(&State::default(), 0, AT, &Beginning::Recovered(NodeId::FOUNDER)).is_err());
    }

    #[test]
    fn a_rotation_does_not_wait_for_those_that_were_left_behind() {
        let second = Admission { node: NodeId(20), name: "two".to_owned(), ..founder(&sample()) };
        let mut cluster = Cluster::clone(sample().cluster().expect("a cluster"));
        for (step, after) in [(RotationStep::Trust, Some(RotationStep::Show)), (RotationStep::Show, None)] {
            cluster.rotation = Some(Rotation {
                step,
                certificate: "new".to_owned(),
                key: Secret::new("key"),
                begun_at: AT,
                done: [NodeId::FOUNDER].into(),
            });
            let before = State::from_records(sample().records().chain([second.clone().into(), cluster.clone().into()]));
            let begun = begin_epoch(&before, 30, AT, &Beginning::Recovered(NodeId::FOUNDER)).expect("begins");
            let rotation = begun.state.cluster().expect("a cluster").rotation.as_ref().map(|rotation| rotation.step);
            assert_eq!(rotation, after, "after {step:?}");
        }
    }

    #[test]
    fn what_is_restored_is_of_a_later_epoch_than_what_was_recovered_after_the_backup() {
        let backup = sample();
        let mut goes_on = backup.clone();
        let mut index = 30;
        for _ in 0..3 {
            let begun = begin_epoch(&goes_on, index, AT, &Beginning::Recovered(NodeId::FOUNDER)).expect("begins");
            (goes_on, index) = (begun.state, begun.index);
        }
        let number = |state: &State| state.epoch().map(|epoch| epoch.number);
        let new = restored(&backup, 30);
        assert_eq!((number(&goes_on), number(&new.state)), (Some(3), Some(100)));
        let again = begin_epoch(&new.state, new.index + 1, AT, &Beginning::Recovered(new.node)).expect("begins");
        assert_eq!(number(&again.state), Some(101));
        assert_eq!(number(&restored(&goes_on, index).state), Some(100));
    }

    fn founder(state: &State) -> Admission {
        Admission::clone(state.admission(NodeId::FOUNDER).expect("a sample"))
    }

    #[test]
    fn epochs_follow_each_other_and_ids_never_come_again() {
        let first = restored(&sample(), 9);
        let second = restored(&first.state, first.index + 12);
        assert_eq!(second.node, NodeId(200_000_000_000_000));
        let epoch = second.state.epoch().expect("an epoch");
        assert_eq!(epoch.number, 200);
        let left_behind: Vec<NodeId> = epoch.left_behind.keys().copied().collect();
        assert_eq!(left_behind, [NodeId::FOUNDER, first.node], "who may not know of the first epoch yet is told too");
        // The founder of the first days cannot describe itself as if nothing had been.
        let admission = |record: &Record| record.key() != Key::Admission(NodeId::FOUNDER);
        let forgotten = State::from_records(
            second.state.records().filter(|record| admission(record) && !matches!(record.key(), Key::Instance(_))),
        );
        let mut commands = crate::state::sample_entries().into_iter().map(|entry| entry.command);
        let register = commands.find(|command| matches!(command, Command::RegisterNode(_))).expect("a sample");
        let entry = LogEntry { proposed_at: AT, actor: Actor::System, request: None, command: register };
        assert!(!matches!(apply(&forgotten, second.index + 1, &entry).result, Ok(Outcome::Done)));
    }
}
