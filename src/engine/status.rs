//! What the engine says there is.

use std::fmt;
use std::net::SocketAddr;

use super::Labels;
use crate::model::{Digest, Protocol, Timestamp};

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Podman.
    Podman,
    /// Docker, or something that says it is.
    Docker,
    /// The fake.
    Fake,
}

impl Kind {
    /// Its program on the command line.
    pub fn program(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
            Self::Fake => "fake",
        }
    }
}

/// An engine in a few words; displays as `podman 4.3.1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Which.
    pub kind: Kind,
    /// Its version.
    pub version: String,
    /// Where it is reached.
    pub address: String,
}

impl Description {
    /// Whether its containers are surely on this machine: it is reached by a socket of the machine's own.
    pub fn is_here(&self) -> bool {
        is_socket(&self.address)
    }
}

/// Whether an address of an engine is a socket of this machine.
pub(super) fn is_socket(address: &str) -> bool {
    address.starts_with('/') || address.starts_with("unix://")
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.program(), self.version)
    }
}

/// An image in the engine's store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `sha256:` and 64 hex digits.
    pub id: String,
    /// Size in bytes, layers included.
    pub bytes: u64,
    /// Ports it says it listens on, ascending.
    pub exposed_ports: Vec<(u16, Protocol)>,
    /// The processor architecture that it says it is for: `amd64`, `arm64`.
    pub architecture: Option<String>,
    /// The digest by which it is pulled under the name that it was looked up by, as far as the engine knows one.
    pub digest: Option<Digest>,
}

/// An image in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// `sha256:` and 64 hex digits.
    pub id: String,
    /// Its references with tags, ascending; none when another image took them over.
    pub references: Vec<String>,
    /// Its labels, those of the image it was made from included.
    pub labels: Labels,
}

/// A network in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNetwork {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Never started, or its start failed.
    Created,
    /// Its process runs (or is paused by someone).
    Running,
    /// Its process has ended.
    Exited,
    /// The engine is removing it.
    Removing,
}

/// A container as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// The engine's id: 64 hex digits.
    pub id: String,
    /// Its name, without a leading slash.
    pub name: String,
    /// The id of the image it was made from.
    pub image_id: String,
    /// Its labels and its image's.
    pub labels: Labels,
    /// How far it is.
    pub state: ContainerState,
    /// Exit code once it has exited; 128 + signal when a signal ended it.
    pub exit_code: Option<i64>,
    /// That it, or a process in it, was killed for using more memory than it may.
    pub oom_killed: bool,
    /// When its process began last.
    pub started_at: Option<Timestamp>,
    /// When its process ended last.
    pub finished_at: Option<Timestamp>,
    /// What the engine says went wrong, when it could not be started.
    pub error: Option<String>,
    /// Where its published ports are reached; empty unless it runs.
    pub bindings: Vec<Binding>,
}

/// Where a published port is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The port inside.
    pub container_port: u16,
    /// Its transport.
    pub protocol: Protocol,
    /// The address on this node.
    pub host: SocketAddr,
}

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, by the engine's clock.
    pub at: Timestamp,
    /// Id of the container.
    pub container: String,
    /// Its name.
    pub name: String,
    /// What.
    pub kind: EventKind,
}

/// What happened to a container. Engine health checks are switched off, so there is nothing about health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was created.
    Created,
    /// Its process began.
    Started,
    /// Its process ended.
    Died {
        /// With this code, when the engine says it.
        exit_code: Option<i64>,
    },
    /// A process in it was killed for memory. Docker only says so by event; `inspect` says it for both engines.
    OutOfMemory,
    /// It was removed.
    Removed,
}

/// How a command run inside a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecOutcome {
    /// By itself.
    Exited {
        /// Its exit code; 126 or 127 when there is no such command.
        code: i64,
        /// What it wrote, standard output and error together, bounded.
        output: Vec<u8>,
    },
    /// Not within its limit.
    TimedOut {
        /// What it wrote until then, bounded.
        output: Vec<u8>,
    },
}
