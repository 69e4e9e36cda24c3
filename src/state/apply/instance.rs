//! Commands about instances.

use std::time::Duration;

use crate::model::{
    Deployment, DeploymentId, DeploymentStatus, Instance, InstanceId, InstanceStatus, NodeId, ServiceId, Timestamp,
};
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
        let created_at = self.next_instant(deployment.service);
        // What waits from now on waits as long.
        let later = created_at.since(self.now);
        for instance in new {
            if self.state.node(instance.placement.node).is_none() {
                return Err(not_found("node", instance.placement.node));
            }
            self.check_slot(&deployment, instance)?;
            self.put(Instance {
                id: instance.id,
                deployment: id,
                service: deployment.service,
                app: deployment.app,
                slot: instance.slot,
                attempt: instance.attempt,
                placement: instance.placement.clone(),
                start_after: instance.start_after.plus(later),
                relocation: instance.relocation.clone(),
                stop_requested: None,
                status: InstanceStatus::assigned(),
                created_at,
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

    /// When instances of a service are made: now, and after all that were made before. Which was the last says where its volumes
    /// are and what may still run, and the clocks of two leaders differ.
    fn next_instant(&self, service: ServiceId) -> Timestamp {
        let before = self.state.deployments_of(service).flat_map(|other| self.state.instances_of(other.id));
        let newest = before.map(|instance| instance.created_at).max();
        newest.map_or(self.now, |newest| self.now.max(newest.plus(Duration::from_millis(1))))
    }

    /// A replica has one instance, or two while it moves; what runs alone has one for all its versions.
    fn check_slot(&self, deployment: &Deployment, new: &NewInstance) -> Result<(), Rejection> {
        let id = deployment.id;
        let taken = |slot: u32| Rejection::Conflict(format!("replica {slot} of deployment {id} has an instance"));
        let wanted = self.state.instances_of(id).filter(|other| {
            other.slot == new.slot && !other.status.state.is_terminal() && other.stop_requested.is_none()
        });
        let wanted: Vec<InstanceId> = wanted.map(|other| other.id).collect();
        let moved: Vec<InstanceId> = new.relocation.iter().map(|relocation| relocation.from).collect();
        if wanted != moved || self.state.instance(new.id).is_some() {
            return Err(taken(new.slot));
        }
        let mut of_service =
            self.state.deployments_of(deployment.service).flat_map(|other| self.state.instances_of(other.id));
        if deployment.spec.runs_alone() && of_service.any(|other| !other.status.state.is_terminal()) {
            return Err(Rejection::Conflict(format!(
                "service {} has an instance that has not ended: {}",
                deployment.service_name,
                deployment.spec.alone_because()
            )));
        }
        Ok(())
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
