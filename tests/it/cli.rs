//! The command line from the outside: what it accepts, and what it does against a server that answers as the API does.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path as At, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use clap::{Command, CommandFactory, Parser, error::ErrorKind};
use narvana::cli::Cli;
use narvana::task::{OnError, Supervisor};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("narvana").chain(line.split_whitespace()))
}

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn what_is_accepted() {
    for line in [
        "init --data-dir /tmp/x --api-port 0 --ingress-http-port auto --label zone=a --label disk=ssd",
        "run --config /etc/narvana.toml",
        "init --service --data-dir /srv/narvana",
        "run --service",
        "status -o json",
        "--api http://a:1,http://b:2 --token t --ca-cert ca.pem -q status",
        "register ada@example.org --password-stdin --setup-token t",
        "login",
        "--context prod login ada@example.org",
        "logout",
        "whoami -o yaml",
        "context ls",
        "context use prod",
        "app ls -o wide",
        "app create shop --description x",
        "app update shop --name store --version 3",
        "app delete shop",
        "service ls --app shop",
        "service create web -a shop --git github.com/o/r --ref main --port 8080 --port 53/udp --env A=b --replicas 2",
        "service create web -a shop --image docker.io/library/nginx:1.27 -- nginx -g x",
        "service update web -a shop --health-path /healthz --health-interval 10s",
        "service stop web -a shop",
        "service restart web --no-wait",
        "service create bot -a shop --image localhost/bot:1 --exclusive",
        "service update bot -a shop --exclusive false",
        "node drain n3 --stop-exclusive --stop-volumes --timeout 5m",
        "detect",
        "detect ./web -o json",
        "node drain n3 --dry-run",
        "node label n3 disk=ssd zone-",
        "simulate drain n3 --stop-volumes",
        "simulate join --cpu 4 --memory 8Gi --arch arm64 --label disk=ssd --label zone=b",
        "rebalance --apply --budget 20",
        "deploy .",
        "deploy ./web --app shop --service web --timeout 5m",
        "deploy --app shop --ref v2",
        "deployment ls",
        "deployment rollback 0198f3a2-0000-7000-8000-000000000000 --no-wait",
        "build logs 0198f3a2-0000-7000-8000-000000000000 -n 10",
        "build retry 0198f3a2-0000-7000-8000-000000000000",
        "logs -a shop -f -b -n 1000 -t",
        "env set A=b C=d=e -a shop -s web",
        "env unset A C",
        "env import .env",
        "ps --all",
        "scale web=3 worker=0 -a shop",
        "rollback -a shop -s web --to 4",
        "explain shop",
        "node show 1",
        "node cordon n2",
        "node remove n2 --dry-run",
        "simulate lose 1",
        "token create --role worker --ttl 24h --uses 3",
        "token ls",
        "ca show -o json",
        "ca rotate --no-wait",
        "ca rotate --timeout 1m",
        "--stale ps",
        "token revoke 0198f3a2-0000-7000-8000-000000000000",
        "join nvj1.AAAA --name n2 --service",
        "join --token-file - --advertise 10.0.0.2",
        "backup create",
        "backup create --passphrase-file /etc/p /srv/cluster.age",
        "backup verify cluster.age --passphrase-file -",
        "backup restore --service --advertise 10.0.0.7 cluster.age",
        "recover --data-dir /srv/narvana --yes",
        "node rebuild --token-file - --name n3",
        "settings set server_domain=apps.example.org",
        "completions bash",
        "man /tmp/man",
    ] {
        if let Err(error) = parse(line) {
            panic!("`{line}` is refused: {error}");
        }
    }
}

#[test]
fn what_is_refused() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("join", ErrorKind::MissingRequiredArgument),
        ("join token --token-file -", ErrorKind::ArgumentConflict),
        ("token create --role king", ErrorKind::InvalidValue),
        ("backup export", ErrorKind::InvalidSubcommand),
        ("backup create --passphrase hunter2", ErrorKind::UnknownArgument),
        ("backup verify", ErrorKind::MissingRequiredArgument),
        ("backup restore --advertise 10.0.0.7", ErrorKind::MissingRequiredArgument),
        ("recover now", ErrorKind::UnknownArgument),
        ("node drain n3 --dry-run --no-wait", ErrorKind::ArgumentConflict),
        ("node label n3", ErrorKind::MissingRequiredArgument),
        ("node label n3 disk", ErrorKind::ValueValidation),
        ("rebalance --budget 0", ErrorKind::ValueValidation),
        ("simulate join --arch vax", ErrorKind::InvalidValue),
        ("node rebuild", ErrorKind::MissingRequiredArgument),
        ("status -o xml", ErrorKind::InvalidValue),
        ("login ada@example.org --password hunter2", ErrorKind::UnknownArgument),
        ("app update shop", ErrorKind::MissingRequiredArgument),
        ("service create web --git a --image b", ErrorKind::ArgumentConflict),
        ("service create web --port 0", ErrorKind::ValueValidation),
        ("service restart web --no-wait --timeout 1m", ErrorKind::ArgumentConflict),
        ("deploy . --ref main", ErrorKind::ArgumentConflict),
        ("deploy --port 80", ErrorKind::MissingRequiredArgument),
        ("deploy . --timeout soon", ErrorKind::ValueValidation),
        ("logs -n 0", ErrorKind::ValueValidation),
        ("logs -n 1001", ErrorKind::ValueValidation),
        ("scale web", ErrorKind::ValueValidation),
        ("scale", ErrorKind::MissingRequiredArgument),
        ("env set A", ErrorKind::ValueValidation),
        ("settings set", ErrorKind::MissingRequiredArgument),
    ] {
        let error = parse(line).err().unwrap_or_else(|| panic!("`{line}` is accepted"));
        assert_eq!(error.kind(), kind, "`{line}`: {error}");
    }
}

#[test]
fn every_command_and_every_argument_says_what_it_is() {
    fn check(command: &Command, path: &str, missing: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        if command.get_about().is_none() {
            missing.push(path.clone());
        }
        for argument in command.get_arguments() {
            if argument.get_help().is_none() {
                missing.push(format!("{path}: {}", argument.get_id()));
            }
        }
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            check(inner, &path, missing);
        }
    }
    let mut command = Cli::command();
    command.build();
    let mut missing = Vec::new();
    check(&command, "", &mut missing);
    assert!(missing.is_empty(), "without help: {missing:#?}");
}

/// What the server was asked, in order: method, path, body.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server that knows no app, and makes whatever it is asked to make.
struct Server {
    address: String,
    asked: Asked,
    home: tempfile::TempDir,
    /// Once it is cancelled, nobody is told any more about a deployment.
    silent: CancellationToken,
    /// Cancelled when somebody then waits for that.
    waited: CancellationToken,
    _supervisor: Supervisor,
}

impl Server {
    /// `status` is how the deployment that is made ends.
    async fn start(status: &'static str) -> Self {
        let asked = Asked::default();
        let (silent, waited) = (CancellationToken::new(), CancellationToken::new());
        let tokens = (silent.clone(), waited.clone());
        let show = move || async move {
            if tokens.0.is_cancelled() {
                tokens.1.cancel();
                std::future::pending::<()>().await;
            }
            deployment(status)
        };
        let routes = axum::Router::new()
            .route("/v1/apps", get(|| async { Json(json!([{ "name": "shop", "novelty": { "b": 1, "a": null } }])) }))
            .route("/v1/apps", post(made))
            .route("/v1/apps/{app}", get(missing))
            .route("/v1/apps/{app}/services", post(made))
            .route("/v1/apps/shop/services/web", get(a_service).patch(refused_service))
            .route("/v1/apps/{app}/services/{service}", get(missing).patch(refused_service))
            .route("/v1/apps/{app}/services/{service}/source", post(uploaded))
            .route("/v1/apps/{app}/services/{service}/deploy", post(move || async { deployment("pending") }))
            .route("/v1/deployments/{id}", get(show))
            .route("/v1/deployments/{id}/stream", get(events))
            .route("/v1/builds/{id}", get(failed_build))
            .route("/v1/join-tokens", post(token_made))
            .route("/v1/apps/{app}/services/{service}/rollback", post(rolled_back))
            .with_state(Arc::clone(&asked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let supervisor = Supervisor::new("test", CancellationToken::new());
        supervisor.spawn("server", OnError::Log, async move { axum::serve(listener, routes).await });
        Self { address, asked, home: tempfile::tempdir().expect("a folder"), silent, waited, _supervisor: supervisor }
    }

    /// Runs the program with a home of its own and nothing else from the environment.
    async fn narvana(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.expect("the program runs")
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_narvana"));
        command.env_clear().env("HOME", self.home.path()).env("NARVANA_API", &self.address).args(arguments);
        command
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

async fn missing() -> impl IntoResponse {
    let body = json!({ "code": "not_found", "message": "it does not exist", "details": {}, "request_id": "r" });
    (StatusCode::NOT_FOUND, Json(body))
}

async fn made(State(asked): State<Asked>, Json(body): Json<Value>) -> impl IntoResponse {
    asked.lock().expect("not poisoned").push(body.to_string());
    (StatusCode::CREATED, Json(body))
}

async fn uploaded(
    State(asked): State<Asked>,
    At((app, service)): At<(String, String)>,
    body: axum::body::Bytes,
) -> impl IntoResponse {
    // The magic number of Zstandard.
    let is_zstd = body.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    asked.lock().expect("not poisoned").push(format!("source of {app}/{service}, zstd: {is_zstd}"));
    (StatusCode::CREATED, Json(json!({ "source_id": "s1", "sha256": "00ff", "bytes": body.len() })))
}

fn deployment(status: &str) -> Json<Value> {
    Json(json!({
        "id": "d1", "service_name": "hello", "version": 1, "status": status, "build_id": "b1",
        "url": "http://hello-hello.localhost:8081", "reason": (status == "failed").then_some("the build failed"),
        "instances": [{ "id": "0198-beef", "node_id": 1, "node_name": "n1", "status": "running", "health": "healthy" }],
    }))
}

async fn rolled_back() -> impl IntoResponse {
    let body = json!({
        "id": "d7", "service_name": "web", "version": 7, "status": "pending", "cause": "rollback", "cause_version": 4,
    });
    (StatusCode::ACCEPTED, Json(body))
}

async fn token_made() -> impl IntoResponse {
    let body = json!({
        "id": "0198f3a2-0000-7000-8000-000000000000", "token": "nvj1.SECRET", "role": "worker", "uses_left": 1,
        "addresses": ["10.0.0.1:9090"], "expires_at": "2026-12-01T00:00:00.000Z",
    });
    (StatusCode::CREATED, Json(body))
}

async fn a_service() -> Json<Value> {
    Json(json!({"name": "web", "build_config": {"root_directory": "web", "dockerfile": null}}))
}

async fn refused_service(State(asked): State<Asked>, Json(body): Json<Value>) -> impl IntoResponse {
    asked.lock().expect("not poisoned").push(body.to_string());
    let details = json!({ "build_config.dockerfile": "must stay inside the source" });
    let body = json!({
        "code": "invalid_request", "message": "the request is not valid: build_config.dockerfile: must stay inside the source",
        "details": details, "request_id": "r",
    });
    (StatusCode::BAD_REQUEST, Json(body))
}

async fn events() -> impl IntoResponse {
    let body = "event: log\nid: 1\ndata: {\"message\":\"STEP 1/2: FROM scratch\",\"source\":\"build\"}\n\nevent: deployment\ndata: {}\n\n";
    ([("content-type", "text/event-stream")], body)
}

async fn failed_build() -> Json<Value> {
    Json(json!({
        "id": "b1", "status": "failed",
        "failure": { "build_code": "BUILD_FAILED", "message": "a step failed", "next_step": "repair the Dockerfile", "log_tail": ["boom"] },
    }))
}

fn sample(dir: &Path) -> String {
    let folder = dir.join("Hello");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("Dockerfile"), "FROM scratch\nEXPOSE 9000\n").expect("a file");
    folder.to_str().expect("a path of text").to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_becomes_an_app_a_service_and_an_address() {
    let server = Server::start("running").await;
    let folder = sample(server.home.path());
    let output = server.narvana(&["deploy", &folder]).await;
    let (data, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(data, "http://hello-hello.localhost:8081\n", "data, and nothing but data, is on stdout");
    for line in ["instance beef on n1: running, healthy", "hello v1 is running"] {
        assert!(said.contains(line), "{line:?} is missing: {said}");
    }
    assert!(!said.contains('\u{1b}'), "no colour without a terminal: {said:?}");
    let asked = server.asked();
    assert_eq!(asked[0], r#"{"name":"hello"}"#);
    let service: Value = serde_json::from_str(&asked[1]).expect("JSON");
    let expected = json!({
        "name": "hello", "source_type": "upload", "build_strategy": "dockerfile",
        "ports": [{ "container_port": 9000, "protocol": "tcp" }],
    });
    assert_eq!(service, expected);
    assert_eq!(asked[2], "source of hello/hello, zstd: true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_a_dockerfile_is_built_by_what_is_found_in_it() {
    let server = Server::start("running").await;
    let folder = server.home.path().join("hello");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("go.mod"), "module example.org/x\n\ngo 1.22\n").expect("writes");
    let output = server.narvana(&["deploy", folder.to_str().expect("a path of text")]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let service: Value = serde_json::from_str(&server.asked()[1]).expect("JSON");
    assert_eq!(service, json!({"name": "hello", "source_type": "upload", "build_strategy": "auto"}));
}

/// Nothing is made, so that nothing has to be cleaned up.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_deployed_leaves_nothing_behind() {
    let server = Server::start("running").await;
    let empty = server.home.path().join("empty");
    let ruby = server.home.path().join("ruby");
    for folder in [&empty, &ruby] {
        std::fs::create_dir(folder).expect("a folder");
    }
    std::fs::write(ruby.join("Gemfile"), "source 'x'\n").expect("writes");
    let good = sample(server.home.path());
    let path = |folder: &Path| folder.to_str().expect("a path of text").to_owned();
    for (arguments, code, words) in [
        (vec!["deploy".to_owned(), path(&empty)], 1, "the source is empty; nothing was made and nothing was sent"),
        (vec!["deploy".to_owned(), path(&ruby)], 1, "would be built by nixpacks, which this version does not do yet"),
        (vec!["deploy".to_owned(), good.clone(), "--app".to_owned(), "Bad Name".to_owned()], 2, "--app: must start"),
        (vec!["deploy".to_owned(), good.clone(), "--service".to_owned(), "a.b".to_owned()], 2, "--service: must start"),
        (vec!["deploy".to_owned(), good, "--env".to_owned(), "A B=c".to_owned()], 2, "--env: must start"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = server.narvana(&arguments).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(server.asked(), [""; 0], "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_did_and_how_it_is_undone_is_said() {
    let server = Server::start("running").await;
    let output = server.narvana(&["rollback", "--app", "shop", "--service", "web", "--no-wait"]).await;
    assert!(text(&output.stderr).contains("web goes back to v4, as v7"), "{output:?}");
    let output = server.narvana(&["token", "create"]).await;
    assert_eq!(text(&output.stdout), "nvj1.SECRET\n", "alone, for a pipe");
    let undone =
        "its id is 0198f3a2-0000-7000-8000-000000000000; `narvana token revoke 0198f3a2-0000-7000-8000-000000000000`";
    assert!(text(&output.stderr).contains(undone), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_the_words_of_the_command_line() {
    let server = Server::start("running").await;
    let update = ["service", "update", "web", "--app", "shop", "--dockerfile", "../Dockerfile"];
    let output = server.narvana(&update).await;
    let expected =
        "error: the service is not valid\n  --dockerfile (build_config.dockerfile): must stay inside the source\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), expected));
    let sent = json!({"build_config": {"dockerfile": "../Dockerfile", "root_directory": "web"}}).to_string();
    assert_eq!(server.asked(), [sent], "what no flag speaks of stays");
    // Whoever gives the token itself has it shown to nobody.
    for given in ["nope", "nvj1.SECRET"] {
        let output = server.narvana(&["token", "revoke", given]).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("is not the id of a join token; `narvana token ls` lists them"), "{said}");
        assert!(!said.contains("SECRET"), "{said}");
    }
    let folder = server.home.path().join("node");
    let given = folder.to_str().expect("a path of text");
    let output = server.narvana(&["init", "--name", "Bad Name", "--data-dir", given]).await;
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("--name: must be 1 to 64 letters"), "{said}");
    assert!(!folder.exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_fails_says_why_and_what_to_do() {
    let server = Server::start("failed").await;
    let folder = sample(server.home.path());
    let output = server.narvana(&["deploy", &folder]).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(text(&output.stdout), "");
    for line in ["build | STEP 1/2", "the build failed", "boom", "repair the Dockerfile"] {
        assert!(said.contains(line), "{line:?} is missing: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_ends_with_a_code_of_its_own() {
    let server = Server::start("building").await;
    let folder = sample(server.home.path());
    let output = server.narvana(&["-o", "json", "deploy", &folder, "--timeout", "10ms"]).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("the deployment as JSON");
    assert_eq!(shown["status"], "building");
    let output = server.narvana(&["-q", "-o", "json", "deploy", &folder, "--no-wait"]).await;
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

fn interrupt(child: &tokio::process::Child) {
    let pid = i32::try_from(child.id().expect("it runs")).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, Signal::INT).expect("it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_wait_says_what_goes_on() {
    let server = Server::start("building").await;
    let folder = sample(server.home.path());
    let mut child = server.command(&["deploy", &folder]).stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    while !lines.next_line().await.expect("text").expect("it goes on").contains("building") {}
    interrupt(&child);
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.expect("text") {
        said.push_str(&line);
    }
    assert_eq!(child.wait().await.expect("it ends").code(), Some(130), "{said}");
    assert!(said.contains("is still building and goes on") && said.contains("narvana deployment show d1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_node_that_says_nothing_can_be_interrupted() {
    let server = Server::start("building").await;
    let folder = sample(server.home.path());
    let mut child = server.command(&["deploy", &folder]).stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    while !lines.next_line().await.expect("text").expect("it goes on").contains("building") {}
    server.silent.cancel();
    tokio::time::timeout(DEADLINE, server.waited.cancelled()).await.expect("it looks again");
    interrupt(&child);
    let ended = tokio::time::timeout(DEADLINE, child.wait()).await.expect("in time").expect("it ends");
    assert_eq!(ended.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_the_answer_unchanged_and_a_code() {
    let server = Server::start("running").await;
    let output = server.narvana(&["app", "ls", "-o", "json"]).await;
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(shown, json!([{ "name": "shop", "novelty": { "b": 1, "a": null } }]));
    let output = server.narvana(&["app", "ls", "-o", "yaml"]).await;
    assert!(text(&output.stdout).contains("name: shop"), "{output:?}");
    for (arguments, code) in [
        (&["app", "show", "nothing"][..], 3),
        (&["app", "shwo"], 2),
        (&["deploy"], 2),
        (&["--api", "localhost:8080", "app", "ls"], 2),
        (&["--api", "http://127.0.0.1:1", "app", "ls"], 1),
        (&["--version"], 0),
        (&["service", "create", "--help"], 0),
    ] {
        let output = server.narvana(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
    let unreachable = server.narvana(&["--api", "http://127.0.0.1:1", "app", "ls"]).await;
    let said = text(&unreachable.stderr);
    let expected =
        "error: no node answers at http://127.0.0.1:1\n  because: Connection refused (os error 111)\n  next: ";
    assert!(said.starts_with(expected), "{said}");
}

/// A folder of the user's own is looked at without any node.
#[test]
fn a_folder_is_what_its_files_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let detect = |format: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_narvana"));
        command.env_clear().args(["detect", "-o", format]).arg(folder.path()).output().expect("the program runs")
    };
    let nothing = detect("json");
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    let said = text(&nothing.stderr);
    assert!(
        said.contains("NO_LANGUAGE_DETECTED: the source is empty") && said.contains("next: add a Dockerfile"),
        "{said}"
    );

    std::fs::write(folder.path().join("go.mod"), "module example.org/x\n\ngo 1.22\n").expect("writes");
    std::fs::create_dir_all(folder.path().join("cmd/api")).expect("a folder");
    std::fs::write(folder.path().join("cmd/api/main.go"), "package main\n").expect("writes");
    let found = detect("json");
    let shown: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    assert_eq!(
        (&shown["strategy"], &shown["version"], &shown["confidence"]),
        (&json!("auto-go"), &json!("1.22"), &json!(0.9))
    );
    assert_eq!(shown["entry_points"], json!([{ "name": "api", "path": "cmd/api", "is_default": true }]));
    assert_eq!(shown["suggested_config"]["entry_point"], "cmd/api");
    let table = detect("table");
    assert!(text(&table.stdout).contains("auto-go"), "{table:?}");
    std::fs::rename(folder.path().join("go.mod"), folder.path().join("Gemfile")).expect("renames");
    assert!(text(&detect("json").stderr).contains("this version does not build by nixpacks yet"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_pages_and_completions_are_complete() {
    let server = Server::start("running").await;
    let pages = server.home.path().join("man");
    let output = server.narvana(&["man", pages.to_str().expect("a path of text")]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for page in ["narvana.1", "narvana-deploy.1", "narvana-service-create.1"] {
        assert!(pages.join(page).is_file(), "{page} is missing");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = server.narvana(&["completions", shell]).await;
        assert!(text(&output.stdout).contains("rollback"), "{shell}");
    }
}
