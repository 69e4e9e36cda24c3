//! A node that runs as a process of its own, and raw bytes to and from it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longer than the slowest answer may take, retries of the node's own included.
const DEADLINE: Duration = Duration::from_secs(30);
/// Signs the session tokens of the node, so that tests can make tokens that differ in one point only.
pub(super) const KEY: &str = "a key of the operator's own, of 32 bytes and more";

pub(super) struct Live {
    child: Child,
    pub(super) data: PathBuf,
    pub(super) api: SocketAddr,
    pub(super) ingress: SocketAddr,
    pub(super) token: String,
    pub(super) folder: tempfile::TempDir,
}

/// An answer, as the bytes that came.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) json: Value,
    pub(super) text: String,
}

impl Reply {
    fn read(text: String) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), json: serde_json::from_str(body).unwrap_or_default(), text }
    }

    /// An error in the one shape: with a reason, of a bounded size, and fit for a terminal.
    #[track_caller]
    pub(super) fn refused(&self, status: u16, code: &str, sent: &str) {
        assert_eq!((self.status, self.json["code"].as_str()), (status, Some(code)), "{sent}: {}", self.text);
        let message = self.json["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty() && self.text.len() < 4_096, "{sent}: {}", self.text);
        assert!(!message.contains(char::is_control), "{sent}: {message:?}");
        assert!(self.json["request_id"].is_string(), "{sent}: {}", self.text);
    }
}

impl Live {
    /// A node with a user, an app `shop` and in it a service `web`.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = program();
        command.arg("init").arg("--data-dir").arg(&data).args(addresses()).env("JWT_SECRET", KEY);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().expect("the program starts");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut live = Self { child, data, api: nowhere, ingress: nowhere, token: String::new(), folder };
        let endpoints = live.wait_ready();
        let address = |name: &str| {
            let text = endpoints[name].as_str().expect("an address").trim_start_matches("http://");
            text.parse().expect("an address")
        };
        (live.api, live.ingress) = (address("api"), address("ingress_http"));
        let user = json!({"email": "ada@example.org", "password": "correct horse"}).to_string();
        let answer = live.ask_as("", "POST", "/auth/register", user.as_bytes());
        live.token = answer.json["token"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned();
        for (path, body) in [
            ("/v1/apps", json!({"name": "shop"})),
            ("/v1/apps/shop/services", json!({"name": "web", "image": "docker.io/library/nginx:1"})),
        ] {
            let made = live.ask("POST", path, body.to_string().as_bytes());
            assert_eq!(made.status, 201, "{}", made.text);
        }
        live
    }

    fn wait_ready(&mut self) -> Value {
        let begun = Instant::now();
        loop {
            let text = std::fs::read(self.data.join("endpoints.json")).unwrap_or_default();
            if let Ok(endpoints) = serde_json::from_slice(&text) {
                return endpoints;
            }
            let ended = self.child.try_wait().expect("its state").is_some();
            assert!(!ended && begun.elapsed() < DEADLINE, "the node is not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(10)); // poll
        }
    }

    /// Host and port between nodes.
    pub(super) fn grpc(&self) -> String {
        let text = std::fs::read(self.data.join("endpoints.json")).expect("it runs");
        let endpoints: Value = serde_json::from_slice(&text).expect("JSON");
        endpoints["grpc"].as_str().expect("an address").to_owned()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it as systemd would; its files stay.
    pub(super) fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let status = self.child.wait().expect("it is ours");
        assert!(status.success(), "{status}: {}", self.log());
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks as the owner.
    pub(super) fn ask(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        self.ask_as(&self.token, method, path, body)
    }

    /// Asks with a token, or without when it is empty.
    pub(super) fn ask_as(&self, token: &str, method: &str, path: &str, body: &[u8]) -> Reply {
        let mut fields = String::new();
        if !token.is_empty() {
            fields.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if !body.is_empty() {
            fields.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{fields}\r\n", self.api);
        Reply::read(self.raw(self.api, &[head.as_bytes(), body].concat()))
    }

    /// Sends a request with these header fields and no body.
    pub(super) fn ask_with(&self, line: &str, fields: &str) -> Reply {
        let head = format!("{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{fields}\r\n", self.api);
        Reply::read(self.raw(self.api, head.as_bytes()))
    }

    /// Sends bytes and reads until the node closes the connection, which it must.
    pub(super) fn raw(&self, to: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(to).expect("connects");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        // The node may have seen enough before it has seen all.
        let _cut_short = stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut buffer = [0; 4_096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
                // Closed with bytes of ours unread.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the connection stays open: {error}, after {}", String::from_utf8_lossy(&answer)),
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _best_effort = self.child.kill();
        let _best_effort = self.child.wait();
    }
}

/// The program with a home of its own and nothing else from the environment.
pub(super) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_narvana"));
    command.env_clear().env("HOME", "/nonexistent").env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

/// Free ports of loopback, and no engine.
pub(super) fn addresses() -> [&'static str; 14] {
    [
        "--name",
        "test-node",
        "--api-host",
        "127.0.0.1",
        "--api-port",
        "0",
        "--grpc-port",
        "0",
        "--ingress-host",
        "127.0.0.1",
        "--ingress-http-port",
        "auto",
        "--engine",
        "unix:///nonexistent/engine.sock",
    ]
}

/// Runs the program on a data folder until it ends.
#[track_caller]
pub(super) fn node_fails(verb: &str, data: &Path, more: &[&str], exit: i32) -> String {
    let output = program().arg(verb).arg("--data-dir").arg(data).args(addresses()).args(more).output();
    said(&output.expect("the program runs"), exit)
}

/// What a program that ended so said.
#[track_caller]
pub(super) fn said(output: &Output, exit: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}
