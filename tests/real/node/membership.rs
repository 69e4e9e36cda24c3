//! Who belongs to a cluster: nodes that are removed, and nodes that the others cannot find.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{names, three, three_voters};
use super::image_service;
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness, until};

#[tokio::test]
async fn a_removed_node_stops_what_it_runs_and_can_do_nothing() {
    let harness = Harness::podman().await;
    let [first, mut second, third] = three(harness.address());
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    // On the second node, since nobody else takes work.
    assert!(first.cli(&["node", "cordon", "test-node"]).status.success());
    assert!(first.cli(&["node", "cordon", "third"]).status.success());
    let deployment = first.deploy("shop", "web");
    assert_eq!(deployment["instances"][0]["node_name"], "second");
    let container = deployment["instances"][0]["container_id"].as_str().expect("a container").to_owned();
    let mut data = image_service("data");
    data["volumes"] = json!([{"name": "data", "path": "/data"}]);
    first.post("/v1/apps/shop/services", &data).expect(201);
    first.deploy("shop", "data");
    assert!(first.cli(&["node", "uncordon", "third"]).status.success());
    let asked = first.cli(&["node", "remove", "second", "--dry-run"]);
    let (table, notes) = (String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
    assert_eq!(table.lines().filter(|line| line.contains("node third has")).count(), 2, "{asked:?}");
    let leaves = "service data of app shop begins with empty volumes";
    assert!(notes.contains(leaves) && !notes.contains("service web"), "{notes}");
    let lost = first.cli(&["simulate", "lose", "second"]);
    let lost = String::from_utf8_lossy(&lost.stdout).into_owned();
    assert!(lost.contains("has not the volumes of data") && lost.contains("node second would be gone"), "{lost}");
    assert!(!lost.contains("does not answer"), "it answers: {lost}");

    let removed_at = Instant::now();
    let removed = first.cli(&["node", "remove", "second"]);
    assert!(removed.status.success(), "{removed:?}");
    assert!(String::from_utf8_lossy(&removed.stderr).contains(leaves), "{removed:?}");
    let ended = second.wait_end();
    assert_eq!(ended.code(), Some(78), "{}", second.log());
    assert!(removed_at.elapsed().as_secs() < 20, "{:?}", removed_at.elapsed());
    assert!(second.log().contains("was removed from this cluster"), "{}", second.log());
    let left = harness.engine().list(&narvana::engine::Labels::new()).await.expect("the engine answers");
    assert!(left.iter().all(|other| other.id != container), "its container is gone");
    let id = deployment["id"].as_str().expect("an id");
    until("the other node has it", || async {
        let deployment = first.get(&format!("/v1/deployments/{id}")).expect(200);
        let instances = deployment["instances"].as_array().expect("a list").clone();
        instances.iter().any(|i| i["status"] == "running" && i["node_name"] == "third").then_some(())
    })
    .await;
    assert_eq!(names(&third.get("/v1/nodes").expect(200)), ["test-node", "third"]);
    // Its folder is of no use any more, and says so.
    assert!(!second.try_run());
    assert!(
        second.log().contains("second (node ") && second.log().contains("narvana node rebuild"),
        "{}",
        second.log()
    );
    let looked = second.command("doctor").output().expect("it runs");
    let said = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert!(looked.status.code() == Some(1) && said.contains("BAD: second (node "), "{looked:?}");
}

/// A follower, then the leader: what is open from it and to it ends within five seconds, and it answers nobody.
#[tokio::test]
async fn whoever_is_removed_of_three_is_shut_out_within_five_seconds() {
    let harness = Harness::podman().await;
    let [mut first, mut second, third] = three_voters(harness.address()).await;
    assert_eq!(third.get("/v1/status").expect(200)["leader"], 1);
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    // One on each node.
    for (node, others) in
        [("test-node", ["second", "third"]), ("second", ["third", "test-node"]), ("third", ["test-node", "second"])]
    {
        for other in others {
            assert!(third.cli(&["node", "cordon", other]).status.success());
        }
        let spec = json!({"name": format!("on-{node}"), "image": BUSYBOX, "command": ["sleep", "100000"]});
        first.post("/v1/apps/shop/services", &spec).expect(201);
        let deployment = first.deploy("shop", &format!("on-{node}"));
        assert_eq!(deployment["instances"][0]["node_name"], node);
        for other in others {
            assert!(third.cli(&["node", "uncordon", other]).status.success());
        }
    }
    let open = |through: &Node, of: &str| {
        let mut client =
            through.client(&["exec", "--app", "shop", "--service", of, "-i", "--", "sh", "-c", "echo open; cat"]);
        let mut child =
            client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
        let mut begun = [0; 5];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut begun).expect("it begins");
        child
    };
    for leaving in [&mut second, &mut first] {
        let name = leaving.name().to_owned();
        let mut open = [open(&third, &format!("on-{name}")), open(leaving, "on-third")];
        let removed_at = Instant::now();
        let removed = third.cli(&["node", "remove", &name, "--force"]);
        assert!(removed.status.success(), "{removed:?}");
        until("what was open has ended", || {
            let ended = open.iter_mut().all(|child| child.try_wait().expect("a child").is_some());
            std::future::ready(ended.then_some(()))
        })
        .await;
        until("it answers nobody", || async {
            (leaving.get("/v1/apps?consistency=stale").status != 200).then_some(())
        })
        .await;
        assert!(removed_at.elapsed() < Duration::from_secs(5), "{name}: {:?}", removed_at.elapsed());
        assert_eq!(leaving.wait_end().code(), Some(78), "{}", leaving.log());
    }
    until("the last one decides", || async {
        (third.post("/v1/apps", &json!({"name": "after"})).status == 201).then_some(())
    })
    .await;
    assert_eq!(names(&third.get("/v1/nodes").expect(200)), ["third"]);
}

/// It is a member all the same, and nobody is told that it takes work.
#[tokio::test]
async fn a_machine_without_an_engine_joins_and_says_that_it_runs_nothing() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let folder = tempfile::tempdir().expect("a folder");
    let second = first.joined_on("second", &format!("unix://{}/none.sock", folder.path().display()));
    let said = second.log();
    assert!(said.contains("runs nothing until this has changed: ") && said.contains("none.sock"), "{said}");
    assert!(!said.contains("takes work"), "{said}");
    let shown = first.cli(&["node", "show", "second"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("no, it is unhealthy"), "{shown:?}");
}

/// The others fetch their copies in seconds; here the other one has lost its own.
#[tokio::test]
async fn a_node_that_has_the_only_copy_of_something_is_not_removed() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let mut second = first.joined("second");
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload"})).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").expect("writes");
    let source = first.upload("shop", "web", folder.path());
    let copy = |node: &Node| node.data.join("artifacts").join(source["sha256"].as_str().expect("a digest"));
    until("the second has a copy", || async { copy(&second).exists().then_some(()) }).await;
    let aside = folder.path().join("aside");
    std::fs::rename(copy(&first), &aside).expect("it came to this one");
    // Nor can it fetch another one meanwhile.
    std::fs::create_dir(copy(&first)).expect("a folder in its place");
    let refused = first.cli(&["node", "remove", "second"]);
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(words.contains("the only copy of what was built or uploaded for shop/web"), "{words}");
    assert!(words.contains("--force"), "{words}");
    let told = |args: &[&str]| String::from_utf8_lossy(&first.cli(args).stderr).into_owned();
    let foreseen = told(&["simulate", "lose", "second"]);
    assert!(foreseen.contains("only node second has what was built or uploaded for shop/web"), "{foreseen}");
    let known = first.get("/v1/status").expect(200);
    assert_eq!(known["without_copies"], json!([]), "the second has it: {known:#}");
    // One that is dead may have it.
    second.kill();
    until("nobody answers for the second", || async {
        let words = first.cli(&["node", "remove", "second"]).stderr;
        let words = String::from_utf8_lossy(&words);
        (words.contains("which does not answer, may") && words.contains("shop/web")).then_some(())
    })
    .await;
    let foreseen = told(&["simulate", "lose", "second"]);
    assert!(foreseen.contains("node second, which does not answer, may"), "{foreseen}");
    until("the status says so", || async {
        let status = first.cli(&["status"]).stdout;
        let status = String::from_utf8_lossy(&status).into_owned();
        status.contains("uploaded for shop/web is on no node that answers").then_some(())
    })
    .await;
    std::fs::remove_dir(copy(&first)).expect("it is empty");
    std::fs::rename(&aside, copy(&first)).expect("it is back");
    let removed = first.cli(&["node", "remove", "second"]);
    assert!(removed.status.success(), "{removed:?}");
}

/// What the leader was started with counts for all, so nobody is to be surprised by another one leading.
#[tokio::test]
async fn nodes_that_were_started_otherwise_are_named() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let secret = "not the one of the cluster, and long enough";
    let mut second = first.joined_as("second", &[("WORKER_MAX_CONCURRENCY", "7"), ("JWT_SECRET", secret)]);
    let of_second = || {
        let nodes = first.get("/v1/nodes").expect(200);
        nodes.as_array().expect("a list").iter().find(|node| node["hostname"] == "second").expect("a member").clone()
    };
    let differences = || of_second()["option_differences"].clone();
    let expected = json!([
        {"option": "worker-max-concurrency", "here": "2", "there": "7"},
        {"option": "jwt-secret", "here": "one", "there": "another"},
    ]);
    until("they have greeted", || async { (differences() == expected).then_some(()) }).await;
    let words = format!("node {} has --worker-max-concurrency 7, and this node 2", of_second()["id"]);
    assert_eq!(first.log().matches(&words).count(), 1, "it is said once: {}", first.log());
    let words = "node 1 has --worker-max-concurrency 2, and this node 7";
    until("the other one says it", || async { second.log().contains(words).then_some(()) }).await;
    assert!(!first.log().contains(secret) && !second.log().contains(secret));
    let shown = String::from_utf8_lossy(&first.cli(&["status"]).stdout).into_owned();
    assert!(
        shown.contains("--worker-max-concurrency 7, and 2 on the node that answers; --jwt-secret another"),
        "{shown}"
    );
    second.stop();
    second.env.clear();
    second.run();
    until("they are the same", || async { (differences() == json!([])).then_some(()) }).await;
}

/// It was told once, and may never be told again.
#[tokio::test]
async fn a_removed_node_that_dies_before_it_is_done_goes_on_with_that() {
    let harness = Harness::podman().await;
    let mut first = Node::registered(harness.address());
    let mut second = first.joined("second");
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    // It does not end when it is asked to, so that there is time to die in.
    first.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    assert!(first.cli(&["node", "cordon", "test-node"]).status.success());
    let deployment = first.deploy("shop", "web");
    let container = deployment["instances"][0]["container_id"].as_str().expect("a container").to_owned();
    assert!(first.cli(&["node", "remove", "second"]).status.success());
    until("it was told", || async { second.log().contains("stopping what runs here").then_some(()) }).await;
    second.kill();
    first.kill();
    let runs = async || {
        let containers = harness.engine().list(&narvana::engine::Labels::new()).await.expect("the engine answers");
        containers.iter().any(|other| other.id == container)
    };
    assert!(runs().await, "it died too late");
    assert!(!second.try_run(), "{}", second.log());
    assert_eq!(second.wait_end().code(), Some(78), "{}", second.log());
    assert!(!runs().await, "its container is gone");
}

/// The founder is the only one of two that votes, so the other one has to take over before it may go.
#[tokio::test]
async fn the_leader_of_two_is_removed_and_the_other_one_goes_on() {
    let harness = Harness::podman().await;
    let mut first = Node::registered(harness.address());
    let second = first.joined("second");
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let removed = second.cli(&["node", "remove", "test-node"]);
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(first.wait_end().code(), Some(78), "{}", first.log());
    until("the other one decides", || async {
        (second.post("/v1/apps", &json!({"name": "after"})).status == 201).then_some(())
    })
    .await;
    second.get("/v1/apps/shop").expect(200);
    assert_eq!(names(&second.get("/v1/nodes").expect(200)), ["second"]);
    let last = second.cli(&["node", "remove", "second"]);
    let words = String::from_utf8_lossy(&last.stderr).into_owned();
    assert!(!last.status.success() && words.contains("only one that answers and may vote"), "{words}");
    // Copies do not matter where the vote does: nobody else has any of this.
    second.post("/v1/apps/shop/services", &json!({"name": "built", "source_type": "upload"})).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").expect("writes");
    second.upload("shop", "built", folder.path());
    for args in [&["node", "remove", "second"][..], &["node", "remove", "second", "--dry-run"]] {
        let refused = second.cli(args);
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(4) && words.contains("may vote"), "{args:?}: {words}");
        assert!(!words.contains("copy"), "{args:?}: {words}");
    }
    assert!(!first.try_run());
}

/// Nodes that said an address at which nobody is: one says another one, and one is removed.
#[tokio::test]
async fn nodes_that_were_never_reached_can_still_come_and_go() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let nowhere = ("NARVANA_ADVERTISE".to_owned(), "255.255.255.255".to_owned());
    let mut nodes = ["lost", "unwanted"].map(|name| {
        let mut node = first.newcomer(name, &first.join_token(&[]));
        node.env.push(nowhere.clone());
        node.begin("join");
        node
    });
    let seen = |name: &str| {
        let nodes = first.get("/v1/nodes").expect(200);
        nodes.as_array().expect("a list").iter().find(|node| node["hostname"] == name).cloned()
    };
    for node in &nodes {
        until("it waits for somebody who finds it", || async {
            node.log().contains("has to reach this node at its address").then_some(())
        })
        .await;
        let found: Value = seen(node.name()).expect("it is on record");
        assert_eq!(found["healthy"], false, "{found:#}");
        assert!(found["unhealthy_reason"].to_string().contains("has not come up yet"), "{found:#}");
    }
    let [lost, unwanted] = &mut nodes;
    lost.kill();
    *lost.env.last_mut().expect("its address") = ("NARVANA_ADVERTISE".to_owned(), "127.0.0.1".to_owned());
    lost.run();
    until("it is a node like any other", || async {
        seen("lost").is_some_and(|node| node["healthy"] == true).then_some(())
    })
    .await;
    let removed = first.cli(&["node", "remove", "unwanted"]);
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(unwanted.wait_end().code(), Some(78), "{}", unwanted.log());
    assert!(unwanted.log().contains("was removed"), "{}", unwanted.log());
}

/// Killed on its way in: the same command goes on, and it is one node that used the token once.
#[tokio::test]
async fn a_join_that_was_cut_off_goes_on() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    for (name, let_in) in [("early", false), ("late", true)] {
        let mut node = first.newcomer(name, &first.join_token(&[]));
        node.begin("join");
        let admitted = || first.log().lines().any(|line| line.contains("a node was let in") && line.contains(name));
        until("it is on its way", || async {
            let asked = if let_in { admitted() } else { node.data.join("joining").exists() };
            asked.then_some(())
        })
        .await;
        node.kill();
        // It may have been quicker, and be a node already.
        if !node.try_join() {
            node.run();
        }
        until("it is a node like any other", || async {
            let nodes = first.get("/v1/nodes").expect(200);
            let of_name: Vec<&Value> =
                nodes.as_array().expect("a list").iter().filter(|node| node["hostname"] == name).collect();
            (of_name.len() == 1 && of_name[0]["healthy"] == true).then_some(())
        })
        .await;
        let tokens = first.get("/v1/join-tokens").expect(200);
        let used = tokens.as_array().expect("a list").iter().all(|token| token["status"] == "used");
        assert!(used, "{tokens:#}");
        let removed = first.cli(&["node", "remove", name]);
        assert!(removed.status.success(), "{removed:?}");
        assert_eq!(node.wait_end().code(), Some(78), "{}", node.log());
    }
}
