//! What happens to every answer: its id, its index, the one shape of errors, and its count in the metrics.

use std::any::Any;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use uuid::Uuid;

use crate::network::Flaw;
use crate::random;

use super::Error;
use super::context::{Context, Peer};
use super::gate::Gate;
use super::health;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const INDEX: HeaderName = HeaderName::from_static("x-narvana-index");
/// Which version of the program answers.
const VERSION: HeaderName = HeaderName::from_static("x-narvana-version");
/// Longest request id that is taken from a client, in bytes.
const ID_BYTES_MAX: usize = 64;

/// Wraps every handler.
pub(super) async fn finish(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let peer = request.extensions().get::<Peer>().copied();
    let context = Context::new(request_id(request.headers()), peer);
    request.extensions_mut().insert(context.clone());
    let method = request.method().clone();
    // The route, not the path: paths hold names, and every one would be a time series of its own.
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let flaw = request.extensions().get::<Flaw>().copied();
    let refused = flaw.map(bad_framing).or_else(|| refuse_plain_http(&gate, peer, request.headers()));
    let mut response = match refused {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    };
    if context.has_changed() {
        response = done_and_gone(response);
    }
    shape_error(&mut response, &context);
    let index = match context.index() {
        0 => gate.applied_index(),
        index => index,
    };
    let headers = response.headers_mut();
    if flaw.is_some() {
        // After a request that made no sense, neither does what follows it on the connection.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(INDEX, HeaderValue::from(index));
    headers.insert(VERSION, HeaderValue::from_static(health::VERSION));
    if let Ok(id) = HeaderValue::from_str(context.id()) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let status = response.status().as_u16();
    gate.metrics().answered(method.as_str(), &route, status, begin.elapsed());
    tracing::debug!(request_id = context.id(), %method, route, status, "answered");
    response
}

/// The answer to a panic in a handler.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::internal(format!("a handler panicked: {text}")).into_response()
}

/// The answer to a path that is not routed.
pub(super) async fn unknown_route(request: Request) -> Error {
    let path: String = request.uri().path().chars().take(200).collect();
    Error::NotFound(format!("there is nothing at {path}; see /api/docs for what there is"))
}

/// The answer to a method that a path does not take.
pub(super) async fn unknown_method(request: Request) -> Error {
    Error::Method(request.method().to_string())
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let harmless = |id: &&str| {
        (1..=ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(harmless).map_or_else(|| random::id::<Uuid>().to_string(), str::to_owned)
}

fn bad_framing(flaw: Flaw) -> Error {
    match flaw {
        Flaw::TwoFramings => {
            Error::Malformed("a request has either Content-Length or Transfer-Encoding, not both".to_owned())
        }
        Flaw::LargeHead => Error::LargeHead,
    }
}

/// Passwords and tokens do not travel in clear text between machines unless the operator says so.
fn refuse_plain_http(gate: &Gate, peer: Option<Peer>, headers: &HeaderMap) -> Option<Error> {
    let peer = peer?;
    if peer.tls || peer.address.ip().to_canonical().is_loopback() || gate.options().allow_plain_http {
        return None;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("this address");
    Some(Error::Forbidden(format!(
        "plain HTTP is served to this machine only; use https://{host}, or start the node with --allow-plain-http"
    )))
}

/// Whoever made a change and is told that there is no such thing would take it for not made.
fn done_and_gone(response: Response) -> Response {
    match response.extensions().get::<Error>() {
        Some(Error::NotFound(what)) => Error::Gone(what.clone()).into_response(),
        _ => response,
    }
}

fn shape_error(response: &mut Response, context: &Context) {
    let status = response.status();
    let error = response.extensions_mut().remove::<Error>();
    if error.is_none() && !(status.is_client_error() || status.is_server_error()) {
        return;
    }
    let error = error.unwrap_or_else(|| match status {
        StatusCode::PAYLOAD_TOO_LARGE => Error::TooLarge("the body is too large".to_owned()),
        _ => Error::Malformed(status.canonical_reason().unwrap_or("the request was refused").to_owned()),
    });
    let body = axum::Json(error.body(context.id())).into_response();
    let (parts, body) = body.into_parts();
    *response.body_mut() = body;
    response.headers_mut().remove(header::CONTENT_LENGTH);
    if let Some(content_type) = parts.headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}
