//! Why a command changed nothing.

use serde::{Deserialize, Serialize};

use crate::model::Invalid;

/// A committed, deterministic refusal: every node gives the same one. By what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// The object does not exist. `0` names it: "service web".
    #[error("{0} does not exist")]
    NotFound(String),
    /// Somebody else was first: a name is taken, or the object changed meanwhile. Read it again and retry.
    #[error("{0}")]
    Conflict(String),
    /// Something has to happen first; the text says what.
    #[error("{0}")]
    Precondition(String),
    /// A value is not acceptable.
    #[error("invalid: {0}")]
    Invalid(Invalid),
    /// A limit is reached.
    #[error("{0}")]
    Quota(String),
    /// The state is as large as it may be.
    #[error(
        "the cluster's state would have {} MiB and may have {} MiB: delete apps, services or uploads that are not \
         needed, keep old deployments for a shorter time (cleanup_deployment_retention), or have an administrator \
         raise max_state_size, which takes memory and disk on every node",
        bytes.div_ceil(1 << 20), limit >> 20
    )]
    StateFull {
        /// Bytes that its rows would have.
        bytes: u64,
        /// Bytes that they may have.
        limit: u64,
    },
}

impl From<Invalid> for Rejection {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}
