//! From a request to its answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyDataStream, BodyExt, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::Shared;
use super::answer::{self, Body, Refusal};
use super::manifest::{MANIFEST_BYTES_MAX, Manifest, NotAManifest};
use super::request::{Reference, Request, Tag};
use crate::artifact::{BLOB_BYTES_MAX, Blob, Bounds, Digest, Error};
use crate::model::Repository;

/// How long an engine may be silent in the middle of a blob or a manifest.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const BLOB_TYPE: &str = "application/octet-stream";

type Answer = Result<Response<Body>, Refusal>;

/// Answers one request, whatever it is.
pub(super) async fn answer(shared: Arc<Shared>, request: http::Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let answered = if shared.lets_in(&head.headers) {
        match Request::read(&head.method, head.uri.path(), head.uri.query().unwrap_or_default()) {
            Ok(request) => shared.perform(request, &head.headers, body).await,
            Err(unreadable) => Err(unreadable.into()),
        }
    } else {
        Err(Refusal::unauthorized())
    };
    let response = answered.unwrap_or_else(|refusal| {
        tracing::debug!(method = %head.method, path = head.uri.path(), ?refusal, "the registry refuses");
        refusal.answer()
    });
    tracing::trace!(method = %head.method, path = head.uri.path(), status = %response.status(), "registry");
    response
}

impl Shared {
    /// Hashes are compared: they have one length, and the time it takes says nothing about the password.
    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(said) = headers.get(AUTHORIZATION) else { return false };
        let said: [u8; 32] = Sha256::digest(said).into();
        said.ct_eq(&self.authorization).into()
    }

    async fn perform(&self, request: Request, headers: &HeaderMap, body: Incoming) -> Answer {
        match request {
            Request::Ping => {
                let mut response = answer::empty(StatusCode::OK);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                *response.body_mut() = answer::body("{}");
                Ok(response)
            }
            Request::StartUpload { repository, mount, whole } => self.start(repository, mount, whole, body).await,
            Request::UploadStatus { repository, upload } => {
                let bytes = self.uploads.turn(upload, repository).await?.upload.bytes();
                let location = upload_location(repository, upload);
                Ok(answer::upload(StatusCode::NO_CONTENT, &location, upload, bytes))
            }
            Request::AppendUpload { repository, upload } => self.append(repository, upload, headers, body).await,
            Request::FinishUpload { repository, upload, digest } => {
                self.append(repository, upload, headers, body).await?;
                self.finish(repository, upload, digest).await
            }
            Request::CancelUpload { upload } => {
                self.uploads.end(upload);
                Ok(answer::empty(StatusCode::NO_CONTENT))
            }
            Request::ReadBlob { digest, head: true } => {
                let bytes = self.store.claim(digest).await.ok_or(Error::NotFound(digest))?;
                Ok(answer::content(StatusCode::OK, digest, BLOB_TYPE, bytes, answer::no_body()))
            }
            Request::ReadBlob { digest, head: false } => {
                let blob = self.images.open(digest).await?;
                send(blob, headers.get(RANGE)).await
            }
            Request::PutManifest { repository, reference } => {
                self.put_manifest(repository, reference, headers, body).await
            }
            Request::ReadManifest { repository, reference, head } => {
                let digest = self.resolve(repository, &reference).ok_or_else(manifest_unknown)?;
                let (manifest, bytes) = self.images.manifest(digest).await?;
                let size = bytes.len() as u64;
                let body = if head { answer::no_body() } else { answer::body(bytes) };
                Ok(answer::content(StatusCode::OK, digest, manifest.media_type, size, body))
            }
        }
    }

    async fn start(
        &self,
        repository: Repository,
        mount: Option<Digest>,
        whole: Option<Digest>,
        body: Incoming,
    ) -> Answer {
        // Whichever repository it came with: the bytes are the same.
        if let Some(digest) = mount
            && self.store.claim(digest).await.is_some()
        {
            return Ok(answer::created(&blob_location(repository, digest), digest));
        }
        let upload = self.uploads.begin(&self.store, repository).await?;
        if let Some(digest) = whole {
            self.append(repository, upload, &HeaderMap::new(), body).await?;
            return self.finish(repository, upload, digest).await;
        }
        Ok(answer::upload(StatusCode::ACCEPTED, &upload_location(repository, upload), upload, 0))
    }

    async fn append(&self, repository: Repository, id: Uuid, headers: &HeaderMap, body: Incoming) -> Answer {
        let turn = self.uploads.turn(id, repository).await?;
        let (upload, location) = (turn.upload.clone(), upload_location(repository, id));
        let before = upload.bytes();
        if let Some(range) = headers.get(CONTENT_RANGE)
            && first_byte(range) != Some(before)
        {
            let message = format!("the next byte of this upload is number {before}");
            let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message);
            return Err(refusal.at(location, before));
        }
        let bounds = Bounds { bytes: BLOB_BYTES_MAX, silence: Some(SILENCE_MAX) };
        let appended = upload.append(BodyDataStream::new(body), bounds).await;
        self.received.fetch_add(upload.bytes().saturating_sub(before), Ordering::Relaxed);
        match appended {
            Ok(()) => Ok(answer::upload(StatusCode::ACCEPTED, &location, id, upload.bytes())),
            Err(error @ Error::Stream { .. }) => Err(Refusal::from(error).at(location, upload.bytes())),
            Err(error) => {
                self.uploads.end(id);
                Err(error.into())
            }
        }
    }

    async fn finish(&self, repository: Repository, id: Uuid, digest: Digest) -> Answer {
        let turn = self.uploads.turn(id, repository).await?;
        let finished = turn.upload.finish(Some(digest)).await;
        self.uploads.end(id);
        finished?;
        Ok(answer::created(&blob_location(repository, digest), digest))
    }

    async fn put_manifest(
        &self,
        repository: Repository,
        reference: Reference,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Answer {
        let bytes = collect(body).await?;
        let announced = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let manifest = Manifest::parse(&bytes, announced)?;
        let digest = Digest::new(Sha256::digest(&bytes).into());
        match &reference {
            Reference::Digest(said) if *said != digest => {
                return Err(Error::Mismatch { expected: *said, found: digest }.into());
            }
            Reference::Tag(tag) if !self.announced().contains_key(&(repository, tag.clone())) => {
                return Err(not_announced(tag));
            }
            _ => {}
        }
        for part in manifest.parts() {
            let here = self.store.claim(part.digest).await;
            if here != Some(part.bytes) {
                let message = match here {
                    None => format!("it names {}, which is not here", part.digest.with_algorithm()),
                    Some(here) => format!("{} has {here} bytes, not {}", part.digest.with_algorithm(), part.bytes),
                };
                return Err(Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", message));
            }
        }
        let whole = futures::stream::iter([Ok::<_, std::io::Error>(bytes)]);
        self.store.put(whole, MANIFEST_BYTES_MAX).await?;
        if let Reference::Tag(tag) = reference {
            // Whoever announced it may have gone meanwhile; then nobody wants to know.
            if let Some(pushed) = self.announced().get_mut(&(repository, tag)) {
                *pushed = Some(digest);
            }
        }
        Ok(answer::created(&format!("/v2/{repository}/manifests/{}", digest.with_algorithm()), digest))
    }

    fn resolve(&self, repository: Repository, reference: &Reference) -> Option<Digest> {
        match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => self.announced().get(&(repository, tag.clone())).copied().flatten(),
        }
    }
}

fn manifest_unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "there is no manifest of that name")
}

fn not_announced(tag: &Tag) -> Refusal {
    let message = format!("no build of this node has announced {}", tag.as_str());
    Refusal::new(StatusCode::FORBIDDEN, "DENIED", message)
}

fn blob_location(repository: Repository, digest: Digest) -> String {
    format!("/v2/{repository}/blobs/{}", digest.with_algorithm())
}

fn upload_location(repository: Repository, upload: Uuid) -> String {
    format!("/v2/{repository}/blobs/uploads/{upload}")
}

/// The bytes of a manifest.
async fn collect(body: Incoming) -> Result<Bytes, Refusal> {
    let limit = usize::try_from(MANIFEST_BYTES_MAX).expect("four megabytes");
    let invalid = |message: String| Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message);
    match tokio::time::timeout(SILENCE_MAX, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(NotAManifest::TooLarge.into()),
        Ok(Err(error)) => Err(invalid(format!("it broke off: {error}"))),
        Err(_) => Err(invalid(format!("it did not come within {} s", SILENCE_MAX.as_secs()))),
    }
}

/// Where the piece of an upload begins: `first-last`, with or without a unit before it.
fn first_byte(range: &HeaderValue) -> Option<u64> {
    let range = range.to_str().ok()?;
    range.strip_prefix("bytes ").unwrap_or(range).split_once('-')?.0.parse().ok()
}

/// A blob, or the part of it that is asked for.
async fn send(blob: Blob, range: Option<&HeaderValue>) -> Answer {
    let (digest, whole) = (blob.digest, blob.bytes);
    let Some(range) = range else {
        let body = StreamBody::new(blob.into_stream().map(|chunk| chunk.map(Frame::data)));
        return Ok(answer::content(StatusCode::OK, digest, BLOB_TYPE, whole, BodyExt::boxed(body)));
    };
    let Some((first, last)) = asked_for(range, whole) else {
        return Err(Refusal::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "RANGE_INVALID",
            format!("the blob has {whole} bytes, and one range of them can be asked for"),
        ));
    };
    let bytes = last - first + 1;
    let stream = blob.into_part(first, bytes).await.map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", format!("cannot read the blob: {error}"))
    })?;
    let body = StreamBody::new(stream.map(|chunk| chunk.map(Frame::data)));
    let mut response = answer::content(StatusCode::PARTIAL_CONTENT, digest, BLOB_TYPE, bytes, BodyExt::boxed(body));
    let said = format!("bytes {first}-{last}/{whole}");
    response.headers_mut().insert(CONTENT_RANGE, HeaderValue::try_from(said).expect("digits"));
    Ok(response)
}

/// First and last byte of the one range that is asked for.
fn asked_for(range: &HeaderValue, whole: u64) -> Option<(u64, u64)> {
    let (first, last) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let end = whole.checked_sub(1)?;
    let (first, last) = match (first, last) {
        ("", last) => (whole.saturating_sub(last.parse().ok()?), end),
        (first, "") => (first.parse().ok()?, end),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(end)),
    };
    (first <= last).then_some((first, last))
}
