//! The process of an engine: started on a socket of its own, ended with the test.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::DEADLINE;

/// How long an engine may take to end before it is killed.
const STOP_TIME: Duration = Duration::from_secs(20);

pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    address: String,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    /// A file with registries that Podman may reach without TLS.
    registries: Option<PathBuf>,
    /// Held as long as the daemon uses the storage that is kept between tests.
    _storage: Option<File>,
}

impl Daemon {
    /// Podman's service. Containers outlive it, so a test may end it and start another. `registry` is the host and port
    /// of one that speaks plain HTTP.
    pub(super) fn podman(registry: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("podman.sock");
        let arguments = podman(&[], &socket);
        let registries = registry.map(|location| {
            let file = folder.path().join("registries.conf");
            let text = format!("[[registry]]\nlocation = \"{location}\"\ninsecure = true\n");
            std::fs::write(&file, text).expect("a file in our folder");
            file
        });
        Self::start(folder, socket, arguments, registries, None)
    }

    /// Podman's service with storage of its own in this folder.
    pub(super) fn podman_in(storage: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("podman.sock");
        let path = |name: &str| storage.join(name).display().to_string();
        let arguments = podman(&["--root", &path("images"), "--runroot", &path("run")], &socket);
        Self::start(folder, socket, arguments, None, None)
    }

    /// A Docker daemon. Its storage is kept between tests, so that the image is built once; when another test uses that
    /// right now, it gets one of its own.
    pub(super) fn docker(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("docker.sock");
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docker");
        std::fs::create_dir_all(&kept).expect("a folder in the target folder");
        let lock = File::create(kept.join("lock")).expect("a file in the target folder");
        let (data, lock) = match lock.try_lock() {
            Ok(()) => (kept.join("data"), Some(lock)),
            Err(_) => (folder.path().join("data"), None),
        };
        // Networks of a test that was cut off would come back as bridges, and two with one subnet swallow each other's
        // traffic.
        let _not_there = std::fs::remove_dir_all(data.join("network"));
        let mut arguments = dockerd(folder.path(), &data, &socket);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Self::start(folder, socket, arguments, None, lock)
    }

    /// A Docker daemon with storage of its own, started by a command line that begins with this.
    pub(super) fn docker_within(within: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("docker.sock");
        let arguments = [within, &dockerd(folder.path(), &folder.path().join("data"), &socket)].concat();
        Self::start(folder, socket, arguments, None, None)
    }

    fn start(
        folder: tempfile::TempDir,
        socket: PathBuf,
        arguments: Vec<String>,
        registries: Option<PathBuf>,
        storage: Option<File>,
    ) -> Self {
        let child = spawn(folder.path(), &arguments, registries.as_deref());
        let address = format!("unix://{}", socket.display());
        let mut daemon = Self { child, socket, address, folder, arguments, registries, _storage: storage };
        daemon.wait_until_it_listens();
        daemon
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether everything in it is of tests: Docker has storage of its own here, Podman the machine's.
    pub(super) fn is_ours(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "dockerd")
    }

    /// Removes the networks that nothing uses any more: a daemon that ends leaves their bridges behind.
    pub(super) fn remove_networks(&self) {
        if self.is_ours() {
            let mut prune = Command::new("docker");
            prune
                .args(["-H", &self.address, "network", "prune", "--force"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let _best_effort = prune.status();
        }
    }

    /// Kills the process on the spot.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// Stops it as an operator would.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.child.wait().expect("it is ours");
    }

    /// Takes its socket away, while it goes on.
    pub(crate) fn hide_socket(&self) {
        std::fs::rename(&self.socket, self.hidden()).expect("a file in our folder");
    }

    /// Brings the socket back.
    pub(crate) fn show_socket(&self) {
        std::fs::rename(self.hidden(), &self.socket).expect("a file in our folder");
    }

    fn hidden(&self) -> PathBuf {
        self.socket.with_extension("hidden")
    }

    /// Starts it again after a kill.
    pub(crate) fn start_again(&mut self) {
        // Where process 1 reaps nothing, the old containerd stays a zombie and dockerd would wait for it to answer.
        for stale in [self.socket.clone(), self.folder.path().join("exec/containerd/containerd.pid")] {
            let _not_there = std::fs::remove_file(stale);
        }
        self.child = spawn(self.folder.path(), &self.arguments, self.registries.as_deref());
        self.wait_until_it_listens();
    }

    /// Makes it hang.
    pub(crate) fn hang(&mut self) {
        self.signal(Signal::STOP);
        wait_stopped(self.child.id());
    }

    /// Ends a hang.
    pub(crate) fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ended_already = kill_process(pid, signal);
        }
    }

    fn wait_until_it_listens(&mut self) {
        let started = Instant::now();
        while UnixStream::connect(&self.socket).is_err() {
            let ended = self.child.try_wait().expect("it is ours");
            assert!(ended.is_none() && started.elapsed() < DEADLINE, "{ended:?}: {}", self.words());
            std::thread::sleep(Duration::from_millis(10)); // poll
        }
    }

    fn words(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn podman(options: &[&str], socket: &Path) -> Vec<String> {
    let listen = format!("unix://{}", socket.display());
    let words = [&["podman"], options, &["system", "service", "--time=0", &listen]].concat();
    words.into_iter().map(str::to_owned).collect()
}

fn dockerd(folder: &Path, data: &Path, socket: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    vec![
        "dockerd".to_owned(),
        format!("--data-root={}", data.display()),
        format!("--exec-root={}", path("exec")),
        format!("--pidfile={}", path("pid")),
        "-H".to_owned(),
        format!("unix://{}", socket.display()),
    ]
}

/// `setpriv` ends the daemon when the test is killed and cannot end it itself.
fn spawn(folder: &Path, arguments: &[String], registries: Option<&Path>) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a file in our folder");
    let mut command = Command::new("setpriv");
    if let Some(file) = registries {
        command.env("CONTAINERS_REGISTRIES_CONF", file);
    }
    command
        .args(["--pdeathsig", "TERM"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file"))
        .stderr(log)
        .spawn()
        .expect("setpriv (package util-linux) is installed")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if asked.elapsed() > STOP_TIME {
                let _ended_already = self.child.kill();
                let _ended_already = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10)); // poll
        }
    }
}

/// Waits until a process that was told to stop has: each of its threads runs on until it gets there.
pub(crate) fn wait_stopped(process: u32) {
    let deadline = Instant::now() + DEADLINE;
    // The state follows the name, which is in brackets and may hold any character.
    let stopped = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
    let threads = || std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    while !threads().all(|thread| std::fs::read_to_string(thread.path().join("stat")).is_ok_and(stopped)) {
        assert!(Instant::now() < deadline, "process {process} does not stop");
        std::thread::sleep(Duration::from_millis(5)); // poll
    }
}
