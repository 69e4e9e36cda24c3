//! What goes wrong in a request, and the one table from that to status and code.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::consensus::{ProposeError, ReadError};
use crate::model::Invalid;
use crate::state::Rejection;
use crate::{artifact, auth, logs};

/// Characters of a message or reason that are sent; ours have a few hundred.
const TEXT_CHARS_MAX: usize = 1_000;

/// Why a request was not done, by what the client can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// Change the request: each field with its reason.
    #[error("the request is not valid: {0}")]
    Invalid(Invalid),
    /// Change the request; no one field is to blame.
    #[error("{0}")]
    Malformed(String),
    /// Send fewer or smaller header fields.
    #[error("the header fields of the request are larger than this node reads")]
    LargeHead,
    /// Send faster.
    #[error("{0}")]
    TooSlow(String),
    /// Change the source, or choose another.
    #[error("{message}")]
    Source {
        /// The original's code of build errors.
        code: &'static str,
        /// What is wrong.
        message: String,
        /// What can be done.
        suggestions: Vec<String>,
    },
    /// Use another content type.
    #[error("{0}")]
    MediaType(String),
    /// The path exists with other methods.
    #[error("this path does not take {0}; see /api/docs for what it takes")]
    Method(String),
    /// Log in.
    #[error("{0}")]
    Unauthorized(String),
    /// Ask somebody who may.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It was done, and what it changed was deleted by somebody before this could be answered.
    #[error("it was done as asked, and what it changed has been deleted since: {0}")]
    Gone(String),
    /// Read the object again and retry, or do first what the message says.
    #[error("{0}")]
    Conflict(String),
    /// Send less.
    #[error("{0}")]
    TooLarge(String),
    /// Come back later.
    #[error("{message}")]
    RateLimited {
        /// What was too often.
        message: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// Too few members answer; nothing was changed. Retry.
    #[error("{0}")]
    NoQuorum(String),
    /// The node's disk is full; nothing was changed. Free space there.
    #[error("{0}")]
    DiskFull(String),
    /// The cluster holds as much as it may; nothing was changed. Delete something, or raise the limit.
    #[error("{0}")]
    StateFull(String),
    /// It may or may not have happened. Repeat with the same idempotency key.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// Not the client's fault. The cause is in the node's log under the request id.
    #[error("something went wrong on this node; its log has the cause under this request id")]
    Internal,
}

impl Error {
    /// One field and its reason.
    pub(super) fn field(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid(Invalid::field(name, reason))
    }

    /// Writes the cause to the node's log and keeps it from the client.
    pub(super) fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::Internal
    }

    /// Every error's status and code. Both are part of the interface.
    pub(super) fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Invalid(_) | Self::Malformed(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::LargeHead => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_large"),
            Self::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, "invalid_request"),
            Self::Source { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request"),
            Self::MediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "invalid_request"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Gone(_) => (StatusCode::GONE, "gone"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::NoQuorum(_) => (StatusCode::SERVICE_UNAVAILABLE, "no_quorum"),
            Self::DiskFull(_) => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            Self::StateFull(_) => (StatusCode::INSUFFICIENT_STORAGE, "state_full"),
            Self::OutcomeUnknown(_) => (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }

    /// The body, once the request's id is known.
    pub(super) fn body(&self, request_id: &str) -> ErrorBody {
        let details = match self {
            Self::Invalid(invalid) => {
                invalid.fields.iter().map(|(field, reason)| (harmless(field), harmless(reason))).collect()
            }
            Self::Source { code, suggestions, .. } => {
                let suggestions =
                    (1..).zip(suggestions).map(|(number, it)| (format!("suggestion_{number}"), harmless(it)));
                [("build_code".to_owned(), (*code).to_owned())].into_iter().chain(suggestions).collect()
            }
            _ => BTreeMap::new(),
        };
        ErrorBody {
            code: self.status().1.to_owned(),
            message: harmless(&self.to_string()),
            details,
            request_id: request_id.to_owned(),
        }
    }
}

/// Messages repeat what was sent: cut, and without anything that steers a terminal or turns the text after it.
fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(TEXT_CHARS_MAX));
    for (position, c) in text.chars().enumerate() {
        if position == TEXT_CHARS_MAX {
            shown.push('…');
            break;
        }
        let turns =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c.is_control() || turns {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// The one shape of every error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorBody {
    /// For programs: `invalid_request`, `unauthorized`, `forbidden`, `not_found`, `gone`, `conflict`, `too_large`,
    /// `rate_limited`, `no_quorum`, `disk_full`, `state_full`, `outcome_unknown` or `internal_error`.
    code: String,
    /// For people: what, why and what to do.
    message: String,
    /// Field to reason, when single fields are to blame. Of a source: `build_code`, and `suggestion_1` and so on.
    details: BTreeMap<String, String>,
    /// Names this request in the node's log; also in the header `X-Request-Id`.
    request_id: String,
}

impl ErrorBody {
    /// For people; harmless to print.
    pub(super) fn message(self) -> String {
        self.message
    }
}

impl IntoResponse for Error {
    /// The body is written by `finish`, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status().0.into_response();
        if let Self::RateLimited { retry_after, .. } = &self {
            let seconds = retry_after.as_secs().max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<auth::Error> for Error {
    fn from(error: auth::Error) -> Self {
        let text = error.to_string();
        match error {
            auth::Error::Unauthenticated(_) => Self::Unauthorized(text),
            auth::Error::Forbidden(_) => Self::Forbidden(text),
            auth::Error::NotFound(_) => Self::NotFound(text),
            auth::Error::Ambiguous(_) => Self::Conflict(text),
        }
    }
}

impl From<auth::Slow> for Error {
    fn from(slow: auth::Slow) -> Self {
        // A client that waits for the whole seconds it was told must not be a little early.
        let retry_after = slow.0 + Duration::from_secs(1);
        Self::RateLimited { message: slow.to_string(), retry_after }
    }
}

impl From<auth::Busy> for Error {
    fn from(busy: auth::Busy) -> Self {
        Self::RateLimited { message: busy.to_string(), retry_after: Duration::from_secs(5) }
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        let text = rejection.to_string();
        match rejection {
            Rejection::NotFound(_) => Self::NotFound(text),
            Rejection::Conflict(_) | Rejection::Precondition(_) | Rejection::Quota(_) => Self::Conflict(text),
            Rejection::Invalid(invalid) => Self::Invalid(invalid),
            Rejection::StateFull { .. } => Self::StateFull(text),
        }
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        let text = error.to_string();
        match error {
            ProposeError::Rejected(rejection) => rejection.into(),
            ProposeError::NoLeader { .. } | ProposeError::Stopped => Self::NoQuorum(text),
            ProposeError::OutcomeUnknown | ProposeError::NotYetHere { .. } => Self::OutcomeUnknown(text),
            ProposeError::TooLarge { .. } => Self::TooLarge(text),
            ProposeError::DiskFull(_) => Self::DiskFull(text),
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::NoQuorum(error.to_string())
    }
}

impl From<artifact::Error> for Error {
    fn from(error: artifact::Error) -> Self {
        match error {
            artifact::Error::TooLarge { .. } => Self::TooLarge(error.to_string()),
            artifact::Error::DiskFull { .. } => Self::DiskFull(error.to_string()),
            artifact::Error::Stream { .. } => Self::Malformed(error.to_string()),
            other => Self::internal(other),
        }
    }
}

impl From<logs::Error> for Error {
    fn from(error: logs::Error) -> Self {
        Self::internal(error)
    }
}
