//! Uploading a source tree.

use std::io;

use axum::Json;
use axum::extract::State;
use http::{StatusCode, header};
use serde::Serialize;
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use crate::clock;
use crate::model::{Role, Source, UploadedSource};
use crate::random;
use crate::state::{Command, Outcome};

use super::Error;
use super::extract::{At, Upload};
use super::gate::Gate;

/// A source that was uploaded. The next deployment of its service uses it.
#[derive(Serialize, ToSchema)]
#[schema(as = UploadedSource)]
pub(super) struct SourceView {
    source_id: String,
    /// Digest of the archive, in hex.
    sha256: String,
    /// Size of the archive.
    bytes: u64,
}

/// Upload a source
///
/// The body is a tar archive, plain or compressed with gzip or zstd. The next deployment of the service uses it.
#[utoipa::path(post, path = "/v1/apps/{app}/services/{service}/source", tag = "deployments",
    params(("app" = String, Path, description = "Its id or name"), ("service" = String, Path, description = "Its name")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = SourceView)))]
pub(super) async fn upload(
    State(gate): State<Gate>,
    At((app, service)): At<(String, String)>,
    Upload(change, parts, body): Upload,
) -> Result<(StatusCode, Json<SourceView>), Error> {
    // Before the first byte is stored: whether they may, whether it is of use, and whether it fits.
    let service = change.caller().service(Role::Member, &app, &service)?;
    let kind = service.spec.source.type_name();
    if service.spec.source != Source::Upload {
        let reason = format!(
            "service {0} has the source type {kind}, not upload; change that first: `narvana service update {0} --upload` (source_type upload)",
            service.name
        );
        return Err(Error::Conflict(reason));
    }
    let service_id = service.id;
    let limit = gate.options().source_bytes_max;
    let announced =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        return Err(crate::artifact::Error::TooLarge { limit }.into());
    }
    let chunks = body.into_data_stream().timeout(gate.options().body_wait).map(|chunk| match chunk {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing arrived for a while")),
    });
    let whole = tokio::time::timeout(gate.options().upload_wait, gate.artifacts().put(chunks, limit)).await;
    let stored =
        whole.map_err(|_| Error::TooSlow("the upload took too long; send it over a faster line".to_owned()))??;
    if stored.bytes == 0 {
        return Err(Error::Malformed("the body is empty; send a tar archive".to_owned()));
    }
    let sha256 = stored.digest.to_string();
    let change = change.of(&parts.method, &parts.uri, sha256.as_bytes());
    let (outcome, _) = change
        .commit(|_| {
            Ok(Command::AttachSource(UploadedSource {
                id: random::id(),
                service: service_id,
                sha256: sha256.clone(),
                bytes: stored.bytes,
                created_at: clock::now(),
            }))
        })
        .await?;
    let Outcome::Source(id) = outcome else { return Err(Error::internal("a source was answered with something else")) };
    Ok((StatusCode::CREATED, Json(SourceView { source_id: id.to_string(), sha256, bytes: stored.bytes })))
}
