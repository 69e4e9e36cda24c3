//! What commands carry, and what is answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{
    AppId, Artifact, BuildFailure, BuildId, Cause, DeploymentId, Incarnation, InstanceId, NodeId, NodeResources, OrgId,
    PasswordHash, Placement, Relocation, ServiceId, ServiceSpec, SessionId, SourceId, Timestamp, UserId,
};

/// What a node says of itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Identity.
    pub id: NodeId,
    /// Name for people.
    pub name: String,
    /// Address without port.
    pub address: String,
    /// Port of the API.
    pub api_port: u16,
    /// Port between nodes.
    pub grpc_port: u16,
    /// Port of the plain HTTP ingress; 0 when off.
    pub ingress_http_port: u16,
    /// Processor architecture as container images name it.
    pub arch: String,
    /// Version of the program.
    pub version: String,
    /// The newest version of a cluster that it supports.
    pub cluster_version_max: u32,
    /// The container engine, or why there is none.
    pub engine: Result<String, String>,
    /// What the machine has.
    pub resources: NodeResources,
    /// Labels from the command line.
    pub labels: BTreeMap<String, String>,
    /// This run of the process.
    pub incarnation: Incarnation,
}

/// A user to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewUser {
    /// Identity.
    pub id: UserId,
    /// Lower-cased address.
    pub email: String,
    /// Hash of the password.
    pub password: PasswordHash,
}

/// An app to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewApp {
    /// Identity.
    pub id: AppId,
    /// The organisation.
    pub org: OrgId,
    /// Who makes it.
    pub owner: UserId,
    /// Name, unique in the organisation.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Picture.
    pub icon_url: String,
    /// Its first services.
    pub services: Vec<NewService>,
}

/// A service to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewService {
    /// Identity.
    pub id: ServiceId,
    /// Name, unique in the app.
    pub name: String,
    /// What is wanted.
    pub spec: ServiceSpec,
}

/// What must be true of environment variables that are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvExpectation {
    /// Nothing: set it.
    Any,
    /// None of them exists yet.
    Absent,
    /// All of them exist.
    Present,
}

/// A deployment to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDeployment {
    /// Identity.
    pub id: DeploymentId,
    /// Identity of its build, should it need one.
    pub build: BuildId,
    /// Of which service.
    pub service: ServiceId,
    /// Why.
    pub cause: Cause,
    /// Branch, tag or commit instead of the one in the specification.
    pub git_ref: Option<String>,
}

/// An instance to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewInstance {
    /// Identity.
    pub id: InstanceId,
    /// Which replica.
    pub slot: u32,
    /// Which attempt at it.
    pub attempt: u32,
    /// Where and why.
    pub placement: Placement,
    /// Not to be started earlier.
    pub start_after: Timestamp,
    /// Whose place it takes, when that one works until then.
    pub relocation: Option<Relocation>,
}

/// How a build ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildResult {
    /// With an artifact.
    Succeeded(Artifact),
    /// With an error.
    Failed(BuildFailure),
    /// Because the user asked for it.
    Cancelled,
}

/// The answer to an accepted command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done; there is nothing to name.
    Done,
    /// A user, their organisation and session.
    Registered {
        /// The user.
        user: UserId,
        /// Their organisation.
        org: OrgId,
        /// Their session.
        session: SessionId,
    },
    /// A session.
    Session(SessionId),
    /// An app.
    App(AppId),
    /// A service.
    Service(ServiceId),
    /// Deployments, in the order they were asked for.
    Deployments(Vec<DeploymentId>),
    /// An uploaded source.
    Source(SourceId),
    /// A node.
    Node(NodeId),
}
