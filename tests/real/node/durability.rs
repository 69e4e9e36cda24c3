//! What one node promises about what it acknowledged: killed at every step of a write and at random, on a disk that
//! fails, on one that is full, and on one that lost a bit.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use narvana::store::{FAILPOINTS, INSTALL_FAILPOINTS};
use serde_json::{Value, json};

use crate::harness::disk::SmallDisk;
use crate::harness::node::{Node, curl};
use crate::harness::{BUSYBOX, DEADLINE, Harness, until};

/// No engine is needed to keep what was acknowledged.
const NO_ENGINE: &str = "unix:///nowhere/engine.sock";

fn is_long() -> bool {
    std::env::var_os("NARVANA_LONG_TESTS").is_some()
}

/// A client that remembers what it was told.
struct Client {
    api: String,
    token: String,
    prefix: String,
    acknowledged: Vec<String>,
    asked: usize,
    /// The write that got no answer.
    open: Option<String>,
}

impl Client {
    fn of(node: &Node, prefix: &str) -> Self {
        let (api, token, prefix) = (node.api.clone(), node.token.clone(), prefix.to_owned());
        Self { api, token, prefix, acknowledged: Vec::new(), asked: 0, open: None }
    }

    fn create(&self, name: &str) -> crate::harness::node::Answer {
        let (authorization, key) =
            (format!("Authorization: Bearer {}", self.token), format!("Idempotency-Key: key-{name}"));
        let (body, url) = (json!({"name": name}).to_string(), format!("{}/v1/apps", self.api));
        curl(&["-H", &authorization, "-H", &key, "-H", "Content-Type: application/json", "-d", &body, &url])
    }

    /// Writes until the node does not answer, or often enough. Says whether the node is gone.
    fn write(&mut self, count: usize) -> bool {
        for _ in 0..count {
            self.asked += 1;
            let name = format!("{}-{}", self.prefix, self.asked);
            let answer = self.create(&name);
            match answer.status {
                201 => self.acknowledged.push(name),
                // Taken or not: nobody was told.
                0 | 503 | 504 => {
                    self.open = Some(name);
                    return true;
                }
                _ => panic!("{answer:?}"),
            }
        }
        false
    }

    /// Everything that was acknowledged is there once; what got no answer is there once when it is asked for again.
    #[track_caller]
    fn check(&mut self, node: &Node) {
        self.api.clone_from(&node.api);
        if let Some(name) = self.open.take() {
            assert_eq!(self.create(&name).status, 201, "the same request again");
            self.acknowledged.push(name);
        }
        if let Some(name) = self.acknowledged.last() {
            assert_eq!(self.create(name).status, 201, "a request that was answered gets its answer again");
        }
        let apps = names(node);
        for name in &self.acknowledged {
            assert_eq!(apps.iter().filter(|app| *app == name).count(), 1, "{name} is there once: {apps:?}");
        }
    }
}

fn names(node: &Node) -> Vec<String> {
    let apps = node.get("/v1/apps?limit=1000").expect(200);
    let apps = apps.as_array().expect("a list");
    apps.iter().map(|app| app["name"].as_str().expect("a name").to_owned()).collect()
}

/// Keeps the apps few enough for one page.
fn thin_out(node: &Node) {
    let all = names(node);
    if all.len() < 700 {
        return;
    }
    let authorization = format!("Authorization: Bearer {}", node.token);
    for name in all {
        let url = format!("{}/v1/apps/{name}", node.api);
        let answer = curl(&["-X", "DELETE", "-H", &authorization, &url]);
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
}

#[test]
fn killed_at_every_step_of_the_store_nothing_acknowledged_is_lost() {
    let mut node = Node::registered(NO_ENGINE);
    node.stop();
    let passes = if is_long() { vec![1, 2, 7] } else { vec![2] };
    for (place, pass) in FAILPOINTS.into_iter().flat_map(|place| passes.iter().map(move |pass| (place, *pass))) {
        let once = place.starts_with("close") || place.starts_with("open");
        let pass = if once { 1 } else { pass };
        node.env = vec![
            ("NARVANA_FAILPOINT".to_owned(), format!("{place}:{pass}")),
            ("NARVANA_SNAPSHOT_ENTRIES".to_owned(), "6".to_owned()),
        ];
        let mut client = Client::of(&node, &format!("{}-{pass}", place.replace('.', "-")));
        if node.try_run() {
            client.api.clone_from(&node.api);
            let gone = client.write(if once { 3 } else { 60 });
            if !gone && !once {
                panic!("{place} was never passed: {}", node.log());
            }
            if place.starts_with("close") {
                node.signal(rustix::process::Signal::TERM);
            }
        }
        let status = node.wait_end();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{place}: {status}");
        node.env = Vec::new();
        node.run();
        client.check(&node);
        thin_out(&node);
        node.stop();
    }
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

#[test]
fn killed_at_random_under_load_nothing_acknowledged_is_lost() {
    let mut node = Node::registered(NO_ENGINE);
    node.stop();
    node.env = vec![("NARVANA_SNAPSHOT_ENTRIES".to_owned(), "40".to_owned())];
    let rounds: u64 = if is_long() { 60 } else { 4 };
    for round in 1..=rounds {
        node.run();
        let mut clients: Vec<Client> = (0..4).map(|n| Client::of(&node, &format!("r{round}-{n}"))).collect();
        // Different for every round, the same in every run.
        let patience = Duration::from_millis(50 + round * 977 % 700);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(move || client.write(10_000));
            }
            while began.elapsed() < patience {
                std::thread::sleep(Duration::from_millis(5)); // poll
            }
            node.kill();
        });
        node.run();
        clients.iter_mut().for_each(|client| client.check(&node));
        thin_out(&node);
        node.stop();
    }
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

/// Makes every sync of one file fail once `trigger` exists, and writes a line for each.
const FAILING_SYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int fails(int fd) {
    const char *trigger = getenv("SYNC_TRIGGER"), *victim = getenv("SYNC_VICTIM");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0 || !trigger || !victim || access(trigger, F_OK)) return 0;
    path[n] = 0;
    if (!strstr(path, victim)) return 0;
    int log = open(trigger, O_WRONLY | O_APPEND);
    if (log >= 0) { if (write(log, "x", 1) < 0) {} close(log); }
    errno = EIO;
    return 1;
}
int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return fails(fd) ? -1 : real(fd);
}
int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return fails(fd) ? -1 : real(fd);
}
"#;

fn failing_sync(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("sync.c"), folder.join("sync.so"));
    std::fs::write(&source, FAILING_SYNC).expect("written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.expect("a C compiler is installed").success());
    library
}

#[test]
fn a_sync_that_fails_stops_the_node_within_a_second_and_is_not_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = failing_sync(folder.path());
    for (victim, said) in [
        ("raft.redb", "raft.redb cannot be written"),
        ("state.redb", "state.redb cannot be written"),
        (".unfinished", "cannot sync"),
    ] {
        let mut node = Node::registered(NO_ENGINE);
        node.stop();
        let trigger = folder.path().join(format!("trigger-{victim}"));
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        node.env = vec![
            ("LD_PRELOAD".to_owned(), text(&library)),
            ("SYNC_TRIGGER".to_owned(), text(&trigger)),
            ("SYNC_VICTIM".to_owned(), victim.to_owned()),
            // The state is synced before a snapshot.
            ("NARVANA_SNAPSHOT_ENTRIES".to_owned(), "6".to_owned()),
        ];
        node.run();
        let mut client = Client::of(&node, victim.trim_start_matches('.').trim_end_matches(".redb"));
        client.write(2);
        std::fs::write(&trigger, "").expect("written");
        client.write(60);
        let status = node.wait_end();
        let failed = std::fs::metadata(&trigger).expect("there").modified().expect("a time");
        let took = failed.elapsed().expect("earlier");
        assert!(took < Duration::from_secs(1), "{victim}: it ended after {took:?}");
        assert!(!status.success(), "{victim}: {status}");
        assert_eq!(std::fs::read_to_string(&trigger).expect("read"), "x", "{victim} was synced once and not again");
        assert!(node.log().contains(said), "{victim}: {}", node.log());
        node.env = Vec::new();
        node.run();
        client.check(&node);
        node.stop();
    }
}

#[test]
fn a_full_disk_makes_the_node_read_only_until_there_is_space() {
    const MIB: u64 = 1 << 20;
    let disk = SmallDisk::new(64);
    let mut node = Node::registered_in(NO_ENGINE, &disk.path.join("data"));
    let mut client = Client::of(&node, "before");
    client.write(3);
    let service = json!({"name": "web", "source_type": "upload"});
    node.post("/v1/apps/before-1/services", &service).expect(201);
    for name in ["one", "two"] {
        let service = json!({"name": name, "source_type": "upload"});
        node.post("/v1/apps/before-2/services", &service).expect(201);
    }
    let archive = disk.path.join("source.tar");
    let packed = Command::new("tar").arg("-czf").arg(&archive).args(["-C", "/etc", "hostname"]).status();
    assert!(packed.expect("tar runs").success());
    let upload = |node: &Node| {
        let authorization = format!("Authorization: Bearer {}", node.token);
        let data = format!("@{}", archive.display());
        let url = format!("{}/v1/apps/before-1/services/web/source", node.api);
        curl(&["-H", &authorization, "-H", "Content-Type: application/gzip", "--data-binary", &data, &url])
    };

    // What grows stops first.
    disk.fill_to(12 * MIB);
    let refused = upload(&node);
    assert_eq!((refused.status, refused.json()["code"].as_str()), (507, Some("disk_full")), "{refused:?}");
    assert!(!client.write(1), "changes go on");

    disk.fill_to(5 * MIB);
    let refused = client.create("refused");
    let message = refused.json()["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!((refused.status, refused.json()["code"].as_str()), (507, Some("disk_full")), "{refused:?}");
    assert!(message.contains("data") && message.contains("8 MiB must be") && message.contains("Free some space"));
    client.check_reads(&node);

    // Who wants to make room can do so, from logging in to deleting.
    let account = json!({"email": "ada@example.org", "password": "correct horse"});
    assert_eq!(node.post("/auth/login", &account).status, 200);
    node.send("DELETE", "/v1/apps/before-2/services/one", &Value::Null).expect(204);

    // Somebody takes the rest too: the reserve is given up for such changes. The node is killed: it starts, reads, and goes
    // on when it can.
    disk.fill_to(0);
    client.check_reads(&node);
    let deadline = Instant::now() + Duration::from_secs(10);
    while node.send("DELETE", "/v1/apps/before-2/services/two", &Value::Null).status != 204 {
        assert!(Instant::now() < deadline, "nothing can be deleted: {}", node.log());
        std::thread::sleep(Duration::from_millis(50)); // poll
    }
    node.kill();
    node.run();
    client.api.clone_from(&node.api);
    client.check_reads(&node);
    assert_eq!(client.create("refused").status, 507);
    disk.clear();
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.create("after").status != 201 {
        assert!(Instant::now() < deadline, "it goes on by itself: {}", node.log());
        std::thread::sleep(Duration::from_millis(50)); // poll
    }
    client.check_reads(&node);
    node.stop();
}

/// Bytes of all files in a folder.
fn bytes_in(folder: &Path) -> u64 {
    let bytes = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { bytes_in(&path) } else { bytes(&path) }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_full_disk_lets_another_node_lead() {
    let disk = SmallDisk::new(128);
    let first = Node::registered_in(NO_ENGINE, &disk.path.join("data"));
    let mut second = first.newcomer("second", &first.join_token(&[]));
    let mut third = first.newcomer("third", &first.join_token(&[]));
    assert!(second.try_join() && third.try_join(), "{}\n{}", second.log(), third.log());
    let voters = || first.get("/v1/status").expect(200)["voters"].as_array().map_or(0, Vec::len);
    until("three vote", || async { (voters() == 3).then_some(()) }).await;
    assert_eq!(second.get("/v1/status").expect(200)["leader"], 1);
    disk.fill_to(4 << 20);
    until("another one leads", || async {
        second.get("/v1/status").expect(200)["leader"].as_u64().filter(|leader| *leader != 1)
    })
    .await;
    // Its own disk is full, that of the cluster is not.
    let refused = first.post("/v1/apps", &json!({"name": "here"}));
    assert_eq!(refused.status, 507, "{refused:?}");
    second.post("/v1/apps", &json!({"name": "there"})).expect(201);
    disk.clear();
    until("changes are taken here too", || async {
        (first.post("/v1/apps", &json!({"name": "again"})).status == 201).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_disk_that_fills_up_stops_logs_and_builds_before_changes() {
    const MIB: u64 = 1 << 20;
    let harness = Harness::podman().await;
    let disk = SmallDisk::new(128);
    let mut node = Node::registered_in(harness.address(), &disk.path.join("data"));
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let script = "while :; do head -c 1000 /dev/zero | tr '\\0' x; echo; usleep 20000; done";
    let chatty = json!({"name": "chatty", "image": BUSYBOX, "command": ["sh", "-c", script]});
    node.post("/v1/apps/shop/services", &chatty).expect(201);
    node.post("/v1/apps/shop/services", &json!({"name": "built", "source_type": "upload"})).expect(201);
    let source = tempfile::tempdir().expect("a folder");
    std::fs::write(source.path().join("Dockerfile"), format!("FROM {BUSYBOX}\n")).expect("writes");
    node.upload("shop", "built", source.path());
    node.deploy("shop", "chatty");
    let logs = node.data.join("logs");
    until("it says something", || async { (bytes_in(&logs) > 10_000).then_some(()) }).await;

    disk.fill_to(12 * MIB);
    until("logs are not written", || async { node.log().contains("cannot write log lines").then_some(()) }).await;
    let before = bytes_in(&logs);
    let mut client = Client::of(&node, "meanwhile");
    assert!(!client.write(20), "changes go on");
    let deployment = node.post("/v1/apps/shop/services/built/deploy", &json!({})).expect(202);
    let deployment = node.wait_deployment(deployment["id"].as_str().expect("an id"), &["failed"]);
    assert!(deployment.to_string().contains("is full"), "{deployment:#}");
    assert_eq!(bytes_in(&logs), before, "what is said meanwhile is counted, not kept");

    disk.clear();
    until("logs are written", || async { (bytes_in(&logs) > before + 10_000).then_some(()) }).await;
    let said = node.cli(&["logs", "--app", "shop", "--service", "chatty", "--tail", "1000"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("lines could not be written to this log and are lost"), "{} bytes", said.len());
    node.deploy("shop", "built");
    client.check_reads(&node);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_build_that_fills_the_disk_is_ended_before_changes_are_refused() {
    // The engine keeps its images beside the node's folder, as on a machine with one disk.
    let disk = SmallDisk::new(256);
    let harness = Harness::podman_in(&disk.path.join("engine")).await;
    let mut node = Node::registered_in(harness.address(), &disk.path.join("data"));
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload"})).expect(201);
    let source = tempfile::tempdir().expect("a folder");
    let upload = |node: &Node, step: &str| {
        std::fs::write(source.path().join("Dockerfile"), format!("FROM {BUSYBOX}\nRUN {step}\n")).expect("writes");
        node.upload("shop", "web", source.path());
    };
    upload(&node, "while :; do head -c 500000 /dev/zero >> /f || exit 3; usleep 30000; done");
    let deployment = node.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
    let path = format!("/v1/deployments/{}", deployment["id"].as_str().expect("an id"));
    let mut client = Client::of(&node, "meanwhile");
    let deadline = Instant::now() + DEADLINE;
    let failed = loop {
        assert!(!client.write(1), "changes go on");
        let deployment = node.get(&path).expect(200);
        if deployment["status"] == "failed" {
            break deployment;
        }
        assert!(Instant::now() < deadline, "the build is ended: {deployment:#}");
    };
    assert!(failed["reason"].to_string().contains("is full"), "{failed:#}");
    assert!(failed["reason"].to_string().contains("ree some space"), "{failed:#}");
    client.check(&node);

    // What it wrote goes with it, and the next one has the space.
    until("the space comes back", || async { (disk.available() > 100 << 20).then_some(()) }).await;
    upload(&node, "echo small");
    node.deploy("shop", "web");
    node.stop();
}

impl Client {
    #[track_caller]
    fn check_reads(&self, node: &Node) {
        let apps = names(node);
        assert!(self.acknowledged.iter().all(|name| apps.contains(name)), "{apps:?}");
    }
}

/// A start on what is in the folder now, which must fail as a damaged folder does. Returns what is said.
#[track_caller]
fn ends_with_78(node: &Node, how: &str) -> String {
    let output = node.command("run").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{how}: {text}");
    assert!(!text.contains("panicked"), "{how}: {text}");
    text
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let disk = SmallDisk::new(64);
    let mut node = Node::registered_in(NO_ENGINE, &disk.path.join("data"));
    node.stop();
    disk.make_read_only();
    for (verb, folder) in [("run", "data"), ("init", "other")] {
        node.data = disk.path.join(folder);
        let output = node.command(verb).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{verb}: {text}");
        assert!(text.contains(&format!("disk/{folder}")) && text.contains("Read-only file system"), "{verb}: {text}");
        assert!(!text.contains("panicked"), "{verb}: {text}");
    }
}

#[test]
fn a_damaged_data_folder_is_named_and_refused_with_its_own_exit_code() {
    let mut node = Node::registered(NO_ENGINE);
    let mut client = Client::of(&node, "app");
    client.write(5);
    node.stop();
    for (file, said) in [
        ("raft.redb", "raft.redb"),
        ("state.redb", "state.redb"),
        ("position", "position"),
        ("node.key", "node.key"),
        ("identity.json", ""),
    ] {
        let path = node.data.join(file);
        let good = std::fs::read(&path).expect("read");
        let mut bad = good.clone();
        if file.ends_with(".redb") {
            // One bit in every page, since most pages of a small file are not in use.
            bad.iter_mut().skip(40).step_by(4096).for_each(|byte| *byte ^= 4);
        } else {
            // The end of a seal or of a key, or a digit.
            let at = bad.iter().rposition(|byte| !matches!(byte, 0 | b'\n' | b'}' | b' '));
            bad[at.expect("something is in it")] ^= 4;
        }
        std::fs::write(&path, bad).expect("written");
        let output = node.command("run").output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{file}: {text}");
        assert!(text.contains(said) && !text.contains("panicked"), "{file}: {text}");
        std::fs::write(&path, good).expect("written");
    }
    type Damage = fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 4] = [
        ("zeros", |good| vec![0; good.len()]),
        ("random bytes", |good| {
            let mut seed = 7_u64;
            let mut next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                seed.to_be_bytes()[0]
            };
            (0..good.len()).map(|_| next()).collect()
        }),
        ("without its last byte", |good| good[..good.len() - 1].to_vec()),
        ("cut to half", |good| good[..good.len() / 2].to_vec()),
    ];
    for file in ["raft.redb", "state.redb"] {
        let path = node.data.join(file);
        let good = std::fs::read(&path).expect("read");
        for (how, damage) in damages {
            std::fs::write(&path, damage(&good)).expect("written");
            let said = ends_with_78(&node, &format!("{file}, {how}"));
            assert!(said.contains(file) && said.contains("rebuild"), "{file}, {how}: {said}");
        }
        std::fs::write(&path, good).expect("written");
    }
    let key = node.data.join("node.key");
    for mode in [0o644, 0o640] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        let said = ends_with_78(&node, &format!("mode {mode:o}"));
        assert!(said.contains(&format!("mode {mode:o}")) && said.contains("chmod 600"), "{said}");
    }
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    let aside = node.data.join("aside");
    std::fs::rename(&key, &aside).expect("renamed");
    let said = ends_with_78(&node, "without a key");
    assert!(said.contains("node.key is missing") && said.contains("rebuild"), "{said}");
    std::fs::rename(&aside, &key).expect("renamed");

    for (change, said) in [(vec![], "is damaged"), (b"{}".to_vec(), "is damaged")] {
        let path = node.data.join("identity.json");
        let good = std::fs::read(&path).expect("read");
        std::fs::write(&path, change).expect("written");
        let output = node.command("run").output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(78) && text.contains(said), "{output:?}");
        std::fs::write(&path, good).expect("written");
    }
    node.run();
    client.check(&node);
    node.stop();
}

/// Killed at each place while it installs what the leader sends, a new node catches up when it is started again.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_installs_a_snapshot_a_node_catches_up() {
    let node = Node::registered_as(NO_ENGINE, &[("NARVANA_SNAPSHOT_ENTRIES", "40")]);
    let mut client = Client::of(&node, "app");
    // Each of them stays, since they vote.
    let mut members = Vec::new();
    for place in INSTALL_FAILPOINTS {
        assert!(!client.write(100), "{}", node.log());
        let mut newcomer = node.newcomer(&place.replace('.', "-"), &node.join_token(&[]));
        newcomer.env.push(("NARVANA_FAILPOINT".to_owned(), format!("{place}:1")));
        newcomer.begin("join");
        let status = newcomer.wait_end();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(9), "{place}: {status}: {}", newcomer.log());
        newcomer.env.pop();
        let verb = if newcomer.data.join("identity.json").exists() { "run" } else { "join" };
        newcomer.start(verb);
        let wanted = names(&node).len();
        until("it has what the leader has", || async {
            let apps = newcomer.get("/v1/apps?limit=1000&consistency=stale").expect(200);
            (apps.as_array().expect("a list").len() == wanted).then_some(())
        })
        .await;
        client.check(&newcomer);
        client.api.clone_from(&node.api);
        newcomer.stop();
        newcomer.run();
        client.check(&newcomer);
        client.api.clone_from(&node.api);
        members.push(newcomer);
    }
}

/// What is read only when another node needs it. The process had started long before.
#[test]
fn damage_that_is_found_while_the_node_runs_ends_it_with_the_same_exit_code() {
    let mut node = Node::registered_as(NO_ENGINE, &[("NARVANA_SNAPSHOT_ENTRIES", "40")]);
    let mut client = Client::of(&node, "app");
    let token = node.join_token(&[]);
    let folder = node.data.join("snapshots");
    let made = || {
        let files = std::fs::read_dir(&folder).expect("a folder").flatten();
        let file =
            files.map(|file| file.path()).find(|path| path.extension().is_some_and(|ending| ending == "snapshot"))?;
        let at = file.metadata().and_then(|metadata| metadata.modified()).ok()?;
        Some((file, at))
    };
    client.write(100);
    // Just after one was made, so that what comes now brings no other.
    let before = made().expect("a snapshot");
    while made().is_none_or(|now| now == before) {
        assert!(client.asked < 300 && !client.write(1), "no snapshot is made: {}", node.log());
    }
    let (path, _) = made().expect("a snapshot");
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&path, bytes).expect("written");

    let mut newcomer = node.newcomer("second", &token);
    newcomer.begin("join");
    assert_eq!(node.wait_end().code(), Some(78), "{}", node.log());
    let log = node.log();
    assert!(log.contains("snapshot") && !log.contains("panicked"), "{log}");
}
