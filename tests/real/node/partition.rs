//! Machines with a network, an engine and a disk of their own, and what goes wrong between them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{image_service, site};
use crate::harness::node::Node;
use crate::harness::site::Site;
use crate::harness::until;

/// A cluster over so many machines; a node's place in it is that of its machine.
async fn cluster(site: &Site) -> Vec<Node> {
    let first = Node::founded_at(&site.machines[0]);
    let second = first.joined_at("second", &site.machines[1]);
    let third = first.joined_at("third", &site.machines[2]);
    let nodes = vec![first, second, third];
    until("three vote", || async {
        let voting = nodes[0].get("/v1/nodes").expect(200);
        voting.as_array().expect("a list").iter().all(|node| node["voter"] == true).then_some(())
    })
    .await;
    nodes
}

fn place(nodes: &[Node], name: &Value) -> usize {
    nodes.iter().position(|node| *name == node.name()).expect("one of them")
}

fn running(node: &Node, deployment: &str) -> Vec<Value> {
    let answer = node.get(&format!("/v1/deployments/{deployment}?consistency=stale")).expect(200);
    let instances = answer["instances"].as_array().expect("a list").clone();
    instances.into_iter().filter(|instance| instance["status"] == "running").collect()
}

fn leader(node: &Node) -> Option<u64> {
    node.get("/v1/status?consistency=stale").expect(200)["leader"].as_u64()
}

fn writes(node: &Node, app: &str) -> bool {
    node.post("/v1/apps", &json!({ "name": app })).status == 201
}

/// The containers on a machine of its own that run.
async fn alive(site: &Site, machine: usize) -> usize {
    alive_with(site, machine, &narvana::engine::Labels::new()).await
}

/// Those of them with these labels.
async fn alive_with(site: &Site, machine: usize, labels: &narvana::engine::Labels) -> usize {
    let found = site.machines[machine].harness.engine().list(labels).await;
    let found = found.expect("the engine answers");
    found.iter().filter(|container| container.state == narvana::engine::ContainerState::Running).count()
}

/// Names of the blobs that a node keeps.
fn blobs(node: &Node) -> Vec<String> {
    let entries = std::fs::read_dir(node.data.join("artifacts")).expect("a store");
    let names = entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.len() == 64).collect()
}

#[tokio::test]
async fn built_on_one_machine_it_runs_on_another_and_answers_through_the_third() {
    let site_of_three = Site::of(3).await;
    // Everything goes over the port between nodes: joining, Raft, blobs, logs, visitors.
    site_of_three.only_port(9090);
    let nodes = cluster(&site_of_three).await;
    let [first, second, third] = &nodes[..] else { unreachable!("three nodes") };
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload"})).expect(201);
    let (dockerfile, page) = site("from afar");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("writes");
    std::fs::write(folder.path().join("index.html"), page).expect("writes");
    first.upload("shop", "web", folder.path());
    // Nobody but the first may build and run it, then nobody but the second.
    for name in ["second", "third"] {
        assert!(first.cli(&["node", "cordon", name]).status.success());
    }
    let deployment = first.deploy("shop", "web");
    let id = deployment["id"].as_str().expect("an id");
    assert_eq!(deployment["instances"][0]["node_name"], "first", "{deployment:#}");
    assert!(third.cli(&["node", "uncordon", "second"]).status.success());
    // Others keep a copy of what was built, so that the death of the machine that built it is no loss.
    until("others have all of it", || async {
        let kept = [blobs(second), blobs(third)].concat();
        blobs(first).iter().all(|blob| kept.contains(blob)).then_some(())
    })
    .await;

    // Its machine dies: nothing of it is heard any more.
    let dead = Instant::now();
    site_of_three.unplug(0);
    until("the others decide", || async { writes(second, "after").then_some(()) }).await;
    let decided = dead.elapsed();
    until("it runs on the second", || async {
        let found = running(third, id);
        (found.len() == 1 && found[0]["node_name"] == "second").then_some(())
    })
    .await;
    until("it answers through the third", || async {
        (third.fetch("web-shop.localhost", "/").body == "from afar\n").then_some(())
    })
    .await;
    println!("decided after {decided:?}, served after {:?}", dead.elapsed());
}

/// The machine with a service that has data and an exclusive one is cut off: both end there; the one with data starts nowhere
/// else, the other one elsewhere, and never is there two of it; what has no data goes on on both sides, and everything is as it
/// was when the cable is back.
#[tokio::test]
async fn what_must_not_run_twice_ends_on_a_machine_that_is_cut_off() {
    let site = Site::of(3).await;
    let nodes = cluster(&site).await;
    nodes[0].post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let mut web = image_service("web");
    web["replicas"] = json!(3);
    web["resources"] = json!({"cpu": "0.05", "memory": "16Mi"});
    let of_service = |made: &Value| {
        narvana::engine::Labels::from([("narvana.service".to_owned(), made["id"].as_str().expect("an id").to_owned())])
    };
    let webs = of_service(&nodes[0].post("/v1/apps/shop/services", &web).expect(201));
    let web = nodes[0].deploy("shop", "web");
    let mut data = image_service("data");
    data["volumes"] = json!([{"name": "data", "path": "/data"}]);
    nodes[0].post("/v1/apps/shop/services", &data).expect(201);
    let data = nodes[0].deploy("shop", "data");
    let (web, data_id) = (web["id"].as_str().expect("an id"), data["id"].as_str().expect("an id"));
    let home = place(&nodes, &data["instances"][0]["node_name"]);
    let [one, other] = [(home + 1) % 3, (home + 2) % 3];
    let mut bot = image_service("bot");
    bot["exclusive"] = json!(true);
    bot["resources"] = json!({"cpu": "0.05", "memory": "16Mi"});
    let bots = of_service(&nodes[0].post("/v1/apps/shop/services", &bot).expect(201));
    // On the same machine, since nobody else takes work.
    for elsewhere in [one, other] {
        assert!(nodes[0].cli(&["node", "cordon", nodes[elsewhere].name()]).status.success());
    }
    let bot = nodes[0].deploy("shop", "bot");
    let bot_id = bot["id"].as_str().expect("an id");
    for elsewhere in [one, other] {
        assert!(nodes[0].cli(&["node", "uncordon", nodes[elsewhere].name()]).status.success());
    }
    assert_eq!(alive(&site, home).await, 3, "one of each");
    assert_eq!(alive_with(&site, home, &bots).await, 1);

    site.unplug(home);
    until("the others decide", || async { writes(&nodes[one], "after").then_some(()) }).await;
    let asked = Instant::now();
    let refused = nodes[home].post("/v1/apps", &json!({"name": "lonely"}));
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("no_quorum")), "{refused:?}");
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    let words = refused.json()["message"].as_str().expect("words").to_owned();
    for missing in [one, other] {
        assert!(words.contains(nodes[missing].name()), "it says who is missing: {words}");
    }
    until("it ends what must not run twice", || async { (alive(&site, home).await == 1).then_some(()) }).await;
    until("its replica without data runs elsewhere", || async {
        (alive_with(&site, one, &webs).await + alive_with(&site, other, &webs).await == 3).then_some(())
    })
    .await;
    assert!(running(&nodes[other], data_id).iter().all(|instance| instance["node_name"] == nodes[home].name()));
    for node in &nodes {
        until("visitors are served on both sides", || async {
            (node.fetch("web-shop.localhost", "/").status == 200).then_some(())
        })
        .await;
    }
    nodes[home].get("/v1/apps/shop?consistency=stale").expect(200);
    until("the exclusive one runs elsewhere, and never twice", || async {
        let mut running = 0;
        for machine in 0..3 {
            running += alive_with(&site, machine, &bots).await;
        }
        assert!(running <= 1, "{running} at once");
        (running == 1).then_some(())
    })
    .await;
    assert_eq!(alive_with(&site, home, &bots).await, 0);
    assert_eq!(alive(&site, one).await + alive(&site, other).await, 4, "what has data started nowhere else");

    site.plug(home);
    until("all is well again", || async {
        let seen = nodes[home].get("/v1/nodes");
        let healthy =
            seen.status == 200 && seen.json().as_array().expect("a list").iter().all(|node| node["healthy"] == true);
        let mut alive_in_all = 0;
        for machine in 0..3 {
            alive_in_all += alive(&site, machine).await;
        }
        let wanted = [(data_id, 1), (bot_id, 1), (web, 3)];
        let back = healthy && wanted.iter().all(|(id, count)| running(&nodes[one], id).len() == *count);
        (back && alive_in_all == 5).then_some(())
    })
    .await;
    let [instance] = &running(&nodes[one], data_id)[..] else { panic!("once") };
    assert_eq!(instance["node_name"], nodes[home].name(), "where its data is");
    nodes[home].get("/v1/apps/after").expect(200);
    nodes[one].get("/v1/apps/lonely").expect(404);
}

/// One direction of one cable fails: nobody is elected against a leader that the others hear.
#[tokio::test]
async fn a_cable_that_works_one_way_costs_no_leader() {
    let site = Site::of(3).await;
    let nodes = cluster(&site).await;
    let led = leader(&nodes[0]).expect("somebody leads");
    let ids = nodes[0].get("/v1/nodes").expect(200);
    let ids: Vec<u64> =
        ids.as_array().expect("a list").iter().map(|node| node["id"].as_u64().expect("an id")).collect();
    let leading = ids.iter().position(|id| *id == led).expect("one of them");
    let [deaf, other] = [(leading + 1) % 3, (leading + 2) % 3];
    for (round, (from, to)) in [(leading, deaf), (deaf, leading), (deaf, other)].into_iter().enumerate() {
        site.lose(from, to);
        for number in 0..20 {
            let through = if number % 2 == 0 { leading } else { other };
            let app = format!("r{round}-{number}");
            assert!(writes(&nodes[through], &app), "{app} through {through} while {from} does not reach {to}");
            tokio::time::sleep(Duration::from_millis(100)).await; // poll
        }
        assert_eq!(leader(&nodes[leading]), Some(led), "while {from} does not reach {to}");
        site.lose_no_more(from, to);
        until("the deaf one has all of it", || async {
            (nodes[deaf].get(&format!("/v1/apps/r{round}-19")).status == 200).then_some(())
        })
        .await;
    }
}

/// Two of three machines are lost for good: the third one goes on alone. When they come back after all, together, they give way.
#[tokio::test]
async fn a_lost_majority_is_recovered_on_the_machine_that_is_left() {
    let site = Site::of(3).await;
    let mut nodes = cluster(&site).await;
    nodes[0].post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let mut web = image_service("web");
    web["replicas"] = json!(3);
    web["resources"] = json!({"cpu": "0.05", "memory": "16Mi"});
    nodes[0].post("/v1/apps/shop/services", &web).expect(201);
    let web = nodes[0].deploy("shop", "web");
    let id = web["id"].as_str().expect("an id");
    for lost in [0, 1] {
        site.unplug(lost);
        nodes[lost].kill();
    }
    let left = &mut nodes[2];
    left.post("/v1/apps", &json!({"name": "lonely"})).expect(503);
    left.stop();
    let data = left.data.to_str().expect("UTF-8").to_owned();
    let recovered = left.cli(&["recover", "--data-dir", &data, "--yes"]);
    assert!(recovered.status.success(), "{}", String::from_utf8_lossy(&recovered.stderr));
    left.run();
    until("it decides", || async { writes(left, "after").then_some(()) }).await;
    until("all of it runs there", || async { (running(left, id).len() == 3).then_some(()) }).await;
    assert_eq!((alive(&site, 0).await, alive(&site, 1).await, alive(&site, 2).await), (1, 1, 3));

    for lost in [0, 1] {
        site.plug(lost);
    }
    for node in &mut nodes[..2] {
        node.begin("run");
    }
    for (lost, node) in nodes[..2].iter_mut().enumerate() {
        assert_eq!(node.wait_end().code(), Some(78), "{}", node.log());
        assert_eq!(alive(&site, lost).await, 0, "nothing goes on there: {}", node.log());
    }
    assert!(writes(&nodes[2], "still"));
    assert_eq!(running(&nodes[2], id).len(), 3);
}
