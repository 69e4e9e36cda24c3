//! Commands about nodes: who may join, who belongs, and in what state they are.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{
    Absence, Admission, Drain, Instance, InstanceId, InstanceState, Invalid, JoinToken, JoinTokenId, Node, NodeId,
    NodeRole, TokenEnd, check_label_key, check_label_value, check_node_address, check_node_name, peer_address,
};
use crate::state::{Key, NodeFacts, Outcome, Rejection};

use super::{Answer, Draft, not_found};

/// Join tokens of use at the same time.
const TOKENS_MAX: usize = 100;
/// How long a token of no use is kept, so that whoever still tries it is told what became of it.
const TOKEN_KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Labels of one node that were changed, those taken away included.
const LABEL_CHANGES_MAX: usize = 64;

impl Draft {
    pub(super) fn create_join_token(&mut self, token: &JoinToken) -> Answer {
        self.check_new(Key::JoinToken(token.id))?;
        if token.ended(self.now).is_some() {
            return Err(Rejection::Precondition(
                "a join token of no use cannot be made: it needs at least one use and a time in the future".to_owned(),
            ));
        }
        let (mut of_use, mut forgotten) = (0, Vec::new());
        for other in self.state.join_tokens() {
            match other.ended(self.now) {
                None => of_use += 1,
                Some(_) if self.now.since(other.expires_at) > TOKEN_KEPT_FOR => forgotten.push(other.id),
                Some(_) => {}
            }
        }
        if of_use >= TOKENS_MAX {
            return Err(Rejection::Quota(format!(
                "there are {TOKENS_MAX} join tokens that can be used: revoke some with `narvana token revoke`"
            )));
        }
        for id in forgotten {
            self.delete(Key::JoinToken(id));
        }
        self.put(token.clone());
        Ok(Outcome::Done)
    }

    pub(super) fn revoke_join_token(&mut self, id: JoinTokenId) -> Answer {
        let token = self.state.join_token(id).ok_or_else(|| not_found("join token", id))?;
        self.put(JoinToken { revoked: true, ..JoinToken::clone(token) });
        Ok(Outcome::Done)
    }

    pub(super) fn admit_node(&mut self, id: JoinTokenId, digest: &[u8; 32], name: &str, address: &str) -> Answer {
        let mut invalid = Invalid::default();
        invalid.check("name", check_node_name(name));
        invalid.check("address", check_node_address(address));
        invalid.into_result()?;
        // Whoever does not know the secret learns nothing of the token.
        let token = self.state.join_token(id).filter(|token| token.digest == *digest).cloned();
        let token = token.ok_or_else(|| Rejection::NotFound("a join token with this secret".to_owned()))?;
        let why = match token.ended(self.now) {
            None => None,
            Some(TokenEnd::Revoked) => Some("this join token was revoked"),
            Some(TokenEnd::Used) => Some("this join token was used already"),
            Some(TokenEnd::Expired) => Some("this join token has expired"),
        };
        if let Some(why) = why {
            return Err(Rejection::Precondition(format!(
                "{why}; make another one with `narvana token create` on a member of the cluster"
            )));
        }
        if self.state.members().any(|member| member.name == name) {
            return Err(Rejection::Conflict(format!(
                "the cluster has a node named {name}; choose another name with --name"
            )));
        }
        let node = NodeId(self.index);
        self.check_new(Key::Admission(node))?;
        self.put(JoinToken { uses_left: token.uses_left - 1, ..JoinToken::clone(&token) });
        self.put(Admission {
            node,
            name: name.to_owned(),
            address: address.to_owned(),
            role: token.role,
            token: Some(id),
            admitted_at: self.now,
            removed_at: None,
            fenced_at: None,
        });
        Ok(Outcome::Node(node))
    }

    pub(super) fn readdress_node(&mut self, id: NodeId, address: &str) -> Answer {
        let mut invalid = Invalid::default();
        invalid.check("address", check_node_address(address));
        invalid.into_result()?;
        let admission = self.member(id)?;
        if admission.address != address && self.state.node(id).is_none() {
            self.put(Admission { address: address.to_owned(), ..admission });
        }
        Ok(Outcome::Done)
    }

    pub(super) fn register_node(&mut self, facts: &NodeFacts) -> Answer {
        self.check_facts(facts)?;
        self.check_supports(facts.cluster_version_max)?;
        let known = self.state.node(facts.id).cloned();
        let facts = facts.clone();
        let label_changes = known.as_ref().map(|node| node.label_changes.clone()).unwrap_or_default();
        self.put(Node {
            id: facts.id,
            name: facts.name,
            address: facts.address,
            api_port: facts.api_port,
            grpc_port: facts.grpc_port,
            ingress_http_port: facts.ingress_http_port,
            arch: facts.arch,
            version: facts.version,
            cluster_version_max: facts.cluster_version_max,
            engine: facts.engine,
            resources: facts.resources,
            labels: labels_with(facts.labels, &label_changes),
            label_changes,
            cordoned: known.as_ref().is_some_and(|node| node.cordoned),
            drain: known.as_ref().and_then(|node| node.drain),
            incarnation: facts.incarnation,
            joined_at: known.as_ref().map_or(self.now, |node| node.joined_at),
            // A node says the same again when its engine comes or goes; that is not a new start.
            started_at: known
                .filter(|node| node.incarnation == facts.incarnation)
                .map_or(self.now, |node| node.started_at),
        });
        Ok(Outcome::Done)
    }

    /// Only a member describes itself, under a name that no other one has. The founder was let in by nobody, so its first
    /// word is what is kept of that.
    fn check_facts(&mut self, facts: &NodeFacts) -> Result<(), Rejection> {
        let mut invalid = Invalid::default();
        invalid.check("name", check_node_name(&facts.name));
        invalid.check("address", check_node_address(&peer_address(&facts.address, facts.grpc_port)));
        invalid.into_result()?;
        if self.state.members().any(|member| member.node != facts.id && member.name == facts.name) {
            return Err(Rejection::Conflict(format!(
                "the cluster has a node named {}; choose another name with --name",
                facts.name
            )));
        }
        match self.member(facts.id) {
            Ok(admission) if admission.name == facts.name => {}
            Ok(admission) => self.put(Admission { name: facts.name.clone(), ..admission }),
            Err(Rejection::NotFound(_)) if facts.id == NodeId::FOUNDER && self.state.epoch().is_none() => {
                self.put(Admission {
                    node: facts.id,
                    name: facts.name.clone(),
                    address: peer_address(&facts.address, facts.grpc_port),
                    role: NodeRole::VoterEligible,
                    token: None,
                    admitted_at: self.now,
                    removed_at: None,
                    fenced_at: None,
                })
            }
            Err(Rejection::NotFound(_)) => {
                return Err(Rejection::Precondition(format!("node {} was never let in", facts.id)));
            }
            Err(rejection) => return Err(rejection),
        }
        Ok(())
    }

    /// The record of a node that belongs to the cluster.
    fn member(&self, id: NodeId) -> Result<Admission, Rejection> {
        let admission = self.state.admission(id).ok_or_else(|| not_found("node", id))?;
        match admission.removed_at {
            None => Ok(Admission::clone(admission)),
            Some(_) => Err(Rejection::Precondition(format!(
                "node {id} was removed from this cluster; it can come back as a new node, in an empty data folder, with \
                 `narvana join`"
            ))),
        }
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Answer {
        let admission = self.state.admission(id).cloned().ok_or_else(|| not_found("node", id))?;
        if admission.removed_at.is_some() {
            return Ok(Outcome::Done);
        }
        let may_vote =
            |member: &Admission| member.role == NodeRole::VoterEligible && self.state.node(member.node).is_some();
        let could_lead =
            |member: &Admission| member.node != id && may_vote(member) && self.state.absence(member.node).is_none();
        if may_vote(&admission) && !self.state.members().any(|member| could_lead(member)) {
            return Err(Rejection::Precondition(format!(
                "node {} is the only one that answers and may vote; bring another one back, or let one join first with a \
                 token of role {}",
                admission.name,
                NodeRole::VoterEligible
            )));
        }
        let on_it = self.state.live_instances().filter(|instance| instance.placement.node == id);
        let on_it: Vec<InstanceId> = on_it.map(|instance| instance.id).collect();
        self.lose_instances(&on_it, &format!("node {} was removed from the cluster", admission.name))?;
        self.delete(Key::Node(id));
        self.delete(Key::Absence(id));
        self.put(Admission { removed_at: Some(self.now), ..Admission::clone(&admission) });
        Ok(Outcome::Done)
    }

    pub(super) fn fence_node(&mut self, id: NodeId) -> Answer {
        let admission = self.state.admission(id).ok_or_else(|| not_found("node", id))?;
        if admission.removed_at.is_none() {
            return Err(Rejection::Precondition(format!("node {} was not removed", admission.name)));
        }
        if admission.fenced_at.is_none() {
            self.put(Admission { fenced_at: Some(self.now), ..Admission::clone(admission) });
            self.advance_rotation();
        }
        Ok(Outcome::Done)
    }

    pub(super) fn cordon_node(&mut self, id: NodeId, cordoned: bool) -> Answer {
        let node = self.state.node(id).ok_or_else(|| not_found("node", id))?;
        if node.cordoned != cordoned {
            // Uncordoning ends a drain as well.
            let drain = node.drain.filter(|_| cordoned);
            self.put(Node { cordoned, drain, ..Node::clone(node) });
        }
        Ok(Outcome::Done)
    }

    pub(super) fn drain_node(&mut self, id: NodeId, stop_exclusive: bool, stop_volumes: bool) -> Answer {
        let node = self.state.node(id).ok_or_else(|| not_found("node", id))?;
        let since = node.drain.map_or(self.now, |drain| drain.since);
        let drain = Some(Drain { since, stop_exclusive, stop_volumes });
        if node.drain != drain {
            self.put(Node { cordoned: true, drain, ..Node::clone(node) });
        }
        Ok(Outcome::Done)
    }

    pub(super) fn label_node(&mut self, id: NodeId, changes: &BTreeMap<String, Option<String>>) -> Answer {
        let mut invalid = Invalid::default();
        for (key, value) in changes {
            invalid.check(format!("labels.{key}"), check_label_key(key));
            if let Some(value) = value {
                invalid.check(format!("labels.{key}"), check_label_value(value));
            }
        }
        invalid.into_result()?;
        let node = self.state.node(id).ok_or_else(|| not_found("node", id))?;
        let mut node = Node::clone(node);
        for (key, value) in changes {
            node.label_changes.insert(key.clone(), value.clone());
        }
        if node.label_changes.len() > LABEL_CHANGES_MAX {
            return Err(Rejection::Quota(format!(
                "{LABEL_CHANGES_MAX} labels of node {} can be changed, those taken away included, and not more",
                node.name
            )));
        }
        node.labels = labels_with(node.labels, changes);
        self.put(node);
        Ok(Outcome::Done)
    }

    pub(super) fn note_absence(&mut self, id: NodeId, absent: bool) -> Answer {
        if !self.state.members().any(|member| member.node == id) {
            return Err(not_found("node", id));
        }
        match (absent, self.state.absence(id).is_some()) {
            (true, false) => self.put(Absence { node: id, since: self.now }),
            (false, true) => self.delete(Key::Absence(id)),
            _ => {}
        }
        Ok(Outcome::Done)
    }

    pub(super) fn lose_instances(&mut self, ids: &[InstanceId], reason: &str) -> Answer {
        for id in ids {
            // One that is gone or has ended cannot be lost.
            let Some(instance) = self.state.instance(*id) else { continue };
            if instance.status.state.is_terminal() {
                continue;
            }
            let mut instance = Instance::clone(instance);
            instance.status.state = InstanceState::Lost;
            instance.status.reason = Some(reason.to_owned());
            instance.status.finished_at = Some(self.now);
            self.put(instance);
        }
        Ok(Outcome::Done)
    }
}

/// Labels under what was changed of them.
fn labels_with(
    mut labels: BTreeMap<String, String>,
    changes: &BTreeMap<String, Option<String>>,
) -> BTreeMap<String, String> {
    for (key, value) in changes {
        match value {
            Some(value) => drop(labels.insert(key.clone(), value.clone())),
            None => drop(labels.remove(key)),
        }
    }
    labels
}

#[cfg(test)]
mod tests {
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
}
