//! Deployments: attempts to bring a service to a specification.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{AppId, Artifact, BuildId, DeploymentId, ServiceId, ServiceSpec, SourceId, Timestamp};

/// One attempt to bring a service to a specification: a numbered, immutable snapshot of everything it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Identity.
    pub id: DeploymentId,
    /// Of which app.
    pub app: AppId,
    /// Of which service.
    pub service: ServiceId,
    /// The service's name.
    pub service_name: String,
    /// 1, 2, 3 … per service.
    pub version: u64,
    /// What was wanted when it was made.
    pub spec: ServiceSpec,
    /// The uploaded source it is built from, for services with source type `upload`.
    pub source: Option<SourceId>,
    /// Why it was made.
    pub cause: Cause,
    /// The build that makes its artifact; none when there is nothing to build.
    pub build: Option<BuildId>,
    /// What it runs, as soon as that exists.
    pub artifact: Option<Artifact>,
    /// How far it is.
    pub status: DeploymentStatus,
    /// Why it failed, or what it waits for.
    pub reason: Option<String>,
    /// The last lines of what made it fail.
    pub log_tail: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its first instance was assigned.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// Why a deployment was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A user deployed the service as it is specified now.
    Deploy,
    /// A user went back to an older deployment.
    Rollback(DeploymentId),
    /// A user asked for new instances of the same thing.
    Restart(DeploymentId),
    /// A user started a stopped service.
    Start(DeploymentId),
}

/// How far a deployment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeploymentStatus {
    /// Made; waits for its build to begin. Of what builds nothing, also told instead of [`Self::Built`].
    Pending,
    /// Its build runs.
    Building,
    /// Its artifact exists; waits for dependencies and for room.
    Built,
    /// Its instances are assigned.
    Scheduled,
    /// Its instances are starting.
    Starting,
    /// All its replicas are up and it serves.
    Running,
    /// Its instances are being stopped.
    Stopping,
    /// It ended because a newer one replaced it or a user stopped it.
    Stopped,
    /// It could not be brought up.
    Failed,
}

impl Deployment {
    /// How far it is, in the words that are told: what builds nothing is not said to be built. It waits until it has a place.
    pub fn told_status(&self) -> DeploymentStatus {
        match self.status {
            DeploymentStatus::Built if !self.spec.source.needs_build() => DeploymentStatus::Pending,
            status => status,
        }
    }
}

impl DeploymentStatus {
    /// The word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Building => "building",
            Self::Built => "built",
            Self::Scheduled => "scheduled",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Whether it will never change again.
    pub fn is_terminal(self) -> bool {
        self >= Self::Stopped
    }

    /// Whether it is on its way to `running`.
    pub fn is_rolling_out(self) -> bool {
        self < Self::Running
    }
}

impl fmt::Display for DeploymentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
