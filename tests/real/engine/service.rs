//! Finding an engine, and the Podman service that narvana runs itself.

use std::path::Path;
use std::time::Duration;

use narvana::engine::{FindError, Options, find};
use narvana::task::Supervisor;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, until};

/// Looks nowhere but in that folder.
fn options(folder: &Path) -> Options {
    let mut options = Options::new(folder.to_owned(), "find", None);
    options.podman_sockets = vec![folder.join("none.sock")];
    options.docker_socket = folder.join("none.sock");
    options
}

fn supervisor() -> Supervisor {
    Supervisor::new("engine", CancellationToken::new())
}

/// The process that listens there.
async fn listener(socket: &Path) -> Option<i32> {
    UnixStream::connect(socket).await.ok()?.peer_cred().ok()?.pid()
}

#[tokio::test]
async fn narvana_runs_podman_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("podman.sock");
    let first = supervisor();
    let found = find(&options(folder.path()), &first).await.expect("podman is installed");
    assert!(found.how.starts_with("podman ") && found.how.contains("run by narvana"), "{}", found.how);
    found.engine.ping().await.expect("it answers");

    let pid = listener(&socket).await.expect("it listens");
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it is ours");
    let next = until("it is started again", || async { listener(&socket).await.filter(|next| *next != pid) }).await;
    found.engine.ping().await.expect("it answers again");

    // A second narvana on the same folder, as after a kill: the leftover is ended.
    first.stop(Duration::from_secs(10)).await;
    assert_eq!(listener(&socket).await, None, "it ends with its owner; {next} was its process");
}

#[tokio::test]
async fn a_leftover_service_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("podman.sock");
    let mut leftover = tokio::process::Command::new("podman")
        .args(["system", "service", "--time=0", &format!("unix://{}", socket.display())])
        .kill_on_drop(true)
        .spawn()
        .expect("podman is installed");
    until("it listens", || listener(&socket)).await;
    let owner = supervisor();
    find(&options(folder.path()), &owner).await.expect("podman is installed");
    tokio::time::timeout(Duration::from_secs(10), leftover.wait()).await.expect("it ended").expect("it is ours");
    owner.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn what_is_named_is_used_or_refused() {
    let harness = Harness::podman().await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut wanted = options(folder.path());
    wanted.docker_host = Some("unix:///nowhere.sock".to_owned());
    wanted.podman_socket = Some(harness.socket().display().to_string());
    let found = find(&wanted, &supervisor()).await.expect("PODMAN_SOCKET comes first");
    assert!(found.how.contains("PODMAN_SOCKET"), "{}", found.how);

    wanted.engine = Some("tcp://127.0.0.1:1".to_owned());
    let refused = find(&wanted, &supervisor()).await.err().expect("nobody listens there");
    assert!(refused.to_string().starts_with("--engine names the container engine tcp://127.0.0.1:1"), "{refused}");

    let mut nothing = options(folder.path());
    nothing.podman_program = folder.path().join("no-podman");
    let Err(FindError::Nothing { tried }) = find(&nothing, &supervisor()).await else { panic!("something was found") };
    assert_eq!(tried.len(), 3, "{tried:?}");

    let mut deep = options(&folder.path().join("x".repeat(100)));
    deep.engine = Some("podman".to_owned());
    let too_long = find(&deep, &supervisor()).await.err().expect("no room for the socket");
    assert!(too_long.to_string().contains("--data-dir"), "{too_long}");
}
