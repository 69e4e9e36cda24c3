//! What can go wrong, by what the caller can do.

/// An engine did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The engine is down, hangs, or broke off: nothing is known about its containers. Try again later, and conclude
    /// nothing meanwhile.
    #[error("the container engine at {engine} does not answer ({action}): {cause}")]
    Unreachable {
        /// Its address.
        engine: String,
        /// What it was asked.
        action: String,
        /// What was seen.
        cause: String,
    },
    /// There is no such container, image, network or volume.
    #[error("{what} does not exist on this node's container engine")]
    NotFound {
        /// Kind and name.
        what: String,
    },
    /// The name is taken or the thing is in use. Look again, then decide.
    #[error("{action}: {reason}")]
    Conflict {
        /// What was asked.
        action: String,
        /// What the engine says.
        reason: String,
    },
    /// The image is not in the engine's store. Pull or build it first.
    #[error("image {image} is not on this node")]
    ImageNotFound {
        /// Its reference.
        image: String,
    },
    /// The image could not be fetched. The reason may pass (network) or not (a wrong name).
    #[error("cannot pull image {image}: {reason}")]
    PullFailed {
        /// Its reference.
        image: String,
        /// What the engine says.
        reason: String,
    },
    /// The image could not be sent to a registry.
    #[error("cannot push image {image}: {reason}")]
    PushFailed {
        /// Its reference.
        image: String,
        /// What the engine says.
        reason: String,
    },
    /// The build ran and failed: the source has to change.
    #[error("the image build failed: {reason}")]
    BuildFailed {
        /// What the engine says.
        reason: String,
        /// The last lines of the build's log, oldest first.
        last_lines: Vec<String>,
    },
    /// The engine refuses, and would again.
    #[error("the container engine refuses to {action}: {reason}")]
    Rejected {
        /// What was asked.
        action: String,
        /// What the engine says.
        reason: String,
    },
    /// The engine answered something that cannot be understood: a fault here or there.
    #[error("the container engine's answer to {action} cannot be understood: {cause}")]
    Garbled {
        /// What was asked.
        action: String,
        /// Why not.
        cause: String,
    },
}

impl Error {
    /// Whether nothing is known: the engine itself is not available.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
