//! Answers that the client library is too strict for.
//!
//! Podman 4.3 names states of its own in Docker's API (`stopped` between the end of a process and the clean-up after
//! it), and one such word makes the library refuse the whole answer, for a list the whole list. It also leaves out
//! fields of images that Docker always sends. So these answers are read as plain JSON. The library has no call for that; one that returns bytes is sent to another path.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use futures::TryStreamExt;
use serde::de::DeserializeOwned;

use super::ApiEngine;
use super::call::Call;
use super::containers::label_filter;
use super::images::with_algorithm;
use super::transfer::replace_path;
use crate::engine::{Error, Labels, StoredImage, StoredNetwork};
use crate::model::Digest;

/// The path of the call whose bytes are wanted, as the library makes it.
const CARRIER: &str = "/containers/x/export";

/// How often a container is looked at whose process ends just then, and the pause between two looks.
const LOOKS_MAX: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

#[derive(serde::Deserialize)]
struct Listed {
    #[serde(rename = "Id")]
    id: String,
}

#[derive(serde::Deserialize)]
struct ListedImage {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "RepoTags")]
    references: Option<Vec<String>>,
    #[serde(rename = "Labels")]
    labels: Option<Labels>,
}

/// An image in Podman's own API.
#[derive(serde::Deserialize)]
struct OwnImage {
    #[serde(rename = "Digest")]
    digest: String,
}

#[derive(serde::Deserialize)]
struct ListedNetwork {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Labels")]
    labels: Option<Labels>,
}

impl ApiEngine {
    /// One container. `id` is checked to be one name: it becomes part of a path.
    pub(super) async fn read_container(&self, call: &Call, id: &str) -> Result<ContainerInspectResponse, Error> {
        let is_name = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !is_name {
            return Err(call.rejected(format!("{id:?} is not the name of a container")));
        }
        let mut looks = 0;
        let mut answer: serde_json::Value = loop {
            looks += 1;
            match self.get(call, format!("/containers/{id}/json")).await {
                Err(Error::Rejected { reason, .. }) if looks < LOOKS_MAX && ended_meanwhile(&reason) => {
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                answer => break answer?,
            }
        };
        if let Some(status) = answer.pointer_mut("/State/Status") {
            *status = status.as_str().map(in_docker_words).unwrap_or_default().into();
        }
        serde_json::from_value(answer).map_err(|error| call.garbled(error.to_string()))
    }

    /// Ids of all containers that pass the filters.
    pub(super) async fn read_ids(
        &self,
        call: &Call,
        filters: &HashMap<String, Vec<String>>,
    ) -> Result<Vec<String>, Error> {
        let filters = serde_json::to_string(filters).expect("a map of words is JSON");
        let query = http_query(&filters);
        let listed: Vec<Listed> = self.get(call, format!("/containers/json?all=1&filters={query}")).await?;
        Ok(listed.into_iter().map(|container| container.id).collect())
    }

    /// The digest that Podman pulled an image by, of which only its own API tells.
    pub(super) async fn read_image_digest(&self, reference: &str) -> Result<Option<Digest>, Error> {
        let call = self.call(format!("inspect image {reference}"));
        let path = format!("/v4.0.0/libpod/images/{}/json", http_query(reference));
        let image: OwnImage = self.get_at(&call, move |uri| replace_path(uri, &path)).await?;
        Ok(Digest::from_algorithm_and_hex(&image.digest).ok())
    }

    pub(super) async fn read_images(&self, labels: &Labels) -> Result<Vec<StoredImage>, Error> {
        // Podman 4.3 finds no image at all when asked for two labels, so it is asked for one.
        let query = labels_query(&labels.clone().into_iter().take(1).collect());
        let listed: Vec<ListedImage> =
            self.get(&self.call("list images"), format!("/images/json?filters={query}")).await?;
        let mut images: Vec<StoredImage> = listed.into_iter().map(stored_image).collect();
        images.retain(|image| carries(&image.labels, labels));
        images.sort_by(|a, b| a.id.cmp(&b.id));
        // Podman lists an image once for each of its names.
        images.dedup_by(|later, first| {
            let same = later.id == first.id;
            if same {
                first.references.append(&mut later.references);
            }
            same
        });
        for image in &mut images {
            image.references.sort();
            image.references.dedup();
        }
        Ok(images)
    }

    pub(super) async fn read_networks(&self, labels: &Labels) -> Result<Vec<StoredNetwork>, Error> {
        let query = labels_query(labels);
        let listed: Vec<ListedNetwork> =
            self.get(&self.call("list networks"), format!("/networks?filters={query}")).await?;
        let stored =
            |network: ListedNetwork| StoredNetwork { name: network.name, labels: network.labels.unwrap_or_default() };
        let mut networks: Vec<StoredNetwork> = listed.into_iter().map(stored).collect();
        networks.retain(|network| carries(&network.labels, labels));
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(networks)
    }

    async fn get<T: DeserializeOwned>(&self, call: &Call, path: String) -> Result<T, Error> {
        self.get_at(call, move |uri| {
            *uri = uri.to_string().replacen(CARRIER, &path, 1).parse().expect("names and percent signs make a path");
        })
        .await
    }

    /// The answer to a call whose path, version of the API included, `lead` changes to another one.
    async fn get_at<T: DeserializeOwned>(
        &self,
        call: &Call,
        lead: impl Fn(&mut http::Uri) + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let docker = self.docker.clone().with_request_modifier(move |mut request| {
            lead(request.uri_mut());
            request
        });
        let bytes = call.run(docker.export_container("x").try_collect::<Vec<_>>()).await?.concat();
        serde_json::from_slice(&bytes).map_err(|error| call.garbled(error.to_string()))
    }
}

/// Podman reads the files of a container's process, and fails with what it saw when that ends meanwhile.
fn ended_meanwhile(reason: &str) -> bool {
    reason.contains("/proc/") && reason.contains("no such process")
}

fn stored_image(listed: ListedImage) -> StoredImage {
    let mut references = listed.references.unwrap_or_default();
    // Docker's way to say that there is none.
    references.retain(|reference| reference != "<none>:<none>");
    StoredImage { id: with_algorithm(listed.id), references, labels: listed.labels.unwrap_or_default() }
}

/// Engines differ in what several labels in one filter mean, so the answer is looked through once more.
fn carries(found: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| found.get(key) == Some(value))
}

fn labels_query(labels: &Labels) -> String {
    http_query(&serde_json::to_string(&label_filter(labels)).expect("a map of words is JSON"))
}

/// A state as Docker names it.
fn in_docker_words(status: &str) -> &str {
    match status {
        "stopped" => "exited",
        "configured" | "initialized" => "created",
        "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead" | "stopping" => status,
        _ => "",
    }
}

/// Text as part of a query: all but letters and digits as percent signs.
pub(super) fn http_query(text: &str) -> String {
    let escaped = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_podman_have_docker_names() {
        for (podman, docker) in
            [("stopped", "exited"), ("configured", "created"), ("running", "running"), ("whatever", "")]
        {
            assert_eq!(in_docker_words(podman), docker);
        }
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(http_query(r#"{"label":["a=ü"]}"#), "%7B%22label%22%3A%5B%22a%3D%C3%BC%22%5D%7D");
    }
}
