//! What would become of a node's instances without it, for administrators, who see those of all organisations.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::decide::drain::{self, Fate};
use crate::decide::{self, Situation, what_if};
use crate::model::{App, BuildStatus, Deployment, Drain, Instance, InstanceId, Node, NodeId, Timestamp};
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

impl Caller {
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
        let node = self.node(node)?.clone();
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

    /// Where the instances of a node would go if it were not there.
    pub fn moves_without(&self, node: NodeId, options: &decide::Options, now: Timestamp) -> Result<Vec<Moving>, Error> {
        self.require_admin()?;
        self.node(node)?;
        let state = &self.0.state;
        let fenced = BTreeSet::new();
        let moves = what_if::without(Situation { state, now, fenced: &fenced, options }, node);
        let moving = |found: what_if::Move| {
            let instance = state.instance(found.instance)?.clone();
            let deployment = state.deployment(instance.deployment)?.clone();
            let app = state.app(instance.app)?.clone();
            let to = match found.to {
                Ok(placement) => Ok((state.node(placement.node)?.clone(), placement.reasons)),
                Err(why) => Err(why),
            };
            Some(Moving { instance, deployment, app, to })
        };
        Ok(moves.into_iter().filter_map(moving).collect())
    }
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
