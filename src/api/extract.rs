//! What handlers take from a request. Every failure is an [`Error`], so that it has the one shape.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use http::request::Parts;
use http::{HeaderMap, Method, Uri, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::auth::Caller;
use crate::model::quoted;

use super::bookmark::Bookmark;
use super::change::Change;
use super::context::Context;
use super::gate::{Freshness, Gate};
use super::{Error, json};

/// Largest JSON body, in bytes; an entry of the log has at most as much.
const JSON_BYTES_MAX: usize = 1 << 20;
/// Query parameters that every request may have.
const COMMON: [&str; 3] = ["consistency", "min_index", "token"];

#[derive(Debug, Default, Deserialize)]
struct Common {
    consistency: Option<String>,
    min_index: Option<u64>,
    token: Option<String>,
}

impl Common {
    fn freshness(&self) -> Result<Freshness, Error> {
        let stale = match self.consistency.as_deref() {
            None | Some("linearizable") => false,
            Some("stale") => true,
            Some(other) => {
                return Err(Error::field(
                    "consistency",
                    format!("must be linearizable or stale, got {}", quoted(other)),
                ));
            }
        };
        Ok(Freshness { stale, min_index: self.min_index })
    }
}

/// Somebody who is logged in and only looks.
pub(super) struct Reader(pub(super) Caller);

impl FromRequestParts<Gate> for Reader {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Error> {
        let fresh = common(&parts.uri)?.freshness()?;
        let token = bearer(&parts.headers)?.ok_or_else(no_token)?;
        Ok(Self(gate.caller(token, fresh, &context(parts)).await?))
    }
}

/// Somebody who is logged in and looks at what this node knows, whether or not the cluster confirms it.
pub(super) struct Glance(pub(super) Caller);

impl FromRequestParts<Gate> for Glance {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Error> {
        let fresh = common(&parts.uri)?.freshness()?;
        let token = bearer(&parts.headers)?.ok_or_else(no_token)?;
        let known = gate.caller(token, Freshness { stale: true, ..fresh }, &context(parts)).await;
        match known {
            // Perhaps only this node has not heard of the session yet.
            Err(unknown @ Error::Unauthorized(_)) if !fresh.stale => {
                let caller = gate.caller(token, fresh, &context(parts)).await;
                caller.map(Self).map_err(|error| if matches!(error, Error::NoQuorum(_)) { unknown } else { error })
            }
            known => known.map(Self),
        }
    }
}

/// Somebody who is logged in and follows a stream. Browsers cannot send headers then, so the token may be in the query.
pub(super) struct Listener(pub(super) Caller);

impl FromRequestParts<Gate> for Listener {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Error> {
        let common = common(&parts.uri)?;
        let mut fresh = common.freshness()?;
        // Who was cut off at another node goes on here with nothing older than what it saw there.
        if let Some(left) = Bookmark::of(&parts.headers) {
            fresh.min_index = fresh.min_index.max(Some(left.index));
        }
        let token = match bearer(&parts.headers)? {
            Some(token) => token.to_owned(),
            None => common.token.ok_or_else(no_token)?,
        };
        Ok(Self(gate.caller(&token, fresh, &context(parts)).await?))
    }
}

/// Somebody who is logged in and changes something, with what they sent.
pub(super) struct Write<T>(pub(super) Change, pub(super) T);

impl<T: DeserializeOwned> FromRequest<Gate> for Write<T> {
    type Rejection = Error;

    async fn from_request(request: Request, gate: &Gate) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        let change = change(&parts, gate).await?;
        let bytes = read(body, &parts.headers, gate.options().body_wait).await?;
        let change = change.of(&parts.method, &parts.uri, &bytes);
        require_json(&parts.headers, &bytes)?;
        Ok(Self(change, json::parse(&bytes)?))
    }
}

/// Somebody who is logged in and sends JSON, or plain text instead.
pub(super) struct WriteText<T>(pub(super) Change, pub(super) Result<T, String>);

impl<T: DeserializeOwned> FromRequest<Gate> for WriteText<T> {
    type Rejection = Error;

    async fn from_request(request: Request, gate: &Gate) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        let change = change(&parts, gate).await?;
        let bytes = read(body, &parts.headers, gate.options().body_wait).await?;
        let change = change.of(&parts.method, &parts.uri, &bytes);
        if essence(&parts.headers).eq_ignore_ascii_case("text/plain") {
            let bad = |_| Error::Malformed("the body is not UTF-8 text".to_owned());
            return Ok(Self(change, Err(String::from_utf8(bytes.to_vec()).map_err(bad)?)));
        }
        require_json(&parts.headers, &bytes)?;
        Ok(Self(change, Ok(json::parse(&bytes)?)))
    }
}

/// Somebody who is logged in and uploads something: the body is still to be read.
pub(super) struct Upload(pub(super) Change, pub(super) Parts, pub(super) Body);

impl FromRequest<Gate> for Upload {
    type Rejection = Error;

    async fn from_request(request: Request, gate: &Gate) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        let change = change(&parts, gate).await?;
        Ok(Self(change, parts, body))
    }
}

/// What somebody who is not logged in sent.
pub(super) struct Open<T>(pub(super) Context, pub(super) HeaderMap, pub(super) T);

impl<T: DeserializeOwned> FromRequest<Gate> for Open<T> {
    type Rejection = Error;

    async fn from_request(request: Request, gate: &Gate) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        let bytes = read(body, &parts.headers, gate.options().body_wait).await?;
        require_json(&parts.headers, &bytes)?;
        Ok(Self(context(&parts), parts.headers, json::parse(&bytes)?))
    }
}

/// Parameters of the path.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Gate> for At<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Error> {
        match axum::extract::Path::<T>::from_request_parts(parts, gate).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => {
                let given = RawPathParams::from_request_parts(parts, gate).await.ok();
                let only = given.as_ref().and_then(|given| given.iter().next());
                Err(only
                    .and_then(|(name, value)| bad_id(name, value))
                    .unwrap_or_else(|| Error::Malformed(format!("the path is not valid: {}", rejection.body_text()))))
            }
        }
    }
}

/// What stands in the place of an id and is none.
fn bad_id(parameter: &str, value: &str) -> Option<Error> {
    let (noun, list) = match parameter {
        "node" => ("a node, which is a number", "/v1/nodes (narvana node ls)"),
        "deployment" => ("a deployment", "/v1/deployments (narvana deployment ls)"),
        "build" => ("a build", "/v1/builds (narvana build ls)"),
        "token" => ("a join token", "/v1/join-tokens (narvana token ls)"),
        "instance" => ("an instance", "/v1/deployments (narvana ps)"),
        "org" => ("an organisation", "/v1/orgs"),
        _ => return None,
    };
    Some(Error::Malformed(format!("{} is not the id of {noun}; {list} has them", quoted(value))))
}

/// Parameters of the query, but for those that every request may have.
pub(super) struct Search<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Gate> for Search<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, Error> {
        query(&parts.uri, |name| !COMMON.contains(&name)).map(Self)
    }
}

impl FromRequestParts<Gate> for Context {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, Error> {
        Ok(context(parts))
    }
}

/// The request's context; one of its own when the request did not come through `finish`.
fn context(parts: &Parts) -> Context {
    parts.extensions.get::<Context>().cloned().unwrap_or_else(|| Context::new(String::new(), None))
}

async fn change(parts: &Parts, gate: &Gate) -> Result<Change, Error> {
    let fresh = common(&parts.uri)?.freshness()?;
    let token = bearer(&parts.headers)?.ok_or_else(no_token)?;
    let context = context(parts);
    let caller = gate.caller(token, fresh, &context).await?;
    Change::new(gate.clone(), caller, context, &parts.headers)
}

fn no_token() -> Error {
    crate::auth::Error::Unauthenticated("this needs a log-in").into()
}

/// The token in `Authorization: Bearer …`.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| text.split_once(' ')).filter(|(scheme, token)| {
        // The scheme's case does not matter (RFC 9110, section 11.1).
        scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()
    });
    match token {
        Some((_, token)) => Ok(Some(token.trim())),
        None => Err(crate::auth::Error::Unauthenticated("the Authorization header is not `Bearer <token>`").into()),
    }
}

fn common(uri: &Uri) -> Result<Common, Error> {
    query(uri, |name| COMMON.contains(&name))
}

fn query<T: DeserializeOwned>(uri: &Uri, wanted: impl Fn(&str) -> bool) -> Result<T, Error> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let kept: Vec<&str> = pairs.filter(|pair| wanted(pair.split('=').next().unwrap_or_default())).collect();
    let uri: Uri = format!("/?{}", kept.join("&")).parse().map_err(|_| bad_query("it is not a URL query", &[]))?;
    match axum::extract::Query::<T>::try_from_uri(&uri) {
        Ok(axum::extract::Query(value)) => Ok(value),
        Err(rejection) => Err(bad_query(&rejection.body_text(), &kept)),
    }
}

/// `pairs` are those that were read.
fn bad_query(reason: &str, pairs: &[&str]) -> Error {
    let reason = reason.strip_prefix("Failed to deserialize query string: ").unwrap_or(reason);
    if let Some(refusal) = json::refusal(reason, "") {
        return refusal;
    }
    let given = |name: &str| pairs.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    match reason.split_once(": ").and_then(|(name, why)| Some((name, why, given(name)?))) {
        Some((name, why, value)) => Error::field(name, format!("{}, got {}", wanted(why), quoted(value))),
        None => Error::Malformed(format!("the query is not valid: {reason}")),
    }
}

/// What a parameter has to be, when the standard library says only why it could not be read.
fn wanted(why: &str) -> &str {
    match why {
        "invalid digit found in string" | "cannot parse integer from empty string" => "must be a whole number",
        "number too large to fit in target type" => "is more than there can be",
        "provided string was not `true` or `false`" => "must be true or false",
        other => other,
    }
}

async fn read(body: Body, headers: &HeaderMap, wait: Duration) -> Result<bytes::Bytes, Error> {
    let too_large = || Error::TooLarge(format!("the body is larger than {JSON_BYTES_MAX} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > JSON_BYTES_MAX) {
        return Err(too_large());
    }
    let bytes = match tokio::time::timeout(wait, to_bytes(body, JSON_BYTES_MAX)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let over = std::error::Error::source(&error).is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
            return Err(if over { too_large() } else { Error::Malformed("the body broke off".to_owned()) });
        }
        Err(_) => return Err(Error::TooSlow(format!("the body did not arrive within {} s", wait.as_secs()))),
    };
    Ok(bytes)
}

/// The content type without its parameters.
fn essence(headers: &HeaderMap) -> &str {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Besides clarity, this keeps pages of other sites from posting here without a preflight.
fn require_json(headers: &HeaderMap, bytes: &[u8]) -> Result<(), Error> {
    if !bytes.is_empty() && !essence(headers).eq_ignore_ascii_case("application/json") {
        return Err(Error::MediaType("send JSON with the header `Content-Type: application/json`".to_owned()));
    }
    Ok(())
}

/// Method and path of a request, for its fingerprint.
pub(super) fn target(method: &Method, uri: &Uri) -> String {
    format!("{method} {}", uri.path())
}
