//! Commands about deployments.

use crate::model::{
    Artifact, Cause, Deployment, DeploymentId, DeploymentStatus, Desired, Digest, Instance, InstanceId, Invalid,
    NodeId, Service, SessionId, Source, SourceId, check_git_ref, image_by_digest, is_image_by_tag,
};
use crate::state::{Key, NewDeployment, Outcome, Rejection};

use super::{Answer, Draft, not_found};

impl Draft {
    fn deployment(&self, id: DeploymentId) -> Result<Deployment, Rejection> {
        self.state
            .deployment(id)
            .map(|deployment| Deployment::clone(deployment))
            .ok_or_else(|| not_found("deployment", id))
    }

    /// New deployments, whose builds run `anew`, or only if nobody has built the same.
    pub(super) fn deploy(&mut self, requests: &[NewDeployment], anew: bool) -> Answer {
        let mut made = Vec::new();
        for request in requests {
            self.deploy_one(request, anew)?;
            made.push(request.id);
        }
        Ok(Outcome::Deployments(made))
    }

    fn deploy_one(&mut self, new: &NewDeployment, anew: bool) -> Result<(), Rejection> {
        self.check_new(Key::Deployment(new.id))?;
        let mut service = self.service(new.service)?;
        service.last_version += 1;
        service.desired = Desired::Running;
        service.updated_at = self.now;
        let mut deployment = match new.cause {
            Cause::Deploy => self.as_specified(new, &service)?,
            Cause::Rollback(of) | Cause::Restart(of) | Cause::Start(of) => self.repeating(new, &service, of)?,
        };
        deployment.version = service.last_version;
        if deployment.build.is_some() {
            self.queue_build(new.build, new.id, service.app, service.id, 1)?;
            if anew {
                self.build_anew(new.build);
            }
        }
        self.put(service);
        self.put(deployment);
        Ok(())
    }

    fn as_specified(&self, new: &NewDeployment, service: &Service) -> Result<Deployment, Rejection> {
        let mut spec = service.spec.clone();
        if let Some(wanted) = &new.git_ref {
            let mut invalid = Invalid::default();
            invalid.check("git_ref", check_git_ref(wanted));
            invalid.into_result()?;
            match &mut spec.source {
                Source::Git { reference, .. } => reference.clone_from(wanted),
                other => {
                    let reason = format!("service {} has the source type {}, not git", service.name, other.type_name());
                    return Err(Rejection::Invalid(Invalid::field("git_ref", reason)));
                }
            }
        }
        if spec.source == Source::Upload && service.source.is_none() {
            return Err(Rejection::Precondition(format!(
                "nothing was uploaded for service {} yet; run `narvana deploy PATH` or POST its source first",
                service.name
            )));
        }
        let artifact = match &spec.source {
            Source::Image { image } => {
                Some(Artifact { image: image.clone(), image_id: None, revision: None, exposed_ports: Vec::new() })
            }
            _ => None,
        };
        let build = spec.source.needs_build().then_some(new.build);
        let status = if build.is_some() { DeploymentStatus::Pending } else { DeploymentStatus::Built };
        Ok(Deployment {
            id: new.id,
            app: service.app,
            service: service.id,
            service_name: service.name.clone(),
            version: 0,
            source: (spec.source == Source::Upload).then_some(service.source).flatten(),
            spec,
            cause: new.cause,
            build,
            artifact,
            status,
            reason: None,
            log_tail: Vec::new(),
            created_at: self.now,
            started_at: None,
            finished_at: None,
        })
    }

    /// The same thing once more: specification, environment and artifact of an older deployment.
    fn repeating(&self, new: &NewDeployment, service: &Service, of: DeploymentId) -> Result<Deployment, Rejection> {
        let old = self.deployment(of)?;
        if old.service != service.id {
            return Err(not_found("deployment", of));
        }
        if old.artifact.is_none() {
            return Err(Rejection::Precondition(format!(
                "version {} of service {} has no artifact to run: it was never built",
                old.version, service.name
            )));
        }
        Ok(Deployment {
            id: new.id,
            version: 0,
            cause: new.cause,
            build: None,
            status: DeploymentStatus::Built,
            reason: None,
            log_tail: Vec::new(),
            created_at: self.now,
            started_at: None,
            finished_at: None,
            ..old
        })
    }

    pub(super) fn change_deployment(&mut self, id: DeploymentId, change: impl FnOnce(&mut Deployment)) {
        let Ok(mut deployment) = self.deployment(id) else { return };
        if deployment.status.is_terminal() {
            return;
        }
        change(&mut deployment);
        self.put(deployment);
    }

    pub(super) fn fail_deployment(&mut self, id: DeploymentId, reason: &str, log_tail: &[String]) {
        let now = self.now;
        self.change_deployment(id, |deployment| {
            deployment.status = DeploymentStatus::Failed;
            deployment.reason = Some(reason.to_owned());
            deployment.log_tail = log_tail.to_vec();
            deployment.finished_at = Some(now);
        });
    }

    pub(super) fn advance_deployment(
        &mut self,
        id: DeploymentId,
        from: DeploymentStatus,
        to: DeploymentStatus,
        reason: Option<&str>,
        log_tail: &[String],
    ) -> Answer {
        let mut deployment = self.deployment(id)?;
        if deployment.status != from {
            return Err(Rejection::Conflict(format!("deployment {id} is {}, not {from}", deployment.status)));
        }
        if from.is_terminal() || to < from {
            return Err(Rejection::Precondition(format!("a deployment does not go from {from} to {to}")));
        }
        let needs_artifact = (DeploymentStatus::Built..=DeploymentStatus::Running).contains(&to);
        if needs_artifact && deployment.artifact.is_none() {
            return Err(Rejection::Precondition(format!("deployment {id} has no artifact, so it cannot be {to}")));
        }
        if to == DeploymentStatus::Running && from != to {
            return Err(Rejection::Precondition(format!("deployment {id} begins to serve by being promoted")));
        }
        deployment.status = to;
        deployment.reason = reason.map(str::to_owned);
        deployment.log_tail = log_tail.to_vec();
        if to.is_terminal() {
            deployment.finished_at = Some(self.now);
            self.abandon_build(&deployment);
            let mut service = self.service(deployment.service)?;
            if service.serving == Some(id) {
                service.serving = None;
                self.put(service);
            }
        }
        self.put(deployment);
        Ok(Outcome::Done)
    }

    /// The first to look decides what all instances run: a tag can mean another image a moment later.
    pub(super) fn pin_image(&mut self, id: DeploymentId, node: NodeId, digest: Digest, image_id: &str) -> Answer {
        let mut deployment = self.deployment(id)?;
        if deployment.status.is_terminal() {
            return Err(Rejection::Conflict(format!("deployment {id} is {}", deployment.status)));
        }
        let runs_here = |instance: &Instance| instance.placement.node == node && !instance.status.state.is_terminal();
        if !self.state.instances_of(id).any(|instance| runs_here(instance)) {
            return Err(Rejection::Conflict(format!("node {node} has no instance of deployment {id}")));
        }
        // It is looked up as a reference, and must not be one to something else.
        if Digest::from_algorithm_and_hex(image_id).is_err() {
            return Err(Rejection::Invalid(Invalid::field("image_id", "must be sha256: and 64 hex digits")));
        }
        let (Source::Image { image: by_tag }, Some(artifact)) = (&deployment.spec.source, &mut deployment.artifact)
        else {
            return Err(Rejection::Precondition(format!("what deployment {id} runs is built")));
        };
        let pinned = image_by_digest(by_tag, &digest);
        if artifact.image == pinned {
            return Ok(Outcome::Done);
        }
        if artifact.image != *by_tag || !is_image_by_tag(by_tag) {
            return Err(Rejection::Conflict(format!("deployment {id} runs {}", artifact.image)));
        }
        artifact.image = pinned;
        artifact.image_id = Some(image_id.to_owned());
        self.put(deployment);
        Ok(Outcome::Done)
    }

    pub(super) fn promote(&mut self, id: DeploymentId) -> Answer {
        let mut deployment = self.deployment(id)?;
        let mut service = self.service(deployment.service)?;
        if !matches!(deployment.status, DeploymentStatus::Scheduled | DeploymentStatus::Starting) {
            return Err(Rejection::Conflict(format!("deployment {id} is {}, not starting", deployment.status)));
        }
        if service.desired == Desired::Stopped {
            return Err(Rejection::Conflict(format!("service {} was stopped meanwhile", service.name)));
        }
        if let Some(old) = service.serving.filter(|old| *old != id) {
            let reason = format!("replaced by version {}", deployment.version);
            self.change_deployment(old, |old| {
                old.status = DeploymentStatus::Stopping;
                old.reason = Some(reason);
            });
        }
        deployment.status = DeploymentStatus::Running;
        deployment.reason = None;
        self.put(deployment);
        service.serving = Some(id);
        self.put(service);
        Ok(Outcome::Done)
    }

    pub(super) fn sweep(
        &mut self,
        instances: &[InstanceId],
        deployments: &[DeploymentId],
        sources: &[SourceId],
        sessions: &[SessionId],
    ) -> Answer {
        for id in instances {
            match self.state.instance(*id) {
                Some(instance) if !instance.status.state.is_terminal() => {
                    return Err(Rejection::Conflict(format!("instance {id} has not ended")));
                }
                Some(_) => self.delete(Key::Instance(*id)),
                None => {}
            }
        }
        for id in deployments {
            let Ok(deployment) = self.deployment(*id) else { continue };
            if !deployment.status.is_terminal() || self.state.instances_of(*id).next().is_some() {
                return Err(Rejection::Conflict(format!("deployment {id} has not ended, or has instances")));
            }
            self.delete_builds_of(*id);
            self.delete(Key::Deployment(*id));
        }
        for id in sources {
            self.sweep_source(*id)?;
        }
        for id in sessions {
            if self.state.session(*id).is_some_and(|session| session.expires_at <= self.now) {
                self.delete(Key::Session(*id));
            }
        }
        Ok(Outcome::Done)
    }
}
