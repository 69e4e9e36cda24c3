//! Builds: from source to artifact.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{AppId, BuildId, DeploymentId, Incarnation, NodeId, OLDEST_CLUSTER_VERSION, ServiceId, Timestamp};

/// One run from source to artifact. A run that was lost is followed by a new record, never revived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Identity.
    pub id: BuildId,
    /// For which deployment.
    pub deployment: DeploymentId,
    /// Of which app.
    pub app: AppId,
    /// Of which service.
    pub service: ServiceId,
    /// How far it is.
    pub status: BuildStatus,
    /// Who works on it; set while running, kept afterwards.
    pub lease: Option<Lease>,
    /// 1 for the first run, 2 for the run that followed a lost one.
    pub attempt: u32,
    /// That the user asked for it to end. The builder stops and reports `Cancelled`.
    pub cancel_requested: bool,
    /// What came out, when it succeeded.
    pub artifact: Option<Artifact>,
    /// Why it failed or was lost.
    pub failure: Option<BuildFailure>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a builder took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// How far a build is. Terminal states never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildStatus {
    /// Waits for a builder.
    Queued,
    /// A builder works on it.
    Running,
    /// Its artifact exists.
    Succeeded,
    /// It ended with an error.
    Failed,
    /// The user ended it.
    Cancelled,
    /// Its builder went away; retried once.
    Lost,
}

impl BuildStatus {
    /// The word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// Whether it will never change again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Lost)
    }
}

impl fmt::Display for BuildStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The right to work on a build: one node, in one run of its process. It ends with that run, so that nothing has to be
/// renewed through the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who.
    pub node: NodeId,
    /// In which run of its process.
    pub incarnation: Incarnation,
}

/// What a build made and an instance runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Of what was built the reference that every node knows; of what a service names its reference, by digest as soon as somebody
    /// has looked it up.
    pub image: String,
    /// The engine's id of the image, when it is known.
    pub image_id: Option<String>,
    /// Commit or digest of the source it was made from.
    pub revision: Option<String>,
    /// Ports that the image says it listens on.
    pub exposed_ports: Vec<u16>,
}

/// How a source was built that does not say it itself: what was found in it, and the files that were made for it. The state knows where it is;
/// it is a blob among the artifacts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecipe {
    /// Of which build.
    pub build: BuildId,
    /// The SHA-256 of the blob.
    pub digest: [u8; 32],
    /// Its size.
    pub bytes: u64,
}

/// What a build is made from, each part by its name with a SHA-256 of it: what is equal makes the same.
pub type BuildParts = BTreeMap<String, [u8; 32]>;

/// What is known of whether a build has to run: the same input is built once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInput {
    /// Of which build.
    pub build: BuildId,
    /// The user wants it to run whatever was built before.
    pub no_cache: bool,
    /// What it is made from; empty until its builder has seen the source.
    pub parts: BuildParts,
    /// The build of the same whose result it takes, or waits for. It runs itself when there is none.
    pub same_as: Option<BuildId>,
    /// The build of the same whose image no node had that answered.
    pub missing: Option<BuildId>,
    /// Log index of the entry with which its image was made, by itself or by the one it takes that from; 0 until there is one. Clocks do not
    /// say which image is the newest.
    pub made_at: u64,
}

impl BuildInput {
    /// Of a build of which nothing is known yet.
    pub fn of(build: BuildId) -> Self {
        Self { build, no_cache: false, parts: BuildParts::new(), same_as: None, missing: None, made_at: 0 }
    }
}

/// Why a build failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFailure {
    /// Which kind of failure, for programs.
    pub code: BuildCode,
    /// What happened, for people.
    pub message: String,
    /// What to do about it.
    pub next_step: String,
    /// The last lines of the build log.
    pub log_tail: Vec<String>,
}

/// Kinds of build failures, by the original's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildCode {
    /// The repository, or the ref in it, could not be read.
    RepositoryAccessFailed,
    /// There is no Dockerfile where one was expected.
    DockerfileNotFound,
    /// The configuration, or the Dockerfile, asks for something that is not allowed.
    InvalidConfig,
    /// A step of the build failed.
    BuildFailed,
    /// It took longer than allowed.
    BuildTimeout,
    /// It needed more memory than allowed.
    BuildOom,
    /// The node, its engine or its disk failed; the source is not to blame.
    Infrastructure,
    /// Nothing in the source says how it is built.
    NoLanguageDetected,
    /// It is in a language that this version does not build.
    UnsupportedLanguage,
    /// There is no flake where one was expected.
    FlakeNotFound,
    /// Something that it needs cannot be fetched, or is not locked.
    DependencyMissing,
}

impl BuildCode {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RepositoryAccessFailed => "REPOSITORY_ACCESS_FAILED",
            Self::DockerfileNotFound => "DOCKERFILE_NOT_FOUND",
            Self::InvalidConfig => "INVALID_CONFIG",
            Self::BuildFailed => "BUILD_FAILED",
            Self::BuildTimeout => "BUILD_TIMEOUT",
            Self::BuildOom => "BUILD_OOM",
            Self::Infrastructure => "INFRASTRUCTURE",
            Self::NoLanguageDetected => "NO_LANGUAGE_DETECTED",
            Self::UnsupportedLanguage => "UNSUPPORTED_LANGUAGE",
            Self::FlakeNotFound => "FLAKE_NOT_FOUND",
            Self::DependencyMissing => "DEPENDENCY_MISSING",
        }
    }

    /// The version of the cluster that it came with, and what says the same before it.
    fn origin(self) -> (u32, Self) {
        match self {
            Self::NoLanguageDetected | Self::UnsupportedLanguage | Self::FlakeNotFound => (4, Self::InvalidConfig),
            Self::DependencyMissing => (4, Self::BuildFailed),
            older => (OLDEST_CLUSTER_VERSION, older),
        }
    }

    /// The version of the cluster that it came with.
    pub fn since(self) -> u32 {
        self.origin().0
    }

    /// The code that says this in a cluster of a version.
    pub fn at(self, cluster_version: u32) -> Self {
        let (since, before) = self.origin();
        if since <= cluster_version { self } else { before }
    }
}
