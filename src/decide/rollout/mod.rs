//! How deployments come up, take over, and end; how the serving one is kept whole.
//!
//! One decision per service and round, from the state alone: whatever was proposed before and whatever of it was
//! accepted, the next round sees the truth and goes on from there.

mod failure;
#[cfg(test)]
mod simulation;
mod slots;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Deployment, DeploymentId, DeploymentStatus, Desired, InstanceId, Service, ServiceId};
use crate::state::Command;

use super::plan::{Ids, Plan, Situation};
use super::schedule::Room;
pub(super) use failure::cause_of;
pub(super) use target::works;

/// Decides for every service that has a deployment in motion or serving.
pub(super) fn decide(situation: Situation<'_>, ids: &mut Ids<'_>, plan: &mut Plan) {
    let mut of_service: BTreeMap<ServiceId, Vec<Arc<Deployment>>> = BTreeMap::new();
    for deployment in situation.state.live_deployments() {
        of_service.entry(deployment.service).or_default().push(Arc::clone(deployment));
    }
    stop_leftovers(situation, plan);
    let mut room = None;
    for (service, deployments) in of_service {
        let Some(service) = situation.state.service(service) else { continue };
        let mut rollout = Rollout { situation, service, room: &mut room, ids: &mut *ids, plan: &mut *plan };
        rollout.decide(deployments);
    }
}

/// Instances of deployments that have ended, or are to end, have to stop.
fn stop_leftovers(situation: Situation<'_>, plan: &mut Plan) {
    let mut leftovers: BTreeMap<DeploymentId, Vec<InstanceId>> = BTreeMap::new();
    for instance in situation.state.live_instances().filter(|instance| instance.stop_requested.is_none()) {
        let unwanted = situation
            .state
            .deployment(instance.deployment)
            .is_none_or(|deployment| deployment.status >= DeploymentStatus::Stopping);
        if unwanted {
            leftovers.entry(instance.deployment).or_default().push(instance.id);
        }
    }
    for (deployment, instances) in leftovers {
        let reason = match situation.state.deployment(deployment) {
            Some(deployment) if deployment.status == DeploymentStatus::Failed => {
                format!("version {} failed", deployment.version)
            }
            Some(deployment) => deployment.reason.clone().unwrap_or_else(|| "its deployment has ended".to_owned()),
            None => "its deployment is gone".to_owned(),
        };
        plan.commands.push(Command::StopInstances { instances, reason });
    }
}

/// The decision for one service.
struct Rollout<'a, 'b> {
    situation: Situation<'a>,
    service: &'a Service,
    /// Built when the first instance has to be placed.
    room: &'b mut Option<Room>,
    ids: &'b mut Ids<'b>,
    plan: &'b mut Plan,
}

impl Rollout<'_, '_> {
    fn decide(&mut self, mut deployments: Vec<Arc<Deployment>>) {
        deployments.sort_by_key(|deployment| std::cmp::Reverse(deployment.version));
        for deployment in deployments.iter().filter(|deployment| deployment.status == DeploymentStatus::Stopping) {
            self.finish_stopping(deployment);
        }
        deployments.retain(|deployment| deployment.status != DeploymentStatus::Stopping);
        if self.service.desired == Desired::Stopped {
            for deployment in &deployments {
                self.end(deployment, "the service was stopped");
            }
            return;
        }
        // The newest is wanted; the serving one stays until that has taken over.
        let Some(newest) = deployments.first() else { return };
        let serving = deployments.iter().find(|deployment| deployment.status == DeploymentStatus::Running);
        for deployment in deployments.iter().skip(1).filter(|deployment| deployment.status.is_rolling_out()) {
            self.end(deployment, &format!("replaced by version {}", newest.version));
        }
        let mut has_the_floor = false;
        if newest.status.is_rolling_out() {
            has_the_floor = self.advance(newest, serving.map(|deployment| &**deployment));
        }
        if let Some(serving) = serving.filter(|_| !has_the_floor) {
            let waiting = self.keep_whole(serving);
            self.say(serving, waiting);
        }
    }

    /// Begins the end of a deployment; one without instances has ended at once.
    fn end(&mut self, deployment: &Deployment, reason: &str) {
        let empty = !self.has_live_instances(deployment.id);
        let to = if empty { DeploymentStatus::Stopped } else { DeploymentStatus::Stopping };
        self.move_to(deployment, to, Some(reason.to_owned()), Vec::new());
    }

    fn finish_stopping(&mut self, deployment: &Deployment) {
        if !self.has_live_instances(deployment.id) {
            self.move_to(deployment, DeploymentStatus::Stopped, deployment.reason.clone(), Vec::new());
        }
    }

    fn has_live_instances(&self, deployment: DeploymentId) -> bool {
        self.situation.state.instances_of(deployment).any(|instance| !instance.status.state.is_terminal())
    }

    fn move_to(
        &mut self,
        deployment: &Deployment,
        to: DeploymentStatus,
        reason: Option<String>,
        log_tail: Vec<String>,
    ) {
        self.plan.commands.push(Command::AdvanceDeployment {
            deployment: deployment.id,
            from: deployment.status,
            to,
            reason,
            log_tail,
        });
    }

    /// Records what a deployment waits for, or that it waits for nothing; only a change is worth a command.
    fn say(&mut self, deployment: &Deployment, reason: Option<String>) {
        if let Some(reason) = &reason {
            self.plan.waiting.insert(deployment.id, reason.clone());
        }
        if deployment.reason != reason {
            self.move_to(deployment, deployment.status, reason, Vec::new());
        }
    }

    fn room(&mut self) -> &mut Room {
        self.room.get_or_insert_with(|| Room::of(self.situation))
    }
}
