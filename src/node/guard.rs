//! The process that ends what runs alone when this node's program cannot (`agent::guard`): how it is started, and what it is made of.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Assurance, Guard, stand_guard};
use crate::cluster::Identity;
use crate::engine::{self, Engine};
use crate::model::{ClusterId, NodeId};
use crate::task::{Supervisor, blocking};

use super::options::scope;
use super::running::STOP_GRACE;

/// What the guard needs of its own: its lock, and the socket of Podman's service, should it have to run that.
const FOLDER: &str = "guard";
/// Longest wait for a guard that was started; it gives up its search for the engine before that.
const START_MAX: Duration = Duration::from_secs(10);
const SEARCH_MAX: Duration = Duration::from_secs(8);
/// Pause before it is looked again whether it stands.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// A node that looks whether a guard stands has its lock for less than this.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Variables of the node that are no business of its guard: a key, and where systemd waits to hear of the node.
const NOT_FOR_IT: [&str; 2] = ["JWT_SECRET", "NOTIFY_SOCKET"];

/// What a guard is told when it is started.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// The node's data folder.
    pub data_dir: PathBuf,
    /// The node's cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The engine that the node found, as `--engine` names it.
    pub engine: String,
}

/// The guard of a node, as a process.
pub(super) struct GuardProcess {
    data_dir: PathBuf,
    identity: Identity,
    engine: watch::Receiver<Option<Arc<dyn Engine>>>,
    assurance: Assurance,
}

impl GuardProcess {
    pub(super) fn new(
        data_dir: &Path,
        identity: Identity,
        engine: watch::Receiver<Option<Arc<dyn Engine>>>,
    ) -> io::Result<Self> {
        Ok(Self { data_dir: data_dir.to_owned(), identity, engine, assurance: Assurance::open(data_dir)? })
    }

    /// What the guard is told, once there is an engine.
    fn options(&self) -> Option<GuardOptions> {
        let address = self.engine.borrow().as_ref()?.describe().address;
        // Podman's service that this program runs ends with it: then the guard runs one.
        let own = address.strip_prefix("unix://").is_some_and(|socket| Path::new(socket).starts_with(&self.data_dir));
        let engine = if own { "podman".to_owned() } else { address };
        let Identity { cluster, node, .. } = self.identity;
        Some(GuardOptions { data_dir: self.data_dir.clone(), cluster, node, engine })
    }
}

#[async_trait]
impl Guard for GuardProcess {
    async fn stand(&self) -> Result<(), String> {
        let options = self.options().ok_or("there is no container engine")?;
        if stands(&options) {
            return Ok(());
        }
        let failed = |error: io::Error| format!("the guard's process cannot be started: {error}");
        let mut child = start(&options).map_err(failed)?;
        let deadline = Instant::now() + START_MAX;
        loop {
            let ended = child.try_wait().map_err(failed)?;
            // One that ended because another one was quicker is no trouble.
            match (stands(&options), ended) {
                (true, _) => return Ok(()),
                (false, Some(status)) => {
                    return Err(format!("the guard's process ended ({status}); its lines in the log say why"));
                }
                (false, None) if Instant::now() > deadline => {
                    return Err(format!("the guard's process does not stand after {} s", START_MAX.as_secs()));
                }
                (false, None) => sleep(LOOK_AGAIN_AFTER).await,
            }
        }
    }

    async fn assured(&self, asked: Duration, only: bool) {
        let assurance = self.assurance.clone();
        if let Err(error) = blocking(move || assurance.note(asked, only)).await {
            tracing::warn!(%error, "cannot write for the guard that the cluster was heard of");
        }
    }
}

fn start(options: &GuardOptions) -> io::Result<tokio::process::Child> {
    // This program, also when the file that it was started from has been replaced.
    let mut command = Command::new("/proc/self/exe");
    command.arg("guard").arg("--data-dir").arg(&options.data_dir).args(["--cluster", &options.cluster.to_string()]);
    command.args(["--node", &options.node.to_string(), "--engine", &options.engine]);
    for name in NOT_FOR_IT {
        command.env_remove(name);
    }
    // In a group of its own: what a terminal sends to the node is not for it.
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    command.spawn()
}

fn stands(options: &GuardOptions) -> bool {
    lock(options).is_ok_and(|lock| lock.is_none())
}

/// The lock of the guard that stands before this engine; nothing when another one has it.
fn lock(options: &GuardOptions) -> io::Result<Option<File>> {
    let folder = options.data_dir.join(FOLDER);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    // A node that was started again with another engine needs another guard.
    let name = format!("{}.lock", &hex::encode(Sha256::digest(&options.engine))[..16]);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(name))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Stands guard, as a process of its own, until nothing is left to guard. Does nothing when another one stands.
pub async fn guard(options: GuardOptions) -> anyhow::Result<()> {
    let supervisor = Supervisor::new("guard", CancellationToken::new());
    let identity = Identity::joined(options.cluster, options.node);
    let search = engine::Options {
        engine: Some(options.engine.clone()),
        ..engine::Options::new(options.data_dir.join(FOLDER), scope(identity), None)
    };
    // Only who sees the engine can end anything: before that none stands.
    let found = timeout(SEARCH_MAX, engine::find(&search, &supervisor)).await;
    let engine = found.context("the container engine does not answer the guard")??.engine;
    let deadline = Instant::now() + LOOK_MAX;
    let _lock = loop {
        match lock(&options).context("cannot lock the data folder for the guard")? {
            Some(lock) => break lock,
            None if Instant::now() > deadline => return Ok(()),
            None => sleep(LOOK_AGAIN_AFTER).await,
        }
    };
    let agent = agent::Options {
        cluster: options.cluster,
        node: options.node,
        stop_grace: STOP_GRACE,
        drain_max: Duration::ZERO,
    };
    let assurance = Assurance::open(&options.data_dir).context("cannot read what the node writes for its guard")?;
    stand_guard(&agent, &*engine, || assurance.standing()).await;
    supervisor.stop(STOP_GRACE).await;
    Ok(())
}
