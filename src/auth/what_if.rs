//! What would become of a node's instances without it, for administrators, who see those of all organisations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::decide::drain::{self, Fate};
use uuid::Uuid;

use crate::decide::rebalance::{self, Proposal};
use crate::decide::{self, Situation, what_if};
use crate::model::{
    App, BuildStatus, Cpu, Deployment, Drain, Incarnation, Instance, InstanceId, Memory, Node, NodeId, NodeResources,
    ServiceId, Timestamp,
};
use crate::state::State;

use super::{Caller, Error};

/// One instance that would have to move.
pub struct Moving {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its deployment.
    pub deployment: Arc<Deployment>,
    /// Its app.
    pub app: Arc<App>,
    /// That its service serves nobody until then.
    pub goes_down: bool,
    /// That it begins with empty volumes.
    pub leaves_volumes: bool,
    /// Where it would go with the reasons, or why it could not.
    pub to: Result<(Arc<Node>, Vec<String>), String>,
}

/// What becomes of one instance of a node that is emptied.
pub struct Departure {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its deployment.
    pub deployment: Arc<Deployment>,
    /// Its app.
    pub app: Arc<App>,
    /// What becomes of it.
    pub fate: Fate,
    /// The one that is to take its place, when that is on its way.
    pub successor: Option<Arc<Instance>>,
    /// Where its replica is to run.
    pub to: Option<Arc<Node>>,
}

/// What is left until a node is empty, or would be.
pub struct Departures {
    /// The node.
    pub node: Arc<Node>,
    /// Whether it is being emptied in this way; else this is only asked.
    pub draining: bool,
    /// In which way.
    pub drain: Drain,
    /// Instances that have not ended there.
    pub instances: Vec<Departure>,
    /// Builds that run there.
    pub builds: usize,
}

/// Services that would go down with a node, as `app/service`: of the caller's organisations, or of all for an administrator.
pub struct Loss {
    /// The node.
    pub node: Arc<Node>,
    /// Down until they have started elsewhere.
    pub back_elsewhere: BTreeSet<String>,
    /// Down until the node is back or something is done, with the reason.
    pub down_for_long: BTreeMap<String, String>,
}

impl Caller {
    /// What would go down with each node that the loss of which would take something down.
    pub fn losses(&self, options: &decide::Options, now: Timestamp) -> Vec<Loss> {
        let state = &self.0.state;
        let fenced = BTreeSet::new();
        let mut losses = what_if::Losses::of(Situation { state, now, fenced: &fenced, options });
        let mut found = Vec::new();
        for node in state.nodes() {
            let mut loss = Loss { node: node.clone(), back_elsewhere: BTreeSet::new(), down_for_long: BTreeMap::new() };
            for one in losses.without(node.id).into_iter().filter(|one| one.goes_down) {
                let Some(instance) = state.instance(one.instance) else { continue };
                let Some(name) = self.path_of(instance.service) else { continue };
                match one.to {
                    Ok(_) => drop(loss.back_elsewhere.insert(name)),
                    Err(why) => drop(loss.down_for_long.insert(name, why)),
                }
            }
            // One replica that finds room is enough to serve.
            loss.down_for_long.retain(|name, _| !loss.back_elsewhere.contains(name));
            if !loss.back_elsewhere.is_empty() || !loss.down_for_long.is_empty() {
                found.push(loss);
            }
        }
        found
    }

    /// A service as `app/service`: of the caller's organisations, or any for an administrator.
    pub fn path_of(&self, service: ServiceId) -> Option<String> {
        let state = &self.0.state;
        let service = state.service(service)?;
        let app = state.app(service.app)?;
        let may_see = self.require_admin().is_ok() || state.role(app.org, self.user().id).is_some();
        may_see.then(|| state.path_of(service.id)).flatten()
    }

    /// What emptying a node does, or would do. What is not said of stopping exclusive services and those with volumes is as
    /// the node is being emptied, else no.
    pub fn departures(
        &self,
        node: NodeId,
        (stop_exclusive, stop_volumes): (Option<bool>, Option<bool>),
        options: &decide::Options,
        now: Timestamp,
    ) -> Result<Departures, Error> {
        self.require_admin()?;
        let node = self.node(node)?;
        let state = &self.0.state;
        let usual = node.drain.unwrap_or(Drain { since: now, stop_exclusive: false, stop_volumes: false });
        let drain = Drain {
            since: usual.since,
            stop_exclusive: stop_exclusive.unwrap_or(usual.stop_exclusive),
            stop_volumes: stop_volumes.unwrap_or(usual.stop_volumes),
        };
        let fenced = BTreeSet::new();
        let found = drain::outlook_if(Situation { state, now, fenced: &fenced, options }, node.id, drain);
        let instances = found.into_iter().filter_map(|(instance, fate)| departure(state, instance, fate)).collect();
        let running = state.live_builds().filter(|build| build.status == BuildStatus::Running);
        let builds = running.filter(|build| build.lease.is_some_and(|lease| lease.node == node.id)).count();
        Ok(Departures { draining: node.drain == Some(drain), node, drain, instances, builds })
    }

    /// Where the instances of a node would go if it were not there; if it were removed, nothing would wait for its volumes.
    pub fn moves_without(
        &self,
        node: NodeId,
        is_removed: bool,
        options: &decide::Options,
        now: Timestamp,
    ) -> Result<Vec<Moving>, Error> {
        self.require_admin()?;
        self.node(node)?;
        let state = &self.0.state;
        let fenced = BTreeSet::new();
        let situation = Situation { state, now, fenced: &fenced, options };
        let moves = if is_removed { what_if::removed(situation, node) } else { what_if::without(situation, node) };
        let moving = |found: what_if::Move| {
            let instance = state.instance(found.instance)?.clone();
            let deployment = state.deployment(instance.deployment)?.clone();
            let app = state.app(instance.app)?.clone();
            let to = match found.to {
                Ok(placement) => Ok((state.node(placement.node)?.clone(), placement.reasons)),
                Err(why) => Err(why),
            };
            let (goes_down, leaves_volumes) = (found.goes_down, found.leaves_volumes);
            Some(Moving { instance, deployment, app, goes_down, leaves_volumes, to })
        };
        Ok(moves.into_iter().filter_map(moving).collect())
    }
}

/// An instance that had better be elsewhere, or a replica that would start.
pub struct Relocated {
    /// The instance; none for a replica that has none.
    pub instance: Option<Arc<Instance>>,
    /// Its deployment.
    pub deployment: Arc<Deployment>,
    /// Its app.
    pub app: Arc<App>,
    /// Which replica.
    pub slot: u32,
    /// Where it is.
    pub from: Option<Arc<Node>>,
    /// Name of the node where it would be.
    pub to: String,
    /// Why.
    pub reasons: Vec<String>,
}

/// A node that does not exist.
pub struct Newcomer {
    /// Cores.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Architecture; that of the first node when absent.
    pub arch: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Name of a node that does not exist.
const NEWCOMER: &str = "the new node";
/// Moves to it that are said at most.
const NEWCOMER_MOVES_MAX: usize = 100;

impl Caller {
    /// What rebalancing would move.
    pub fn rebalanced(&self, budget: u32, options: &decide::Options, now: Timestamp) -> Result<Vec<Relocated>, Error> {
        self.require_admin()?;
        let state = &self.0.state;
        let fenced = BTreeSet::new();
        let found = rebalance::propose(Situation { state, now, fenced: &fenced, options }, budget as usize);
        Ok(found.into_iter().filter_map(|proposal| relocated(state, proposal)).collect())
    }

    /// What one more node would change: what would start, then what would move to it.
    pub fn joined(
        &self,
        newcomer: Newcomer,
        options: &decide::Options,
        now: Timestamp,
    ) -> Result<Vec<Relocated>, Error> {
        self.require_admin()?;
        let state = &self.0.state;
        let fenced = BTreeSet::new();
        let node = newcomer.described(state, now);
        let found = what_if::joined(Situation { state, now, fenced: &fenced, options }, node, NEWCOMER_MOVES_MAX);
        let starts = found.starts.into_iter().filter_map(|(deployment, slot, placement)| {
            let deployment = state.deployment(deployment)?.clone();
            let app = state.app(deployment.app)?.clone();
            let to = name_of(state, placement.node);
            Some(Relocated { instance: None, deployment, app, slot, from: None, to, reasons: placement.reasons })
        });
        let starts: Vec<Relocated> = starts.collect();
        Ok(starts.into_iter().chain(found.moves.into_iter().filter_map(|it| relocated(state, it))).collect())
    }
}

impl Newcomer {
    fn described(self, state: &State, now: Timestamp) -> Node {
        let arch = self.arch.or_else(|| state.nodes().next().map(|node| node.arch.clone()));
        Node {
            // Above all that were ever given.
            id: NodeId(u64::MAX),
            name: NEWCOMER.to_owned(),
            address: String::new(),
            api_port: 0,
            grpc_port: 0,
            ingress_http_port: 0,
            arch: arch.unwrap_or_default(),
            version: String::new(),
            cluster_version_max: 0,
            engine: Ok(String::new()),
            resources: NodeResources { cpu: self.cpu, memory: self.memory, disk: Memory::default() },
            labels: self.labels,
            label_changes: BTreeMap::new(),
            cordoned: false,
            drain: None,
            incarnation: Incarnation(Uuid::nil()),
            joined_at: now,
            started_at: now,
        }
    }
}

fn name_of(state: &State, node: NodeId) -> String {
    state.node(node).map_or_else(|| NEWCOMER.to_owned(), |node| node.name.clone())
}

fn relocated(state: &State, proposal: Proposal) -> Option<Relocated> {
    let instance = state.instance(proposal.instance)?.clone();
    let deployment = state.deployment(instance.deployment)?.clone();
    let app = state.app(instance.app)?.clone();
    let (slot, to) = (instance.slot, name_of(state, proposal.to.node));
    let reasons = std::iter::once(proposal.reason).chain(proposal.to.reasons).collect();
    let from = state.node(proposal.from).cloned();
    Some(Relocated { instance: Some(instance), deployment, app, slot, from, to, reasons })
}

fn departure(state: &State, instance: InstanceId, fate: Fate) -> Option<Departure> {
    let instance = state.instance(instance)?.clone();
    let deployment = state.deployment(instance.deployment)?.clone();
    let app = state.app(instance.app)?.clone();
    let successor = match &fate {
        Fate::Moving(successor) => state.instance(*successor).cloned(),
        _ => None,
    };
    let to = match &fate {
        Fate::Moves(placement) | Fate::EndsFirst(placement) => state.node(placement.node),
        _ => successor.as_ref().and_then(|successor| state.node(successor.placement.node)),
    };
    Some(Departure { instance, deployment, app, to: to.cloned(), successor, fate })
}
