//! What can be asked of the state.
//!
//! Commands carry everything that is not determined by the state: ids, times and random values are made by the
//! proposer. Variants are only ever appended, since the stored encoding names them by position.

mod content;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{
    AppId, BuildId, BuildParts, BuildRecipe, Cluster, DeploymentId, DeploymentStatus, Desired, EnvVars, InstanceId,
    InstanceStatus, JoinToken, JoinTokenId, Lease, NodeId, OrgId, RequestId, RotationStep, Secret, ServiceId,
    ServiceSpec, Session, SessionId, SettingKey, SourceId, Timestamp, UploadedSource, UserId,
};

pub use content::{
    BuildResult, EnvExpectation, NewApp, NewDeployment, NewInstance, NewService, NewUser, NodeFacts, Outcome,
};

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When it was proposed, by the proposer's clock. The only time that applying it knows.
    pub proposed_at: Timestamp,
    /// Who asked.
    pub actor: Actor,
    /// The client's request, so that repeating it changes nothing. Absent for the platform's own commands, which are
    /// harmless to repeat because of what they require of the state.
    pub request: Option<Request>,
    /// What was asked.
    pub command: Command,
}

impl LogEntry {
    /// The node that says this about itself or its own work, where only that one may.
    pub fn speaker(&self) -> Option<NodeId> {
        match (&self.command, self.actor) {
            (Command::RegisterNode(facts), _) => Some(facts.id),
            (
                Command::ReportInstance { node, .. }
                | Command::ReaddressNode { node, .. }
                | Command::NoteAuthority { node, .. }
                | Command::PinImage { node, .. },
                _,
            ) => Some(*node),
            (_, Actor::Node(node)) => Some(node),
            _ => None,
        }
    }
}

/// Who asked for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// The platform itself.
    System,
    /// A node, about itself or its own work.
    Node(NodeId),
    /// A person.
    User(UserId),
    /// Somebody who is not logged in: the first registration and log-in.
    Anonymous,
}

/// Identity of a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Derived from the actor and the idempotency key, or random.
    pub id: RequestId,
    /// Digest of what was asked, so that one key used for two different requests is noticed.
    pub fingerprint: [u8; 32],
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster.
    InitCluster(Cluster),
    /// A node describes itself, at each start of its process.
    RegisterNode(NodeFacts),
    /// The first user registers, and gets the first organisation.
    RegisterFirstUser {
        /// The user.
        user: NewUser,
        /// Identity of the organisation.
        org: OrgId,
        /// Name of the organisation.
        org_name: String,
        /// Their first session.
        session: Session,
    },
    /// A user logs in.
    OpenSession(Session),
    /// A user logs out.
    CloseSession(SessionId),
    /// A new app, with services or without: all or nothing.
    CreateApp(NewApp),
    /// Changes an app that is still at the version the caller saw.
    UpdateApp {
        /// Which.
        app: AppId,
        /// The version the caller saw.
        expected_version: u64,
        /// New name.
        name: Option<String>,
        /// New description.
        description: Option<String>,
        /// New picture.
        icon_url: Option<String>,
    },
    /// Deletes an app with all it has; its instances are stopped first by the leader.
    DeleteApp(AppId),
    /// A new service in an app.
    CreateService {
        /// In which app.
        app: AppId,
        /// The service.
        service: NewService,
    },
    /// Replaces a service's specification.
    UpdateService {
        /// Which.
        service: ServiceId,
        /// The generation the caller saw; the change is refused when it is another by now.
        expected_generation: u64,
        /// The new specification.
        spec: ServiceSpec,
    },
    /// Deletes a service that no other service depends on.
    DeleteService(ServiceId),
    /// Sets environment variables of a service: all or nothing.
    SetEnv {
        /// Of which.
        service: ServiceId,
        /// Name to value.
        entries: EnvVars,
        /// What must be true of the names.
        expectation: EnvExpectation,
    },
    /// Removes environment variables of a service.
    UnsetEnv {
        /// Of which.
        service: ServiceId,
        /// The names; each must exist.
        keys: BTreeSet<String>,
    },
    /// Makes an uploaded source the one that the next deployment of its service uses.
    AttachSource(UploadedSource),
    /// New deployments of services of one app: all or nothing.
    Deploy(Vec<NewDeployment>),
    /// Stops a service, or wants it running again.
    SetDesired {
        /// Which.
        service: ServiceId,
        /// What is wanted.
        desired: Desired,
    },
    /// Changes the number of instances at once, without a new deployment.
    Scale {
        /// Which.
        service: ServiceId,
        /// How many.
        replicas: u32,
    },
    /// Asks a build to end.
    CancelBuild(BuildId),
    /// Changes settings: all or nothing.
    SetSettings(BTreeMap<SettingKey, String>),
    /// The leader gives a queued build to a node.
    LeaseBuild {
        /// Which.
        build: BuildId,
        /// To whom.
        lease: Lease,
    },
    /// The leader declares a running build lost.
    LoseBuild {
        /// Which.
        build: BuildId,
        /// Why.
        reason: String,
        /// Identity of the run that follows it.
        retry: BuildId,
    },
    /// The builder says how a build ended.
    FinishBuild {
        /// Which.
        build: BuildId,
        /// The builder's lease; a result under another one is refused.
        lease: Lease,
        /// How.
        result: BuildResult,
    },
    /// The leader moves a deployment on. Refused unless it is at `from`.
    AdvanceDeployment {
        /// Which.
        deployment: DeploymentId,
        /// Where it must be now.
        from: DeploymentStatus,
        /// Where it goes; may be the same, to say a new reason.
        to: DeploymentStatus,
        /// Why.
        reason: Option<String>,
        /// The last lines of what made it fail.
        log_tail: Vec<String>,
    },
    /// The leader gives a deployment instances.
    AssignInstances {
        /// Which.
        deployment: DeploymentId,
        /// The instances.
        instances: Vec<NewInstance>,
    },
    /// The leader wants instances to end.
    StopInstances {
        /// Which.
        instances: Vec<InstanceId>,
        /// Why.
        reason: String,
    },
    /// A node says what it observed of one of its instances.
    ReportInstance {
        /// Which.
        instance: InstanceId,
        /// Who says so; must be the node it is assigned to.
        node: NodeId,
        /// What was observed.
        status: InstanceStatus,
    },
    /// The leader lets a deployment serve, in place of the one that served.
    Promote(DeploymentId),
    /// The leader forgets records that have ended and that nothing needs.
    Sweep {
        /// Instances that have ended.
        instances: Vec<InstanceId>,
        /// Deployments that have ended, with their builds.
        deployments: Vec<DeploymentId>,
        /// Sources that nothing uses.
        sources: Vec<SourceId>,
        /// Sessions that have expired.
        sessions: Vec<SessionId>,
    },
    /// A new right to join.
    CreateJoinToken(JoinToken),
    /// Takes a right to join back; nodes that used it stay.
    RevokeJoinToken(JoinTokenId),
    /// Lets a node in that showed the secret of a token. Its id is the index of this entry.
    AdmitNode {
        /// With which token.
        token: JoinTokenId,
        /// SHA-256 of the secret that it showed.
        digest: [u8; 32],
        /// Its name; no other member may have it.
        name: String,
        /// Where others reach it: host and port between nodes.
        address: String,
        /// The newest version of a cluster that its program supports.
        cluster_version_max: u32,
    },
    /// Ends a node's membership for ever. Its instances and builds are lost. It is refused as soon as the Raft group can do
    /// without it, which is when the leader says so with [`Command::FenceNode`].
    RemoveNode(NodeId),
    /// Lets a node take no new instances and builds, or lets it again.
    CordonNode {
        /// Which.
        node: NodeId,
        /// Whether it shall take none.
        cordoned: bool,
    },
    /// The leader found that a member does not answer, or answers again.
    NoteAbsence {
        /// Which.
        node: NodeId,
        /// Whether it does not answer.
        absent: bool,
    },
    /// The leader gives up instances on a node that does not answer; others take their place.
    LoseInstances {
        /// Which.
        instances: Vec<InstanceId>,
        /// Why.
        reason: String,
    },
    /// The leader found that the Raft group can do without a removed node: every member refuses it from then on.
    FenceNode(NodeId),
    /// A member that has not registered yet is reached elsewhere than it said when it was let in.
    ReaddressNode {
        /// Which.
        node: NodeId,
        /// Host and port between nodes.
        address: String,
    },
    /// Begins to replace the cluster's authority; join tokens that name the old one are of no use from then on.
    RotateAuthority {
        /// The new one's certificate, PEM.
        certificate: String,
        /// The new one's private key, PEM.
        key: Secret,
    },
    /// A member has taken a step of that.
    NoteAuthority {
        /// Which member.
        node: NodeId,
        /// Which step.
        step: RotationStep,
        /// Of the rotation that was begun then.
        begun_at: Timestamp,
    },
    /// Cordons a node, and has what runs there go elsewhere until it is uncordoned. Said again, it changes what may be stopped.
    DrainNode {
        /// Which.
        node: NodeId,
        /// Exclusive services may be stopped, to be started elsewhere.
        stop_exclusive: bool,
        /// Services with volumes may be stopped, to wait for the node.
        stop_volumes: bool,
    },
    /// Changes labels of a node, over those that it was started with.
    LabelNode {
        /// Which.
        node: NodeId,
        /// Each label with its new value, or nothing to take it away.
        changes: BTreeMap<String, Option<String>>,
    },
    /// Asks the leader to spread what runs better, once. The leader takes this back with a budget of 0 when it begins.
    Rebalance {
        /// Instances that may be moved.
        budget: u32,
    },
    /// Raises the version of the cluster, if every member supports it. Every program understands this one: who has not
    /// been upgraded must be able to refuse it.
    RaiseClusterVersion {
        /// To which.
        to: u32,
    },
    /// Makes a setting what it is by default.
    ResetSetting(SettingKey),
    /// A node says which image the tag of a deployment meant when it looked: all its instances run that one.
    PinImage {
        /// Of which.
        deployment: DeploymentId,
        /// Who looked; must have an instance of it.
        node: NodeId,
        /// The SHA-256 by which the registry has the image.
        digest: [u8; 32],
        /// The engine's id of it, which other engines may have without having asked the registry.
        image_id: String,
    },
    /// A builder says how it builds, before it does.
    KeepRecipe {
        /// The recipe, of a build that runs.
        recipe: BuildRecipe,
        /// The lease it works under.
        lease: Lease,
    },
    /// A builder says what it is going to build, and learns from the state whether somebody has built that, or is doing so.
    NoteInput {
        /// Which build; it runs.
        build: BuildId,
        /// What it is made from.
        parts: BuildParts,
        /// The build of the same whose image no node has that answers: what has one already is of no use.
        missing: Option<BuildId>,
        /// The lease it works under.
        lease: Lease,
    },
    /// As [`Command::Deploy`], and what is built for it is built whatever was built before.
    DeployAnew(Vec<NewDeployment>),
}
