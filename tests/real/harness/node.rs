//! A real node: the program as a process of its own, on a temporary data folder, at free ports.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use narvana::engine::Labels;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::remove_containers;
use super::site::Machine;

/// How long a node may take to become ready or to stop.
const NODE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a build or a deployment of these tests may take.
pub(crate) const DEPLOY_DEADLINE: Duration = Duration::from_secs(90);

/// Makes the program an older one: it supports no later cluster version than this.
pub(crate) const OLDER: &str = "NARVANA_CLUSTER_VERSION_MAX";
/// A program that really is older, for nodes that are to run one (`scripts/check-upgrade.sh`).
const OLDER_PROGRAM: &str = "NARVANA_OLDER_PROGRAM";

pub(crate) struct Node {
    pub(crate) data: PathBuf,
    /// Variables of the next start.
    pub(crate) env: Vec<(String, String)>,
    /// Of the API and between nodes; 0 for any.
    pub(crate) ports: (u16, u16),
    name: String,
    engine: String,
    /// What its command lines begin with: nothing, or what runs them on a machine of their own.
    within: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    pub(crate) api: String,
    pub(crate) ingress: String,
    pub(crate) token: String,
    _folder: tempfile::TempDir,
}

/// An HTTP answer as curl saw it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        if self.body.is_empty() { Value::Null } else { self.json() }
    }
}

/// Runs curl; what a user would type.
#[track_caller]
pub(crate) fn curl(args: &[&str]) -> Answer {
    curl_within(&[], args)
}

/// The same by a command line that begins with this.
#[track_caller]
fn curl_within(within: &[String], args: &[&str]) -> Answer {
    let output = program(within, "curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"])
        .args(args)
        .output()
        .expect("the package curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    Answer { status: status.parse().unwrap_or(0), body: body.to_owned() }
}

fn program(within: &[String], name: &str) -> Command {
    match within {
        [] => Command::new(name),
        [first, more @ ..] => {
            let mut command = Command::new(first);
            command.args(more).arg(name);
            command
        }
    }
}

/// As people do.
#[track_caller]
fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success());
}

impl Node {
    /// A new cluster of one node on the engine at this address.
    pub(crate) fn init(engine: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        Self::init_in(engine, data, folder)
    }

    fn init_in(engine: &str, data: PathBuf, folder: tempfile::TempDir) -> Self {
        let mut node = Self::at_rest("test-node", engine, folder);
        node.data = data;
        node.start("init");
        node
    }

    /// One that does not run.
    fn at_rest(name: &str, engine: &str, folder: tempfile::TempDir) -> Self {
        Self {
            log: folder.path().join("node.log"),
            data: folder.path().join("data"),
            env: Vec::new(),
            ports: (0, 0),
            name: name.to_owned(),
            engine: engine.to_owned(),
            within: Vec::new(),
            child: None,
            api: String::new(),
            ingress: String::new(),
            token: String::new(),
            _folder: folder,
        }
    }

    /// A new cluster on a machine of its own, with its first user.
    pub(crate) fn founded_at(machine: &Machine) -> Self {
        let mut node = Self::at_rest("first", "", tempfile::tempdir().expect("a folder"));
        node.move_to(machine);
        node.start("init");
        node.register();
        node
    }

    /// Joins this one's cluster on a machine of its own.
    pub(crate) fn joined_at(&self, name: &str, machine: &Machine) -> Self {
        let mut node = self.newcomer(name, &self.join_token(&[]));
        node.move_to(machine);
        node.start("join");
        node
    }

    fn move_to(&mut self, machine: &Machine) {
        self.place(machine, machine.harness.address());
    }

    /// One that does not run yet, in this folder of this machine, which has an engine at this address.
    pub(crate) fn placed<Engine>(name: &str, data: PathBuf, machine: &Machine<Engine>, engine: &str) -> Self {
        let mut node = Self::at_rest(name, "", tempfile::tempdir().expect("a folder"));
        node.data = data;
        node.place(machine, engine);
        node
    }

    fn place<Engine>(&mut self, machine: &Machine<Engine>, engine: &str) {
        self.within = machine.within();
        engine.clone_into(&mut self.engine);
        self.env.push(("NARVANA_ADVERTISE".to_owned(), machine.address.clone()));
    }

    /// A join token of this node's cluster, with these flags of `token create`.
    #[track_caller]
    pub(crate) fn join_token(&self, flags: &[&str]) -> String {
        let output = self.cli(&[&["token", "create", "--quiet"], flags].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// One more node of this node's cluster, on the same engine.
    #[track_caller]
    pub(crate) fn joined(&self, name: &str) -> Self {
        self.joined_on(name, &self.engine)
    }

    /// The same on the engine at this address.
    #[track_caller]
    pub(crate) fn joined_on(&self, name: &str, engine: &str) -> Self {
        let mut node = self.newcomer(name, &self.join_token(&[]));
        engine.clone_into(&mut node.engine);
        node.enter();
        node
    }

    /// The same with these variables.
    #[track_caller]
    pub(crate) fn joined_as(&self, name: &str, env: &[(&str, &str)]) -> Self {
        let mut node = self.newcomer(name, &self.join_token(&[]));
        node.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        node.enter();
        node
    }

    /// Joins, and waits until the cluster knows what it can do.
    #[track_caller]
    pub(crate) fn enter(&mut self) {
        self.start("join");
        let deadline = Instant::now() + NODE_DEADLINE;
        while !self.log().contains("It is a member of the cluster") {
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(10)); // poll
        }
    }

    /// A node that has not joined yet and would with this token.
    pub(crate) fn newcomer(&self, name: &str, token: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, token).expect("writes");
        let mut node = Self::at_rest(name, &self.engine, folder);
        node.env.push(("NARVANA_JOIN_TOKEN_FILE".to_owned(), file.display().to_string()));
        node.token.clone_from(&self.token);
        node
    }

    /// A new node with the cluster of a backup, on the same engine. The variable of the passphrase is set.
    #[track_caller]
    pub(crate) fn restored(&self, name: &str, backup: &Path, passphrase: &str) -> Self {
        self.restore(name, &format!("backup restore {}", backup.display()), passphrase)
    }

    /// The same while nodes of before can be reached.
    #[track_caller]
    pub(crate) fn replaced(&self, name: &str, backup: &Path, passphrase: &str) -> Self {
        let mut node = self.restore(name, &format!("backup restore --replace {}", backup.display()), passphrase);
        node.log_in();
        node
    }

    #[track_caller]
    fn restore(&self, name: &str, verb: &str, passphrase: &str) -> Self {
        let mut node = self.newcomer(name, "");
        node.env = vec![("NARVANA_BACKUP_PASSPHRASE".to_owned(), passphrase.to_owned())];
        node.start(verb);
        node
    }

    /// A machine with a copy of this node's data folder as it is now.
    #[track_caller]
    pub(crate) fn copied(&self) -> Self {
        let mut copy = Self::at_rest(&self.name, &self.engine, tempfile::tempdir().expect("a folder"));
        copy_folder(&self.data, &copy.data);
        copy.token.clone_from(&self.token);
        copy.api.clone_from(&self.api);
        copy
    }

    /// The folder of a node that does not run becomes what the other one has.
    #[track_caller]
    pub(crate) fn restore_from(&mut self, copy: &Self) {
        std::fs::remove_dir_all(&self.data).expect("removes");
        copy_folder(&copy.data, &self.data);
    }

    /// Joins, and says whether it became ready.
    pub(crate) fn try_join(&mut self) -> bool {
        self.try_start("join")
    }

    /// A new node with its first user.
    pub(crate) fn registered(engine: &str) -> Self {
        let mut node = Self::init(engine);
        node.register();
        node
    }

    /// The same with these variables.
    pub(crate) fn registered_as(engine: &str, env: &[(&str, &str)]) -> Self {
        let mut node = Self::at_rest("test-node", engine, tempfile::tempdir().expect("a folder"));
        node.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        node.start("init");
        node.register();
        node
    }

    /// The same in this data folder.
    pub(crate) fn registered_in(engine: &str, data: &Path) -> Self {
        let mut node = Self::init_in(engine, data.to_owned(), tempfile::tempdir().expect("a folder"));
        node.register();
        node
    }

    pub(crate) fn register(&mut self) {
        let body = json!({"email": "ada@example.org", "password": "correct horse"});
        let user = self.post_as("", "/auth/register", &body).expect(201);
        self.token = user["token"].as_str().expect("a token").to_owned();
    }

    /// The first user again.
    #[track_caller]
    pub(crate) fn log_in(&mut self) {
        let body = json!({"email": "ada@example.org", "password": "correct horse"});
        let user = self.post_as("", "/auth/login", &body).expect(200);
        self.token = user["token"].as_str().expect("a token").to_owned();
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// The command line as a user of this node would run it.
    pub(crate) fn cli(&self, args: &[&str]) -> std::process::Output {
        self.client(args).stdin(Stdio::null()).output().expect("the program runs")
    }

    /// The program as a client of this node.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = program(&self.within, env!("CARGO_BIN_EXE_narvana"));
        command.args(args).env("NARVANA_API", &self.api).env("NARVANA_TOKEN", &self.token);
        command
    }

    /// The program with this node's settings. The verb may have several words.
    pub(crate) fn command(&self, verb: &str) -> Command {
        let is_older = self.env.iter().any(|(name, _)| name == OLDER);
        let older = is_older.then(|| narvana::config::test_setting(OLDER_PROGRAM)).flatten();
        let mut command = program(&self.within, older.as_deref().unwrap_or(env!("CARGO_BIN_EXE_narvana")));
        // On a machine of its own it has the usual port between nodes for itself.
        let grpc_port = if self.ports.1 == 0 && !self.within.is_empty() { 9090 } else { self.ports.1 };
        command
            .args(verb.split(' '))
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--name", &self.name, "--api-host", "127.0.0.1"])
            .args(["--api-port", &self.ports.0.to_string(), "--grpc-port", &grpc_port.to_string()])
            .args(["--ingress-host", "127.0.0.1", "--ingress-http-port", "auto", "--allow-loopback-sources"])
            .args(["--engine", &self.engine])
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&mut self, verb: &str) {
        assert!(self.try_start(verb), "the node is not ready: {}", self.log());
    }

    /// Whether it became ready; else it has ended.
    fn try_start(&mut self, verb: &str) -> bool {
        self.begin(verb);
        let Some(endpoints) = self.wait_ready() else { return false };
        self.api = endpoints["api"].as_str().expect("an address").to_owned();
        self.ingress = endpoints["ingress_http"].as_str().expect("an address").to_owned();
        true
    }

    /// Starts it and waits for nothing.
    pub(crate) fn begin(&mut self, verb: &str) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).expect("a log file");
        let child = self
            .command(verb)
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
    }

    fn wait_ready(&mut self) -> Option<Value> {
        let deadline = Instant::now() + NODE_DEADLINE;
        loop {
            let text = std::fs::read(self.data.join("endpoints.json")).unwrap_or_default();
            if let Ok(endpoints) = serde_json::from_slice::<Value>(&text)
                && endpoints["pid"].as_u64() == Some(u64::from(self.pid()))
            {
                return Some(endpoints);
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("its state"));
            if ended.is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "the node is not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(10)); // poll
        }
    }

    /// The id of its cluster.
    pub(crate) fn cluster(&self) -> String {
        let identity = std::fs::read(self.data.join("identity.json")).expect("a node");
        let identity: Value = serde_json::from_slice(&identity).expect("JSON");
        identity["cluster"].as_str().expect("an id").to_owned()
    }

    /// What the node printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts it, and says whether it became ready.
    pub(crate) fn try_run(&mut self) -> bool {
        self.try_start("run")
    }

    /// Starts the node again on its data folder.
    pub(crate) fn run(&mut self) {
        self.start("run");
    }

    /// Stops it as systemd would.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_end();
        assert!(status.success(), "{status}: {}", self.log());
        assert!(!self.data.join("endpoints.json").exists(), "a stopped node has no endpoints");
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it has not ended");
    }

    /// How it ended, if it does within this time.
    pub(crate) fn ends_within(&mut self, time: Duration) -> Option<std::process::ExitStatus> {
        let deadline = Instant::now() + time;
        while self.child.as_mut().expect("it ran").try_wait().expect("its state").is_none() {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10)); // poll
        }
        Some(self.wait_end())
    }

    pub(crate) fn wait_end(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + NODE_DEADLINE;
        loop {
            if let Some(status) = self.child.as_mut().expect("it ran").try_wait().expect("its state") {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "the node does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10)); // poll
        }
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        let authorization = format!("Authorization: Bearer {}", self.token);
        self.curl(&["-H", &authorization, &format!("{}{path}", self.api)])
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_as(&self.token, path, body)
    }

    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let authorization = format!("Authorization: Bearer {}", self.token);
        let body = body.to_string();
        let url = format!("{}{path}", self.api);
        self.curl(&["-X", method, "-H", &authorization, "-H", "Content-Type: application/json", "-d", &body, &url])
    }

    #[track_caller]
    fn post_as(&self, token: &str, path: &str, body: &Value) -> Answer {
        let authorization = format!("Authorization: Bearer {token}");
        let body = body.to_string();
        let mut args = vec!["-H", "Content-Type: application/json", "-d", &body];
        if !token.is_empty() {
            args.extend(["-H", &authorization]);
        }
        let url = format!("{}{path}", self.api);
        args.push(&url);
        self.curl(&args)
    }

    /// Sends a folder as a tar archive, made by tar.
    #[track_caller]
    pub(crate) fn upload(&self, app: &str, service: &str, folder: &Path) -> Value {
        let archive = self.data.with_extension("tar.gz");
        let packed = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(folder).arg(".").status();
        assert!(packed.expect("tar runs").success());
        let authorization = format!("Authorization: Bearer {}", self.token);
        let data = format!("@{}", archive.display());
        let url = format!("{}/v1/apps/{app}/services/{service}/source", self.api);
        self.curl(&["-H", &authorization, "-H", "Content-Type: application/gzip", "--data-binary", &data, &url])
            .expect(201)
    }

    /// Sends an archive as it is.
    #[track_caller]
    pub(crate) fn upload_bytes(&self, app: &str, service: &str, archive: &[u8]) -> Value {
        let file = self.data.with_extension("tar");
        std::fs::write(&file, archive).expect("writes");
        let authorization = format!("Authorization: Bearer {}", self.token);
        let data = format!("@{}", file.display());
        let url = format!("{}/v1/apps/{app}/services/{service}/source", self.api);
        self.curl(&["-H", &authorization, "-H", "Content-Type: application/x-tar", "--data-binary", &data, &url])
            .expect(201)
    }

    /// Waits until a deployment is in one of these states, and returns it.
    #[track_caller]
    pub(crate) fn wait_deployment(&self, id: &str, states: &[&str]) -> Value {
        let deadline = Instant::now() + DEPLOY_DEADLINE;
        loop {
            let deployment = self.get(&format!("/v1/deployments/{id}")).expect(200);
            let status = deployment["status"].as_str().unwrap_or_default();
            if states.contains(&status) {
                return deployment;
            }
            let over = matches!(status, "failed" | "stopped");
            assert!(!over && Instant::now() < deadline, "wanted {states:?}: {deployment:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20)); // poll
        }
    }

    /// Deploys a service and waits until it runs.
    #[track_caller]
    pub(crate) fn deploy(&self, app: &str, service: &str) -> Value {
        let deployment = self.post(&format!("/v1/apps/{app}/services/{service}/deploy"), &json!({})).expect(202);
        self.wait_deployment(deployment["id"].as_str().expect("an id"), &["running"])
    }

    /// Fetches a page of a service through the ingress.
    #[track_caller]
    pub(crate) fn fetch(&self, host: &str, path: &str) -> Answer {
        self.curl(&["-H", &format!("Host: {host}"), &format!("{}{path}", self.ingress)])
    }

    /// curl on this node's machine.
    #[track_caller]
    pub(crate) fn curl(&self, args: &[&str]) -> Answer {
        curl_within(&self.within, args)
    }
}

impl Drop for Node {
    /// Ends the process, and then what it left running on purpose.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _best_effort = child.kill();
            let _best_effort = child.wait();
        }
        let identity = std::fs::read(self.data.join("identity.json")).unwrap_or_default();
        let identity: Value = serde_json::from_slice(&identity).unwrap_or_default();
        if let Some(cluster) = identity["cluster"].as_str() {
            let label = ("narvana.cluster".to_owned(), cluster.to_owned());
            remove_containers(self.engine.clone(), "node-test".to_owned(), Labels::from([label]));
        }
        end_guards(&self.data);
    }
}

/// A guard goes by itself once its engine shows that nothing is left to guard; the engines of tests end before that.
fn end_guards(data: &Path) {
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0).skip(1);
        let is_ours = words.next() == Some(b"guard") && words.any(|word| word == data.as_os_str().as_encoded_bytes());
        if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| is_ours) {
            let _best_effort = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
