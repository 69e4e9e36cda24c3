//! Images to and from a registry on this machine's loopback, which speaks plain HTTP and wants a password.
//!
//! Docker trusts loopback by itself. Podman wants to be told, and for a pull only its own API can be: the one that both
//! engines have ignores it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bollard::auth::DockerCredentials;
use bollard::errors::Error as ApiError;
use bollard::query_parameters::{CreateImageOptionsBuilder, PushImageOptionsBuilder, TagImageOptionsBuilder};
use bytes::BytesMut;
use futures::StreamExt;
use http::{HeaderValue, Method};
use serde_json::json;
use tokio::sync::mpsc;

use super::ApiEngine;
use super::call::Call;
use super::image_build::add_to_query;
use super::raw::http_query;
use crate::engine::{Error, Image, Kind, LocalLogin};

/// How long an engine may send one image: what takes longer on loopback hangs.
const PUSH_TIME: Duration = Duration::from_secs(30 * 60);
/// How long it may fetch one.
const PULL_TIME: Duration = PUSH_TIME;
/// Longest line of Podman's answer to a pull.
const LINE_BYTES_MAX: usize = 64 * 1024;

impl ApiEngine {
    pub(super) async fn push_image(
        &self,
        image: &str,
        (name, tag): (&str, &str),
        login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<(), Error> {
        let options = TagImageOptionsBuilder::default().repo(name).tag(tag).build();
        self.call(format!("tag image {image}")).run(self.docker.tag_image(image, Some(options))).await?;
        let sent = match tokio::time::timeout(PUSH_TIME, self.send_image(image, (name, tag), login, progress)).await {
            Ok(sent) => sent,
            Err(_) => Err(push_failed(image, format!("not done within {} minutes", PUSH_TIME.as_secs() / 60))),
        };
        // The name is of no use once the image is there, or is not.
        let removed = self.delete_image(&format!("{name}:{tag}")).await;
        sent.and(removed)
    }

    async fn send_image(
        &self,
        image: &str,
        (name, tag): (&str, &str),
        login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<(), Error> {
        let call = self.call(format!("push image {image}"));
        let options = PushImageOptionsBuilder::default().tag(tag).build();
        let mut docker = self.streaming.clone();
        if self.description.kind == Kind::Podman {
            docker = docker.with_request_modifier(|mut request| {
                add_to_query(request.uri_mut(), "tlsVerify=false");
                request
            });
        }
        let mut steps = Box::pin(docker.push_image(name, Some(options), Some(credentials(login, name))));
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| match error {
                ApiError::DockerStreamError { error } => push_failed(image, error),
                ApiError::DockerResponseServerError { message, .. } => push_failed(image, message),
                error => call.error(error),
            })?;
            if let Some(words) = step.error_detail.and_then(|detail| detail.message) {
                return Err(push_failed(image, words));
            }
            // Steps that repeat with their progress say nothing new.
            if let (Some(status), None) = (step.status, step.progress_detail.and_then(|detail| detail.current)) {
                let _nobody_listens = progress.send(status.trim_end().to_owned()).await;
            }
        }
        Ok(())
    }

    pub(super) async fn pull_image_from_loopback(
        &self,
        reference: &str,
        login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<Image, Error> {
        let fetch = async {
            match self.description.kind {
                Kind::Podman => self.pull_with_podman(reference, login, progress).await,
                Kind::Docker | Kind::Fake => {
                    let options = CreateImageOptionsBuilder::default().from_image(reference).build();
                    self.follow_pull(reference, options, Some(credentials(login, reference)), progress).await.map(drop)
                }
            }
        };
        match tokio::time::timeout(PULL_TIME, fetch).await {
            Ok(fetched) => fetched?,
            Err(_) => {
                return Err(pull_failed(reference, format!("not done within {} minutes", PULL_TIME.as_secs() / 60)));
            }
        }
        let found = self.find_image(reference).await?;
        found.ok_or_else(|| pull_failed(reference, "the engine says it is done, and has no such image".to_owned()))
    }

    /// Through Podman's own API, of which the client library knows nothing: a call whose bytes are handed out is sent
    /// there.
    async fn pull_with_podman(
        &self,
        reference: &str,
        login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<(), Error> {
        let call = self.call(format!("pull image {reference}"));
        let path = format!("/v4.0.0/libpod/images/pull?reference={}&tlsVerify=false", http_query(reference));
        let login = auth_header(login, reference);
        let docker = self.streaming.clone().with_request_modifier(move |mut request| {
            *request.method_mut() = Method::POST;
            request.headers_mut().insert("X-Registry-Auth", login.clone());
            replace_path(request.uri_mut(), &path);
            request
        });
        let mut answer = Box::pin(docker.export_container("x"));
        let mut waiting = BytesMut::new();
        while let Some(bytes) = answer.next().await {
            let bytes = bytes.map_err(|error| match error {
                ApiError::DockerResponseServerError { message, .. } => pull_failed(reference, message),
                error => call.error(error),
            })?;
            waiting.extend_from_slice(&bytes);
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line = waiting.split_to(end + 1);
                note(&call, reference, &line, &progress).await?;
            }
            if waiting.len() > LINE_BYTES_MAX {
                return Err(call.garbled(format!("a line of more than {LINE_BYTES_MAX} bytes")));
            }
        }
        note(&call, reference, &waiting, &progress).await
    }
}

/// One line of Podman's answer. That an image is missing is one too, in an answer that began as a success.
async fn note(call: &Call, reference: &str, line: &[u8], progress: &mpsc::Sender<String>) -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct Line {
        stream: Option<String>,
        error: Option<String>,
    }
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(());
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| call.garbled(error.to_string()))?;
    if let Some(words) = line.error {
        return Err(pull_failed(reference, words));
    }
    if let Some(words) = line.stream {
        let _nobody_listens = progress.send(words.trim_end().to_owned()).await;
    }
    Ok(())
}

fn push_failed(image: &str, reason: String) -> Error {
    Error::PushFailed { image: image.to_owned(), reason }
}

fn pull_failed(image: &str, reason: String) -> Error {
    Error::PullFailed { image: image.to_owned(), reason }
}

fn password(login: &LocalLogin) -> String {
    String::from_utf8_lossy(login.password.expose()).into_owned()
}

fn credentials(login: &LocalLogin, name: &str) -> DockerCredentials {
    DockerCredentials {
        username: Some(login.user.clone()),
        password: Some(password(login)),
        serveraddress: Some(host(name).to_owned()),
        ..DockerCredentials::default()
    }
}

fn auth_header(login: &LocalLogin, name: &str) -> HeaderValue {
    let said = json!({"username": login.user, "password": password(login), "serveraddress": host(name)});
    let mut value =
        HeaderValue::try_from(URL_SAFE.encode(said.to_string())).expect("base64 is made of visible characters");
    value.set_sensitive(true);
    value
}

fn host(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

pub(super) fn replace_path(uri: &mut http::Uri, path: &str) {
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path.parse().expect("a path with percent signs and digits is one"));
    *uri = http::Uri::from_parts(parts).expect("the parts were those of a URI");
}
