//! What a flake of a stranger finds of the machine that builds it: nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::flake::{app, failure, nix_node, service, write_flake};
use crate::harness::node::Node;
use crate::harness::{Harness, until};

fn prepare(node: &Node) {
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &service()).expect(201);
}

pub(super) fn last_log(node: &Node) -> String {
    let build = node.get("/v1/builds?limit=1").expect(200)[0]["id"].as_str().expect("an id").to_owned();
    String::from_utf8_lossy(&node.cli(&["build", "logs", &build]).stdout).into_owned()
}

/// A flake that evaluates to what is in a folder, which Nix is told is a commit: it takes that for locked, whatever is there.
fn look_into(folder: &Path, at: &str) {
    let commit = "0".repeat(40);
    let tree = format!("builtins.fetchTree {{ type = \"path\"; path = \"{at}\"; rev = \"{commit}\"; }}");
    let names = format!("toString (builtins.attrNames (builtins.readDir ({tree}).outPath))");
    write_flake(
        folder,
        &format!("{{ outputs = {{ self }}: {{ packages.SYSTEM.default = throw \"it reads ${{{names}}}\"; }}; }}"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flake_finds_no_file_of_the_machine() {
    let harness = Harness::podman().await;
    let node = nix_node(harness.address());
    prepare(&node);
    let folder = tempfile::tempdir().expect("a folder");
    let secret = tempfile::tempdir().expect("a folder");
    std::fs::write(secret.path().join("secret"), "of the machine").expect("writes");
    // As it should be: what is inside can be read.
    look_into(folder.path(), "/etc/ssl");
    let (_, error) = failure(&node, folder.path());
    assert!(error.contains("it reads certs"), "the trick works: {error}");
    let secret = secret.path().to_string_lossy().into_owned();
    let data = node.data.to_string_lossy().into_owned();
    let of_data = ["artifacts", "logs", "node.key"].map(|name| format!("{data}/{name}"));
    let of_data = of_data.iter().map(String::as_str);
    let of_machine = [&*secret, "/root", "/etc/nix", "/run", "/var/lib", "/nix/var/nix/db", "/sys", "/proc/1/root"];
    for hidden in of_machine.into_iter().chain(of_data) {
        look_into(folder.path(), hidden);
        let (code, error) = failure(&node, folder.path());
        assert!(code == "BUILD_FAILED" && !error.contains("it reads"), "{hidden}: {error}");
    }
}

/// A server on this machine that counts who comes, and has the files of a folder.
pub(super) struct Server {
    pub(super) port: u16,
    visits: Arc<AtomicUsize>,
}

impl Server {
    pub(super) fn of(folder: PathBuf) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let visits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&visits);
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                // A client that goes is its own affair.
                let _ = serve(&folder, &stream);
            }
        });
        Self { port, visits }
    }
}

fn serve(folder: &Path, mut stream: &TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let path = first.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or_default();
    let mut file = folder.join(path.trim_start_matches('/'));
    let is_page = path.ends_with('/');
    if is_page {
        file.push("index.html");
    }
    let (status, body) = match std::fs::read(file) {
        Ok(bytes) => ("200 OK", bytes),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let kind = if is_page { "text/html" } else { "application/octet-stream" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if !first.starts_with("HEAD ") {
        stream.write_all(&body)?;
    }
    Ok(())
}

/// What names the hash of what it makes may fetch, and is a stranger's program all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_by_its_hash_does_not_come_from_this_machine() {
    let harness = Harness::podman().await;
    let node = nix_node(harness.address());
    prepare(&node);
    let (folder, files) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    std::fs::write(files.path().join("page"), "of the machine").expect("writes");
    let server = Server::of(files.path().to_owned());
    app(folder.path(), "page");
    let port = server.port;
    let script = format!(
        "echo way out $http_proxy; \
         http_proxy= ${{busybox}} wget -O - http://127.0.0.1:{port}/page || echo nothing at once; \
         ${{busybox}} wget -O - http://127.0.0.1:{port}/page || echo nothing by the way out; \
         ${{busybox}} wget -O - http://[::ffff:127.0.0.1]:{port}/page; exit 7"
    );
    let text = std::fs::read_to_string(folder.path().join("flake.nix")).expect("reads");
    let text = text.replace("echo \"the web server is built\"", &script).replace(
        "inherit name;",
        "inherit name; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\"; impureEnvVars = [ \"http_proxy\" ];
         outputHash = \"sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\";",
    );
    // One derivation: the tools are part of it.
    let text = text.replace("${tools}/bin/busybox", "${busybox}");
    write_flake(folder.path(), &text);
    let (code, error) = failure(&node, folder.path());
    let log = last_log(&node);
    assert!(code == "BUILD_FAILED" && error.contains("exit code 7"), "{error}\n{log}");
    assert!(log.contains("way out http://127.0.0.1:"), "{log}");
    assert!(log.contains("nothing at once") && log.contains("nothing by the way out"), "{log}");
    assert!(log.contains(&format!("Not fetched: 127.0.0.1:{port} is a loopback address")), "{log}");
    assert!(!log.contains("of the machine"), "{log}");
    assert_eq!(server.visits.load(Ordering::Relaxed), 0, "{log}");
}

/// Runs a command of Nix on this machine, and returns what it prints.
fn nix(args: &[&str]) -> String {
    let output = Command::new("nix").args(["--option", "experimental-features", "nix-command"]).args(args).output();
    let output = output.expect("Nix is installed");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The way out leads to public addresses, and to the caches that the operator named, wherever they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_on_this_machine_is_used_when_the_operator_names_it() {
    let harness = Harness::podman().await;
    let (folder, cache) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    // Nix builds nothing twice, not even for two runs of a test.
    app(folder.path(), &harness.name("page"));
    let first = nix_node(harness.address());
    prepare(&first);
    first.upload("shop", "web", folder.path());
    first.deploy("shop", "web");
    let log = last_log(&first);
    assert!(log.contains("the web server is built"), "{log}");
    let mut built = std::fs::read_dir("/nix/store").expect("a store").flatten().map(|entry| entry.path());
    let page = std::fs::read(folder.path().join("www/index.html")).expect("reads");
    let www = built.find(|path| std::fs::read(path.join("index.html")).is_ok_and(|bytes| bytes == page));
    let www = www.expect("it is in the store").to_string_lossy().into_owned();
    let users = nix_store(&["--query", "--referrers", &www]);
    let out = users.lines().find(|path| path.ends_with("-web-1.0")).expect("it was built").to_owned();
    nix(&["copy", "--to", &format!("file://{}", cache.path().display()), &out]);
    // What runs with it in its environment keeps it.
    first.send("DELETE", "/v1/apps/shop", &json!({})).expect(204);
    until("it can be deleted", || async {
        Command::new("nix-store").args(["--delete", &out]).output().ok()?.status.success().then_some(())
    })
    .await;
    let server = Server::of(cache.path().to_owned());

    // Nobody signed what is in it.
    let named = format!("http://127.0.0.1:{}?trusted=1", server.port);
    let second =
        Node::registered_as(harness.address(), &[("NARVANA_NIX_SUBSTITUTERS", &named), ("NARVANA_TRUST_FLAKES", "1")]);
    prepare(&second);
    second.upload("shop", "web", folder.path());
    second.deploy("shop", "web");
    let log = last_log(&second);
    assert!(log.contains("Stored an image") && !log.contains("the web server is built"), "{log}");
    assert!(log.contains(&format!("from 'http://127.0.0.1:{}", server.port)), "{log}");
    assert!(server.visits.load(Ordering::Relaxed) > 0);
}

fn nix_store(args: &[&str]) -> String {
    let output = Command::new("nix-store").args(args).output().expect("Nix is installed");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
