//! The process that ends what runs alone when this node's program cannot (`agent::guard`): how it is started, and what it is made of.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock};
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Assurance, Guard, stand_guard};
use crate::cluster::Identity;
use crate::config::NodeConfig;
use crate::engine;
use crate::model::{ClusterId, NodeId};
use crate::task::Supervisor;

use super::options::scope;
use super::running::STOP_GRACE;

/// Locked by the guard that stands.
const LOCK: &str = "guard.lock";
/// For what the guard's engine needs, should it have to run Podman's service itself.
const FOLDER: &str = "guard";
/// Longest wait for a guard that was started.
const START_MAX: Duration = Duration::from_secs(10);
/// Pause before it is looked again whether it stands.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Pause before an engine is looked for again.
const SEARCH_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a guard is told when it is started.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// The node's data folder.
    pub data_dir: PathBuf,
    /// The node's cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// See `--engine`.
    pub engine: Option<String>,
    /// Podman's socket, when no engine is named.
    pub podman_socket: Option<String>,
    /// Docker's address, when no engine is named.
    pub docker_host: Option<String>,
    /// Where the user's own Podman listens.
    pub runtime_dir: Option<PathBuf>,
}

/// The guard of a node, as a process.
pub(super) struct GuardProcess {
    options: GuardOptions,
    assurance: Assurance,
}

impl GuardProcess {
    pub(super) fn new(config: &NodeConfig, data_dir: &Path, identity: Identity) -> Self {
        let options = GuardOptions {
            data_dir: data_dir.to_owned(),
            cluster: identity.cluster,
            node: identity.node,
            engine: config.engine.clone(),
            podman_socket: config.podman_socket.clone(),
            docker_host: config.docker_host.clone(),
            runtime_dir: config.runtime_dir.clone(),
        };
        Self { options, assurance: Assurance::of(data_dir) }
    }

    fn stands(&self) -> bool {
        lock(&self.options.data_dir).is_ok_and(|lock| lock.is_none())
    }

    fn start(&self) -> io::Result<()> {
        let options = &self.options;
        // This program, also when the file that it was started from has been replaced.
        let mut command = Command::new("/proc/self/exe");
        command.arg("guard").arg("--data-dir").arg(&options.data_dir);
        command.args(["--cluster", &options.cluster.to_string(), "--node", &options.node.to_string()]);
        let runtime_dir = options.runtime_dir.as_ref().map(|folder| folder.display().to_string());
        for (flag, value) in [
            ("--engine", options.engine.as_ref()),
            ("--podman-socket", options.podman_socket.as_ref()),
            ("--docker-host", options.docker_host.as_ref()),
            ("--runtime-dir", runtime_dir.as_ref()),
        ] {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        }
        // In a group of its own: what a terminal sends to the node is not for it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        command.spawn().map(drop)
    }
}

#[async_trait]
impl Guard for GuardProcess {
    async fn stand(&self) -> Result<(), String> {
        if self.stands() {
            return Ok(());
        }
        self.start().map_err(|error| format!("the guard's process cannot be started: {error}"))?;
        let deadline = Instant::now() + START_MAX;
        while !self.stands() {
            if Instant::now() > deadline {
                return Err(format!("the guard's process does not stand after {} s", START_MAX.as_secs()));
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
        Ok(())
    }

    fn assured(&self, age: Duration, only: bool) {
        if let Err(error) = self.assurance.note(age, only) {
            tracing::warn!(%error, "cannot write for the guard that the cluster was heard of");
        }
    }
}

/// The lock of the guard that stands; nothing when another one has it.
fn lock(data_dir: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(data_dir.join(LOCK))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Stands guard, as a process of its own, until nothing is left to guard. Does nothing when another one stands.
pub async fn guard(options: GuardOptions) -> anyhow::Result<()> {
    // A node that looks whether one stands has the lock for a moment.
    let deadline = Instant::now() + Duration::from_secs(1);
    let locked = loop {
        let lock = lock(&options.data_dir).context("cannot lock the data folder for the guard")?;
        if lock.is_some() || Instant::now() > deadline {
            break lock;
        }
        sleep(LOOK_AGAIN_AFTER).await;
    };
    let Some(_lock) = locked else { return Ok(()) };
    let supervisor = Supervisor::new("guard", CancellationToken::new());
    let folder = options.data_dir.join(FOLDER);
    let identity = Identity::joined(options.cluster, options.node);
    let search = engine::Options {
        engine: options.engine.clone(),
        podman_socket: options.podman_socket.clone(),
        docker_host: options.docker_host.clone(),
        ..engine::Options::new(folder, scope(identity), options.runtime_dir.clone())
    };
    let found = loop {
        match engine::find(&search, &supervisor).await {
            Ok(found) => break found.engine,
            Err(error) => tracing::warn!(%error, "the guard finds no container engine; looking again"),
        }
        sleep(SEARCH_AGAIN_AFTER).await;
    };
    let agent = agent::Options {
        cluster: options.cluster,
        node: options.node,
        stop_grace: STOP_GRACE,
        drain_max: Duration::ZERO,
    };
    stand_guard(&agent, &*found, &Assurance::of(&options.data_dir)).await;
    supervisor.stop(STOP_GRACE).await;
    Ok(())
}
