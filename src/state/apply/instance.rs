//! Commands about instances.

use crate::model::{DeploymentId, DeploymentStatus, Instance, InstanceId, InstanceStatus, NodeId};
use crate::state::{NewInstance, Outcome, Rejection};

use super::{Answer, Draft, not_found};

impl Draft {
    pub(super) fn assign_instances(&mut self, id: DeploymentId, new: &[NewInstance]) -> Answer {
        let deployment = self.state.deployment(id).cloned().ok_or_else(|| not_found("deployment", id))?;
        let can_have_instances = (DeploymentStatus::Built..=DeploymentStatus::Running).contains(&deployment.status);
        if !can_have_instances {
            return Err(Rejection::Conflict(format!(
                "deployment {id} is {}: it takes no instances",
                deployment.status
            )));
        }
        for instance in new {
            if self.state.node(instance.placement.node).is_none() {
                return Err(not_found("node", instance.placement.node));
            }
            let slot_taken = self.state.instances_of(id).any(|other| {
                other.slot == instance.slot && !other.status.state.is_terminal() && other.stop_requested.is_none()
            });
            if slot_taken || self.state.instance(instance.id).is_some() {
                return Err(Rejection::Conflict(format!(
                    "replica {} of deployment {id} has an instance",
                    instance.slot
                )));
            }
            self.put(Instance {
                id: instance.id,
                deployment: id,
                service: deployment.service,
                app: deployment.app,
                slot: instance.slot,
                attempt: instance.attempt,
                placement: instance.placement.clone(),
                start_after: instance.start_after,
                stop_requested: None,
                status: InstanceStatus::assigned(),
                created_at: self.now,
            });
        }
        let now = self.now;
        self.change_deployment(id, |deployment| {
            if deployment.status == DeploymentStatus::Built {
                deployment.status = DeploymentStatus::Scheduled;
                deployment.started_at = Some(now);
                deployment.reason = None;
            }
        });
        Ok(Outcome::Done)
    }

    pub(super) fn stop_instances(&mut self, ids: &[InstanceId], reason: &str) -> Answer {
        for id in ids {
            // One that is gone or has ended needs no stopping.
            let Some(instance) = self.state.instance(*id) else { continue };
            if instance.status.state.is_terminal() || instance.stop_requested.is_some() {
                continue;
            }
            let mut instance = Instance::clone(instance);
            instance.stop_requested = Some(reason.to_owned());
            self.put(instance);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn report_instance(&mut self, id: InstanceId, node: NodeId, status: &InstanceStatus) -> Answer {
        let mut instance =
            self.state.instance(id).map(|i| Instance::clone(i)).ok_or_else(|| not_found("instance", id))?;
        if instance.placement.node != node {
            return Err(Rejection::Conflict(format!("instance {id} is not assigned to node {node}")));
        }
        // Late and repeated reports change nothing: states only move forward, and the last one is final.
        if instance.status.state.is_terminal() || status.state < instance.status.state {
            return Err(Rejection::Conflict(format!(
                "instance {id} is {} already, the report says {}",
                instance.status.state, status.state
            )));
        }
        instance.status = status.clone();
        self.put(instance);
        Ok(Outcome::Done)
    }
}
