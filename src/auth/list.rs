//! What a caller sees when they list things: only what is in their organisations.

use std::sync::Arc;

use crate::model::{
    Admission, App, AppId, Build, Cpu, Deployment, JoinToken, Membership, Memory, Node, NodeId, NodeRole, Org, OrgId,
    Role, Service, Timestamp, UserId,
};

use super::{Caller, Error, Scoped};

/// What instances of all organisations hold of a node: only sums, so that nobody's things can be told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Instances that have not ended.
    pub instances: usize,
    /// Cores reserved for them.
    pub cpu: Cpu,
    /// Memory reserved for them.
    pub memory: Memory,
}

impl Caller {
    /// What is reserved of a node.
    pub fn load_of(&self, node: NodeId) -> Load {
        let mut load = Load::default();
        for instance in self.0.state.live_instances().filter(|instance| instance.placement.node == node) {
            load.instances += 1;
            if let Some(deployment) = self.0.state.deployment(instance.deployment) {
                load.cpu.millis += deployment.spec.resources.cpu.millis;
                load.memory.bytes += deployment.spec.resources.memory.bytes;
            }
        }
        load
    }

    /// The join tokens, oldest first; for administrators of the cluster.
    pub fn join_tokens(&self) -> Result<impl Iterator<Item = Arc<JoinToken>> + '_, Error> {
        self.require_admin()?;
        Ok(self.0.state.join_tokens().cloned())
    }

    /// The address of whoever did something that only administrators see.
    pub fn email_of(&self, user: UserId) -> Option<String> {
        self.require_admin().ok()?;
        self.0.state.user(user).map(|user| user.email.clone())
    }

    /// Where members that answer are reached between nodes, those that never were absent first; for administrators of the
    /// cluster.
    pub fn member_addresses(&self) -> Result<Vec<String>, Error> {
        self.require_admin()?;
        let state = &self.0.state;
        let (here, away): (Vec<_>, Vec<_>) = state.nodes().partition(|node| state.absence(node.id).is_none());
        Ok(here.into_iter().chain(away).map(|node| node.peer_address()).collect())
    }

    /// What a node was let in as.
    pub fn role_of(&self, node: NodeId) -> Option<NodeRole> {
        self.0.state.admission(node).map(|admission| admission.role)
    }

    /// Since when a node has not answered, if it does not.
    pub fn absent_since(&self, node: NodeId) -> Option<Timestamp> {
        self.0.state.absence(node).map(|absence| absence.since)
    }

    /// Their organisations with their role in each, oldest first.
    pub fn orgs(&self) -> impl Iterator<Item = (Arc<Org>, Role)> + '_ {
        let state = &self.0.state;
        state.memberships_of(self.user().id).filter_map(|member| Some((state.org(member.org)?.clone(), member.role)))
    }

    /// The oldest organisation in which they have at least this role: where new things go when they name none.
    pub fn first_org(&self, role: Role) -> Option<OrgId> {
        self.memberships().find(|member| member.role >= role).map(|member| member.org)
    }

    /// Apps of their organisations, oldest first.
    pub fn apps(&self) -> impl Iterator<Item = Scoped<App>> + '_ {
        let mut mine: Vec<&Arc<App>> = self.memberships().flat_map(|member| self.0.state.apps_of(member.org)).collect();
        mine.sort_unstable_by_key(|app| app.id);
        mine.into_iter().map(|app| Scoped::new(app.clone(), app.org, self.0.clone()))
    }

    /// Services of their organisations, oldest first.
    pub fn services(&self) -> impl Iterator<Item = Scoped<Service>> + '_ {
        self.0.state.services().filter_map(|row| self.scoped_by_app(row, row.app))
    }

    /// Deployments of their organisations, newest first.
    pub fn deployments(&self) -> impl Iterator<Item = Scoped<Deployment>> + '_ {
        self.0.state.deployments().rev().filter_map(|row| self.scoped_by_app(row, row.app))
    }

    /// Builds of their organisations, newest first.
    pub fn builds(&self) -> impl Iterator<Item = Scoped<Build>> + '_ {
        self.0.state.builds().rev().filter_map(|row| self.scoped_by_app(row, row.app))
    }

    /// All nodes by id; every user may see them.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.0.state.nodes()
    }

    /// All that were let in and are not refused, oldest first, with what they said of themselves: nothing until they first came
    /// up, and after their removal.
    pub fn members(&self) -> impl Iterator<Item = (&Arc<Admission>, Option<&Arc<Node>>)> {
        let members = self.0.state.admissions().filter(|admission| admission.fenced_at.is_none());
        members.map(|admission| (admission, self.0.state.node(admission.node)))
    }

    fn memberships(&self) -> impl Iterator<Item = &Arc<Membership>> {
        self.0.state.memberships_of(self.user().id)
    }

    /// The row of an app, when that is in one of their organisations.
    fn scoped_by_app<T>(&self, row: &Arc<T>, app: AppId) -> Option<Scoped<T>> {
        let org = self.0.state.app(app)?.org;
        self.0.state.role(org, self.user().id)?;
        Some(Scoped::new(row.clone(), org, self.0.clone()))
    }
}
