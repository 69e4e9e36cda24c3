//! The worst days: everything is gone but a backup, or the majority is gone but one node.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use narvana::model::NEWEST_CLUSTER_VERSION;
use narvana::store::RENEWAL_FAILPOINTS;
use serde_json::{Value, json};

use super::cluster::{names, three};
use super::image_service;
use crate::harness::node::Node;
use crate::harness::{Harness, until};

const PASSPHRASE: &str = "correct horse battery";

/// A service that ends as soon as it is asked to, so that nobody waits for it.
fn web() -> Value {
    let mut service = image_service("web");
    service["command"] = json!(["sh", "-c", "trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"]);
    service
}

/// The command line with the passphrase of the backup in the environment.
fn backup(node: &Node, passphrase: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_narvana"))
        .arg("backup")
        .args(args)
        .env("NARVANA_API", &node.api)
        .env("NARVANA_TOKEN", &node.token)
        .env("NARVANA_BACKUP_PASSPHRASE", passphrase)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until a service's newest deployment has an instance that runs on this node.
async fn runs_on(node: &Node, deployment: &str, name: &str) -> Value {
    /// Shorter than the longest wait for anything, so that what is known is said.
    const HOPELESS: Duration = Duration::from_secs(50);
    let begun = Instant::now();
    until("it runs there", || async {
        let deployment = node.get(&format!("/v1/deployments/{deployment}")).expect(200);
        assert_ne!(deployment["status"], "failed", "{deployment:#}\n{}", node.log());
        let instances = deployment["instances"].as_array().expect("a list").clone();
        let runs = instances.iter().find(|i| i["status"] == "running" && i["node_name"] == name);
        assert!(runs.is_some() || begun.elapsed() < HOPELESS, "{deployment:#}\n{}", node.log());
        runs.cloned()
    })
    .await
}

/// Starts it and waits until it has ended by itself, as a node does that is no member any more.
fn ends_as_left_behind(node: &mut Node) {
    node.try_run();
    assert_eq!(node.wait_end().code(), Some(78), "{}", node.log());
    let log = node.log();
    assert!(log.contains("left behind") || log.contains("was removed from this cluster"), "{log}");
}

#[tokio::test]
async fn a_cluster_comes_back_from_a_backup_and_the_old_one_gives_way() {
    let harness = Harness::podman().await;
    let mut old = Node::registered(harness.address());
    old.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    old.post("/v1/apps/shop/services", &web()).expect(201);
    let secret = json!({"key": "SECRET", "value": "tulips-in-amsterdam"});
    old.post("/v1/apps/shop/services/web/env", &secret).expect(201);
    let deployment = old.deploy("shop", "web");
    let id = deployment["id"].as_str().expect("an id").to_owned();
    let container = deployment["instances"][0]["container_id"].as_str().expect("a container").to_owned();

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cluster.age");
    let path = file.to_str().expect("UTF-8");
    let refused = backup(&old, "short", &["create", path]);
    assert!(refused.status.code() == Some(2) && words(&refused).contains("fewer than"), "{}", words(&refused));
    let made = backup(&old, PASSPHRASE, &["create", path]);
    assert!(made.status.success(), "{}", words(&made));
    let again = backup(&old, PASSPHRASE, &["create", path]);
    assert!(!again.status.success() && words(&again).contains("exists already"), "{}", words(&again));
    let verified = backup(&old, PASSPHRASE, &["verify", path]);
    assert!(verified.status.success() && words(&verified).contains(&old.cluster()), "{}", words(&verified));
    let wrong = backup(&old, "another passphrase", &["verify", path]);
    assert!(!wrong.status.success() && words(&wrong).contains("passphrase is wrong"), "{}", words(&wrong));
    let sealed = std::fs::read(&file).expect("reads");
    let canary = b"tulips-in-amsterdam";
    assert!(!sealed.windows(canary.len()).any(|window| window == canary), "a secret is readable");
    // What comes later is not in it.
    old.post("/v1/apps", &json!({"name": "later"})).expect(201);
    let mut beside = old.newcomer("beside", "");
    beside.env = vec![("NARVANA_BACKUP_PASSPHRASE".to_owned(), PASSPHRASE.to_owned())];
    let refused = beside.command(&format!("backup restore {path}")).output().expect("it runs");
    let said = words(&refused);
    assert!(
        !refused.status.success() && said.contains("test-node (127.0.0.1:") && said.contains("--replace"),
        "{said}"
    );
    assert!(!beside.data.exists(), "nothing was made");
    old.get("/v1/apps/later").expect(200);
    old.kill();

    let mut new = old.restored("phoenix", &file, PASSPHRASE);
    assert_eq!(new.get("/v1/apps").status, 401, "log-ins have ended");
    new.log_in();
    new.get("/v1/apps/later").expect(404);
    let env = new.get("/v1/apps/shop/services/web/env").expect(200);
    assert!(env.to_string().contains("SECRET"), "{env}");
    assert_eq!(new.cluster(), old.cluster());
    runs_on(&new, &id, "phoenix").await;
    until("its page", || async { (new.fetch("web-shop.localhost", "/").status != 503).then_some(()) }).await;
    let nodes = new.get("/v1/nodes").expect(200);
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes:#}");
    // Not twice, and not over something.
    let mut over = new.command(&format!("backup restore {path}"));
    let over = over.env("NARVANA_BACKUP_PASSPHRASE", PASSPHRASE).output().expect("it runs");
    assert!(over.status.code() == Some(4) && words(&over).contains("holds a node already"), "{}", words(&over));

    // The old node, which was its cluster's only voter and needs nobody, comes back.
    ends_as_left_behind(&mut old);
    let left = harness.engine().list(&narvana::engine::Labels::new()).await.expect("the engine answers");
    assert!(left.iter().all(|other| other.id != container), "its container is gone");
    runs_on(&new, &id, "phoenix").await;
    // Others join the new one.
    let second = new.joined("second");
    assert_eq!(second.get("/v1/nodes").expect(200).as_array().map(Vec::len), Some(2));
}

fn backed_up(node: &Node, path: &Path) {
    let made = backup(node, PASSPHRASE, &["create", path.to_str().expect("UTF-8")]);
    assert!(made.status.success(), "{}", words(&made));
}

/// What `/v1/status` says of nodes that act in the cluster's name, once one of them is heard whose words contain this.
async fn rival(node: &Node, why: &str) -> Value {
    until(why, || async {
        let status = node.get("/v1/status?consistency=stale").expect(200);
        let rivals = status["rivals"].as_array().expect("a list").clone();
        rivals.into_iter().find(|rival| rival["why"].as_str().is_some_and(|words| words.contains(why)))
    })
    .await
}

/// Neither can end the other, since neither believes the other; so both say it, until people have stopped one.
#[tokio::test]
async fn a_cluster_from_before_a_rotation_and_that_of_today_are_known_to_each_other() {
    let harness = Harness::podman().await;
    let mut old = Node::registered(harness.address());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cluster.age");
    backed_up(&old, &file);
    let rotated = old.cli(&["ca", "rotate", "--timeout", "30s"]);
    assert!(rotated.status.success(), "{rotated:?}");

    let new = old.replaced("phoenix", &file, PASSPHRASE);
    let peer = |node: &Node| {
        let nodes = node.get("/v1/nodes").expect(200);
        format!("127.0.0.1:{}", nodes[0]["grpc_port"])
    };
    let seen = rival(&new, "node test-node, which was left behind, goes on and cannot be told to end").await;
    assert_eq!(seen["address"], peer(&old), "{seen:#}");
    assert!(seen["why"].as_str().is_some_and(|why| why.contains("narvana ca rotate")), "{seen:#}");
    let seen = rival(&old, "an authority that this cluster does not know").await;
    assert_eq!(seen["address"], "127.0.0.1", "{seen:#}");
    for node in [&old, &new] {
        assert!(node.log().contains("acts in the name of this cluster"), "{}", node.log());
        node.post("/v1/apps", &json!({"name": "goes-on"})).expect(201);
    }
    old.stop();
    until("one is left", || async { (new.get("/v1/status").expect(200)["rivals"] == json!([])).then_some(()) }).await;
}

/// Its containers cannot be ended, which it tries for a minute; meanwhile it is no member.
#[tokio::test]
async fn a_node_that_is_left_behind_without_an_engine_decides_nothing_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut old = Node::registered(&format!("unix://{}/none.sock", folder.path().display()));
    let file = folder.path().join("cluster.age");
    backed_up(&old, &file);
    let new = old.replaced("phoenix", &file, PASSPHRASE);
    until("it is told", || async { old.log().contains("this node was left behind").then_some(()) }).await;
    let told = Instant::now();
    until("it answers nobody", || async {
        (old.post("/v1/apps", &json!({"name": "late"})).status != 201).then_some(())
    })
    .await;
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    assert!(old.ends_within(Duration::ZERO).is_none(), "it looks for its engine still\n{}", old.log());
    assert_eq!(new.get("/v1/status").expect(200)["rivals"], json!([]));
    old.kill();
    // Nor at its next start, which knows what it was told.
    assert!(!old.try_run());
    assert!(old.log().contains("its containers could not be ended"), "{}", old.log());
}

/// An old program says that it is too old, before it makes anything of what it does not understand.
#[tokio::test]
async fn a_backup_of_a_newer_cluster_is_refused_by_an_old_program() {
    const OLDER: (&str, &str) = ("NARVANA_CLUSTER_VERSION_MAX", "1");
    let harness = Harness::podman().await;
    let mut node = Node::registered(harness.address());
    until("it is of today", || async {
        (node.get("/v1/status").expect(200)["cluster_version"] == NEWEST_CLUSTER_VERSION).then_some(())
    })
    .await;
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cluster.age");
    let path = file.to_str().expect("UTF-8");
    let made = backup(&node, PASSPHRASE, &["create", path]);
    assert!(made.status.success(), "{}", words(&made));
    node.kill();

    let old = node.newcomer("phoenix", "");
    let mut verify = Command::new(env!("CARGO_BIN_EXE_narvana"));
    verify.args(["backup", "verify", path]);
    for mut command in [verify, old.command(&format!("backup restore {path}"))] {
        let refused = command.env("NARVANA_BACKUP_PASSPHRASE", PASSPHRASE).env(OLDER.0, OLDER.1).output();
        let refused = refused.expect("it runs");
        let said = words(&refused);
        assert!(!refused.status.success() && said.contains("supports up to 1: upgrade narvana"), "{said}");
        assert!(!old.data.exists(), "nothing was made");
    }
    let new = node.restored("phoenix", &file, PASSPHRASE);
    assert_eq!(new.get("/v1/apps").status, 401, "it is there");
}

fn copy_all(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success());
}

/// `recover` in a data folder, with these further arguments and this place to die at.
fn recover(data: &Path, args: &[&str], failpoint: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_narvana"));
    command.args(["recover", "--data-dir"]).arg(data).args(args).env("NARVANA_FAILPOINT", failpoint);
    command.stdin(Stdio::null()).output().expect("the program runs")
}

#[tokio::test]
async fn one_of_three_goes_on_alone_and_the_others_give_way() {
    let harness = Harness::podman().await;
    let [mut first, mut second, mut third] = three(harness.address());
    until("three vote", || async {
        let nodes = first.get("/v1/nodes").expect(200);
        nodes.as_array().expect("a list").iter().all(|node| node["voter"] == true).then_some(())
    })
    .await;
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &web()).expect(201);
    for name in ["test-node", "third"] {
        assert!(first.cli(&["node", "cordon", name]).status.success());
    }
    let deployment = first.deploy("shop", "web");
    assert_eq!(deployment["instances"][0]["node_name"], "second");
    let id = deployment["id"].as_str().expect("an id").to_owned();
    assert!(first.cli(&["node", "uncordon", "third"]).status.success());

    // Of before what comes.
    let folder = tempfile::tempdir().expect("a folder");
    let early = folder.path().join("early.age");
    backed_up(&first, &early);
    let nodes = first.get("/v1/nodes").expect(200);
    let port = u16::try_from(nodes[0]["grpc_port"].as_u64().expect("a port")).expect("a port");
    let running = recover(&third.data, &["--yes"], "");
    assert!(!running.status.success() && words(&running).contains("in use"), "{}", words(&running));
    // Something that was uploaded, and that this machine has no copy of.
    first.post("/v1/apps/shop/services", &json!({"name": "job", "source_type": "upload"})).expect(201);
    let source = tempfile::tempdir().expect("a folder");
    std::fs::write(source.path().join("Dockerfile"), "FROM scratch\n").expect("writes");
    let source = first.upload("shop", "job", source.path());
    let copy = third.data.join("artifacts").join(source["sha256"].as_str().expect("a digest"));
    until("the third has a copy", || async { copy.exists().then_some(()) }).await;
    third.kill();
    std::fs::remove_file(&copy).expect("it was there");
    let needless = recover(&third.data, &["--yes"], "");
    assert!(words(&needless).contains("needs no recovery"), "{}", words(&needless));
    second.kill();
    first.kill();
    // Another program took a port meanwhile.
    let another = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let unasked = recover(&third.data, &[], "");
    drop(another);
    let said = words(&unasked);
    assert_eq!(unasked.status.code(), Some(2), "{said}");
    for expected in [
        "What may be lost",
        "what was built or uploaded for shop/job: this node has no copy",
        "test-node (node 1) votes",
        "does not show to be it",
        "does not answer",
        "removed for ever",
        "--yes",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    // Whenever it dies, it has happened or not.
    let folder = tempfile::tempdir().expect("a folder");
    for (place, pass) in RENEWAL_FAILPOINTS.into_iter().flat_map(|place| [(place, 1), (place, 4)]) {
        if pass > 1 && place != "renewal.moved" {
            continue;
        }
        let copy = folder.path().join(format!("{place}-{pass}"));
        copy_all(&third.data, &copy);
        let died = recover(&copy, &["--yes"], &format!("{place}:{pass}"));
        let signal = std::os::unix::process::ExitStatusExt::signal(&died.status);
        assert_eq!(signal, Some(9), "{place}: {}", words(&died));
        let again = recover(&copy, &["--yes"], "");
        match place {
            "renewal.written" => assert!(again.status.success(), "{place}: {}", words(&again)),
            _ => assert!(words(&again).contains("decides alone already"), "{place}: {}", words(&again)),
        }
    }

    let recovered = recover(&third.data, &["--yes"], "");
    assert!(recovered.status.success(), "{}", words(&recovered));
    third.run();
    third.post("/v1/apps", &json!({"name": "after"})).expect(201);
    runs_on(&third, &id, "third").await;
    let nodes = third.get("/v1/nodes").expect(200);
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes:#}");

    // The two that were the majority come back at the same time.
    std::thread::scope(|scope| {
        scope.spawn(|| ends_as_left_behind(&mut first));
        scope.spawn(|| ends_as_left_behind(&mut second));
    });
    third.post("/v1/apps", &json!({"name": "still"})).expect(201);
    runs_on(&third, &id, "third").await;

    // One of their machines becomes a new node, whatever is left of the old one.
    let token = folder.path().join("token");
    std::fs::write(&token, third.join_token(&[])).expect("writes");
    std::fs::write(second.data.join("raft.redb"), b"damaged").expect("writes");
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let token = token.to_str().expect("UTF-8");
    second.env = vec![variable("NARVANA_JOIN_TOKEN_FILE", token), variable("NARVANA_API", &third.api)];
    let stranger = second.command("node rebuild").output().expect("it runs");
    assert!(!stranger.status.success() && words(&stranger).contains("nothing was changed"), "{}", words(&stranger));
    second.env.push(variable("NARVANA_TOKEN", &third.token));
    let tokens = third.get("/v1/join-tokens").expect(200);
    let usable = tokens.as_array().expect("a list").iter().find(|token| token["status"] == "usable");
    let usable = usable.and_then(|token| token["id"].as_str()).expect("the one made just now");
    assert!(third.cli(&["token", "revoke", usable]).status.success());
    let revoked = second.command("node rebuild").output().expect("it runs");
    assert!(words(&revoked).contains("nothing was changed: the join token is revoked"), "{}", words(&revoked));
    std::fs::write(folder.path().join("token"), third.join_token(&[])).expect("writes");
    second.start("node rebuild");
    until("it is a member", || async {
        let nodes = third.get("/v1/nodes").expect(200);
        nodes.as_array().expect("a list").iter().any(|node| node["hostname"] == "second").then_some(())
    })
    .await;
    let data = second.data.parent().expect("a folder");
    let kept = std::fs::read_dir(data)
        .expect("lists")
        .filter(|entry| entry.as_ref().expect("an entry").file_name().to_string_lossy().starts_with("data.old-"));
    assert_eq!(kept.count(), 1, "the old folder is kept");

    // The other one does not even say which node it was, but in a file of its store.
    first.env = second.env.clone();
    std::fs::write(folder.path().join("token"), third.join_token(&[])).expect("writes");
    std::fs::write(first.data.join("identity.json"), b"{").expect("writes");
    std::fs::write(first.data.join("raft.redb"), b"damaged").expect("writes");
    assert!(!first.try_run());
    assert_eq!(first.wait_end().code(), Some(78), "{}", first.log());
    assert!(first.log().contains("narvana node rebuild"), "{}", first.log());
    first.start("node rebuild");
    until("three are members", || async {
        let nodes = third.get("/v1/nodes").expect(200);
        (nodes.as_array().map(Vec::len) == Some(3)).then_some(())
    })
    .await;

    // A backup of before the recovery takes the place of all of that.
    let phoenix = third.replaced("phoenix", &early, PASSPHRASE);
    assert_eq!(third.wait_end().code(), Some(78), "{}", third.log());
    assert!(third.log().contains("left behind") && third.log().contains("restored"), "{}", third.log());
    assert_eq!(names(&phoenix.get("/v1/nodes").expect(200)), ["phoenix"]);
}
