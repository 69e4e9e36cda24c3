//! A command that is interrupted while it sends a source to a node.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::live::{Live, program};

/// More than the system's buffers take on loopback, so that the command is still sending when the line stalls.
const SOURCE_BYTES: usize = 32 << 20;
/// Lets everything before the upload pass, and so much of it that the node writes some of it down.
const PASSED_BYTES: usize = 4 << 20;
const DEADLINE: Duration = Duration::from_secs(30);

/// A line to the node that stalls when so many bytes of one connection have passed: the first message says so, and the
/// connection is there until the receiver is dropped.
fn stalling_line(to: SocketAddr) -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    // Nothing is stored in it, so each message waits for the receiver.
    let (stalled, told) = mpsc::sync_channel(0);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let node = TcpStream::connect(to).expect("the node listens");
            let (client_back, node_back) = (client.try_clone().expect("a handle"), node.try_clone().expect("a handle"));
            let stalled = stalled.clone();
            thread::spawn(move || pass(client, node, &stalled));
            thread::spawn(move || std::io::copy(&mut &node_back, &mut &client_back));
        }
    });
    (address, told)
}

fn pass(mut from: TcpStream, mut to: TcpStream, stalled: &mpsc::SyncSender<()>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut passed = 0;
    while passed < PASSED_BYTES {
        match from.read(&mut buffer) {
            Ok(count @ 1..) if to.write_all(&buffer[..count]).is_ok() => passed += count,
            _ => return,
        }
    }
    while stalled.send(()).is_ok() {}
    let _it_is_over = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, |entries| entries.count())
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
        thread::sleep(Duration::from_millis(10)); // poll
    }
}

/// The node keeps nothing of the source, and the command leaves nothing behind and says what is there.
pub(super) fn in_the_middle_of_an_upload(live: &Live) {
    let home = live.folder.path().join("interrupted");
    let (source, temporary) = (home.join("parcel"), home.join("tmp"));
    std::fs::create_dir_all(&source).expect("a folder");
    std::fs::create_dir_all(&temporary).expect("a folder");
    // Random bytes stay as long when they are packed.
    let content: Vec<u8> = (0..SOURCE_BYTES / 1024).flat_map(|_| narvana::random::bytes::<1024>()).collect();
    std::fs::write(source.join("data"), content).expect("writes");
    std::fs::write(source.join("Dockerfile"), "FROM scratch\n").expect("writes");
    let artifacts = live.data.join("artifacts");
    let before = files(&artifacts);

    let (line, stalled) = stalling_line(live.api);
    let mut command = program();
    command.args(["--api", &format!("http://{line}"), "--token", &live.token, "deploy"]).arg(&source);
    command.env("TMPDIR", &temporary).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program runs");
    stalled.recv_timeout(DEADLINE).expect("it sends the source");
    wait_until("the node writes what it has", || files(&artifacts) > before);
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
    kill_process(pid, Signal::INT).expect("it runs");

    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    for words in ["interrupted in the middle of the upload", "next: ", "service parcel of app parcel"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(files(&temporary), 0, "the archive is still there");
    drop(stalled);
    wait_until("the node throws away the part that came", || files(&artifacts) == before);
    // What was made before is there, as it says, and has no source.
    let service = live.ask("GET", "/v1/apps/parcel/services/parcel", b"");
    assert_eq!(service.status, 200, "{}", service.text);
    let deploy = live.ask("POST", "/v1/apps/parcel/services/parcel/deploy", b"{}");
    deploy.refused(409, "conflict", "a deployment without a source");
}
