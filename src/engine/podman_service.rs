//! A Podman service that narvana runs, for machines with Podman and no socket.
//!
//! The child is restarted when it ends and told to end when the supervisor stops; containers have parents of their own
//! and go on. A service that an earlier, killed narvana left behind is ended first, by the process id that the kernel
//! gives for its socket.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::task::{OnError, Supervisor};

/// How long the service may take until it listens; a first start sets its storage up.
const START_TIME: Duration = Duration::from_secs(20);
/// How long it may take to end when told to.
const STOP_TIME: Duration = Duration::from_secs(5);
/// Pause before it is started again, so that one that cannot run does not take a core.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How often its socket is tried while it starts.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// Longest path of a Unix socket on Linux, without its terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why Podman's service does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    #[error("there is no podman program")]
    NoPodman,
    #[error("{} is {} bytes long, and a socket's path has {SOCKET_PATH_BYTES_MAX} at most: use a shorter --data-dir", path.display(), path.as_os_str().len())]
    PathTooLong { path: PathBuf },
    #[error("`podman system service` cannot be started: {0}")]
    Start(String),
    #[error("`podman system service` does not listen at {} after {} s", path.display(), START_TIME.as_secs())]
    Silent { path: PathBuf },
}

/// Runs `podman system service`.
pub(super) struct PodmanService {
    program: PathBuf,
    socket: PathBuf,
}

impl PodmanService {
    /// Starts the service and a task that keeps it running; returns its address once it listens.
    pub(super) async fn start(program: &Path, socket: &Path, supervisor: &Supervisor) -> Result<String, ServiceError> {
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(ServiceError::PathTooLong { path: socket.to_owned() });
        }
        let service = Self { program: program.to_owned(), socket: socket.to_owned() };
        end_leftover(socket).await;
        let mut child = service.spawn(supervisor)?;
        if let Err(error) = service.listening(&mut child).await {
            end(&mut child).await;
            return Err(error);
        }
        let address = format!("unix://{}", socket.display());
        let stopping = supervisor.stopping();
        let owner = supervisor.clone();
        supervisor.spawn("podman service", OnError::Log, async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => break,
                    ended = child.wait() => {
                        tracing::warn!(?ended, "podman's service ended; starting it again");
                        tokio::select! {
                            () = stopping.cancelled() => break,
                            () = tokio::time::sleep(RESTART_PAUSE) => {}
                        }
                        match service.spawn(&owner) {
                            Ok(again) => child = again,
                            Err(error) => tracing::error!(%error, "podman's service cannot be started again"),
                        }
                    }
                }
            }
            end(&mut child).await;
            Ok::<(), ServiceError>(())
        });
        Ok(address)
    }

    fn spawn(&self, supervisor: &Supervisor) -> Result<Child, ServiceError> {
        let mut child = Command::new(&self.program)
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", self.socket.display()))
            // Podman would have every container tell systemd that *it* is ready, and wait for that.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal goes to the whole group, and the node still needs the engine while it stops.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => ServiceError::NoPodman,
                _ => ServiceError::Start(error.to_string()),
            })?;
        if let Some(errors) = child.stderr.take() {
            supervisor.spawn("podman service's words", OnError::Log, async move {
                let mut lines = BufReader::new(errors).lines();
                while let Some(line) = lines.next_line().await? {
                    tracing::debug!(target: "podman", "{line}");
                }
                Ok::<(), io::Error>(())
            });
        }
        Ok(child)
    }

    /// Waits until the service listens; fails at once when it ends instead.
    async fn listening(&self, child: &mut Child) -> Result<(), ServiceError> {
        let wait = async {
            loop {
                if UnixStream::connect(&self.socket).await.is_ok() {
                    return Ok(());
                }
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(ServiceError::Start(format!("it ended at once with {status}")));
                }
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        };
        let silent = || ServiceError::Silent { path: self.socket.clone() };
        tokio::time::timeout(START_TIME, wait).await.unwrap_or_else(|_| Err(silent()))
    }
}

/// Tells a child to end, and kills it when it does not.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ended_already = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_TIME, child.wait()).await.is_err() {
        let _ended_already = child.kill().await;
    }
}

/// Ends the service that still listens at our socket: nobody else knows that path.
async fn end_leftover(socket: &Path) {
    let Ok(Ok(stream)) = tokio::time::timeout(STOP_TIME, UnixStream::connect(socket)).await else { return };
    let Some(pid) = stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(Pid::from_raw) else { return };
    tracing::info!(pid = pid.as_raw_nonzero().get(), "ending the podman service of an earlier run");
    let _ended_already = kill_process(pid, Signal::TERM);
    let wait = async {
        while UnixStream::connect(socket).await.is_ok() {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    };
    if tokio::time::timeout(STOP_TIME, wait).await.is_err() {
        let _ended_already = kill_process(pid, Signal::KILL);
    }
}
