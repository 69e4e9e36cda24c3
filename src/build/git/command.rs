//! Running git: what it is told, what it may use, and when it is ended.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::counter::TreeCounter;
use super::error::shown;
use super::lines::{Lines, MAX_LINE};
use super::remote::Pinned;
use super::{Error, Options};
use crate::build::process::Group;

/// The oldest git that knows `http.curloptResolve`.
const OLDEST: (u32, u32) = (2, 37);
/// How often the received bytes are counted and stalls looked for.
const WATCH: Duration = Duration::from_millis(250);

/// Configuration that git gets before every command; there is no other.
const CONFIG: [&str; 26] = [
    "protocol.allow=never",
    "protocol.http.allow=always",
    "protocol.https.allow=always",
    // Redirects are followed by us, to checked addresses; this also keeps git from alternates on other hosts.
    "http.followRedirects=false",
    "http.proxy=",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=120",
    "transfer.bundleURI=false",
    "credential.helper=",
    "core.askPass=",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.fsmonitor=false",
    "core.symlinks=true",
    "core.autocrlf=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    // Large files go to the disk in pieces instead of through memory.
    "core.bigFileThreshold=32m",
    "pack.threads=1",
    // One pack, however few the objects: a pack can be measured.
    "transfer.unpackLimit=1",
    "gc.auto=0",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "advice.detachedHead=false",
    "init.defaultBranch=main",
];

/// One fetch's way of running git.
pub(super) struct Git<'a> {
    pub(super) options: &'a Options,
    /// Home and repository folder.
    pub(super) folder: &'a Path,
    /// The repository's address for messages.
    pub(super) name: String,
    pub(super) deadline: Instant,
    pub(super) progress: &'a mpsc::Sender<String>,
    pub(super) stop: &'a CancellationToken,
}

/// One command.
pub(super) struct Task<'a> {
    args: Vec<OsString>,
    resolve: Option<String>,
    work_tree: Option<PathBuf>,
    /// Talks to the network: progress is passed on, silence ends it.
    remote: bool,
    /// The received bytes are counted.
    watched: bool,
    keep_stdout: usize,
    counter: Option<&'a mut TreeCounter>,
}

/// How a command ended.
pub(super) struct Output {
    pub(super) success: bool,
    pub(super) stdout: Vec<u8>,
    /// The end of it.
    pub(super) stderr: String,
}

impl<'a> Task<'a> {
    pub(super) fn new<const N: usize>(args: [&str; N]) -> Self {
        let args = args.into_iter().map(OsString::from).collect();
        Self { args, resolve: None, work_tree: None, remote: false, watched: false, keep_stdout: 4096, counter: None }
    }

    pub(super) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(super) fn args(&mut self, args: Vec<String>) {
        self.args.extend(args.into_iter().map(OsString::from));
    }

    /// Talks to this remote.
    pub(super) fn at(mut self, remote: &Pinned) -> Self {
        self.resolve = remote.resolve_option();
        self.remote = true;
        self
    }

    pub(super) fn keeping(mut self, bytes: usize) -> Self {
        self.keep_stdout = bytes;
        self
    }

    pub(super) fn watched(mut self) -> Self {
        self.watched = true;
        self
    }

    pub(super) fn counted(mut self, counter: &'a mut TreeCounter) -> Self {
        self.counter = Some(counter);
        self
    }

    pub(super) fn into_folder(mut self, folder: &Path) -> Self {
        self.work_tree = Some(folder.to_owned());
        self
    }
}

impl Git<'_> {
    /// Passes a line on to whoever listens.
    pub(super) async fn say(&self, line: &str) {
        let line = shown(line.trim_end(), MAX_LINE);
        if !line.is_empty() {
            tokio::select! {
                // Nobody has to listen.
                _ = self.progress.send(line) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    pub(super) async fn check_version(&self) -> Result<(), Error> {
        let output = self.run(Task::new(["version"])).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok());
        let mut parts = text.trim().strip_prefix("git version ").unwrap_or_default().split(['.', ' ']);
        match (number(parts.next()), number(parts.next())) {
            (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(()),
            _ => Err(Error::Program { reason: format!("it calls itself {:?}", shown(text.trim(), 60)) }),
        }
    }

    /// Runs a command to its end, or ends it with all its children: on a limit, on a stall, when stopped, when dropped.
    pub(super) async fn run(&self, mut task: Task<'_>) -> Result<Output, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        let mut child = self
            .command(&task)
            .spawn()
            .map_err(|error| Error::Program { reason: format!("{}: {error}", self.options.program.display()) })?;
        let group = Group::of(&child);
        let result = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::Stopped),
            () = tokio::time::sleep_until(self.deadline) => Err(self.timed_out("was being fetched", self.options.deadline)),
            result = self.attend(&mut child, &mut task) => result,
        };
        match result {
            Ok(output) => {
                group.ended();
                Ok(output)
            }
            Err(error) => {
                drop(group);
                // Reaped here, so that the folder is quiet when the caller removes it.
                let _ = child.wait().await;
                Err(error)
            }
        }
    }

    fn command(&self, task: &Task<'_>) -> Command {
        let mut command = Command::new(&self.options.program);
        command.env_clear().env("PATH", &self.options.search_path).env("HOME", self.folder).env("LC_ALL", "C");
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "")
            .env("SSH_ASKPASS", "")
            .env("GIT_ATTR_NOSYSTEM", "1");
        command.env("GIT_PROTOCOL_FROM_USER", "0").env("GIT_OPTIONAL_LOCKS", "0").env("GIT_NO_REPLACE_OBJECTS", "1");
        command.env("GIT_DIR", self.folder.join(".git")).env("GIT_CEILING_DIRECTORIES", self.folder);
        for setting in CONFIG {
            command.arg("-c").arg(setting);
        }
        if let Some(resolve) = &task.resolve {
            command.arg("-c").arg(format!("http.curloptResolve={resolve}"));
        }
        match &task.work_tree {
            Some(folder) => command.env("GIT_WORK_TREE", folder).current_dir(folder),
            None => command.current_dir(self.folder),
        };
        command.args(&task.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Reads both pipes and watches the clock and the disk until the process ends.
    async fn attend(&self, child: &mut Child, task: &mut Task<'_>) -> Result<Output, Error> {
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let (mut out, mut err) = (vec![0; 16 * 1024], vec![0; 4 * 1024]);
        let mut kept = Vec::new();
        let mut lines = Lines::default();
        let (mut active, mut size) = (Instant::now(), 0);
        let mut watch = tokio::time::interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stdout.is_some() || stderr.is_some() {
            tokio::select! {
                read = read_some(&mut stdout, &mut out), if stdout.is_some() => match read {
                    0 => stdout = None,
                    read => {
                        active = Instant::now();
                        match &mut task.counter {
                            Some(counter) => counter.take(&out[..read]).map_err(|(what, limit)| self.too_large(what, limit))?,
                            None => kept.extend(out[..read].iter().take(task.keep_stdout.saturating_sub(kept.len()))),
                        }
                    }
                },
                read = read_some(&mut stderr, &mut err), if stderr.is_some() => match read {
                    0 => stderr = None,
                    read => {
                        active = Instant::now();
                        for line in lines.take(&err[..read]) {
                            if task.remote {
                                self.say(&line).await;
                            }
                        }
                    }
                },
                _ = watch.tick() => {
                    if task.watched {
                        let now = self.received().await?;
                        if now != size {
                            (active, size) = (Instant::now(), now);
                        }
                    }
                    if task.remote && active.elapsed() >= self.options.stall {
                        return Err(self.timed_out("sent nothing", self.options.stall));
                    }
                }
            }
        }
        let status = child.wait().await.map_err(|error| Error::Program { reason: error.to_string() })?;
        if task.watched {
            self.received().await?;
        }
        Ok(Output { success: status.success(), stdout: kept, stderr: lines.all })
    }

    /// The bytes in the repository folder, as an error when they are too many.
    async fn received(&self) -> Result<u64, Error> {
        let folder = self.folder.to_owned();
        // A handful of files; still a disk that may be slow.
        let (bytes, files) = tokio::task::spawn_blocking(move || measure(&folder)).await.unwrap_or_default();
        let limits = self.options.limits;
        if bytes > limits.bytes {
            return Err(self.too_large("bytes to receive", limits.bytes));
        }
        if files > limits.entries {
            return Err(self.too_large("objects to receive", limits.entries as u64));
        }
        Ok(bytes)
    }

    fn too_large(&self, what: &'static str, limit: u64) -> Error {
        Error::TooLarge { repository: self.name.clone(), what, limit }
    }

    fn timed_out(&self, what: &'static str, after: Duration) -> Error {
        Error::TimedOut { repository: self.name.clone(), what, after }
    }
}

/// A pipe that breaks is a pipe that ended: the exit status tells the rest.
async fn read_some<R: tokio::io::AsyncRead + Unpin>(pipe: &mut Option<R>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}

/// Bytes and files below a folder; what disappears meanwhile does not count.
fn measure(folder: &Path) -> (u64, usize) {
    let (mut bytes, mut files) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).into_iter().flatten().flatten() {
            match item.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(item.path()),
                Ok(metadata) => {
                    bytes += metadata.len();
                    files += 1;
                }
                Err(_) => {}
            }
        }
    }
    (bytes, files)
}
