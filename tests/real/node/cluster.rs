//! Clusters of several nodes: real processes on loopback, over one engine.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::{image_service, site};
use crate::harness::node::{Node, curl};
use crate::harness::{BUSYBOX, Harness, until};

/// Three nodes, the first of which was made by `init`.
#[track_caller]
pub(super) fn three(engine: &str) -> [Node; 3] {
    let first = Node::registered(engine);
    let second = first.joined("second");
    let third = first.joined("third");
    [first, second, third]
}

/// The same, once a majority of them goes on without any one.
pub(super) async fn three_voters(engine: &str) -> [Node; 3] {
    let nodes = three(engine);
    until("three vote", || async {
        let known = nodes[2].get("/v1/nodes").expect(200);
        known.as_array().expect("a list").iter().all(|node| node["voter"] == true).then_some(())
    })
    .await;
    nodes
}

pub(super) fn names(nodes: &Value) -> Vec<&str> {
    nodes.as_array().expect("a list").iter().map(|node| node["hostname"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn machines_become_a_cluster_with_nothing_but_a_token() {
    let harness = Harness::podman().await;
    let [first, second, third] = three(harness.address());
    assert!(second.log().contains("container engine"), "the table before joining: {}", second.log());
    assert!(second.log().contains("takes work"), "{}", second.log());
    // Each serves the same API, and sees at once what another one took.
    for (position, node) in [&first, &second, &third].into_iter().enumerate() {
        assert_eq!(names(&node.get("/v1/nodes").expect(200)), ["test-node", "second", "third"]);
        let app = format!("app{position}");
        node.post("/v1/apps", &json!({ "name": app })).expect(201);
        for other in [&first, &second, &third] {
            other.get(&format!("/v1/apps/{app}")).expect(200);
        }
    }
    // All of them run instances.
    let service = json!({"replicas": 3, "resources": {"cpu": "0.05", "memory": "16Mi"}});
    let mut spread = image_service("web");
    spread.as_object_mut().expect("an object").extend(service.as_object().expect("an object").clone());
    second.post("/v1/apps/app0/services", &spread).expect(201);
    let deployment = third.deploy("app0", "web");
    let mut on: Vec<&str> = deployment["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|i| i["node_name"].as_str().expect("a name"))
        .collect();
    on.sort_unstable();
    assert_eq!(on, ["second", "test-node", "third"]);
}

#[tokio::test]
async fn a_token_lets_in_as_many_as_it_says() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let token = first.join_token(&[]);
    // Two at once: exactly one wins.
    let mut racers = [first.newcomer("red", &token), first.newcomer("blue", &token)];
    let won = std::thread::scope(|scope| {
        let racing = racers.each_mut().map(|node| scope.spawn(move || node.try_join()));
        racing.map(|racer| racer.join().expect("it ran"))
    });
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{}\n{}", racers[0].log(), racers[1].log());
    let loser = racers.iter().zip(won).find(|(_, won)| !won).map(|(node, _)| node).expect("one lost");
    assert!(loser.log().contains("used already"), "{}", loser.log());

    let refused = |name: &str, token: &str, words: &str| {
        let mut node = first.newcomer(name, token);
        assert!(!node.try_join(), "{}", node.log());
        assert!(node.log().contains(words), "{}", node.log());
        assert!(!node.data.join("identity.json").exists());
    };
    refused("green", &token, "used already");
    let revoked = first.join_token(&[]);
    let id = first.get("/v1/join-tokens").expect(200)[1]["id"].as_str().expect("an id").to_owned();
    let output = first.cli(&["token", "revoke", &id]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    refused("green", &revoked, "was revoked");
    let brief = first.join_token(&["--ttl", "1s"]);
    until("it expires", || async {
        (first.get("/v1/join-tokens").expect(200)[2]["status"] == "expired").then_some(())
    })
    .await;
    refused("green", &brief, "has expired");
    let fine = first.join_token(&[]);
    refused("test-node", &fine, "a node named test-node");
    refused("../green", &fine, "letters, digits");
    refused("green", &fine[..fine.len() - 1], "checksum");
    refused("green", "hello", "no join token");
    // Another cluster's address in the token: nothing is sent there.
    let other = Node::registered(harness.address());
    let theirs = other.join_token(&[]);
    drop(other);
    refused("green", &theirs, "cannot be reached");
}

#[tokio::test]
async fn a_worker_runs_work_and_never_votes() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let mut worker = first.newcomer("worker", &first.join_token(&["--role", "worker"]));
    assert!(worker.try_join(), "{}", worker.log());
    let mut second = first.joined("second");
    let voters = |node: &Node| {
        let nodes = node.get("/v1/nodes").expect(200);
        let voting = nodes.as_array().expect("a list").iter().filter(|node| node["voter"] == true);
        voting.map(|node| node["hostname"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    // Of three members two may vote: more than one would make nothing safer.
    assert_eq!(voters(&worker), ["test-node"]);
    let third = first.joined("third");
    until("three vote", || async { (voters(&worker) == ["test-node", "second", "third"]).then_some(()) }).await;
    // A voter dies, and the worker is the only one that could take its place.
    second.kill();
    until("it is missed", || async {
        let nodes = worker.get("/v1/nodes").expect(200);
        nodes.as_array().expect("a list").iter().any(|node| node["healthy"] == false).then_some(())
    })
    .await;
    for name in ["test-node", "third"] {
        assert!(first.cli(&["node", "cordon", name]).status.success());
    }
    worker.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    worker.post("/v1/apps/shop/services", &image_service("web")).expect(201);
    let deployment = worker.deploy("shop", "web");
    assert_eq!(deployment["instances"][0]["node_name"], "worker", "{deployment:#}");
    assert_eq!(voters(&third), ["test-node", "second", "third"]);
}

const TEN_MEBIBYTES: usize = 10 << 20;

/// Deploys one instance of a service that runs this script, and says on which node it is.
#[track_caller]
fn run_script(node: &Node, service: &str, script: &str) -> String {
    let spec = json!({
        "name": service, "image": BUSYBOX, "command": ["sh", "-c", script],
        "health_check": {"type": "tcp", "interval_seconds": 1, "retries": 10},
    });
    node.post("/v1/apps/shop/services", &spec).expect(201);
    let deployment = node.deploy("shop", service);
    deployment["instances"][0]["node_name"].as_str().expect("a name").to_owned()
}

/// Asks for another protocol, and whether what is said then comes back.
fn echoes(node: &Node, host: &str, word: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(node.ingress.replace("http://", ""))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    stream.write_all(word.as_bytes())?;
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard)?;
    Ok(head.starts_with(b"HTTP/1.1 101 ") && heard == word.as_bytes())
}

#[tokio::test]
async fn every_node_answers_for_an_instance_wherever_it_runs() {
    let harness = Harness::podman().await;
    let mut nodes = three(harness.address());
    nodes[0].post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let pages = "mkdir -p /www/cgi-bin; dd if=/dev/zero of=/www/big bs=1048576 count=10; \
                 printf '#!/bin/sh\necho Content-Type: text/plain; echo; wc -c\n' > /www/cgi-bin/count; \
                 chmod +x /www/cgi-bin/count; exec httpd -f -p 8080 -h /www";
    let home = run_script(&nodes[1], "web", pages);
    let echo = r#"printf '#!/bin/sh\nwhile read -r line; do [ ${#line} -le 1 ] && break; done\nprintf "HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n"\nexec cat\n' > /tmp/up; chmod +x /tmp/up; exec nc -ll -p 8080 -e /tmp/up"#;
    run_script(&nodes[2], "echo", echo);
    let body = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(body.path(), vec![b'x'; TEN_MEBIBYTES]).expect("writes");
    let upload = format!("@{}", body.path().display());
    for node in &nodes {
        until("it answers", || async { (node.fetch("web-shop.localhost", "/").status == 200).then_some(()) }).await;
        let big = node.fetch("web-shop.localhost", "/big");
        assert_eq!((big.status, big.body.len()), (200, TEN_MEBIBYTES));
        let url = format!("{}/cgi-bin/count", node.ingress);
        let counted = curl(&["-H", "Host: web-shop.localhost", "--data-binary", &upload, &url]);
        assert_eq!((counted.status, counted.body.trim()), (200, TEN_MEBIBYTES.to_string().as_str()));
        until("it echoes", || async { echoes(node, "echo-shop.localhost", "hello").unwrap_or(false).then_some(()) })
            .await;
    }
    // Without its node it is out of reach, and visitors are told so.
    let names = ["test-node", "second", "third"];
    let lost = names.iter().position(|name| *name == home).expect("one of them");
    nodes[lost].kill();
    let others = [&nodes[(lost + 1) % 3], &nodes[(lost + 2) % 3]];
    for other in others {
        let answer = until("it is missed", || async {
            let answer = other.fetch("web-shop.localhost", "/");
            (answer.status != 200).then_some(answer)
        })
        .await;
        let told =
            answer.body.contains("does not answer this one") || answer.body.contains("no instance of it is healthy");
        assert!(matches!(answer.status, 502 | 503) && told, "{answer:?}");
    }
    nodes[lost].run();
    for node in &nodes {
        until("it is back", || async { (node.fetch("web-shop.localhost", "/").status == 200).then_some(()) }).await;
    }
}

/// Built where Docker is, run where Podman is: the image goes from node to node, and no registry is anywhere.
#[tokio::test]
async fn what_one_node_built_another_one_runs() {
    let (docker, podman) = tokio::join!(Harness::docker(), Harness::podman());
    let first = Node::registered(docker.address());
    let second = first.joined_on("second", podman.address());
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload", "replicas": 1})).expect(201);
    assert!(first.cli(&["node", "cordon", "second"]).status.success());
    let (dockerfile, page) = site("from afar");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("writes");
    std::fs::write(folder.path().join("index.html"), page).expect("writes");
    first.upload("shop", "web", folder.path());
    let deployment = first.deploy("shop", "web");
    assert_eq!(deployment["instances"][0]["node_name"], "test-node", "{deployment:#}");

    assert!(first.cli(&["node", "uncordon", "second"]).status.success());
    assert!(first.cli(&["node", "cordon", "test-node"]).status.success());
    second.send("POST", "/v1/apps/shop/services/web/scale", &json!({"replicas": 2})).expect(200);
    let id = deployment["id"].as_str().expect("an id");
    until("both run", || async {
        let deployment = second.get(&format!("/v1/deployments/{id}")).expect(200);
        let instances = deployment["instances"].as_array().expect("a list").clone();
        assert!(instances.iter().all(|i| i["status"] != "failed"), "{deployment:#}");
        instances.iter().any(|i| i["status"] == "running" && i["node_name"] == "second").then_some(())
    })
    .await;
    until("its page", || async { (second.fetch("web-shop.localhost", "/").body == "from afar\n").then_some(()) }).await;
}

/// Any one of three, whichever leads and whichever runs it.
#[tokio::test]
async fn whichever_node_dies_everything_goes_on() {
    let harness = Harness::podman().await;
    let mut nodes = Vec::from(three(harness.address()));
    until("three vote", || async {
        let voting = nodes[0].get("/v1/nodes").expect(200);
        voting.as_array().expect("a list").iter().all(|node| node["voter"] == true).then_some(())
    })
    .await;
    nodes[0].post("/v1/apps", &json!({"name": "shop"})).expect(201);
    nodes[0].post("/v1/apps/shop/services", &image_service("web")).expect(201);
    let deployment = nodes[0].deploy("shop", "web");
    let id = deployment["id"].as_str().expect("an id").to_owned();
    for round in 0..3 {
        let running = |deployment: &Value| {
            let instances = deployment["instances"].as_array().expect("a list");
            instances.iter().find(|i| i["status"] == "running").cloned()
        };
        let before = running(&nodes[0].get(&format!("/v1/deployments/{id}")).expect(200)).expect("it runs");
        // Each is killed once; in the last round the one that runs it.
        let victim = match round {
            2 => nodes.iter().position(|node| before["node_name"] == node.name()).expect("one of them"),
            other => other,
        };
        let hit = before["node_name"] == nodes[victim].name();
        nodes[victim].kill();
        let others: Vec<&Node> =
            nodes.iter().enumerate().filter(|(position, _)| *position != victim).map(|(_, node)| node).collect();
        let app = format!("after{round}");
        until("the others decide", || async {
            (others[0].post("/v1/apps", &json!({ "name": app })).status == 201).then_some(())
        })
        .await;
        others[1].get(&format!("/v1/apps/{app}")).expect(200);
        until("it is known to be away", || async {
            let seen = others[1].get("/v1/nodes").expect(200);
            let away = |node: &&Value| node["healthy"] == false;
            (seen.as_array().expect("a list").iter().filter(away).count() == 1).then_some(())
        })
        .await;
        until("it runs where somebody is", || async {
            let now = running(&others[0].get(&format!("/v1/deployments/{id}")).expect(200))?;
            let is_there = now["node_name"] != nodes[victim].name();
            assert!(is_there || now["health"] == "unknown", "nobody knows that: {now:#}");
            (now["node_name"] != nodes[victim].name() && (hit || now["id"] == before["id"])).then_some(())
        })
        .await;
        nodes[victim].run();
        until("it is back, and left what it ran", || async {
            let seen = nodes[victim].get("/v1/nodes").expect(200);
            let healthy = seen.as_array().expect("a list").iter().all(|node| node["healthy"] == true);
            let containers = harness.engine().list(&narvana::engine::Labels::new()).await.expect("it answers");
            let of = |id: &Value| containers.iter().filter(|c| Some(c.id.as_str()) == id.as_str()).count();
            (healthy && (!hit || of(&before["container_id"]) == 0)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn any_node_shows_the_logs_of_any_instance() {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let mut second = first.joined("second");
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    // On the second node, since the first takes no work.
    assert!(first.cli(&["node", "cordon", "test-node"]).status.success());
    let script = "echo begun; while true; do date +tick-%s-%N; sleep 0.2; done";
    let spec = json!({"name": "clock", "image": BUSYBOX, "command": ["sh", "-c", script]});
    first.post("/v1/apps/shop/services", &spec).expect(201);
    let deployment = first.deploy("shop", "clock");
    assert_eq!(deployment["instances"][0]["node_name"], "second");
    let lines = |node: &Node| {
        let answer = node.get("/v1/apps/shop/logs?source=runtime&limit=1000").expect(200);
        let lines = answer["logs"].as_array().expect("a list").clone();
        let texts: Vec<String> = lines.iter().map(|l| l["message"].as_str().expect("text").to_owned()).collect();
        (texts, answer["missing"].clone())
    };
    for node in [&first, &second] {
        until("its lines come", || async { lines(node).0.contains(&"begun".to_owned()).then_some(()) }).await;
        assert_eq!(lines(node).1, Value::Null, "nobody is missing");
    }
    // A stream that is open through the first goes on when the second comes back.
    let url = format!("{}/v1/apps/shop/logs/stream?source=runtime&token={}", first.api, first.token);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let out = file.reopen().expect("opens");
    let mut reader =
        std::process::Command::new("curl").args(["--silent", "--no-buffer", &url]).stdout(out).spawn().expect("curl");
    let heard = || std::fs::read_to_string(file.path()).expect("reads");
    let seqs = || -> Vec<u64> {
        let text = heard();
        let data = text
            .split("event: log\n")
            .skip(1)
            .filter_map(|event| event.split("data: ").nth(1)?.lines().next().map(str::to_owned));
        data.filter_map(|data| serde_json::from_str::<Value>(&data).ok()?["seq"].as_u64()).collect()
    };
    until("lines are followed", || async { (seqs().len() > 5).then_some(()) }).await;
    second.kill();
    until("it is named", || async { heard().contains("event: missing").then_some(()) }).await;
    let (_, missing) = lines(&first);
    assert!(
        missing[0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("node second does not give its log lines")),
        "{missing}"
    );
    let before = seqs().len();
    second.run();
    until("they go on", || async { (seqs().len() > before + 5).then_some(()) }).await;
    reader.kill().expect("it runs");
    reader.wait().expect("ends");
    let seen = seqs();
    assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "each line once and none left out: {seen:?}");
}

/// What a stream of events wrote: each whole event by kind, and the last id.
fn events(file: &std::path::Path) -> (Vec<(String, Value)>, String) {
    let text = std::fs::read_to_string(file).expect("reads");
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    let (mut events, mut last) = (Vec::new(), String::new());
    for event in whole.split("\n\n") {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        if let (Some(kind), Some(data)) = (field("event: "), field("data: ")) {
            events.push((kind.to_owned(), serde_json::from_str(data).expect("JSON")));
        }
        if let Some(id) = field("id: ") {
            id.clone_into(&mut last);
        }
    }
    (events, last)
}

/// The numbers of the lines among them, and the last id.
fn heard(file: &std::path::Path) -> (Vec<u64>, String) {
    let (events, last) = events(file);
    let lines = events.iter().filter(|(kind, _)| kind == "log");
    (lines.map(|(_, line)| line["seq"].as_u64().expect("a number")).collect(), last)
}

/// Opens a stream of events, after the last one that was read.
fn follow(node: &Node, path: &str, last: &str) -> (std::process::Child, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--fail", "--no-buffer", "--header", &format!("Last-Event-ID: {last}")]);
    curl.args(["--header", &format!("Authorization: Bearer {}", node.token), &format!("{}{path}", node.api)]);
    (curl.stdout(file.reopen().expect("opens")).spawn().expect("curl"), file)
}

/// The node that is asked, and to which the source came, dies while it is built elsewhere.
#[tokio::test]
async fn a_deployment_that_was_followed_on_one_node_is_followed_to_its_end_on_another() {
    let harness = Harness::podman().await;
    let [mut first, _second, third] = three_voters(harness.address()).await;
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    first.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload", "replicas": 1})).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    let lines = "i=0; while [ $i -lt 100 ]; do echo tick-$i; i=$((i+1)); sleep 0.1; done";
    // No engine has it in its cache.
    let new = folder.path().display();
    let dockerfile = format!("FROM {BUSYBOX}\nRUN : {new}; {lines}\nCMD [\"sleep\", \"100000\"]\n");
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).expect("writes");
    for name in ["test-node", "third"] {
        assert!(first.cli(&["node", "cordon", name]).status.success());
    }
    first.upload("shop", "web", folder.path());
    let begun = first.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202);
    let path = format!("/v1/deployments/{}/stream", begun["id"].as_str().expect("an id"));
    let (mut reader, before) = follow(&first, &path, "");
    until("it is built", || async { (heard(before.path()).0.len() > 20).then_some(()) }).await;
    first.kill();
    reader.wait().expect("ends");
    let (mut all, last) = events(before.path());
    until("the others decide", || async { (third.get("/v1/apps/shop").status == 200).then_some(()) }).await;
    let (mut reader, after) = follow(&third, &path, &last);
    until("its end", || async {
        let told = events(after.path()).0;
        told.iter().any(|(kind, deployment)| kind == "deployment" && deployment["status"] == "running").then_some(())
    })
    .await;
    reader.kill().expect("it runs");
    reader.wait().expect("ends");
    all.extend(events(after.path()).0);

    let of = |kind: &str| all.iter().filter(|(of, _)| of == kind).map(|(_, data)| data).collect::<Vec<_>>();
    let lines = of("log");
    let follows = |pair: &[&Value]| pair[1]["seq"].as_u64() == pair[0]["seq"].as_u64().map(|seq| seq + 1);
    assert!(lines.windows(2).all(follows), "{lines:#?}");
    let ticks = lines.iter().filter_map(|line| line["message"].as_str()?.strip_prefix("tick-"));
    assert!(ticks.eq((0..100).map(|tick| tick.to_string())), "{lines:#?}");
    for kind in ["deployment", "build", "instance"] {
        let told = of(kind);
        assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "told twice: {told:#?}");
    }
    let ended = |kind: &str| of(kind).last().map(|last| last["status"].clone()).unwrap_or_default();
    assert_eq!([ended("deployment"), ended("build"), ended("instance")], ["running", "succeeded", "running"]);
}

#[tokio::test]
async fn a_stream_that_was_read_on_one_node_goes_on_on_another() {
    let harness = Harness::podman().await;
    let [mut first, second, third] = three_voters(harness.address()).await;
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    for name in ["test-node", "third"] {
        assert!(first.cli(&["node", "cordon", name]).status.success());
    }
    let script = "i=0; while true; do echo tick-$i; i=$((i+1)); sleep 0.1; done";
    let spec = json!({"name": "clock", "image": BUSYBOX, "command": ["sh", "-c", script]});
    first.post("/v1/apps/shop/services", &spec).expect(201);
    let deployment = first.deploy("shop", "clock");
    assert_eq!(deployment["instances"][0]["node_name"], "second");
    let path = "/v1/apps/shop/logs/stream?source=runtime&limit=1";
    let (mut reader, before) = follow(&first, path, "");
    // A person with a context of two addresses.
    let printed = tempfile::NamedTempFile::new().expect("a file");
    let mut person = second.client(&["logs", "--app", "shop", "--follow", "--tail", "1", "-o", "json"]);
    person.env("NARVANA_API", format!("{},{}", first.api, third.api)).stdout(printed.reopen().expect("opens"));
    let mut person = person.spawn().expect("the program runs");
    let lines = || -> Vec<u64> {
        let text = std::fs::read_to_string(printed.path()).expect("reads");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["seq"].as_u64().expect("a number");
        whole.lines().map(line).collect()
    };
    until("both follow", || async { (heard(before.path()).0.len() > 5 && lines().len() > 5).then_some(()) }).await;
    first.kill();
    reader.wait().expect("ends");
    let (mut seqs, last) = heard(before.path());
    until("the others decide", || async { (third.get("/v1/apps/shop").status == 200).then_some(()) }).await;
    let (mut reader, after) = follow(&third, path, &last);
    until("it goes on", || async { (heard(after.path()).0.len() > 5).then_some(()) }).await;
    seqs.extend(heard(after.path()).0);
    let next = *seqs.last().expect("lines");
    until("so does the person's", || async { (lines().last() > Some(&next)).then_some(()) }).await;
    for child in [&mut reader, &mut person] {
        child.kill().expect("it runs");
        child.wait().expect("ends");
    }
    for seen in [seqs, lines()] {
        assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "each line once and none left out: {seen:?}");
    }
}
