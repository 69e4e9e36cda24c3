//! Data folders that were copied, put back, or emptied: nobody may act as a node that lives or that knew more.

use serde_json::json;

use super::cluster::{names, three};
use super::image_service;
use crate::harness::node::Node;
use crate::harness::{Harness, until};

/// Refused for good, in these words.
#[track_caller]
fn refused(node: &mut Node, words: &str, command: &str) {
    assert!(!node.try_run(), "it was let in: {}", node.log());
    assert!(node.log().contains(words), "{}", node.log());
    assert!(node.log().contains(command), "it says what to do: {}", node.log());
}

/// Whether a node has written down that a member holds all that another node has applied. Members tell it once a second; one that
/// stops before has told it to the leader only, and a voter that does not know better believes its old copy.
fn remembers(node: &Node, other: &Node, member: &serde_json::Value) -> bool {
    let applied = other.get("/v1/status").expect(200)["applied_index"].as_u64().expect("an index");
    let others = std::fs::read(node.data.join("others")).unwrap_or_default();
    let others: serde_json::Value = serde_json::from_slice(&others).unwrap_or_default();
    let known = others.as_array().and_then(|all| all.iter().find(|known| known["node"] == *member));
    known.and_then(|known| known["holds"]["last"][2].as_u64()).is_some_and(|held| held >= applied)
}

async fn until_three_vote(node: &Node) {
    let answering = || node.get("/v1/status").expect(200)["quorum"]["answering"].clone();
    until("three vote", || async { (answering() == 3).then_some(()) }).await;
}

#[tokio::test]
async fn a_copy_of_a_node_that_runs_is_refused_and_the_node_goes_on() {
    let harness = Harness::podman().await;
    let [first, second, third] = three(harness.address());
    until_three_vote(&first).await;
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    let deployment = first.deploy("shop", "web");
    let instance = deployment["instances"][0].clone();

    // Of the one that leads, of one that follows: each copy ends, and its original does not notice.
    // They are kept until the end: a node of these tests takes its cluster's containers with it.
    let mut copies = Vec::new();
    for node in [&first, &second] {
        let mut copy = node.copied();
        refused(&mut copy, "runs already, elsewhere", "narvana join");
        // However often somebody tries.
        refused(&mut copy, "runs already, elsewhere", "narvana join");
        assert!(!copy.log().contains(" serves: API"), "it never served: {}", copy.log());
        node.post("/v1/apps", &json!({"name": format!("after-{}", node.name())})).expect(201);
        copies.push(copy);
    }
    assert_eq!(names(&third.get("/v1/nodes").expect(200)), ["test-node", "second", "third"]);
    let id = deployment["id"].as_str().expect("an id");
    let now = third.get(&format!("/v1/deployments/{id}")).expect(200);
    assert_eq!(now["instances"][0]["container_id"], instance["container_id"], "the same container runs");
    let left = harness.engine().list(&narvana::engine::Labels::new()).await.expect("the engine answers");
    assert!(left.iter().any(|container| instance["container_id"] == *container.id), "it is still there");
}

/// Of two members the founder is the only one that votes: its copy needs nobody to decide, and has to hear that it may not.
#[tokio::test]
async fn a_copy_of_the_only_voter_of_two_is_refused() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let second = first.joined("second");
    let mut copy = first.copied();
    refused(&mut copy, "runs already, elsewhere", "narvana join");
    // Nor does it become another node at the cost of the one that lives.
    let token = copy.data.with_extension("token");
    std::fs::write(&token, first.join_token(&[])).expect("writes");
    let mut rebuild = copy.command("node rebuild");
    rebuild.arg("--token-file").arg(&token).env("NARVANA_API", &first.api).env("NARVANA_TOKEN", &first.token);
    let ended = rebuild.output().expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(4) && said.contains("is a copy of that node's"), "{said}");
    assert!(copy.data.join("raft.redb").exists(), "it is where it was");
    assert_eq!(names(&second.get("/v1/nodes").expect(200)), ["test-node", "second"]);
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    second.get("/v1/apps/shop").expect(200);
}

#[tokio::test]
async fn an_old_copy_of_a_data_folder_is_refused_also_when_all_were_off() {
    let harness = Harness::podman().await;
    let [mut first, mut second, mut third] = three(harness.address());
    until_three_vote(&first).await;
    third.stop();
    let old = third.copied();
    third.run();
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    until("the third has it", || async { (third.get("/v1/apps/shop?consistency=stale").status == 200).then_some(()) })
        .await;
    let nodes = first.get("/v1/nodes").expect(200);
    let id =
        nodes.as_array().expect("a list").iter().find(|node| node["hostname"] == "third").expect("it")["id"].clone();
    for node in [&first, &second] {
        until("what the third has by now is kept", || async { remembers(node, &first, &id).then_some(()) }).await;
    }
    // A machine goes back to what it was before; the others remember.
    third.stop();
    let newest = third.copied();
    third.restore_from(&old);
    refused(&mut third, "is an old copy", "narvana node rebuild");
    // Also when their processes are new ones.
    for node in [&mut first, &mut second] {
        node.stop();
    }
    std::thread::scope(|scope| {
        for node in [&mut first, &mut second] {
            scope.spawn(|| node.run());
        }
    });
    refused(&mut third, "is an old copy", "narvana node rebuild");
    // A folder that was moved elsewhere properly is the node.
    third.restore_from(&newest);
    third.run();
    third.post("/v1/apps", &json!({"name": "back"})).expect(201);
    first.get("/v1/apps/back").expect(200);
}

/// Under the old id an empty store would vote anew on what it voted on before.
#[tokio::test]
async fn a_node_without_its_store_is_refused() {
    let harness = Harness::podman().await;
    let [first, mut second, _third] = three(harness.address());
    second.stop();
    let whole = second.copied();
    for lost in [&["raft.redb"][..], &["state.redb"], &["raft.redb", "state.redb", "position", "snapshots", "clean"]] {
        second.restore_from(&whole);
        for name in lost {
            let path = second.data.join(name);
            if path.is_dir() {
                std::fs::remove_dir_all(path).expect("removes");
            } else {
                std::fs::remove_file(path).expect("removes");
            }
        }
        refused(&mut second, "is missing although the data folder was in use", "narvana node rebuild");
        let files: Vec<_> =
            std::fs::read_dir(&second.data).expect("lists").map(|file| file.expect("a file").file_name()).collect();
        assert!(lost.iter().all(|lost| files.iter().all(|file| file != lost)), "nothing was made anew: {files:?}");
    }
    second.restore_from(&whole);
    second.run();
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    second.get("/v1/apps/shop").expect(200);
}
