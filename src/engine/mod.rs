//! Container engines: one trait, an adapter for Podman and Docker, and a fake.
//!
//! What comes in: what a container, an image build, a network or a volume should be ([`ContainerSpec`],
//! [`BuildRequest`]). What goes out: what the engine says there is ([`ContainerStatus`], [`Event`], [`LogLine`]), and
//! errors sorted by what the caller can do ([`Error`]). [`find()`] chooses the engine of this machine, or runs Podman's
//! service itself.
//!
//! Deliberately absent: restart policies and health checks of the engine (narvana decides both), anything privileged,
//! host networks, host paths but one file of names. Nothing here decides; callers compare and choose.

mod api;
mod attach;
mod build;
mod error;
pub mod fake;
mod find;
mod inside;
mod kernel_log;
mod log_line;
mod login;
mod podman_service;
mod processes;
mod spec;
mod status;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

pub use api::ApiEngine;
pub use attach::{Attached, ExecOutput, ExecSpec, TerminalSize};
pub use build::{BuildNetwork, BuildRequest};
pub use error::Error;
pub use find::{FindError, Found, Options, find};
pub use inside::{RelayOptions, hand_out, redirecting_program};
pub use log_line::{LINE_BYTES_MAX, LogCursor, LogLine, LogStream, LogsFrom};
pub use login::LocalLogin;
pub use spec::{ContainerSpec, NetworkAttachment, PublishedPort, VolumeMount};
pub use status::{Binding, ContainerState, ContainerStatus, Description, Event, EventKind, ExecOutcome, Image, Kind};
pub use status::{StoredImage, StoredNetwork};

use crate::model::Timestamp;

/// Labels of containers, networks, volumes and images, and filters on them.
pub type Labels = BTreeMap<String, String>;

/// A container engine. Every call but the streams, `build`, and those that move images ends within a time limit of its own; past it the
/// answer is [`Error::Unreachable`].
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Kind and version, as they were when the engine was found.
    fn describe(&self) -> Description;

    /// Whether the engine answers.
    async fn ping(&self) -> Result<(), Error>;

    /// The image of that reference or id in the engine's own store.
    async fn image(&self, reference: &str) -> Result<Option<Image>, Error>;

    /// Fetches an image. Progress comes as lines; nobody has to listen.
    async fn pull(&self, reference: &str, progress: mpsc::Sender<String>) -> Result<Image, Error>;

    /// Fetches an image from a registry on this machine's loopback that speaks plain HTTP. The reference begins with the
    /// registry's address.
    async fn pull_from_loopback(
        &self,
        reference: &str,
        login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<Image, Error>;

    /// Sends an image to a registry on this machine's loopback that speaks plain HTTP, as that name (which begins with
    /// the registry's address) and tag. The engine does not know the image by them afterwards, unless the future is
    /// dropped: that ends the push. Progress comes as lines; nobody has to listen.
    async fn push(
        &self,
        image: &str,
        destination: (&str, &str),
        login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<(), Error>;

    /// Builds an image from a Dockerfile and returns its id. The lines of the build go to `log`, at the pace at which
    /// they are read there. Dropping the future ends the build, its running step included.
    async fn build(&self, request: BuildRequest, log: mpsc::Sender<String>) -> Result<String, Error>;

    /// Removes an image, if it is there: of one with several references only this one. [`Error::Conflict`] when a
    /// container needs it.
    async fn remove_image(&self, reference: &str) -> Result<(), Error>;

    /// Images that carry all these labels, ordered by id.
    async fn list_images(&self, labels: &Labels) -> Result<Vec<StoredImage>, Error>;

    /// Makes sure that a bridge network of that name exists.
    async fn ensure_network(&self, name: &str, labels: &Labels) -> Result<(), Error>;

    /// Removes a network, if it is there. [`Error::Conflict`] while containers use it.
    async fn remove_network(&self, name: &str) -> Result<(), Error>;

    /// Networks that carry all these labels, ordered by name.
    async fn list_networks(&self, labels: &Labels) -> Result<Vec<StoredNetwork>, Error>;

    /// Makes sure that a volume of that name exists.
    async fn ensure_volume(&self, name: &str, labels: &Labels) -> Result<(), Error>;

    /// Removes a volume and its data, if it is there. [`Error::Conflict`] while containers use it.
    async fn remove_volume(&self, name: &str) -> Result<(), Error>;

    /// Creates a container and returns its id. It does not run yet. [`Error::Conflict`] when the name is taken.
    async fn create(&self, spec: &ContainerSpec) -> Result<String, Error>;

    /// Starts a created or exited container; no effect on a running one.
    async fn start(&self, id: &str) -> Result<(), Error>;

    /// Asks the container's process to end, and kills it after `grace`. No effect on one that does not run.
    async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error>;

    /// Kills the container's process. No effect on one that does not run.
    async fn kill(&self, id: &str) -> Result<(), Error>;

    /// Kills the container's processes without asking the engine, which hangs, and says how many there were. `id` is the whole one.
    /// An error when it is not of this machine, or nobody may do it.
    async fn kill_without_engine(&self, id: &str) -> io::Result<usize>;

    /// Kills and removes a container with its anonymous volumes, if it is there. Named volumes stay.
    async fn remove(&self, id: &str) -> Result<(), Error>;

    /// All containers that carry all these labels, whatever their state, ordered by name.
    async fn list(&self, labels: &Labels) -> Result<Vec<ContainerStatus>, Error>;

    /// One container by id or name.
    async fn inspect(&self, id: &str) -> Result<ContainerStatus, Error>;

    /// What happens to containers that carry all these labels, from `since` on (so that nothing is lost between a
    /// [`Engine::list`] and the first event). Ends, with an error or without, when the engine goes away. An engine that
    /// hangs does not end it: ping too.
    fn events(&self, labels: &Labels, since: Timestamp) -> BoxStream<'static, Result<Event, Error>>;

    /// The lines a container wrote. With `follow` the stream ends when the container does, or with an error.
    fn logs(&self, id: &str, from: LogsFrom) -> BoxStream<'static, Result<LogLine, Error>>;

    /// Listens inside a running container, whose whole id this is: every connection that its processes open to an address of
    /// [`RELAY_NETWORK`](crate::model::RELAY_NETWORK) comes out, and the socket knows where it was to go (`SO_ORIGINAL_DST`). As
    /// long as the container runs; there can be one such socket at a time. An error when it is not of this machine,
    /// or the kernel or the tools for it refuse.
    async fn listen_inside(&self, id: &str) -> io::Result<TcpListener>;

    /// Runs a command inside a running container. After `limit` the answer is [`ExecOutcome::TimedOut`]; the command
    /// itself then goes on until it ends or its container does, since no engine can end it.
    async fn exec(&self, id: &str, argv: &[String], limit: Duration) -> Result<ExecOutcome, Error>;

    /// Starts a command inside a running container and hands its input and output over. [`Error::Conflict`] when the
    /// container does not run.
    async fn attach(&self, id: &str, spec: &ExecSpec) -> Result<Attached, Error>;

    /// Gives the terminal of a command ([`Attached::id`]) another size.
    async fn resize(&self, exec: &str, size: TerminalSize) -> Result<(), Error>;

    /// Closes the terminal of a command ([`Attached::id`]) in the container with this whole id: the command is told, and through the
    /// kernel, when it ends, whatever runs in the foreground. What chose not to hear that goes on. No effect on one that has ended.
    async fn hang_up(&self, container: &str, exec: &str) -> Result<(), Error>;
}
