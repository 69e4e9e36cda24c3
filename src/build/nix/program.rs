//! Running Nix: what it is told, and that all of it ends.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::fence::{BUBBLEWRAP, Entering, Fence, Fenced, NO_PROGRAM};
use super::proxy::Proxy;
use super::ration::Ration;
use super::room::Room;
use crate::build::job::Failure;
use crate::build::process::Group;
use crate::model::{BuildCode, Cpu};

/// Where Nix is found, and the programs that it calls.
const SEARCH_PATH: &str = "/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:\
                           /sbin:/bin";
/// Of one line this much is passed on at a time.
pub(super) const LINE_BYTES_MAX: u64 = 8 * 1024;
/// Of an answer this much is read: the closures of whole desktops have a tenth.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How Nix, and pip, begin to say why they end.
const ERRORS: [&str; 2] = ["error:", "ERROR:"];
/// What it says that is of no use to anybody: where it sees no network card it is let out another way, and where it locks what it is told
/// to lock is a folder of the node.
const NOT_PASSED_ON: [&str; 2] = ["warning: you don't have Internet access", "warning: creating lock file"];

/// How this node uses Nix.
#[derive(Clone, Debug)]
pub struct Options {
    /// Caches that it fetches from, separated by spaces; those of its own configuration when absent.
    pub substituters: Option<String>,
    /// Whether the operator trusts whoever may deploy with the machine's networks and its Nix store.
    pub trust_flakes: bool,
    /// The nixpkgs that generated flakes take their tools from, as a reference to a flake.
    pub nixpkgs: String,
    /// Folder for what builds learn that is the same for all; made when it is needed.
    pub kept: PathBuf,
}

/// One build's way of running Nix.
pub(super) struct Nix<'a> {
    pub(super) room: &'a Room,
    /// What all of it may use.
    pub(super) ration: &'a Ration,
    /// Around what evaluates.
    pub(super) fence: Fence,
    /// Where evaluation may fetch from.
    pub(super) proxy: Proxy<'a>,
    pub(super) cpu: Cpu,
    pub(super) lines: &'a mpsc::Sender<String>,
}

/// How a command ended.
pub(super) struct Ended {
    pub(super) success: bool,
    pub(super) stdout: Vec<u8>,
    /// The first thing that was called an error: what comes after it mostly follows from it.
    pub(super) error: Option<String>,
}

impl Nix<'_> {
    /// Runs a command that evaluates, fenced in, to its end; dropped before that, it is ended with all that it started. What it answers is
    /// to be taken with care: whoever wrote the flake may have led it to say anything.
    pub(super) async fn evaluate(&self, args: &[&str], about: &[&OsStr], has_way_out: bool) -> Result<Ended, Failure> {
        let program = self.words(args, about, has_way_out);
        let started = self.fence.run(Entering { program, has_way_out, ration: self.ration }, |command| {
            let home = &self.room.home;
            environment(command, self.room, ASKS_STORE).env("HOME", home).env("TMPDIR", home);
        });
        let Fenced { mut child, group, stdout, stderr, way_out } = started.await.map_err(not_fenced)?;
        let attend = async {
            let (stdout, error) = tokio::join!(read_answer(Some(stdout)), self.read(stderr, has_way_out));
            (stdout, error, child.wait().await)
        };
        let (stdout, error, status) = if has_way_out {
            tokio::select! {
                ended = attend => ended,
                never = self.proxy.serve(way_out) => match never {},
            }
        } else {
            drop(way_out);
            attend.await
        };
        let status = status.map_err(not_fenced)?;
        group.ended();
        if status.code() == Some(NO_PROGRAM) {
            return Err(absent());
        }
        Ok(Ended { success: status.success(), stdout, error })
    }

    /// Asks the store itself, which nobody who evaluates has a say in. Nothing in `about` may be anything but a path of the store.
    pub(super) async fn ask_store(&self, args: &[&str], about: &[&OsStr]) -> Result<Ended, Failure> {
        let mut command = Command::new("nix");
        command.args(option("experimental-features", "nix-command")).args(args).args(about).env_clear();
        environment(&mut command, self.room, ASKS_STORE).env("HOME", &self.room.of_root);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => absent(),
            _ => not_fenced(error),
        })?;
        let (group, stdout, stderr) = (Group::of(&child), child.stdout.take(), child.stderr.take());
        let (stdout, error) = tokio::join!(read_answer(stdout), self.read(stderr, false));
        let status = child.wait().await.map_err(not_fenced)?;
        group.ended();
        Ok(Ended { success: status.success(), stdout, error })
    }

    fn words(&self, args: &[&str], about: &[&OsStr], has_way_out: bool) -> Vec<OsString> {
        let cores = self.cpu.millis.div_ceil(1_000).max(1).to_string();
        let mut options = vec![
            ("experimental-features", "nix-command flakes"),
            // A flake sees its source and its inputs. What it fetches besides needs a hash, and comes from where everybody may fetch.
            ("pure-eval", "true"),
            ("restrict-eval", "true"),
            ("nix-path", ""),
            ("allowed-uris", "https:// github: gitlab: sourcehut:"),
            ("allow-import-from-derivation", "false"),
            ("accept-flake-config", "false"),
            ("use-registries", "false"),
            ("max-jobs", "1"),
            ("cores", &cores),
        ];
        if has_way_out {
            // It sees no network card, and would do without all this.
            options.extend([("substitute", "true"), ("download-attempts", "5"), ("connect-timeout", "20")]);
        }
        let options = options.into_iter().flat_map(|(name, value)| option(name, value));
        let given = args.iter().map(OsString::from).chain(about.iter().map(OsString::from));
        [OsString::from("nix")].into_iter().chain(options).chain(given).collect()
    }

    /// Returns the first error that Nix and the builders speak of. What they say while they build goes to the log.
    async fn read(&self, stderr: Option<impl AsyncRead + Unpin>, is_logged: bool) -> Option<String> {
        let mut reader = BufReader::new(stderr?);
        let mut error = None;
        loop {
            let mut line = Vec::new();
            match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return error,
                Ok(_) => {}
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if NOT_PASSED_ON.iter().any(|beginning| line.starts_with(beginning)) {
                continue;
            }
            // Newer versions say the word alone first, and the reason last.
            let said = ERRORS.iter().find_map(|error| line.trim_start().strip_prefix(error));
            if let Some(words) = said.map(str::trim).filter(|words| !words.is_empty()) {
                error.get_or_insert_with(|| words.to_owned());
            }
            if is_logged {
                // The log is best effort, and its reader outlives this work.
                let _ = self.lines.send(line).await;
            }
        }
    }
}

async fn read_answer(stdout: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stdout) = stdout {
        // An answer that is cut off cannot be read; that is said where it is read.
        let _ = stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await;
    }
    bytes
}

/// A setting of Nix, as arguments.
pub(super) fn option(name: &str, value: &str) -> [OsString; 3] {
    ["--option", name, value].map(OsString::from)
}

/// How the one that keeps the store has it; asked the others' way it would ask itself, and that one itself, without end.
pub(super) const KEEPS_STORE: &str = "local";
/// How the others have it.
const ASKS_STORE: &str = "daemon";

/// What every Nix of a build gets: where programs are, where its store is asked, and how this one has it.
pub(super) fn environment<'a>(command: &'a mut Command, room: &Room, store: &str) -> &'a mut Command {
    command.env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8");
    // Whose settings count is said here, whatever is in some home.
    command.env("NIX_REMOTE", store).env("NIX_DAEMON_SOCKET_PATH", room.socket()).env("NIX_USER_CONF_FILES", "")
}

pub(super) fn not_fenced(error: std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Failure::new(
            BuildCode::Infrastructure,
            format!("this node has no bubblewrap ({BUBBLEWRAP}), which fences in what Nix does"),
            "install it there (the package bubblewrap of most distributions), or deploy from an image or a Dockerfile",
        );
    }
    Failure::new(
        BuildCode::Infrastructure,
        format!("what Nix does cannot be fenced in on this node: {error}"),
        "have the operator of the node see to it that its service may make namespaces and mounts, or deploy from an image or a Dockerfile",
    )
}

pub(super) fn absent() -> Failure {
    Failure::new(
        BuildCode::Infrastructure,
        "this node has no Nix, which builds what has no Dockerfile",
        "install it there (https://nixos.org/download, or the package nix-bin of Debian with nix-setup-systemd), or deploy from an image or a Dockerfile",
    )
}
