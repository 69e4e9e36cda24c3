//! Listening inside a container's own network.
//!
//! Only a process of a single thread may enter the namespace of another user, which rootless Podman's containers are in. So a child
//! of this program goes inside ([`hand_out`]), sees to it that the kernel turns what goes to [`RELAY_NETWORK`] to one
//! port there, listens at it, and hands the socket out. The kernel does it because programs listen on all addresses of
//! their container: a socket at the address and port that others ask for would be in their way.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::processes::{belongs, check};
use crate::handover;
use crate::model::RELAY_NETWORK;
use crate::task::blocking;

/// The port inside: none that a client's connection begins at on a usual machine, and none that is known for anything.
const PORT: u16 = 61_919;
/// Longest wait for the child. It takes some 20 ms.
const HANDED_OUT_MAX: Duration = Duration::from_secs(5);
/// Where the programs are that change a network's rules: on the path, or where that of a user often does not lead.
const PLACES: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];

/// Which container the child enters.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Its whole id.
    pub container: String,
    /// One of its processes, as this machine numbers it.
    pub process: i32,
}

/// The socket of a child that was sent inside.
pub(super) async fn listen(container: &str, process: Pid) -> io::Result<TcpListener> {
    check(container)?;
    let (ours, theirs) = UnixStream::pair()?;
    // This program, also when the file that it was started from has been replaced.
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command.args(["relay", "--container", container, "--process", &process.as_raw_nonzero().to_string()]);
    command.kill_on_drop(true).stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // Its end of the socket is the only one now, so that its end is seen.
    drop(command);
    let received = blocking(move || handover::take(&ours, HANDED_OUT_MAX)).await;
    if received.is_err() {
        // It may hang.
        child.start_kill()?;
    }
    child.wait().await?;
    received
}

/// The child's work: hands the socket, or why there is none, to whoever is at the other end of its standard input. To be called while the
/// process has one thread.
pub fn hand_out(options: &RelayOptions) -> anyhow::Result<()> {
    let starter = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    match enter(options).and_then(|()| redirect()).and_then(|()| bind()) {
        Ok(listener) => Ok(handover::give(&starter, &listener)?),
        Err(error) => {
            handover::refuse(&starter, &error.to_string())?;
            Err(error.into())
        }
    }
}

/// Goes into the network of the container.
fn enter(options: &RelayOptions) -> io::Result<()> {
    check(&options.container)?;
    let process = Pid::from_raw(options.process).ok_or(io::ErrorKind::InvalidInput)?;
    let open = |kind: &str| {
        File::open(format!("/proc/{process}/ns/{kind}")).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => io::Error::new(
                error.kind(),
                "the node's user may not enter the container's network: run the node as root, or with that user's own engine",
            ),
            _ => error,
        })
    };
    let (network, user) = (open("net")?, open("user")?);
    // Looked at after they were opened: the number may be another process's by now, but then it was not then.
    if !belongs(process, &options.container) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the container has ended"));
    }
    let into_network = || move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network));
    match into_network() {
        Err(Errno::PERM) => {}
        answer => return Ok(answer?),
    }
    // Who is not root may do it as the user that the containers' root is to them.
    move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
    Ok(into_network()?)
}

/// Turns connections to the network's addresses to [`PORT`]. Once is enough, and twice does no harm.
fn redirect() -> io::Result<()> {
    let (network, prefix) = RELAY_NETWORK;
    let (addresses, port) = (format!("{network}/{prefix}"), PORT.to_string());
    let rule = ["OUTPUT", "-d", &addresses, "-p", "tcp", "-j", "REDIRECT", "--to-ports", &port];
    let iptables = |what: &str| run("iptables", ["-w", "-t", "nat", what].into_iter().chain(rule));
    // The old kind of iptables keeps a lock where only root may write.
    let Err(refusal) = iptables("-C").or_else(|_| iptables("-A")) else { return Ok(()) };
    let table = format!(
        "table ip narvana; delete table ip narvana; table ip narvana {{ chain output {{ type nat hook output priority -100; \
         ip daddr {addresses} meta l4proto tcp redirect to :{port}; }}; }}"
    );
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    run("nft", [&*table]).map_err(|error| match (missing(&refusal), missing(&error)) {
        (true, true) => io::Error::other("neither iptables nor nft is installed on this machine; install one of them"),
        (false, true) => refusal,
        (_, false) => error,
    })
}

/// The program that changes a network's rules on this machine, if there is one.
pub fn redirecting_program() -> Option<&'static str> {
    ["iptables", "nft"].into_iter().find(|program| run(program, ["--version"]).is_ok())
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
    let arguments: Vec<&str> = arguments.into_iter().collect();
    for place in PLACES {
        let done = Command::new(format!("{place}{program}")).args(&arguments).stdin(Stdio::null()).output();
        return match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Ok(done) if !done.status.success() => {
                Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim())))
            }
            done => done.map(drop),
        };
    }
    Err(io::ErrorKind::NotFound.into())
}

fn bind() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => io::Error::new(
            error.kind(),
            format!(
                "port {PORT} inside the container, which the node needs there, is in use; let the program take another"
            ),
        ),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_the_container_is_followed_inside() {
        let process = rustix::process::getpid().as_raw_nonzero().get();
        for (container, process, kind) in [
            ("ab".repeat(32), process, io::ErrorKind::NotFound),
            ("../../x".to_owned(), process, io::ErrorKind::InvalidInput),
            ("ab".repeat(32), 0, io::ErrorKind::InvalidInput),
        ] {
            let error = enter(&RelayOptions { container, process }).expect_err("it is none of its");
            assert_eq!(error.kind(), kind, "{error}");
        }
    }
}
