//! Answers in the words of the OCI distribution API.

use std::io;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::json;

use super::manifest::NotAManifest;
use super::request::Unreadable;
use crate::artifact::{Digest, Error, ImageError};

pub(super) type Body = BoxBody<Bytes, io::Error>;

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Why a request is not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Where an upload is and how much of it, for a client that lost count.
    at: Option<(String, u64)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), at: None }
    }

    /// With where the upload goes on.
    pub(super) fn at(mut self, location: String, bytes: u64) -> Self {
        self.at = Some((location, bytes));
        self
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "only the node itself may use its registry")
    }

    pub(super) fn answer(self) -> Response<Body> {
        let Self { status, code, message, at } = self;
        let body = json!({"errors": [{"code": code, "message": message, "detail": null}]}).to_string();
        let mut response = Response::new(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"narvana\""));
        }
        if let Some((location, bytes)) = at {
            headers.insert(LOCATION, value(&location));
            headers.insert(RANGE, range(bytes));
        }
        response
    }
}

impl From<Unreadable> for Refusal {
    fn from(unreadable: Unreadable) -> Self {
        let bad = StatusCode::BAD_REQUEST;
        match unreadable {
            Unreadable::Path => Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "there is nothing at this path"),
            Unreadable::Name => {
                Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "repositories here are named narvana/<service id>")
            }
            Unreadable::Digest => Self::new(bad, "DIGEST_INVALID", "a digest is sha256: and 64 lower-case hex digits"),
            Unreadable::Tag => Self::new(bad, "TAG_INVALID", "a tag is made of letters, digits, _ . and -"),
            Unreadable::Method => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this method is not one of this path")
            }
        }
    }
}

impl From<NotAManifest> for Refusal {
    fn from(error: NotAManifest) -> Self {
        match error {
            NotAManifest::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", error.to_string()),
            _ => Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", error.to_string()),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message),
            // Not what HTTP has for it: Docker repeats a push for a minute when the server is to blame, unless it is
            // denied.
            Error::DiskFull { .. } => Self::new(StatusCode::FORBIDDEN, "DENIED", message),
            Error::Stream { .. } | Error::Over => Self::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message),
            Error::Mismatch { .. } => Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message),
            Error::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", message),
            Error::Damaged { .. } | Error::Io { .. } => {
                tracing::warn!(%error, "the registry cannot serve an artifact");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message)
            }
        }
    }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Missing(error) => Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", error.to_string()),
            ImageError::NotAManifest { .. } => {
                Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "there is no manifest of that name")
            }
            ImageError::Store(error) => error.into(),
        }
    }
}

/// An answer whose body the headers describe, which for a HEAD is not sent.
pub(super) fn content(status: StatusCode, digest: Digest, media_type: &str, bytes: u64, body: Body) -> Response<Body> {
    let mut response = empty(status);
    *response.body_mut() = body;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, bytes.into());
    headers.insert(CONTENT_TYPE, value(media_type));
    headers.insert(CONTENT_DIGEST, value(&digest.with_algorithm()));
    headers.insert(http::header::ETAG, value(&format!("\"{}\"", digest.with_algorithm())));
    headers.insert(http::header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// That something has its name now.
pub(super) fn created(location: &str, digest: Digest) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    response.headers_mut().insert(LOCATION, value(location));
    response.headers_mut().insert(CONTENT_DIGEST, value(&digest.with_algorithm()));
    response
}

/// How far an upload is.
pub(super) fn upload(status: StatusCode, location: &str, id: uuid::Uuid, bytes: u64) -> Response<Body> {
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.insert(LOCATION, value(location));
    headers.insert(RANGE, range(bytes));
    headers.insert(UPLOAD_ID, value(&id.to_string()));
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(no_body());
    *response.status_mut() = status;
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

/// These bytes.
pub(super) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

pub(super) fn no_body() -> Body {
    body(Bytes::new())
}

/// The API counts to the last byte, and has no way to say that there is none.
fn range(bytes: u64) -> HeaderValue {
    value(&format!("0-{}", bytes.saturating_sub(1)))
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).expect("it is made of ids, digits and names of our own")
}
