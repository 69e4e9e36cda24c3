//! The adapter for engines that speak Docker's API: Podman and Docker.

mod call;
mod containers;
mod create;
#[cfg(test)]
mod ending;
mod exec;
#[cfg(test)]
mod hung;
mod image_build;
mod images;
mod plain;
mod raw;
mod step_reaper;
mod streams;
mod terminal;
mod transfer;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::{ClientVersion, Docker};
use futures::stream::BoxStream;
use tokio::sync::{Mutex, mpsc};

use self::call::Call;
use super::status::is_socket;
use super::{
    Attached, BuildRequest, ContainerSpec, ContainerStatus, Description, Engine, Error, Event, ExecOutcome, ExecSpec,
    Image, Labels, LocalLogin, LogLine, LogsFrom, StoredImage, StoredNetwork, TerminalSize,
};
use super::{inside, processes};
use crate::model::Timestamp;
use crate::task::{Supervisor, blocking};

/// How long an engine may take to say that it is there.
pub(super) const PING_TIME: Duration = Duration::from_secs(5);
/// How long an engine may take for a call that is not a stream. Starting a container on a busy disk takes seconds.
const CALL_TIME: Duration = Duration::from_secs(30);
/// How long a stream may stay silent: Podman sends not even a response header before the first line of a quiet
/// container. Long enough to mean never.
const STREAM_TIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Podman or Docker, reached through their API.
pub struct ApiEngine {
    docker: Docker,
    /// The same connection settings without a time limit on the response's beginning.
    streaming: Docker,
    description: Description,
    /// Docker makes a second network of the same name when asked twice at once.
    making_network: Mutex<()>,
    scope: String,
    supervisor: Supervisor,
}

impl ApiEngine {
    /// Connects to `unix:///path`, `/path` or `tcp://host:port` and agrees on a version of the API. `scope` tells what
    /// this node runs from what other nodes on the same machine run; the supervisor owns the tasks that clean up.
    pub async fn connect(address: &str, scope: &str, supervisor: Supervisor) -> Result<Arc<Self>, Error> {
        let unreachable =
            |cause: String| Error::Unreachable { engine: address.to_owned(), action: "connect".to_owned(), cause };
        let newest = bollard::API_DEFAULT_VERSION;
        let docker = open(address, newest).map_err(|error| unreachable(call::chain(&error)))?;
        let greeting = tokio::time::timeout(PING_TIME, plain::greet(address, &supervisor))
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", PING_TIME.as_secs())))?
            .map_err(|error| unreachable(call::chain(&*error)))?;
        let docker = match api_version(&greeting.api) {
            Some(theirs) if theirs >= *newest => docker,
            Some(theirs) => open(address, &theirs).map_err(|error| unreachable(call::chain(&error)))?,
            None => return Err(unreachable(format!("it speaks an unknown version: {:?}", greeting.api))),
        };
        let description = Description { kind: greeting.kind, version: greeting.version, address: address.to_owned() };
        let streaming = docker.clone().with_timeout(STREAM_TIME);
        let making_network = Mutex::new(());
        Ok(Arc::new(Self { docker, streaming, description, making_network, scope: scope.to_owned(), supervisor }))
    }

    fn call(&self, action: impl Into<String>) -> Call {
        Call { engine: self.description.address.clone(), action: action.into() }
    }

    /// Refuses what the kernel of this machine cannot do.
    fn is_here(&self) -> io::Result<()> {
        if self.description.is_here() {
            return Ok(());
        }
        Err(io::Error::other(format!("the engine at {} may be on another machine", self.description.address)))
    }
}

/// `1.41`, as engines name the version of their API.
fn api_version(text: &str) -> Option<ClientVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? })
}

fn open(address: &str, version: &ClientVersion) -> Result<Docker, bollard::errors::Error> {
    let seconds = CALL_TIME.as_secs();
    if is_socket(address) {
        Docker::connect_with_unix(address, seconds, version)
    } else if address.starts_with("tcp://") || address.starts_with("http://") {
        Docker::connect_with_http(address, seconds, version)
    } else {
        Err(bollard::errors::Error::UnsupportedURISchemeError { uri: address.to_owned() })
    }
}

#[async_trait]
impl Engine for ApiEngine {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    async fn ping(&self) -> Result<(), Error> {
        self.call("ping").within(PING_TIME, self.docker.ping()).await.map(drop)
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, Error> {
        self.find_image(reference).await
    }

    async fn pull(&self, reference: &str, progress: mpsc::Sender<String>) -> Result<Image, Error> {
        self.pull_image(reference, progress).await
    }

    async fn pull_from_loopback(
        &self,
        reference: &str,
        login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<Image, Error> {
        self.pull_image_from_loopback(reference, login, progress).await
    }

    async fn push(
        &self,
        image: &str,
        destination: (&str, &str),
        login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<(), Error> {
        self.push_image(image, destination, login, progress).await
    }

    async fn build(&self, request: BuildRequest, log: mpsc::Sender<String>) -> Result<String, Error> {
        self.build_image(request, log).await
    }

    async fn remove_image(&self, reference: &str) -> Result<(), Error> {
        self.delete_image(reference).await
    }

    async fn list_images(&self, labels: &Labels) -> Result<Vec<StoredImage>, Error> {
        self.read_images(labels).await
    }

    async fn ensure_network(&self, name: &str, labels: &Labels) -> Result<(), Error> {
        self.make_network(name, labels).await
    }

    async fn remove_network(&self, name: &str) -> Result<(), Error> {
        self.call(format!("remove network {name}")).gone(self.docker.remove_network(name)).await
    }

    async fn list_networks(&self, labels: &Labels) -> Result<Vec<StoredNetwork>, Error> {
        self.read_networks(labels).await
    }

    async fn ensure_volume(&self, name: &str, labels: &Labels) -> Result<(), Error> {
        self.make_volume(name, labels).await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        let removal = self.docker.remove_volume(name, None::<bollard::query_parameters::RemoveVolumeOptions>);
        self.call(format!("remove volume {name}")).gone(removal).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, Error> {
        self.create_container(spec).await
    }

    async fn start(&self, id: &str) -> Result<(), Error> {
        self.start_container(id).await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error> {
        self.stop_container(id, grace).await
    }

    async fn kill(&self, id: &str) -> Result<(), Error> {
        self.kill_container(id).await
    }

    async fn kill_without_engine(&self, id: &str) -> io::Result<usize> {
        self.is_here()?;
        let id = id.to_owned();
        blocking(move || processes::kill(&id)).await
    }

    async fn listen_inside(&self, id: &str) -> io::Result<TcpListener> {
        self.is_here()?;
        let process = self.process_of(id).await.map_err(io::Error::other)?;
        inside::listen(id, process).await
    }

    async fn remove(&self, id: &str) -> Result<(), Error> {
        self.remove_container(id).await
    }

    async fn list(&self, labels: &Labels) -> Result<Vec<ContainerStatus>, Error> {
        self.list_containers(labels).await
    }

    async fn inspect(&self, id: &str) -> Result<ContainerStatus, Error> {
        self.inspect_container(id).await
    }

    fn events(&self, labels: &Labels, since: Timestamp) -> BoxStream<'static, Result<Event, Error>> {
        self.stream_events(labels, since)
    }

    fn logs(&self, id: &str, from: LogsFrom) -> BoxStream<'static, Result<LogLine, Error>> {
        self.stream_logs(id, from)
    }

    async fn exec(&self, id: &str, argv: &[String], limit: Duration) -> Result<ExecOutcome, Error> {
        self.run_inside(id, argv, limit).await
    }

    async fn attach(&self, id: &str, spec: &ExecSpec) -> Result<Attached, Error> {
        self.attach_inside(id, spec).await
    }

    async fn resize(&self, exec: &str, size: TerminalSize) -> Result<(), Error> {
        self.resize_terminal(exec, size).await
    }

    async fn hang_up(&self, container: &str, exec: &str) -> Result<(), Error> {
        self.hang_up_terminal(container, exec).await
    }
}
