//! Services that are built by Nix from their own flake, on a node that has Nix, and run anywhere.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::node::Node;
use crate::harness::{Harness, until};

/// A folder with a flake: a web server that needs nothing of the machine, and the page that it serves.
pub(super) fn app(folder: &Path, page: &str) {
    std::fs::create_dir_all(folder.join("www")).expect("a folder");
    std::fs::create_dir_all(folder.join("seed")).expect("a folder");
    std::fs::write(folder.join("www/index.html"), page).expect("writes");
    std::fs::copy("/bin/busybox", folder.join("seed/busybox")).expect("busybox is installed");
    let flake = r##"{
  outputs = { self }: let
    busybox = "${builtins.path { path = ./seed; name = "seed"; }}/busybox";
    www = builtins.path { path = ./www; name = "www"; };
    package = name: script: derivation {
      inherit name;
      system = "SYSTEM";
      builder = busybox;
      args = [ "sh" "-c" script ];
    };
    tools = package "tools" "${busybox} mkdir -p $out/bin && ${busybox} cp ${busybox} $out/bin/busybox";
  in {
    packages.SYSTEM.default = package "web-1.0" ''
      ${busybox} mkdir -p $out/bin
      ${busybox} ln -s ${tools}/bin/busybox $out/bin/sh
      ${busybox} ln -s ${tools}/bin/busybox $out/bin/ls
      echo "#!${tools}/bin/busybox sh" > $out/bin/web
      echo "exec ${tools}/bin/busybox httpd -f -p 8080 -h ${www}" >> $out/bin/web
      ${busybox} chmod +x $out/bin/web
      echo "the web server is built"
    '';
  };
}
"##;
    write_flake(folder, flake);
}

pub(super) fn write_flake(folder: &Path, text: &str) {
    let system = format!("{}-linux", std::env::consts::ARCH);
    std::fs::write(folder.join("flake.nix"), text.replace("SYSTEM", &system)).expect("writes");
}

pub(super) fn nix_node(engine: &str) -> Node {
    // No cache can be reached here, and Nix would wait for it.
    Node::registered_as(engine, &[("NARVANA_NIX_SUBSTITUTERS", ""), ("NARVANA_TRUST_FLAKES", "1")])
}

pub(super) fn service() -> Value {
    let check = json!({"type": "tcp", "interval_seconds": 1, "retries": 5});
    json!({"name": "web", "source_type": "upload", "build_strategy": "flake", "health_check": check})
}

fn blobs(node: &Node) -> BTreeSet<String> {
    let entries = std::fs::read_dir(node.data.join("artifacts")).expect("a store").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn bytes_of(node: &Node, blobs: &BTreeSet<String>) -> u64 {
    let size = |name: &String| std::fs::metadata(node.data.join("artifacts").join(name)).map_or(0, |about| about.len());
    blobs.iter().map(size).sum()
}

/// Waits until the second node has a copy of everything that the first one has.
async fn copied(first: &Node, second: &Node) -> BTreeSet<String> {
    until("it is copied", || async { (blobs(first) == blobs(second)).then(|| blobs(second)) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flake_is_built_here_and_runs_there() {
    let (podman, docker) = tokio::join!(Harness::podman(), Harness::docker());
    let first = nix_node(podman.address());
    let second = first.joined_on("second", docker.address());
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &service()).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    // Nix builds nothing twice, not even for two runs of a test.
    let [old, new] = ["a flake", "a newer one"].map(|what| format!("from {what} of {}\n", podman.name("web")));
    app(folder.path(), &old);
    first.upload("shop", "web", folder.path());
    assert!(first.cli(&["node", "cordon", "second"]).status.success());
    let deployment = first.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
    let id = deployment["id"].as_str().expect("an id").to_owned();
    first.wait_deployment(&id, &["running"]);
    let build = first.get("/v1/builds?limit=1").expect(200)[0]["id"].as_str().expect("an id").to_owned();
    let log = String::from_utf8_lossy(&first.cli(&["build", "logs", &build]).stdout).into_owned();
    assert!(log.contains("the web server is built") && log.contains("Stored an image of"), "{log}");
    let page = |node: &Node| node.fetch("web-shop.localhost", "/").body;
    until("its page", || async { (page(&first) == old).then_some(()) }).await;

    // On the other engine, of the other node; and there is nothing in it but what it needs.
    assert!(first.cli(&["node", "uncordon", "second"]).status.success());
    let drained = first.cli(&["node", "drain", first.name()]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    until("its page", || async { (page(&second) == old).then_some(()) }).await;
    let seen = first.cli(&["exec", "--app", "shop", "--service", "web", "--", "ls", "/", "/nix/store"]);
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    let listed: Vec<&str> = seen.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(listed.iter().filter(|line| line.contains("-web-1.0")).count(), 1, "{seen}");
    assert!(!listed.iter().any(|line| ["usr", "bin", "lib", "home"].contains(line)), "{seen}");

    // A change of the page moves the page and what names it.
    let before = copied(&first, &second).await;
    app(folder.path(), &new);
    first.upload("shop", "web", folder.path());
    assert!(first.cli(&["node", "uncordon", first.name()]).status.success());
    first.deploy("shop", "web");
    until("its page", || async { (page(&second) == new).then_some(()) }).await;
    let after = copied(&first, &second).await;
    let came: BTreeSet<String> = after.difference(&before).cloned().collect();
    let of_image = bytes_of(&second, &came) - came.iter().map(|name| source_bytes(&second, name)).sum::<u64>();
    let image = bytes_of(&second, &before);
    assert!(of_image * 10 <= image, "{of_image} of {image} bytes are new: {came:?}");
}

/// The size of a blob that is an uploaded source, which moves as a whole.
fn source_bytes(node: &Node, name: &str) -> u64 {
    let bytes = std::fs::read(node.data.join("artifacts").join(name)).expect("a blob");
    let is_packed = bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    if is_packed { bytes.len() as u64 } else { 0 }
}

/// The reason why a build of this folder fails, with its code.
pub(super) fn failure(node: &Node, folder: &Path) -> (String, String) {
    node.upload("shop", "web", folder);
    let deployment = node.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
    node.wait_deployment(deployment["id"].as_str().expect("an id"), &["failed"]);
    let builds = node.get("/v1/builds?limit=1").expect(200);
    let error = &builds[0]["failure"];
    (error["code"].as_str().expect("a code").to_owned(), error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_flake_is_said() {
    let harness = Harness::podman().await;
    let node = nix_node(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &service()).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("README"), "nothing").expect("writes");
    let (code, error) = failure(&node, folder);
    assert!(
        code == "FLAKE_NOT_FOUND" && error.contains("no flake.nix in the root") && error.contains("README"),
        "{error}"
    );

    // What is not locked, or is only on the machine.
    let secret = tempfile::tempdir().expect("a folder");
    std::fs::write(secret.path().join("secret"), "of the machine").expect("writes");
    let path = secret.path().to_str().expect("UTF-8");
    write_flake(
        folder,
        &format!("{{ inputs.x = {{ url = \"path:{path}\"; flake = false; }}; outputs = {{ self, x }}: {{ }}; }}"),
    );
    let (code, error) = failure(&node, folder);
    assert!(code == "BUILD_FAILED" && error.contains("No such file") && error.contains("into the source"), "{error}");
    let locked =
        json!({"type": "path", "path": path, "narHash": "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="});
    let nodes = json!({"root": {"inputs": {"x": "x"}}, "x": {"flake": false, "locked": locked, "original": locked}});
    let lock = json!({"nodes": nodes, "root": "root", "version": 7});
    std::fs::write(folder.join("flake.lock"), lock.to_string()).expect("writes");
    let (code, error) = failure(&node, folder);
    assert!(code == "INVALID_CONFIG" && error.contains("which is not in the source"), "{error}");
    std::fs::remove_file(folder.join("flake.lock")).expect("it was there");
    write_flake(folder, "{ outputs = { self }: { packages.SYSTEM.default = builtins.readFile \"/etc/passwd\"; }; }");
    let (code, error) = failure(&node, folder);
    assert!(code == "BUILD_FAILED" && error.contains("'/etc/passwd' is forbidden"), "{error}");

    write_flake(folder, "{ outputs = { self }: { }; }");
    let (code, error) = failure(&node, folder);
    assert!(code == "BUILD_FAILED" && error.contains("does not provide attribute"), "{error}");
    app(folder, "page");
    let text = std::fs::read_to_string(folder.join("flake.nix")).expect("reads");
    write_flake(folder, &text.replace("echo \"the web", "exit 7; echo \"the web"));
    let (code, error) = failure(&node, folder);
    assert!(code == "BUILD_FAILED" && error.contains("exit code 7"), "{error}");
    write_flake(folder, &text.replace("$out/bin/web", "$out/bin/other"));
    let (code, error) = failure(&node, folder);
    assert!(code == "INVALID_CONFIG" && error.contains("several programs: ls, other, sh"), "{error}");
}

/// The fence keeps files from a flake, not the networks of the machine: somebody has to have said that this is meant to be.
#[tokio::test(flavor = "multi_thread")]
async fn flakes_are_built_only_where_the_operator_trusts_them() {
    let harness = Harness::podman().await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &service()).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    app(folder.path(), "page");
    let (code, error) = failure(&node, folder.path());
    assert!(code == "INFRASTRUCTURE" && error.contains("--trust-flakes"), "{error}");
}

/// Whether a process with these words in its command line runs.
fn runs(words: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("a folder").flatten();
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(words))
}

/// What Nix builds runs as another user, in a session of its own, and heeds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_flake_that_never_ends_is_ended_with_all_it_started() {
    let harness = Harness::podman().await;
    let node = nix_node(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &service()).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    app(folder.path(), "page");
    let marker = harness.name("never-ends");
    let text = std::fs::read_to_string(folder.path().join("flake.nix")).expect("reads");
    let forever =
        format!("trap \"\" TERM INT; while true; do ${{busybox}} sleep 1; done; echo {marker}; echo \"the web");
    write_flake(folder.path(), &text.replace("echo \"the web", &forever));
    node.upload("shop", "web", folder.path());
    let deployment = node.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
    until("it builds", || async { runs(&marker).then_some(()) }).await;
    let builds = node.get("/v1/builds?limit=1").expect(200);
    let build = builds[0]["id"].as_str().expect("an id").to_owned();
    node.post(&format!("/v1/builds/{build}/cancel"), &json!({})).expect(202);
    node.wait_deployment(deployment["id"].as_str().expect("an id"), &["failed", "stopped"]);
    // Nor what was around it, which names the folder of the build.
    let folder = node.data.join("build").to_string_lossy().into_owned();
    until("nothing of it runs", || async { (!runs(&marker) && !runs(&folder)).then_some(()) }).await;
}

/// Those of builds by Nix, which nodes that were killed leave to their next start.
fn control_groups() -> BTreeSet<String> {
    let folders = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"].map(std::fs::read_dir);
    let names = folders.into_iter().flatten().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("narvana-nix-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flake_that_takes_more_memory_than_it_may_says_so() {
    let harness = Harness::podman().await;
    let before = control_groups();
    let settings = [("NARVANA_NIX_SUBSTITUTERS", ""), ("NARVANA_TRUST_FLAKES", "1"), ("BUILD_MEMORY", "128Mi")];
    let node = Node::registered_as(harness.address(), &settings);
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &service()).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    app(folder.path(), &harness.name("page"));
    // What fits is built.
    node.upload("shop", "web", folder.path());
    node.deploy("shop", "web");
    let text = std::fs::read_to_string(folder.path().join("flake.nix")).expect("reads");
    let greedy = "${busybox} awk 'BEGIN { s = \"x\"; while (1) s = s s }' || exit 9; echo \"the web";
    write_flake(folder.path(), &text.replace("echo \"the web", greedy));
    let (code, error) = failure(&node, folder.path());
    assert!(code == "BUILD_OOM" && error.contains("more than the 128Mi they may"), "{error}");
    // Evaluating is a part of it.
    write_flake(
        folder.path(),
        "{ outputs = { self }: { packages.SYSTEM.default = throw (toString (builtins.length (builtins.genList (x: [ x ]) 100000000))); }; }",
    );
    let (code, error) = failure(&node, folder.path());
    assert!(code == "BUILD_OOM", "{error}");
    until("its control groups are gone", || async { control_groups().is_subset(&before).then_some(()) }).await;
}
