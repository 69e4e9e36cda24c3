//! Commands about the cluster and its settings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{
    Admission, Cluster, Invalid, JoinToken, NodeId, Rotation, RotationStep, Secret, Setting, SettingKey, Timestamp,
};
use crate::state::{Key, Outcome, Rejection};

use super::{Answer, Draft, not_found};

/// Instances moved at once when what runs is spread better.
const REBALANCED_MAX: u32 = 100;

impl Draft {
    pub(super) fn init_cluster(&mut self, cluster: &Cluster) -> Answer {
        if self.state.cluster().is_some() {
            return Err(Rejection::Conflict("the cluster exists already".to_owned()));
        }
        self.put(cluster.clone());
        Ok(Outcome::Done)
    }

    pub(super) fn set_settings(&mut self, values: &BTreeMap<SettingKey, String>) -> Answer {
        let mut invalid = Invalid::default();
        for (key, value) in values {
            invalid.check(key.as_str(), key.check(value));
        }
        invalid.into_result()?;
        for (key, value) in values {
            self.put(Setting { key: *key, value: value.clone() });
        }
        Ok(Outcome::Done)
    }

    pub(super) fn rebalance(&mut self, budget: u32) -> Answer {
        if budget > REBALANCED_MAX {
            return Err(Invalid::field("budget", format!("must be at most {REBALANCED_MAX}, got {budget}")).into());
        }
        let cluster = self.cluster()?;
        if cluster.rebalance != budget {
            self.put(Cluster { rebalance: budget, ..Cluster::clone(&cluster) });
        }
        Ok(Outcome::Done)
    }

    pub(super) fn reset_setting(&mut self, key: SettingKey) -> Answer {
        self.delete(Key::Setting(key));
        Ok(Outcome::Done)
    }

    pub(super) fn raise_cluster_version(&mut self, to: u32) -> Answer {
        let cluster = self.cluster()?;
        if to <= cluster.cluster_version {
            return Ok(Outcome::Done);
        }
        let held_back: Vec<String> = self.state.held_back(to).map(|member| member.to_string()).collect();
        if !held_back.is_empty() {
            return Err(Rejection::Precondition(format!(
                "cluster version {to} is not supported by {}: upgrade narvana there",
                held_back.join(", ")
            )));
        }
        self.put(Cluster { cluster_version: to, ..Cluster::clone(&cluster) });
        Ok(Outcome::Done)
    }

    /// Refuses a program that is older than the version of the cluster.
    pub(super) fn check_supports(&self, newest: u32) -> Result<(), Rejection> {
        let version = self.state.cluster_version();
        if newest >= version {
            return Ok(());
        }
        Err(Rejection::Precondition(format!(
            "the cluster is at cluster version {version}, and the program of this node supports up to {newest}: upgrade narvana \
             on this node to the version that the other nodes run"
        )))
    }

    pub(super) fn rotate_authority(&mut self, certificate: &str, key: &Secret) -> Answer {
        let cluster = self.cluster()?;
        if let Some(rotation) = &cluster.rotation {
            return Err(Rejection::Precondition(format!(
                "the authority is being rotated since {}; `narvana ca show` says what that waits for",
                rotation.begun_at
            )));
        }
        let rotation = Rotation {
            certificate: certificate.to_owned(),
            key: key.clone(),
            begun_at: self.now,
            step: RotationStep::Trust,
            done: BTreeSet::new(),
        };
        self.put(Cluster { rotation: Some(rotation), ..Cluster::clone(&cluster) });
        let usable = self.state.join_tokens().filter(|token| token.ended(self.now).is_none());
        let revoked: Vec<JoinToken> =
            usable.map(|token| JoinToken { revoked: true, ..JoinToken::clone(token) }).collect();
        for token in revoked {
            self.put(token);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn note_authority(&mut self, node: NodeId, step: RotationStep, begun_at: Timestamp) -> Answer {
        let cluster = self.cluster()?;
        if self.state.admission(node).is_none_or(|admission| admission.fenced_at.is_some()) {
            return Err(not_found("node", node));
        }
        // A late word about a step that everybody has taken changes nothing.
        let of_this = |rotation: &&Rotation| rotation.step == step && rotation.begun_at == begun_at;
        if let Some(rotation) = cluster.rotation.as_ref().filter(of_this) {
            let mut rotation = rotation.clone();
            rotation.done.insert(node);
            self.put(Cluster { rotation: Some(rotation), ..Cluster::clone(&cluster) });
            self.advance_rotation();
        }
        Ok(Outcome::Done)
    }

    /// Begins the next step when all members have taken this one. Also called when somebody is no member any more.
    pub(super) fn advance_rotation(&mut self) {
        let Some(cluster) = self.state.cluster().cloned() else { return };
        let Some(rotation) = &cluster.rotation else { return };
        // One that was removed and is still needed by the Raft group is heard, and so it has to be believed.
        let waits = |member: &Admission| member.fenced_at.is_none() && !rotation.done.contains(&member.node);
        if self.state.admissions().any(|member| waits(member)) {
            return;
        }
        let next = match rotation.step {
            RotationStep::Trust => {
                let rotation = Rotation { step: RotationStep::Show, done: BTreeSet::new(), ..rotation.clone() };
                Cluster { rotation: Some(rotation), ..Cluster::clone(&cluster) }
            }
            RotationStep::Show => Cluster {
                ca_certificate: rotation.certificate.clone(),
                ca_key: rotation.key.clone(),
                rotation: None,
                ..Cluster::clone(&cluster)
            },
        };
        self.put(next);
    }

    fn cluster(&self) -> Result<Arc<Cluster>, Rejection> {
        self.state.cluster().cloned().ok_or_else(|| Rejection::Precondition("there is no cluster yet".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Node, NodeRole};
    use crate::state::{Actor, Command, LogEntry, NodeFacts, State, apply, sample_entries, sample_records};

    struct Log(State, u64);

    impl Log {
        /// Two members, and a join token that can be used.
        fn new() -> Self {
            let state = State::from_records(sample_records());
            let token = JoinToken {
                revoked: false,
                uses_left: 1,
                ..JoinToken::clone(state.join_tokens().next().expect("a sample"))
            };
            let member = |node| Admission {
                node: NodeId(node),
                name: format!("n{node}"),
                address: "10.0.0.1:9090".to_owned(),
                role: NodeRole::VoterEligible,
                token: None,
                admitted_at: Timestamp(0),
                removed_at: None,
                fenced_at: None,
            };
            let removed = state.admissions().map(|other| Admission {
                removed_at: Some(Timestamp(0)),
                fenced_at: Some(Timestamp(0)),
                ..Admission::clone(other)
            });
            let records = state.records().chain(removed.map(Into::into));
            let records = records.chain([token.into(), member(101).into(), member(102).into()]);
            Self(State::from_records(records), 200)
        }

        fn apply(&mut self, command: Command) -> Answer {
            self.1 += 1;
            let entry = LogEntry { proposed_at: Timestamp(1_000), actor: Actor::System, request: None, command };
            let applied = apply(&self.0, self.1, &entry);
            self.0 = applied.state;
            applied.result
        }

        fn rotate(&mut self) -> Answer {
            self.apply(Command::RotateAuthority { certificate: "new".to_owned(), key: Secret::new(*b"key") })
        }

        fn note(&mut self, node: u64, step: RotationStep) {
            let note = Command::NoteAuthority { node: NodeId(node), step, begun_at: Timestamp(1_000) };
            self.apply(note).expect("noted");
        }

        fn step(&self) -> Option<RotationStep> {
            self.0.cluster().expect("a sample").rotation.as_ref().map(|rotation| rotation.step)
        }
    }

    #[test]
    fn an_authority_follows_when_every_member_took_both_steps() {
        let mut log = Log::new();
        let old = log.0.cluster().expect("a sample").ca_certificate.clone();
        log.rotate().expect("begun");
        assert!(log.rotate().expect_err("one at a time").to_string().contains("is being rotated"));
        assert!(log.0.join_tokens().all(|token| token.ended(Timestamp(1_000)).is_some()), "they name the old one");
        let cluster = log.0.cluster().expect("a sample");
        assert_eq!((cluster.signer().0, cluster.trusted()), (old.as_str(), format!("{old}new")));
        log.note(101, RotationStep::Trust);
        log.note(101, RotationStep::Trust);
        assert_eq!(log.step(), Some(RotationStep::Trust), "one of two");
        log.note(102, RotationStep::Trust);
        assert_eq!(log.step(), Some(RotationStep::Show));
        let cluster = log.0.cluster().expect("a sample");
        assert_eq!((cluster.signer().0, cluster.trusted()), ("new", format!("new{old}")));
        log.note(102, RotationStep::Trust);
        log.note(101, RotationStep::Show);
        assert_eq!(log.step(), Some(RotationStep::Show), "what was said of the step before does not count");
        log.note(102, RotationStep::Show);
        assert_eq!(log.step(), None);
        let cluster = log.0.cluster().expect("a sample");
        assert_eq!((cluster.signer().0, cluster.trusted().as_str()), ("new", "new"));
    }

    #[test]
    fn who_is_removed_is_not_waited_for_and_strangers_do_not_count() {
        let mut log = Log::new();
        log.rotate().expect("begun");
        log.note(101, RotationStep::Trust);
        let stranger =
            Command::NoteAuthority { node: NodeId(7), step: RotationStep::Trust, begun_at: Timestamp(1_000) };
        assert!(log.apply(stranger).is_err());
        let gone = Admission {
            removed_at: Some(Timestamp(0)),
            ..Admission::clone(log.0.admission(NodeId(102)).expect("a member"))
        };
        log.0 = State::from_records(log.0.records().chain([gone.into()]));
        log.apply(Command::FenceNode(NodeId(102))).expect("removed, and not needed any more");
        assert_eq!(log.step(), Some(RotationStep::Show));
    }

    #[test]
    fn the_version_is_raised_when_nobody_holds_it_back_and_never_lowered() {
        let mut log = Log::new();
        let sample = Node::clone(log.0.nodes().next().expect("a sample"));
        let node = |id: u64, newest| Node {
            id: NodeId(id),
            name: format!("n{id}"),
            cluster_version_max: newest,
            ..sample.clone()
        };
        let with = |state: &State, node: Node| State::from_records(state.records().chain([node.into()]));
        let reset = Command::ResetSetting(SettingKey::ServerDomain);
        let raise = |to| Command::RaiseClusterVersion { to };
        log.0 = with(&log.0, node(101, 2));
        let refused = log.apply(raise(2)).expect_err("one has never come up").to_string();
        assert!(refused.contains("node 102 n102 (has not said"), "{refused}");
        log.0 = with(&log.0, node(102, 1));
        let refused = log.apply(raise(2)).expect_err("one is old").to_string();
        assert!(refused.contains("node 102 n102 (narvana 0.1.0, supports cluster version 1)"), "{refused}");
        assert_eq!(log.0.cluster_version(), 1);
        let upgrade = log.0.upgrade().expect("one is new");
        assert_eq!((upgrade.to, upgrade.waits_for.len(), upgrade.waits_for[0].name.as_str()), (2, 1, "n102"));
        let refused = log.0.permits(&reset).expect_err("not yet").to_string();
        assert!(
            refused.contains("needs cluster version 2") && refused.contains("upgrade narvana on node 102"),
            "{refused}"
        );

        log.0 = with(&log.0, node(102, 3));
        assert!(log.0.permits(&reset).expect_err("not yet").to_string().contains("try again"));
        log.apply(raise(2)).expect("raised");
        log.apply(raise(1)).expect("changes nothing");
        assert_eq!(log.0.cluster_version(), 2);
        assert_eq!(log.0.permits(&reset), Ok(()));
        assert!(log.0.upgrade().is_some_and(|upgrade| upgrade.to == 3), "one supports more");
        log.apply(reset.clone()).expect("reset");
        log.apply(reset).expect("again");
        assert_eq!(log.0.setting(SettingKey::ServerDomain), SettingKey::ServerDomain.default_value());
    }

    #[test]
    fn a_program_that_is_older_than_the_cluster_is_refused() {
        let mut log = Log::new();
        let cluster = Cluster { cluster_version: 2, ..Cluster::clone(log.0.cluster().expect("a sample")) };
        log.0 = State::from_records(log.0.records().chain([cluster.into()]));
        let older = |command: Command| match command {
            Command::RegisterNode(facts) => {
                let (id, name) = (NodeId(101), "n101".to_owned());
                Some(Command::RegisterNode(NodeFacts { id, name, cluster_version_max: 1, ..facts }))
            }
            Command::AdmitNode { token, digest, name, address, .. } => {
                Some(Command::AdmitNode { token, digest, name, address, cluster_version_max: 1 })
            }
            _ => None,
        };
        for command in sample_entries().into_iter().filter_map(|entry| older(entry.command)) {
            let refused = log.apply(command).expect_err("too old").to_string();
            assert!(refused.contains("at cluster version 2") && refused.contains("supports up to 1"), "{refused}");
        }
    }
}
