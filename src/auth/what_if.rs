//! What would become of a node's instances without it, for administrators, who see those of all organisations.

use std::sync::Arc;

use crate::decide::{self, Situation, what_if};
use crate::model::{App, Deployment, Instance, Node, NodeId, Timestamp};

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

impl Caller {
    /// Where the instances of a node would go if it were not there.
    pub fn moves_without(&self, node: NodeId, options: &decide::Options, now: Timestamp) -> Result<Vec<Moving>, Error> {
        self.require_admin()?;
        self.node(node)?;
        let state = &self.0.state;
        let down = state.absences().map(|absence| absence.node).collect();
        let moves = what_if::without(Situation { state, now, down: &down, options }, node);
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
