//! A git server over HTTP on loopback, for tests: `git http-backend` behind a small CGI bridge.
//!
//! It runs on a thread of its own, so that tests of any kind can use it, and ends with the value.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{StatusCode, header};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

/// Enough for what a fetch sends.
const MAX_REQUEST: usize = 16 * 1024 * 1024;

/// What the server does with requests below a path.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Asks for a password that nobody has.
    AskPassword,
    /// Takes the request and never answers.
    Stall,
    /// Redirects to this prefix of an address, keeping the rest of the path and the query.
    Redirect(String),
}

struct Shared {
    root: PathBuf,
    behaviours: Mutex<HashMap<String, Behaviour>>,
    /// Paths that were asked for.
    seen: Mutex<Vec<String>>,
}

/// The server.
pub(crate) struct GitServer {
    root: tempfile::TempDir,
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl GitServer {
    /// Starts a server without repositories.
    pub(crate) fn start() -> Self {
        let root = tempfile::tempdir().expect("a folder for repositories");
        let shared =
            Arc::new(Shared { root: root.path().to_owned(), behaviours: Mutex::default(), seen: Mutex::default() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        listener.set_nonblocking(true).expect("a listener for tokio");
        let address = listener.local_addr().expect("a bound address");
        let (stop, stopped) = oneshot::channel();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    served = axum::serve(listener, router) => served.expect("the server runs"),
                    _ = stopped => {}
                }
            });
        });
        Self { root, address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://127.0.0.1:port/name`
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a repository with one commit of these files on a branch, and returns it.
    pub(crate) fn repository(&self, name: &str, branch: &str, files: &[(&str, &str)]) -> Repository {
        let repository = Repository { folder: self.root.path().join(name) };
        fs::create_dir_all(&repository.folder).expect("a folder");
        repository.git(&["init", "--quiet", "--initial-branch", branch]);
        repository.git(&["config", "http.uploadpack", "true"]);
        repository.git(&["config", "uploadpack.allowReachableSHA1InWant", "true"]);
        repository.commit(files);
        repository
    }

    /// Requests for paths that start with `/name` are treated like this from now on.
    pub(crate) fn behave(&self, name: &str, behaviour: Behaviour) {
        self.shared.behaviours.lock().expect("not poisoned").insert(name.to_owned(), behaviour);
    }

    /// The paths that were asked for so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().expect("not poisoned").clone()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A repository that the server serves.
pub(crate) struct Repository {
    /// Its work tree, for what the methods do not offer.
    pub(crate) folder: PathBuf,
}

impl Repository {
    /// Writes files, commits everything and returns the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            let path = self.folder.join(path);
            fs::create_dir_all(path.parent().expect("a file in the repository")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in it and returns what it prints; panics with its words when it fails.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "core.hooksPath=/dev/null"])
            .args(["-c", "protocol.file.allow=always", "-c", "commit.gpgSign=false"])
            .args(args)
            .current_dir(&self.folder)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null())
            .output()
            .expect("git runs");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    shared.seen.lock().expect("not poisoned").push(path.clone());
    let name = path.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
    let behaviour = shared.behaviours.lock().expect("not poisoned").get(&name).cloned();
    match behaviour {
        None => backend(&shared, request, &path, &query).await,
        Some(Behaviour::Stall) => std::future::pending().await,
        Some(Behaviour::AskPassword) => response(StatusCode::UNAUTHORIZED)
            .header(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")
            .body(Body::empty())
            .expect("a response"),
        Some(Behaviour::Redirect(to)) => {
            let rest = path.strip_prefix(&format!("/{name}")).unwrap_or_default();
            response(StatusCode::MOVED_PERMANENTLY)
                .header(header::LOCATION, format!("{to}{rest}?{query}"))
                .body(Body::empty())
                .expect("a response")
        }
    }
}

fn response(status: StatusCode) -> http::response::Builder {
    Response::builder().status(status)
}

/// Hands a request to `git http-backend` as a web server would (RFC 3875).
async fn backend(shared: &Shared, request: Request, path: &str, query: &str) -> Response {
    let mut command = backend_command(shared, request.method(), request.headers(), path, query);
    let body = axum::body::to_bytes(request.into_body(), MAX_REQUEST).await.expect("a small request");
    command.env("CONTENT_LENGTH", body.len().to_string());
    let mut child = command.spawn().expect("git http-backend runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let write = async move {
        // It may answer without reading.
        let _ = stdin.write_all(&body).await;
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    cgi_response(&output.expect("git http-backend ends").stdout)
}

fn backend_command(
    shared: &Shared,
    method: &http::Method,
    headers: &http::HeaderMap,
    path: &str,
    query: &str,
) -> tokio::process::Command {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut command = tokio::process::Command::new("git");
    command.arg("http-backend").kill_on_drop(true);
    command.env("GIT_PROJECT_ROOT", &shared.root).env("GIT_HTTP_EXPORT_ALL", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    // The repositories may belong to another user than the one who tests.
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    command.env("REQUEST_METHOD", method.as_str()).env("PATH_INFO", path).env("QUERY_STRING", query);
    command.env("CONTENT_TYPE", header("content-type")).env("HTTP_CONTENT_ENCODING", header("content-encoding"));
    command.env("GIT_PROTOCOL", header("git-protocol")).env("REMOTE_ADDR", "127.0.0.1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

fn cgi_response(output: &[u8]) -> Response {
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").expect("the end of the headers");
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut status = StatusCode::OK;
    let mut builder = Response::builder();
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        if name.eq_ignore_ascii_case("status") {
            status = value.split(' ').next().and_then(|code| code.parse().ok()).expect("a status");
        } else {
            builder = builder.header(name, value);
        }
    }
    builder.status(status).body(Body::from(output[end + 4..].to_vec())).expect("a response")
}
