//! `narvana exec` from any node into any instance.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness, until};

/// A cluster whose only instance runs on the second node. It is asked through the first.
async fn cluster() -> (Harness, Node, Node) {
    let harness = Harness::podman().await;
    let first = Node::registered(harness.address());
    let second = first.joined("second");
    assert!(first.cli(&["node", "cordon", "test-node"]).status.success());
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let spec = json!({"name": "idle", "image": BUSYBOX, "command": ["sleep", "100000"]});
    first.post("/v1/apps/shop/services", &spec).expect(201);
    let deployment = first.deploy("shop", "idle");
    assert_eq!(deployment["instances"][0]["node_name"], "second");
    (harness, first, second)
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

/// The same on a terminal, as people have it.
fn on_terminal(client: &Command) -> Command {
    let line = std::iter::once(client.get_program()).chain(client.get_args());
    let line: Vec<&str> = line.map(|word| word.to_str().expect("text")).collect();
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
    terminal.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
    terminal
}

/// Whether `sleep <seconds>` runs on this machine.
fn sleeps(seconds: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let mut commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    commands.any(|command| command == format!("sleep\0{seconds}\0").as_bytes())
}

#[tokio::test]
async fn a_command_runs_wherever_the_instance_is() {
    let (_harness, first, second) = cluster().await;
    for node in [&first, &second] {
        let ended = node.cli(&["exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(7), b"out\n".as_slice()), "{ended:?}");
        assert_eq!(ended.stderr, b"err\n");

        // More than all buffers on the way, there and back.
        let mut cat = spawn(&mut node.client(&["exec", "-i", "--", "cat"]));
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
        let (mut input, bytes) = (cat.stdin.take().expect("a pipe"), sent.clone());
        let writer = std::thread::spawn(move || input.write_all(&bytes));
        let ended = cat.wait_with_output().expect("it ends");
        writer.join().expect("it wrote").expect("all was taken");
        assert!(ended.status.success() && ended.stdout == sent, "{} bytes, {:?}", ended.stdout.len(), ended.status);

        let client = node.client(&["exec", "--app", "shop", "--service", "idle"]);
        let mut terminal = spawn(&mut on_terminal(&client));
        let mut keys = terminal.stdin.take().expect("a pipe");
        keys.write_all(b"tty && echo sum-$((40 + 2)); exit 5\n").expect("taken");
        let ended = terminal.wait_with_output().expect("it ends");
        let shown = String::from_utf8_lossy(&ended.stdout);
        assert!(shown.contains("/dev/") && shown.contains("sum-42"), "{shown}");
        assert_eq!(ended.status.code(), Some(5), "{shown}");
        drop(keys);
    }

    let refused = |args: &[&str], code: i32, words: &str| {
        let ended = first.cli(args);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    };
    refused(&["exec"], 2, "name a command after --");
    refused(&["exec", "--instance", "zzz", "--", "true"], 3, "no instance called zzz runs");
    refused(&["exec", "--", "no-such-command"], 127, "no-such-command");
    first.post("/v1/apps/shop/services/idle/stop", &json!({})).expect(200);
    until("it has stopped", || async {
        let shown = first.cli(&["ps", "--output", "json"]);
        (shown.stdout.trim_ascii() == b"[]").then_some(())
    })
    .await;
    refused(&["exec", "--", "true"], 3, "no instance of idle runs");
}

#[tokio::test]
async fn whoever_leaves_hangs_up() {
    let (_harness, first, mut second) = cluster().await;
    // Numbers that no other process of this machine has as its argument.
    let seconds = |which: u32| format!("{which}7{}", std::process::id());
    let napping = |token: &str, seconds: &str| {
        spawn(on_terminal(&first.client(&["exec", "--", "sleep", seconds])).env("NARVANA_TOKEN", token))
    };
    // The terminal is closed.
    let mut left = napping(&first.token, &seconds(1));
    until("it runs", || async { sleeps(&seconds(1)).then_some(()) }).await;
    left.kill().expect("it runs");
    left.wait().expect("it ends");
    until("it was hung up", || async { (!sleeps(&seconds(1))).then_some(()) }).await;

    // The log-in ends.
    let credentials = json!({"email": "ada@example.org", "password": "correct horse"});
    let login = first.post("/auth/login", &credentials).expect(200);
    let token = login["token"].as_str().expect("a token").to_owned();
    let mut ended = napping(&token, &seconds(2));
    until("it runs", || async { sleeps(&seconds(2)).then_some(()) }).await;
    let logout = first.client(&["logout"]).env("NARVANA_TOKEN", &token).output().expect("it runs");
    assert!(logout.status.success(), "{logout:?}");
    let mut shown = String::new();
    ended.stdout.take().expect("a pipe").read_to_string(&mut shown).expect("text");
    assert_eq!(ended.wait().expect("it ends").code(), Some(1), "{shown}");
    assert!(shown.contains("log in with"), "{shown}");
    until("it was hung up", || async { (!sleeps(&seconds(2))).then_some(()) }).await;

    // The node with the instance dies.
    let mut cut = spawn(&mut first.client(&["exec", "--", "sh", "-c", "echo begun; sleep 100000"]));
    let mut begun = [0; 6];
    cut.stdout.as_mut().expect("a pipe").read_exact(&mut begun).expect("it begins");
    second.kill();
    let ended = cut.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("broke off, the command may go on"), "{said}");
    let away = first.cli(&["exec", "--", "true"]);
    let said = String::from_utf8_lossy(&away.stderr).into_owned();
    assert!(!away.status.success() && said.contains("does not run the command"), "{said}");
}
