//! Images: looking up, fetching, removing.

use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::errors::Error as ApiError;
use bollard::query_parameters::{CreateImageOptions, CreateImageOptionsBuilder, RemoveImageOptionsBuilder};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::ApiEngine;
use crate::engine::{Error, Image, Kind};
use crate::model::{Digest, image_name};

/// How long an engine may fetch one image: a few gigabytes on a slow line.
const PULL_TIME: Duration = Duration::from_secs(60 * 60);

impl ApiEngine {
    pub(super) async fn find_image(&self, reference: &str) -> Result<Option<Image>, Error> {
        let call = self.call(format!("inspect image {reference}"));
        let found = match call.run(self.docker.inspect_image(reference)).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let exposed = found.config.and_then(|config| config.exposed_ports).unwrap_or_default();
        let mut exposed_ports: Vec<_> = exposed.iter().filter_map(|key| super::containers::port(key)).collect();
        exposed_ports.sort_unstable();
        let digest = self.digest_of(reference, &found.repo_digests.unwrap_or_default()).await?;
        Ok(Some(Image {
            id: with_algorithm(found.id.unwrap_or_default()),
            bytes: found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
            exposed_ports,
            architecture: found.architecture.filter(|architecture| !architecture.is_empty()),
            digest,
        }))
    }

    /// Which of the digests of an image is the one to pull it by under the name in `reference`.
    async fn digest_of(&self, reference: &str, known: &[String]) -> Result<Option<Digest>, Error> {
        let digests = digests_under(reference, known);
        if digests.len() > 1 && self.description.kind == Kind::Podman {
            // It lists the image for this machine's processor too, where the name leads to a list of several.
            let own = self.read_image_digest(reference).await?;
            if own.is_some_and(|own| digests.contains(&own)) {
                return Ok(own);
            }
        }
        Ok(digests.last().copied())
    }

    pub(super) async fn pull_image(&self, reference: &str, progress: mpsc::Sender<String>) -> Result<Image, Error> {
        let whole = with_tag(reference);
        let failed = |reason: String| Error::PullFailed { image: reference.to_owned(), reason };
        let options = CreateImageOptionsBuilder::default().from_image(&whole).build();
        let fetch = self.follow_pull(reference, options, None, progress);
        let told = match tokio::time::timeout(PULL_TIME, fetch).await {
            Ok(fetched) => fetched?,
            Err(_) => return Err(failed(format!("not done within {} minutes", PULL_TIME.as_secs() / 60))),
        };
        let found = self.find_image(&whole).await?;
        let found = found.ok_or_else(|| failed("the engine says it is done, and has no such image".into()))?;
        Ok(Image { digest: told.or(found.digest), ..found })
    }

    /// A pull through the API that both engines have, to its end. Docker says which digest it was told to pull by, of which an image may have
    /// several.
    pub(super) async fn follow_pull(
        &self,
        reference: &str,
        options: CreateImageOptions,
        credentials: Option<DockerCredentials>,
        progress: mpsc::Sender<String>,
    ) -> Result<Option<Digest>, Error> {
        let mut digest = None;
        let call = self.call(format!("pull image {reference}"));
        let failed = |reason: String| Error::PullFailed { image: reference.to_owned(), reason };
        let mut steps = Box::pin(self.streaming.create_image(Some(options), None, credentials));
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| match error {
                ApiError::DockerStreamError { error } => failed(error),
                ApiError::DockerResponseServerError { message, .. } => failed(message),
                error => call.error(error),
            })?;
            if let Some(words) = step.error_detail.and_then(|detail| detail.message) {
                return Err(failed(words));
            }
            // Docker repeats a step with its progress many times a second; only its words are told, once each.
            if let Some(told) = step.status.as_ref().and_then(|status| status.strip_prefix("Digest: ")) {
                digest = Digest::from_algorithm_and_hex(told).ok();
            }
            if let (Some(status), None) = (step.status, step.progress_detail.and_then(|detail| detail.current)) {
                let line = step.id.map_or_else(|| status.clone(), |id| format!("{id}: {status}"));
                let _nobody_listens = progress.send(line).await;
            }
        }
        Ok(digest)
    }

    pub(super) async fn delete_image(&self, reference: &str) -> Result<(), Error> {
        let options = RemoveImageOptionsBuilder::default().build();
        let removal = async { self.docker.remove_image(reference, Some(options), None).await.map(drop) };
        self.call(format!("remove image {reference}")).gone(removal).await
    }
}

/// The digests that an engine knows of an image (`name@sha256:…`) under the name in a reference.
fn digests_under(reference: &str, known: &[String]) -> Vec<Digest> {
    let name = familiar(image_name(reference));
    let under = |known: &String| {
        let (other, digest) = known.split_once('@')?;
        (familiar(other) == name).then(|| Digest::from_algorithm_and_hex(digest).ok()).flatten()
    };
    known.iter().filter_map(under).collect()
}

/// Docker leaves out what its own registry's names begin with.
fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// Docker fetches every tag of a reference that names none.
fn with_tag(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    if name.contains(':') || name.contains('@') { reference.to_owned() } else { format!("{reference}:latest") }
}

/// Podman leaves `sha256:` out here and there.
pub(super) fn with_algorithm(id: String) -> String {
    if id.is_empty() || id.contains(':') { id } else { format!("sha256:{id}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_tag_means_latest() {
        for (reference, whole) in [
            ("docker.io/library/redis", "docker.io/library/redis:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("localhost:5000/app:1", "localhost:5000/app:1"),
            ("quay.io/a/b@sha256:00", "quay.io/a/b@sha256:00"),
        ] {
            assert_eq!(with_tag(reference), whole);
        }
    }

    #[test]
    fn digests_of_other_names_say_nothing() {
        let digest = |byte: u8| Digest::new([byte; 32]);
        let known = |name: &str, byte| format!("{name}@{}", digest(byte).with_algorithm());
        let all =
            [known("nginx", 1), known("docker.io/library/nginx", 2), known("quay.io/nginx", 3), known("a/nginx", 4)];
        assert_eq!(digests_under("docker.io/library/nginx:1", &all), [digest(1), digest(2)]);
        assert_eq!(digests_under("nginx", &all), [digest(1), digest(2)]);
        assert_eq!(digests_under("docker.io/a/nginx:1", &all), [digest(4)]);
        assert_eq!(digests_under("quay.io/nginx:1@sha256:00", &all), [digest(3)]);
        assert_eq!(digests_under(&digest(1).with_algorithm(), &all), []);
    }
}
