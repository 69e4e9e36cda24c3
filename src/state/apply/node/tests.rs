//! What is put on record of nodes, and what is refused.

use super::*;
use crate::model::Timestamp;
use crate::state::{Actor, Command, LogEntry, State, apply, sample_records, violations};

const AT: Timestamp = Timestamp(1_750_000_000_000);

/// A state that commands are applied to, and how many were.
struct Log {
    state: State,
    index: u64,
    now: Timestamp,
}

impl Log {
    fn new() -> Self {
        Self { state: State::from_records(sample_records()), index: 100, now: AT }
    }

    fn apply(&mut self, command: Command) -> Answer {
        self.index += 1;
        let entry = LogEntry { proposed_at: self.now, actor: Actor::System, request: None, command };
        let applied = apply(&self.state, self.index, &entry);
        self.state = applied.state;
        assert_eq!(violations(&self.state), Vec::<String>::new());
        applied.result
    }

    fn token(&self) -> JoinToken {
        JoinToken::clone(self.state.join_tokens().next().expect("a sample"))
    }

    fn join(&mut self, name: &str) -> Answer {
        let JoinToken { id, digest, .. } = self.token();
        let address = "10.0.0.2:9090".to_owned();
        self.apply(Command::AdmitNode { token: id, digest, name: name.to_owned(), address, cluster_version_max: 1 })
    }
}

fn facts() -> NodeFacts {
    let facts = crate::state::sample_entries().into_iter().find_map(|entry| match entry.command {
        Command::RegisterNode(facts) => Some(facts),
        _ => None,
    });
    facts.expect("a sample")
}

fn words(answer: Answer) -> String {
    answer.expect_err("refused").to_string()
}

#[test]
fn a_node_gets_the_index_of_its_entry_as_often_as_the_token_allows() {
    let mut log = Log::new();
    assert_eq!(log.join("two"), Ok(Outcome::Node(NodeId(101))));
    assert!(words(log.join("two")).contains("named two"));
    assert_eq!(log.join("three"), Ok(Outcome::Node(NodeId(103))));
    assert!(words(log.join("four")).contains("used already"));
    let refused = log.apply(Command::AdmitNode {
        token: log.token().id,
        digest: [0; 32],
        name: "five".to_owned(),
        address: "10.0.0.5:9090".to_owned(),
        cluster_version_max: 1,
    });
    assert!(matches!(refused, Err(Rejection::NotFound(_))), "{refused:?}");
}

#[test]
fn tokens_end() {
    let mut log = Log::new();
    log.now = log.token().expires_at;
    assert!(words(log.join("two")).contains("expired"));
    log.now = AT;
    log.apply(Command::RevokeJoinToken(log.token().id)).expect("revoked");
    log.apply(Command::RevokeJoinToken(log.token().id)).expect("again");
    assert!(words(log.join("two")).contains("revoked"));
    // Such a token is remembered for a while.
    log.now = Timestamp(AT.0 + 30 * 24 * 3_600_000);
    let fresh = JoinToken { id: JoinTokenId(uuid::Uuid::from_u128(99)), revoked: false, ..log.token() };
    assert!(words(log.apply(Command::CreateJoinToken(fresh.clone()))).contains("of no use"));
    let fresh = JoinToken { expires_at: Timestamp(log.now.0 + 1), ..fresh };
    log.apply(Command::CreateJoinToken(fresh.clone())).expect("made");
    assert_eq!(log.state.join_tokens().map(|token| token.id).collect::<Vec<_>>(), [fresh.id]);
    assert!(log.apply(Command::CreateJoinToken(fresh)).is_err(), "its id is taken");
}

#[test]
fn a_removed_node_loses_what_it_ran_and_never_comes_back() {
    let mut log = Log::new();
    assert!(words(log.apply(Command::RemoveNode(NodeId::FOUNDER))).contains("only one that answers"));
    let token = JoinToken { role: NodeRole::VoterEligible, ..log.token() };
    log.state = State::from_records(log.state.records().chain([token.into()]));
    let Ok(Outcome::Node(two)) = log.join("two") else { panic!("it joins") };
    let only = "only one that answers and may vote";
    assert!(words(log.apply(Command::RemoveNode(NodeId::FOUNDER))).contains(only), "the other one never came up");
    log.apply(Command::RegisterNode(NodeFacts { id: two, name: "two".to_owned(), ..facts() })).expect("registers");
    log.apply(Command::NoteAbsence { node: two, absent: true }).expect("noted");
    assert!(words(log.apply(Command::RemoveNode(NodeId::FOUNDER))).contains(only), "the other one does not answer");
    log.apply(Command::NoteAbsence { node: two, absent: false }).expect("noted");
    assert!(words(log.apply(Command::FenceNode(NodeId::FOUNDER))).contains("was not removed"));
    let mut running = Instance::clone(log.state.instances().next().expect("a sample"));
    running.status.state = InstanceState::Running;
    log.state = State::from_records(log.state.records().chain([running.clone().into()]));
    log.apply(Command::RemoveNode(NodeId::FOUNDER)).expect("removed");
    assert_eq!(log.state.instance(running.id).map(|instance| instance.status.state), Some(InstanceState::Lost));
    assert!(log.state.node(NodeId::FOUNDER).is_none() && log.state.absence(NodeId::FOUNDER).is_none());
    log.apply(Command::RemoveNode(NodeId::FOUNDER)).expect("is removed already");
    assert!(words(log.apply(Command::RegisterNode(facts()))).contains("was removed"));
    let stranger = NodeFacts { id: NodeId(7), ..facts() };
    assert!(words(log.apply(Command::RegisterNode(stranger))).contains("never let in"));
    log.apply(Command::FenceNode(NodeId::FOUNDER)).expect("the group can do without it");
    let fenced_at = log.state.admission(NodeId::FOUNDER).expect("a tombstone").fenced_at;
    log.now = AT.plus(Duration::from_secs(60));
    log.apply(Command::FenceNode(NodeId::FOUNDER)).expect("it is already");
    assert_eq!(log.state.admission(NodeId::FOUNDER).expect("a tombstone").fenced_at, fenced_at);
}

#[test]
fn a_drain_cordons_outlives_a_restart_and_ends_with_uncordoning() {
    let mut log = Log::new();
    let node = |log: &Log| (**log.state.node(NodeId::FOUNDER).expect("a sample")).clone();
    log.apply(Command::CordonNode { node: NodeId::FOUNDER, cordoned: false }).expect("uncordoned");
    assert_eq!((node(&log).cordoned, node(&log).drain), (false, None));
    let drain = |stop_exclusive| Command::DrainNode { node: NodeId::FOUNDER, stop_exclusive, stop_volumes: false };
    log.apply(drain(false)).expect("begins");
    log.now = AT.plus(Duration::from_secs(5));
    log.apply(drain(true)).expect("more may be stopped");
    let wanted = Some(Drain { since: AT, stop_exclusive: true, stop_volumes: false });
    assert_eq!((node(&log).cordoned, node(&log).drain), (true, wanted));
    log.apply(Command::RegisterNode(facts())).expect("it starts again");
    assert_eq!((node(&log).cordoned, node(&log).drain), (true, wanted));
    log.apply(Command::CordonNode { node: NodeId::FOUNDER, cordoned: true }).expect("is already");
    assert_eq!(node(&log).drain, wanted);
    log.apply(Command::CordonNode { node: NodeId::FOUNDER, cordoned: false }).expect("ended");
    assert_eq!((node(&log).cordoned, node(&log).drain), (false, None));
    let nobody = Command::DrainNode { node: NodeId(7), stop_exclusive: false, stop_volumes: false };
    assert!(matches!(log.apply(nobody), Err(Rejection::NotFound(_))));
}

#[test]
fn labels_that_were_changed_outlive_restarts() {
    let mut log = Log::new();
    let labels = |log: &Log| log.state.node(NodeId::FOUNDER).expect("a sample").labels.clone();
    let change = |changes: &[(&str, Option<&str>)]| {
        let changes = changes.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
        Command::LabelNode { node: NodeId::FOUNDER, changes }
    };
    // Started with disk=ssd.
    log.apply(change(&[("disk", None), ("gpu", Some("yes"))])).expect("changed");
    let gpu = BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]);
    assert_eq!(labels(&log), gpu);
    log.apply(Command::RegisterNode(facts())).expect("it starts again");
    assert_eq!(labels(&log), gpu);
    log.apply(change(&[("disk", Some("hdd"))])).expect("changed");
    assert_eq!(labels(&log)["disk"], "hdd");
    for bad in [("", Some("x")), ("a=b", Some("x")), ("-a", None), ("a", Some("")), ("a", Some("x\ny"))] {
        assert!(words(log.apply(change(&[bad]))).contains("label"), "{bad:?}");
    }
    let many: Vec<String> = (0..70).map(|number| format!("k{number}")).collect();
    let many: Vec<(&str, Option<&str>)> = many.iter().map(|key| (key.as_str(), Some("v"))).collect();
    assert!(matches!(log.apply(change(&many)), Err(Rejection::Quota(_))));
}

#[test]
fn until_it_registers_a_node_says_where_it_is() {
    let mut log = Log::new();
    let Ok(Outcome::Node(two)) = log.join("two") else { panic!("it joins") };
    let readdress = |node, address: &str| Command::ReaddressNode { node, address: address.to_owned() };
    log.apply(readdress(two, "10.0.0.9:9090")).expect("it moved");
    assert_eq!(log.state.admission(two).expect("a member").address, "10.0.0.9:9090");
    assert!(words(log.apply(readdress(two, "10.0.0.9"))).contains("address"));
    assert!(matches!(log.apply(readdress(NodeId(7), "10.0.0.9:9090")), Err(Rejection::NotFound(_))));
    let taken = NodeFacts { id: two, ..facts() };
    assert!(words(log.apply(Command::RegisterNode(taken))).contains("a node named one"));
    log.apply(Command::RegisterNode(NodeFacts { id: two, name: "deux".to_owned(), ..facts() })).expect("registers");
    assert_eq!(log.state.admission(two).expect("a member").name, "deux");
    log.apply(readdress(two, "10.0.0.10:9090")).expect("late, and changes nothing");
    assert_eq!(log.state.admission(two).expect("a member").address, "10.0.0.9:9090");
    log.apply(Command::NoteAbsence { node: NodeId::FOUNDER, absent: false }).expect("noted");
    log.apply(Command::RemoveNode(two)).expect("removed");
    assert!(words(log.apply(readdress(two, "10.0.0.11:9090"))).contains("was removed"));
}

#[test]
fn nonsense_is_refused_by_name() {
    let mut log = Log::new();
    for (name, address, field) in [
        ("../two", "10.0.0.2:9090", "name"),
        ("", "10.0.0.2:9090", "name"),
        ("two", "10.0.0.2", "address"),
        ("two", "10.0.0.2:0", "address"),
        ("two", "[::1:9090", "address"),
        ("two", "http://x:1", "address"),
    ] {
        let JoinToken { id, digest, .. } = log.token();
        let (name, address) = (name.to_owned(), address.to_owned());
        let admit = Command::AdmitNode { token: id, digest, name, address, cluster_version_max: 1 };
        let refused = words(log.apply(admit));
        assert!(refused.contains(field), "{refused}");
    }
}
