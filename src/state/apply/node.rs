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
                "the cluster has a node named {name}: when that is what this machine was before, end it with `narvana node \
                 remove {name}` on a member, else choose another name with --name"
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
            Some(_) => Err(Rejection::Precondition(admission.farewell())),
        }
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Answer {
        let admission = self.state.admission(id).cloned().ok_or_else(|| not_found("node", id))?;
        if admission.removed_at.is_some() {
            return Ok(Outcome::Done);
        }
        self.state.check_removal(id)?;
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
mod tests;
