//! Identities. Each kind of thing has its own type, so that one cannot be passed for another.
//!
//! Ids are made by whoever proposes a command (`crate::random`), never while applying one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )*};
}

uuid_id! {
    /// A cluster, for life.
    ClusterId,
    /// An organisation.
    OrgId,
    /// A person with an account.
    UserId,
    /// One log-in of one user; the `sid` of its token.
    SessionId,
    /// An application: a named group of services.
    AppId,
    /// A service of an application.
    ServiceId,
    /// One attempt to bring a service to a specification.
    DeploymentId,
    /// One run from source to artifact.
    BuildId,
    /// One container-to-be on one node.
    InstanceId,
    /// An uploaded source tree.
    SourceId,
    /// Names one request of a client, so that repeating it changes nothing.
    RequestId,
    /// One run of a node's process; a new one is made at every start.
    Incarnation,
    /// A join token, without its secret.
    JoinTokenId,
}

impl InstanceId {
    /// The short form used in container names: the last twelve hex digits, which are random in every id version used.
    pub fn short(&self) -> String {
        let hex = self.0.as_simple().to_string();
        hex[20..].to_owned()
    }
}

/// A member of the cluster, for life: the log index of the entry that admitted it (1 for the founder). Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The node that `init` makes.
    pub const FOUNDER: Self = Self(1);
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
