//! `narvana doctor` on this machine, with real nodes and without one.

use std::net::TcpListener;
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::harness::Harness;
use crate::harness::node::Node;

/// What it says, and its exit code.
fn examined(node: &Node) -> (String, Option<i32>) {
    let ended = node.command("doctor").output().expect("it runs");
    (String::from_utf8_lossy(&ended.stdout).into_owned(), ended.status.code())
}

/// The line about a thing.
fn line<'a>(said: &'a str, what: &str) -> &'a str {
    said.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("nothing about {what}: {said}"))
}

#[tokio::test]
async fn a_doctor_says_what_is_wrong_and_changes_nothing() {
    let harness = Harness::podman().await;
    let mut first = Node::registered(harness.address());
    let mut second = first.joined("second");
    let (said, code) = examined(&second);
    assert_eq!(code, Some(0), "{said}");
    assert!(line(&said, "node ").contains(&format!("process {}", second.pid())), "{said}");
    assert!(line(&said, "container engine").contains("odman"), "{said}");
    // Its own port, and the member that let it in.
    assert_eq!(
        said.lines().filter(|line| line.starts_with("member") && line.trim_end().ends_with("ok")).count(),
        2,
        "{said}"
    );
    assert_eq!(
        said.lines().filter(|line| line.starts_with("clock") && line.trim_end().ends_with("ok")).count(),
        2,
        "{said}"
    );

    assert_eq!(
        said.lines().filter(|line| line.starts_with("certificate  ") && line.trim_end().ends_with("ok")).count(),
        2,
        "{said}"
    );

    // For programs, of a folder without a node.
    let newcomer = first.newcomer("nobody", "");
    let ended = newcomer.command("doctor --output json").output().expect("it runs");
    let checks: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let of_node = checks.as_array().expect("a list").iter().find(|check| check["what"] == "node").expect("a check");
    assert!(of_node["found"].as_str().is_some_and(|found| found.starts_with("none in")), "{checks:#}");
    assert!(!newcomer.data.exists(), "nothing was made");

    first.kill();
    let (said, code) = examined(&second);
    assert_eq!(code, Some(1), "{said}");
    assert!(line(&said, "node ").contains("BAD: ") && line(&said, "node ").contains("is needed"), "{said}");
    assert!(said.lines().any(|line| line.starts_with("member") && line.contains("BAD: ")), "{said}");
    second.kill();
    let (said, _) = examined(&second);
    assert!(line(&said, "node ").contains("it does not run"), "{said}");
    // Somebody has its folder and serves nothing, as a node does that starts or is stuck.
    let lock = std::fs::File::open(second.data.join("narvana.lock")).expect("opens");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
    let (said, _) = examined(&second);
    assert!(line(&said, "node ").contains(&format!("process {} (", std::process::id())), "{said}");
    drop(lock);
    std::fs::write(second.data.join("identity.json"), b"{").expect("writes");
    let (said, code) = examined(&second);
    assert!(code == Some(1) && line(&said, "node ").contains("BAD: "), "{said}");
}

#[test]
fn whoever_has_a_port_of_the_node_is_named() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut command = Command::new(env!("CARGO_BIN_EXE_narvana"));
    command.arg("doctor").arg("--data-dir").arg(&data).args(["--api-host", "127.0.0.1", "--api-port", &port]);
    command.args(["--grpc-port", "0", "--ingress-http-port", "off"]);
    let ended = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    // A service of Podman that was started for the look ends in peace.
    let warnings = String::from_utf8_lossy(&ended.stderr);
    assert!(!warnings.contains("WARN"), "{warnings}");
    let ports = line(&said, "ports");
    assert!(ports.contains("BAD: ") && ports.contains(&format!("process {} (", std::process::id())), "{said}");
    drop(listener);
    let ended = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(line(&said, "ports").trim_end().ends_with("ok") && !data.exists(), "{said}");
}
