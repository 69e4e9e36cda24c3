//! Commands about builds.

use crate::model::{
    AppId, Artifact, Build, BuildCode, BuildFailure, BuildId, BuildInput, BuildParts, BuildRecipe, BuildStatus,
    Deployment, DeploymentId, DeploymentStatus, Lease, ServiceId, SourceId,
};
use crate::state::{BuildResult, Key, Outcome, Rejection};

use super::{Answer, Draft, not_found};

/// A build that was lost is run once more; one that was lost twice has failed.
pub const BUILD_ATTEMPTS_MAX: u32 = 2;

impl Draft {
    fn build(&self, id: BuildId) -> Result<Build, Rejection> {
        self.state.build(id).map(|build| Build::clone(build)).ok_or_else(|| not_found("build", id))
    }

    pub(super) fn queue_build(
        &mut self,
        id: BuildId,
        deployment: DeploymentId,
        app: AppId,
        service: ServiceId,
        attempt: u32,
    ) -> Result<(), Rejection> {
        self.check_new(Key::Build(id))?;
        self.put(Build {
            id,
            deployment,
            app,
            service,
            status: BuildStatus::Queued,
            lease: None,
            attempt,
            cancel_requested: false,
            artifact: None,
            failure: None,
            created_at: self.now,
            started_at: None,
            finished_at: None,
        });
        Ok(())
    }

    pub(super) fn lease_build(&mut self, id: BuildId, lease: Lease) -> Answer {
        let mut build = self.build(id)?;
        if build.status != BuildStatus::Queued {
            return Err(Rejection::Conflict(format!("build {id} is {}, not queued", build.status)));
        }
        let node = self.state.node(lease.node).ok_or_else(|| not_found("node", lease.node))?;
        if node.incarnation != lease.incarnation {
            return Err(Rejection::Conflict(format!("node {} was restarted meanwhile", node.name)));
        }
        build.status = BuildStatus::Running;
        build.lease = Some(lease);
        build.started_at = Some(self.now);
        let deployment = build.deployment;
        self.put(build);
        self.change_deployment(deployment, |deployment| {
            if deployment.status == DeploymentStatus::Pending {
                deployment.status = DeploymentStatus::Building;
            }
        });
        Ok(Outcome::Done)
    }

    pub(super) fn lose_build(&mut self, id: BuildId, reason: &str, retry: BuildId) -> Answer {
        let mut build = self.build(id)?;
        if build.status != BuildStatus::Running {
            return Err(Rejection::Conflict(format!("build {id} is {}, not running", build.status)));
        }
        build.status = BuildStatus::Lost;
        build.finished_at = Some(self.now);
        build.failure = Some(BuildFailure {
            code: BuildCode::Infrastructure,
            message: reason.to_owned(),
            next_step: "it is run once more by itself".to_owned(),
            log_tail: Vec::new(),
        });
        let (deployment, app, service, attempt) = (build.deployment, build.app, build.service, build.attempt);
        let cancelled = build.cancel_requested;
        self.put(build);
        if cancelled {
            self.fail_deployment(deployment, "the build was cancelled", &[]);
        } else if attempt < BUILD_ATTEMPTS_MAX {
            self.queue_build(retry, deployment, app, service, attempt + 1)?;
            if self.is_built_anew(id) {
                self.build_anew(retry);
            }
            self.change_deployment(deployment, |deployment| deployment.build = Some(retry));
        } else {
            let reason = format!("the build was lost {attempt} times, the last time because {reason}");
            self.fail_deployment(deployment, &reason, &[]);
        }
        Ok(Outcome::Done)
    }

    /// A build that runs, under this lease.
    fn leased_build(&self, id: BuildId, lease: Lease) -> Result<Build, Rejection> {
        let build = self.build(id)?;
        if build.status != BuildStatus::Running || build.lease != Some(lease) {
            return Err(Rejection::Conflict(format!("build {id} is not, or no longer, leased like this")));
        }
        Ok(build)
    }

    pub(super) fn keep_recipe(&mut self, recipe: &BuildRecipe, lease: Lease) -> Answer {
        self.leased_build(recipe.build, lease)?;
        self.put(recipe.clone());
        Ok(Outcome::Done)
    }

    fn is_built_anew(&self, id: BuildId) -> bool {
        self.state.input(id).is_some_and(|input| input.no_cache)
    }

    /// Has a queued build run whatever was built before.
    pub(super) fn build_anew(&mut self, build: BuildId) {
        self.put(BuildInput { no_cache: true, ..BuildInput::of(build) });
    }

    /// What comes first is the one that runs: whoever says later that it is made from the same waits for it.
    pub(super) fn note_input(
        &mut self,
        id: BuildId,
        parts: &BuildParts,
        missing: Option<BuildId>,
        lease: Lease,
    ) -> Answer {
        let build = self.leased_build(id, lease)?;
        let known = self.state.input(id).map_or_else(|| BuildInput::of(id), |known| BuildInput::clone(known));
        // Said again, late: it runs already, and others wait for it.
        if known.parts == *parts && known.same_as.is_none() {
            return Ok(Outcome::Done);
        }
        let same = match known.no_cache {
            true => None,
            false => self.state.same_build(&build, parts, missing.is_none()),
        };
        let same_as = same.map(|other| other.id);
        self.put(BuildInput { parts: parts.clone(), same_as, missing, ..known });
        Ok(Outcome::Done)
    }

    /// Notes when the image was made that a build has now.
    fn note_image(&mut self, id: BuildId, artifact: &Artifact) {
        let Some(known) = self.state.input(id).map(|input| BuildInput::clone(input)) else { return };
        // Each is kept under the name of its own service.
        let digest = |artifact: &Artifact| artifact.image.rsplit('@').next().map(str::to_owned);
        let has_the_same = |other: &Build| other.artifact.as_ref().and_then(digest) == digest(artifact);
        let other = known.same_as.filter(|other| self.state.build(*other).is_some_and(|other| has_the_same(other)));
        let made_at = other.and_then(|other| self.state.input(other)).map_or(self.index, |other| other.made_at);
        // One that waited in vain, and could not say so, has built.
        self.put(BuildInput { same_as: other, made_at, ..known });
    }

    pub(super) fn finish_build(&mut self, id: BuildId, lease: Lease, result: &BuildResult) -> Answer {
        let mut build = self.leased_build(id, lease)?;
        build.finished_at = Some(self.now);
        let deployment = build.deployment;
        match result {
            BuildResult::Succeeded(artifact) => {
                build.status = BuildStatus::Succeeded;
                build.artifact = Some(artifact.clone());
                self.put(build);
                self.note_image(id, artifact);
                self.change_deployment(deployment, |deployment| {
                    deployment.status = DeploymentStatus::Built;
                    deployment.artifact = Some(artifact.clone());
                });
            }
            BuildResult::Failed(failure) => {
                build.status = BuildStatus::Failed;
                build.failure = Some(failure.clone());
                self.put(build);
                let reason = format!("the build failed: {}; {}", failure.message, failure.next_step);
                self.fail_deployment(deployment, &reason, &failure.log_tail);
            }
            BuildResult::Cancelled => {
                build.status = BuildStatus::Cancelled;
                self.put(build);
                self.fail_deployment(deployment, "the build was cancelled", &[]);
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) fn cancel_build(&mut self, id: BuildId) -> Answer {
        let mut build = self.build(id)?;
        match build.status {
            BuildStatus::Queued => {
                build.status = BuildStatus::Cancelled;
                build.finished_at = Some(self.now);
                let deployment = build.deployment;
                self.put(build);
                self.fail_deployment(deployment, "the build was cancelled", &[]);
            }
            BuildStatus::Running => {
                build.cancel_requested = true;
                self.put(build);
            }
            status => return Err(Rejection::Precondition(format!("build {id} has ended already: it is {status}"))),
        }
        Ok(Outcome::Done)
    }

    /// Ends the build of a deployment that is not wanted any more.
    pub(super) fn abandon_build(&mut self, deployment: &Deployment) {
        let Some(mut build) = deployment.build.and_then(|id| self.build(id).ok()) else { return };
        match build.status {
            BuildStatus::Queued => {
                build.status = BuildStatus::Cancelled;
                build.finished_at = Some(self.now);
            }
            BuildStatus::Running => build.cancel_requested = true,
            _ => return,
        }
        self.put(build);
    }

    pub(super) fn delete_builds_of(&mut self, deployment: DeploymentId) {
        let builds: Vec<_> = self.state.builds_of(deployment).map(|build| build.id).collect();
        for build in builds {
            if self.state.recipe(build).is_some() {
                self.delete(Key::Recipe(build));
            }
            if self.state.input(build).is_some() {
                self.delete(Key::Input(build));
            }
            self.delete(Key::Build(build));
        }
    }

    pub(super) fn sweep_source(&mut self, id: SourceId) -> Result<(), Rejection> {
        let source = self.state.source(id).cloned().ok_or_else(|| not_found("source", id))?;
        let attached = self.state.service(source.service).is_some_and(|service| service.source == Some(id));
        let needed = self
            .state
            .deployments_of(source.service)
            .any(|deployment| deployment.source == Some(id) && !deployment.status.is_terminal());
        if attached || needed {
            return Err(Rejection::Conflict(format!("source {id} is in use")));
        }
        self.delete(Key::Source(id));
        Ok(())
    }
}
