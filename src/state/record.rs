//! The rows of the state: what is stored, sent in snapshots and named by changes.

use std::sync::Arc;

use bincode::enc::write::SizeWriter;
use serde::{Deserialize, Serialize};

use crate::model::{
    Absence, Admission, App, AppId, Build, BuildId, BuildInput, BuildRecipe, Cluster, Deployment, DeploymentId, Epoch,
    Instance, InstanceId, JoinToken, JoinTokenId, Membership, Node, NodeId, OLDEST_CLUSTER_VERSION, Org, OrgId,
    RequestId, Service, ServiceId, Session, SessionId, Setting, SettingKey, SourceId, Timestamp, UploadedSource, User,
    UserId,
};

use super::{Outcome, Request};

/// One row. Variants are only ever appended, since the stored encoding names them by position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant holds the noun it is named after")]
pub enum Record {
    Cluster(Arc<Cluster>),
    Org(Arc<Org>),
    Membership(Arc<Membership>),
    User(Arc<User>),
    Session(Arc<Session>),
    App(Arc<App>),
    Service(Arc<Service>),
    Source(Arc<UploadedSource>),
    Deployment(Arc<Deployment>),
    Build(Arc<Build>),
    Instance(Arc<Instance>),
    Node(Arc<Node>),
    Setting(Arc<Setting>),
    Request(Arc<RequestRecord>),
    JoinToken(Arc<JoinToken>),
    Admission(Arc<Admission>),
    Absence(Arc<Absence>),
    Epoch(Arc<Epoch>),
    Recipe(Arc<BuildRecipe>),
    Input(Arc<BuildInput>),
}

/// The answer that a request got, kept for a while so that repeating the request gets it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The request.
    pub request: Request,
    /// When it was answered.
    pub at: Timestamp,
    /// Log index of the entry that did it.
    pub index: u64,
    /// The answer.
    pub outcome: Outcome,
}

/// Names one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant names the row it is named after")]
pub enum Key {
    Cluster,
    Org(OrgId),
    Membership(OrgId, UserId),
    User(UserId),
    Session(SessionId),
    App(AppId),
    Service(ServiceId),
    Source(SourceId),
    Deployment(DeploymentId),
    Build(BuildId),
    Instance(InstanceId),
    Node(NodeId),
    Setting(SettingKey),
    Request(RequestId),
    JoinToken(JoinTokenId),
    Admission(NodeId),
    Absence(NodeId),
    Epoch,
    Recipe(BuildId),
    Input(BuildId),
}

impl Key {
    /// The word for the kind of row, for errors and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Org(_) => "org",
            Self::Membership(..) => "membership",
            Self::User(_) => "user",
            Self::Session(_) => "session",
            Self::App(_) => "app",
            Self::Service(_) => "service",
            Self::Source(_) => "source",
            Self::Deployment(_) => "deployment",
            Self::Build(_) => "build",
            Self::Instance(_) => "instance",
            Self::Node(_) => "node",
            Self::Setting(_) => "setting",
            Self::Request(_) => "request",
            Self::JoinToken(_) => "join token",
            Self::Admission(_) => "admission",
            Self::Absence(_) => "absence",
            Self::Epoch => "epoch",
            Self::Recipe(_) => "recipe",
            Self::Input(_) => "input",
        }
    }

    /// The stored form: one byte for the kind, then the id. Keys of one kind sort as their ids do.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, parts): (u8, Vec<&[u8]>) = match self {
            Self::Cluster => (0, vec![]),
            Self::Org(id) => (1, vec![id.0.as_bytes()]),
            Self::Membership(org, user) => (2, vec![org.0.as_bytes(), user.0.as_bytes()]),
            Self::User(id) => (3, vec![id.0.as_bytes()]),
            Self::Session(id) => (4, vec![id.0.as_bytes()]),
            Self::App(id) => (5, vec![id.0.as_bytes()]),
            Self::Service(id) => (6, vec![id.0.as_bytes()]),
            Self::Source(id) => (7, vec![id.0.as_bytes()]),
            Self::Deployment(id) => (8, vec![id.0.as_bytes()]),
            Self::Build(id) => (9, vec![id.0.as_bytes()]),
            Self::Instance(id) => (10, vec![id.0.as_bytes()]),
            Self::Node(id) => return [&[11], &id.0.to_be_bytes()[..]].concat(),
            Self::Setting(key) => (12, vec![key.as_str().as_bytes()]),
            Self::Request(id) => (13, vec![id.0.as_bytes()]),
            Self::JoinToken(id) => (14, vec![id.0.as_bytes()]),
            Self::Admission(id) => return [&[15], &id.0.to_be_bytes()[..]].concat(),
            Self::Absence(id) => return [&[16], &id.0.to_be_bytes()[..]].concat(),
            Self::Epoch => (17, vec![]),
            Self::Recipe(id) => (18, vec![id.0.as_bytes()]),
            Self::Input(id) => (19, vec![id.0.as_bytes()]),
        };
        let mut bytes = vec![kind];
        for part in parts {
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

impl Record {
    /// The row's name.
    pub fn key(&self) -> Key {
        match self {
            Self::Cluster(_) => Key::Cluster,
            Self::Org(row) => Key::Org(row.id),
            Self::Membership(row) => Key::Membership(row.org, row.user),
            Self::User(row) => Key::User(row.id),
            Self::Session(row) => Key::Session(row.id),
            Self::App(row) => Key::App(row.id),
            Self::Service(row) => Key::Service(row.id),
            Self::Source(row) => Key::Source(row.id),
            Self::Deployment(row) => Key::Deployment(row.id),
            Self::Build(row) => Key::Build(row.id),
            Self::Instance(row) => Key::Instance(row.id),
            Self::Node(row) => Key::Node(row.id),
            Self::Setting(row) => Key::Setting(row.key),
            Self::Request(row) => Key::Request(row.request.id),
            Self::JoinToken(row) => Key::JoinToken(row.id),
            Self::Admission(row) => Key::Admission(row.node),
            Self::Absence(row) => Key::Absence(row.node),
            Self::Epoch(_) => Key::Epoch,
            Self::Recipe(row) => Key::Recipe(row.build),
            Self::Input(row) => Key::Input(row.build),
        }
    }

    /// The version of the cluster that its stored form came with.
    pub fn since(&self) -> u32 {
        match self {
            Self::Service(row) => row.spec.build.since(),
            Self::Deployment(row) => row.spec.build.since(),
            Self::Build(row) => row.failure.as_ref().map_or(OLDEST_CLUSTER_VERSION, |failure| failure.code.since()),
            Self::Setting(row) => row.key.since(),
            Self::Recipe(_) => 5,
            Self::Input(_) => 6,
            _ => OLDEST_CLUSTER_VERSION,
        }
    }

    /// How many bytes its stored form has, without the envelope around it. Allocates little.
    pub fn encoded_bytes(&self) -> u64 {
        let mut size = SizeWriter::default();
        let counted = bincode::serde::encode_into_writer(self, &mut size, bincode::config::standard());
        counted.expect("rows are plain data, and counting cannot run out of space");
        size.bytes_written as u64
    }
}

macro_rules! into_record {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl From<$type> for Record {
            fn from(row: $type) -> Self {
                Self::$variant(Arc::new(row))
            }
        }
    )*};
}

into_record! {
    Cluster => Cluster, Org => Org, Membership => Membership, User => User, Session => Session, App => App,
    Service => Service, UploadedSource => Source, Deployment => Deployment, Build => Build, Instance => Instance,
    Node => Node, Setting => Setting, RequestRecord => Request, JoinToken => JoinToken, Admission => Admission,
    Absence => Absence, Epoch => Epoch, BuildRecipe => Recipe, BuildInput => Input,
}

/// One row that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The row is now this.
    Put(Record),
    /// The row is gone.
    Delete(Key),
}

/// All rows that one entry changed, in order. A row may occur more than once; the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet(pub Vec<Change>);
