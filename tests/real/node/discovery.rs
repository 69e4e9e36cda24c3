//! Services of an app find each other by name, wherever they run.

use serde_json::{Value, json};

use super::image_service;
use crate::harness::node::Node;
use crate::harness::site::Site;
use crate::harness::{BUSYBOX, EngineKind, Harness, until};

/// Deploys a service to a node, while the others take no work.
fn deploy_to(nodes: &[&Node], place: usize, app: &str, service: &Value) -> Value {
    for (number, node) in nodes.iter().enumerate() {
        let verb = if number == place { "uncordon" } else { "cordon" };
        assert!(nodes[0].cli(&["node", verb, node.name()]).status.success());
    }
    nodes[0].post(&format!("/v1/apps/{app}/services"), service).expect(201);
    let deployment = nodes[0].deploy(app, service["name"].as_str().expect("a name"));
    assert_eq!(deployment["instances"][0]["node_name"], nodes[place].name(), "{deployment:#}");
    deployment
}

/// What a command in a service's container says, and whether it ended well.
fn inside(node: &Node, app: &str, service: &str, command: &[&str]) -> (bool, String) {
    let ended = node.cli(&[&["exec", "--app", app, "--service", service, "--"], command].concat());
    let text = [ended.stdout, ended.stderr].concat();
    (ended.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// What a web server says to a container of the service.
fn fetch(node: &Node, app: &str, service: &str, host: &str, port: u16) -> (bool, String) {
    // What the image has of other clients cannot look names up.
    let command = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 8 {host} {port}");
    let (_, said) = inside(node, app, service, &["sh", "-c", &command]);
    (said.contains("hello from narvana"), said)
}

/// What leads to a service.
#[derive(Debug, PartialEq)]
enum Through {
    Node,
    Engine,
}

/// The address at which the node listens for a service, and whether its name leads there.
fn named(node: &Node, app: &str, asking: &str, service: &str) -> (String, Through) {
    let (_, names) = inside(node, app, asking, &["cat", "/etc/hosts"]);
    let line = names.lines().find(|line| line.ends_with(&format!(" {service} {service}.{app}.internal")));
    let address = line.unwrap_or_else(|| panic!("no {service} in {names}")).split(' ').next().expect("an address");
    match address.strip_prefix('#') {
        None => (address.to_owned(), Through::Node),
        Some(rest) => (format!("1{rest}"), Through::Engine),
    }
}

async fn finds(node: &Node, host: &str, through: Through) {
    until(&format!("web finds {host} through its {through:?}"), || async {
        (fetch(node, "shop", "web", host, 8080).0 && named(node, "shop", "web", "db").1 == through).then_some(())
    })
    .await;
}

async fn services_find_each_other_across_nodes(kind: EngineKind) {
    let harness = Harness::of(kind).await;
    let mut first = Node::registered(harness.address());
    let second = first.joined("second");
    for app in ["shop", "blog"] {
        first.post("/v1/apps", &json!({"name": app})).expect(201);
    }
    let nodes = [&first, &second];
    // Both listen at the same port of all their addresses.
    deploy_to(&nodes, 0, "shop", &image_service("web"));
    deploy_to(&nodes, 0, "blog", &image_service("web"));
    // Nothing of it runs yet: who asks waits a while, and is told.
    first.post(
        "/v1/apps/shop/services",
        &json!({"name": "cache", "image": "localhost/none:1", "ports": [{"container_port": 6379}]}),
    );
    let db = deploy_to(&nodes, 1, "shop", &image_service("db"));
    for host in ["db", "db.shop.internal"] {
        finds(&first, host, Through::Node).await;
    }
    let (found, said) = fetch(&first, "shop", "db", "web", 8080);
    assert!(found, "{said}");

    // A port that it does not name, a service of which nothing runs, another app.
    for (app, host, port) in [("shop", "db", 8081), ("shop", "cache", 6379), ("blog", "db", 8080)] {
        let (found, said) = fetch(&first, app, "web", host, port);
        assert!(!found, "{app}: {host}:{port}: {said}");
    }
    let (address, _) = named(&first, "shop", "web", "db");
    assert!(fetch(&first, "shop", "web", &address, 8080).0, "{address}");
    let (found, said) = fetch(&first, "blog", "web", &address, 8080);
    assert!(!found, "the address of another app's service: {said}");
    let (changed, said) = inside(&first, "shop", "web", &["sh", "-c", "echo 127.64.0.1 db > /etc/hosts"]);
    assert!(!changed, "only the node writes it: {said}");

    // The node is started again, and what it runs goes on.
    first.kill();
    first.run();
    finds(&first, "db", Through::Node).await;

    // What comes to the same node is found there, and what goes is found where it went.
    for (to, from, through) in [("test-node", "second", Through::Engine), ("second", "test-node", Through::Node)] {
        assert!(first.cli(&["node", "uncordon", to]).status.success());
        assert!(first.cli(&["node", "cordon", from]).status.success());
        let moved = first.deploy("shop", "db");
        assert_ne!(moved["id"], db["id"]);
        assert_eq!(moved["instances"][0]["node_name"], to);
        finds(&first, "db", through).await;
    }
    // An address that a program has kept leads on, wherever its service is, also after a start of the node.
    let again = first.deploy("shop", "db");
    assert_eq!(again["instances"][0]["node_name"], "second");
    assert!(fetch(&first, "shop", "web", &address, 8080).0, "{address}");
    assert!(first.cli(&["node", "uncordon", "test-node"]).status.success());
    assert!(first.cli(&["node", "cordon", "second"]).status.success());
    first.deploy("shop", "db");
    finds(&first, "db", Through::Engine).await;
    first.kill();
    first.run();
    until("the kept address leads to it", || async { fetch(&first, "shop", "web", &address, 8080).0.then_some(()) })
        .await;
    assert!(!first.log().contains("cannot listen inside"), "{}", first.log());
}

#[tokio::test]
async fn services_find_each_other_across_nodes_of_podman() {
    services_find_each_other_across_nodes(EngineKind::Podman).await;
}

#[tokio::test]
async fn services_find_each_other_across_nodes_of_docker() {
    services_find_each_other_across_nodes(EngineKind::Docker).await;
}

/// What is asked to stop may finish what it does, and needs for it what it needed before.
#[tokio::test]
async fn a_container_that_is_to_stop_finds_services_of_other_nodes_until_it_has_stopped() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let second = first.joined("second");
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let nodes = [&first, &second];
    deploy_to(&nodes, 1, "shop", &image_service("db"));
    let goodbye =
        "trap \"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 8 db 8080; exit\" TERM; while true; do sleep 1; done";
    let last = json!({"name": "last", "image": BUSYBOX, "command": ["sh", "-c", goodbye]});
    deploy_to(&nodes, 0, "shop", &last);
    until("the node leads to it", || async { (named(&first, "shop", "last", "db").1 == Through::Node).then_some(()) })
        .await;
    first.post("/v1/apps/shop/services/last/stop", &json!({})).expect(200);
    until("its last words are in its log", || async {
        let said = first.cli(&["logs", "--app", "shop", "--service", "last"]).stdout;
        String::from_utf8_lossy(&said).contains("hello from narvana").then_some(())
    })
    .await;
}

/// Only the port between nodes is open between the machines; that of the database dies.
#[tokio::test]
async fn a_service_is_found_again_when_its_machine_has_died() {
    let site = Site::of(3).await;
    site.only_port(9090);
    let first = Node::founded_at(&site.machines[0]);
    let (second, third) = (first.joined_at("second", &site.machines[1]), first.joined_at("third", &site.machines[2]));
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let nodes = [&first, &second, &third];
    deploy_to(&nodes, 0, "shop", &image_service("web"));
    deploy_to(&nodes, 2, "shop", &image_service("db"));
    finds(&first, "db", Through::Node).await;
    assert!(first.cli(&["node", "uncordon", "second"]).status.success());
    site.unplug(2);
    let dead = std::time::Instant::now();
    finds(&first, "db", Through::Node).await;
    println!("found again after {:?}", dead.elapsed());
}
