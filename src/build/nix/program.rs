//! Running Nix: what it is told, and that all of it ends.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::build::job::Failure;
use crate::build::process::Group;
use crate::model::{BuildCode, Cpu};

/// Where Nix is found, and the programs that it calls.
const SEARCH_PATH: &str = "/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:\
                           /sbin:/bin";
/// Of one line this much is passed on at a time.
const LINE_BYTES_MAX: u64 = 8 * 1024;
/// Of an answer this much is read: the closures of whole desktops have a tenth.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How Nix begins to say why it ends.
const ERROR: &str = "error:";

/// How this node uses Nix.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it keeps what it fetched for evaluating, from build to build.
    pub home: PathBuf,
    /// Caches that it fetches from, separated by spaces; those of its own configuration when absent.
    pub substituters: Option<String>,
    /// Whether the operator trusts whoever may deploy with the files of this machine.
    pub trust_flakes: bool,
}

/// One build's way of running Nix.
pub(super) struct Nix<'a> {
    pub(super) options: &'a Options,
    pub(super) cpu: Cpu,
    pub(super) lines: &'a mpsc::Sender<String>,
}

/// How a command ended.
pub(super) struct Ended {
    pub(super) success: bool,
    pub(super) stdout: Vec<u8>,
    /// The first thing that it called an error: what comes after it mostly follows from it.
    pub(super) error: Option<String>,
}

impl Nix<'_> {
    /// Runs a command to its end; dropped before that, it is ended with all that it started.
    pub(super) async fn run(&self, args: &[&str], about: &[&OsStr], with_network: bool) -> Result<Ended, Failure> {
        let of_the_node =
            |message: &str, next_step: &str| Err(Failure::new(BuildCode::Infrastructure, message, next_step));
        if !self.options.trust_flakes {
            return of_the_node(
                "this node does not build flakes: whoever may deploy them can read files of its machine",
                "have the operator start a node with --trust-flakes, if all who may deploy are trusted with them, or deploy \
                 from a Dockerfile or an image",
            );
        }
        if !geteuid().is_root() {
            let message = "this node does not run as root, and so cannot have Nix build in its sandbox";
            return of_the_node(message, "build flakes on a node that does, or deploy from a Dockerfile or an image");
        }
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => absent(),
            _ => Failure::new(
                BuildCode::Infrastructure,
                format!("Nix cannot be run: {error}"),
                "ask the operator of this node",
            ),
        };
        let mut child = self.command(args, about, with_network).spawn().map_err(failed)?;
        let group = Group::of(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let answer = async {
            let mut bytes = Vec::new();
            if let Some(stdout) = stdout {
                // An answer that is cut off cannot be read; that is said where it is read.
                let _ = stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await;
            }
            bytes
        };
        let (stdout, error) = tokio::join!(answer, self.read(stderr, with_network));
        let status = child.wait().await.map_err(failed)?;
        group.ended();
        // What `unshare` ends with when there is no such program.
        if status.code() == Some(127) {
            return Err(absent());
        }
        Ok(Ended { success: status.success(), stdout, error })
    }

    fn command(&self, args: &[&str], about: &[&OsStr], with_network: bool) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        // Whatever Nix started ends with it, as all processes of a namespace end with its first: Nix itself would leave a builder
        // behind that runs as another user.
        words.extend(["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"].map(OsString::from));
        if !with_network {
            words.push("--net".into());
        }
        words.push("nix".into());
        let cores = self.cpu.millis.div_ceil(1_000).max(1).to_string();
        let mut options = vec![
            ("experimental-features", "nix-command flakes"),
            ("sandbox", "true"),
            ("sandbox-fallback", "false"),
            // A flake sees its source and its inputs. What it fetches besides needs a hash, and comes from where everybody may fetch.
            ("pure-eval", "true"),
            ("restrict-eval", "true"),
            ("allowed-uris", "https:// github: gitlab: sourcehut:"),
            ("allow-import-from-derivation", "false"),
            ("accept-flake-config", "false"),
            ("use-registries", "false"),
            ("max-jobs", "1"),
            ("cores", &cores),
        ];
        if let Some(substituters) = &self.options.substituters {
            options.push(("substituters", substituters));
        }
        for (name, value) in options {
            words.extend(["--option", name, value].map(OsString::from));
        }
        words.extend(args.iter().map(OsString::from).chain(about.iter().map(OsString::from)));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.env_clear().env("PATH", SEARCH_PATH).env("HOME", &self.options.home).env("LC_ALL", "C.UTF-8");
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
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
            // Newer versions say the word alone first, and the reason last.
            if let Some(words) = line.trim_start().strip_prefix(ERROR).map(str::trim).filter(|words| !words.is_empty())
            {
                error.get_or_insert_with(|| words.to_owned());
            }
            if is_logged {
                // The log is best effort, and its reader outlives this work.
                let _ = self.lines.send(line).await;
            }
        }
    }
}

fn absent() -> Failure {
    Failure::new(
        BuildCode::Infrastructure,
        "this node has no Nix, which builds flakes, or no unshare (of util-linux), which ends it",
        "install it there (https://nixos.org/download, or the package nix-bin of Debian with nix-setup-systemd), or deploy from an image or a Dockerfile",
    )
}
