//! Why a caller does not get what they asked for.

/// A refusal, by what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody, or nobody we know: log in (again).
    #[error("{0}; log in and send the token as `Authorization: Bearer …`")]
    Unauthenticated(&'static str),
    /// The caller may see the object, but not do this to it.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such object, or it belongs to somebody else: the same answer on purpose. `0` names it: "app shop".
    #[error("{0} does not exist")]
    NotFound(String),
    /// The name means several objects of the caller.
    #[error("{0}")]
    Ambiguous(String),
}
