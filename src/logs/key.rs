//! What a log is named by.

use std::fmt;
use std::path::PathBuf;

use crate::model::{BuildId, InstanceId};

/// Whose log it is. Only ids, so that no text of a user ever becomes part of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogKey {
    /// The output of a build. It ends, and has a size after which it takes no more.
    Build(BuildId),
    /// The output of an instance. It goes on, and loses its oldest lines when it grows too large.
    Instance(InstanceId),
}

/// Folder of all build logs, below the store's.
pub(super) const BUILDS: &str = "builds";
/// Folder of all instance logs, below the store's.
pub(super) const INSTANCES: &str = "instances";

impl LogKey {
    /// The log's folder, relative to the store's.
    pub(super) fn path(self) -> PathBuf {
        match self {
            Self::Build(id) => PathBuf::from(BUILDS).join(id.to_string()),
            Self::Instance(id) => PathBuf::from(INSTANCES).join(id.to_string()),
        }
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(id) => write!(f, "build {id}"),
            Self::Instance(id) => write!(f, "instance {id}"),
        }
    }
}
