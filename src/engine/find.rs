//! Which container engine this node uses.
//!
//! In this order: what the operator names, `PODMAN_SOCKET`, `DOCKER_HOST`, Podman's sockets, Docker's socket, and last a
//! Podman service that narvana runs itself. What is named and does not answer is an error; nothing else is tried then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::podman_service::{PodmanService, ServiceError};
use super::{ApiEngine, Engine, Error};
use crate::task::Supervisor;

const PODMAN_ROOT_SOCKET: &str = "/run/podman/podman.sock";
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Where to look. Values of flags and variables; `config` reads them.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--engine`: `podman`, `docker`, `unix:///path`, `/path` or `tcp://host:port`.
    pub engine: Option<String>,
    /// `PODMAN_SOCKET`: an address as above.
    pub podman_socket: Option<String>,
    /// `DOCKER_HOST`: an address as above.
    pub docker_host: Option<String>,
    /// Where Podman may listen, tried in this order.
    pub podman_sockets: Vec<PathBuf>,
    /// Where Docker may listen.
    pub docker_socket: PathBuf,
    /// The node's data folder; holds the socket of a Podman service that narvana runs.
    pub data_dir: PathBuf,
    /// The Podman program, for running its service.
    pub podman_program: PathBuf,
    /// Tells what this node runs from what other nodes of this machine run; letters, digits and dashes.
    pub scope: String,
}

impl Options {
    /// Looks in the usual places. `runtime_dir` is `XDG_RUNTIME_DIR`, where a user's own Podman listens.
    pub fn new(data_dir: PathBuf, scope: impl Into<String>, runtime_dir: Option<PathBuf>) -> Self {
        let own = runtime_dir.map(|folder| folder.join("podman/podman.sock"));
        Self {
            engine: None,
            podman_socket: None,
            docker_host: None,
            podman_sockets: std::iter::once(PathBuf::from(PODMAN_ROOT_SOCKET)).chain(own).collect(),
            docker_socket: PathBuf::from(DOCKER_SOCKET),
            data_dir,
            podman_program: PathBuf::from("podman"),
            scope: scope.into(),
        }
    }
}

/// The engine, and how it was found.
#[derive(Clone)]
pub struct Found {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// In words: which engine, where, and why this one.
    pub how: String,
}

/// No engine can be used.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The one that was named does not answer.
    #[error("{named} names the container engine {address}, which cannot be used: {cause}")]
    Named {
        /// The flag or variable.
        named: &'static str,
        /// Its value.
        address: String,
        /// What was seen.
        cause: String,
    },
    /// Nothing answers.
    #[error("no container engine answers; install podman, start docker, or name one with --engine. Tried: {}", tried.join("; "))]
    Nothing {
        /// Each place and what was seen there.
        tried: Vec<String>,
    },
}

/// Finds the engine of this machine, or runs Podman's service under `supervisor`. That service ends when the supervisor
/// stops; containers go on.
pub async fn find(options: &Options, supervisor: &Supervisor) -> Result<Found, FindError> {
    let named = [
        ("--engine", &options.engine),
        ("PODMAN_SOCKET", &options.podman_socket),
        ("DOCKER_HOST", &options.docker_host),
    ];
    let mut search = Search { options, supervisor, tried: Vec::new() };
    let named = named.into_iter().find_map(|(name, value)| Some((name, value.as_deref().filter(|v| !v.is_empty())?)));
    let found = match named {
        None => match search.podman_sockets().await {
            Some(found) => Some(found),
            None => match search.docker_socket().await {
                Some(found) => Some(found),
                None => search.own_service().await,
            },
        },
        Some(("--engine", "podman")) => match search.podman_sockets().await {
            Some(found) => Some(found),
            None => search.own_service().await,
        },
        Some(("--engine", "docker")) => search.docker_socket().await,
        Some((named, address)) => {
            let found = search.connect(address, &format!("named by {named}")).await;
            return found.map_err(|error| FindError::Named {
                named,
                address: address.to_owned(),
                cause: cause(&error),
            });
        }
    };
    found.ok_or(FindError::Nothing { tried: search.tried })
}

struct Search<'a> {
    options: &'a Options,
    supervisor: &'a Supervisor,
    tried: Vec<String>,
}

impl Search<'_> {
    async fn podman_sockets(&mut self) -> Option<Found> {
        for socket in &self.options.podman_sockets {
            if let Some(found) = self.try_socket(socket, "Podman's socket").await {
                return Some(found);
            }
        }
        None
    }

    async fn docker_socket(&mut self) -> Option<Found> {
        self.try_socket(&self.options.docker_socket, "Docker's socket").await
    }

    async fn own_service(&mut self) -> Option<Found> {
        let socket = self.options.data_dir.join("podman.sock");
        let started = PodmanService::start(&self.options.podman_program, &socket, self.supervisor).await;
        match started {
            Ok(address) => match self.connect(&address, "a Podman service run by narvana").await {
                Ok(found) => Some(found),
                Err(error) => self.failed("Podman's service, run by narvana", &cause(&error)),
            },
            Err(ServiceError::NoPodman) => self.failed("running Podman's service", "there is no podman program"),
            Err(error) => self.failed("running Podman's service", &error.to_string()),
        }
    }

    async fn try_socket(&mut self, socket: &Path, what: &str) -> Option<Found> {
        let address = format!("unix://{}", socket.display());
        match self.connect(&address, &format!("found at {what}")).await {
            Ok(found) => Some(found),
            Err(error) => self.failed(what, &cause(&error)),
        }
    }

    async fn connect(&self, address: &str, why: &str) -> Result<Found, Error> {
        let engine = ApiEngine::connect(address, &self.options.scope, self.supervisor.clone()).await?;
        let how = format!("{} at {address}, {why}", engine.describe());
        Ok(Found { engine, how })
    }

    fn failed(&mut self, place: &str, cause: &str) -> Option<Found> {
        self.tried.push(format!("{place}: {cause}"));
        None
    }
}

/// The cause of an error without the words around it, which would only repeat the address.
fn cause(error: &Error) -> String {
    match error {
        Error::Unreachable { cause, .. } => cause.clone(),
        error => error.to_string(),
    }
}
