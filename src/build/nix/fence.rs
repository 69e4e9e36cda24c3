//! The fences that Nix runs in: what is inside of them, and how one gets in.
//!
//! There are two, made by bubblewrap, each with processes and a network of its own; all that is in one ends with its first process. What
//! evaluates sees the store, the source and its own home, and runs as nobody. What keeps the store sees the machine, as Nix's daemon
//! does anywhere: it trusts nobody who asks it, and what it builds is in Nix's sandbox. The only way out of either network is a socket
//! that listens inside and that this node answers (`proxy`).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};

use super::ration::Ration;
use super::room::Room;
use crate::build::process::Group;
use crate::handover;
use crate::task::blocking;

/// The program that makes fences.
pub const BUBBLEWRAP: &str = "bwrap";
/// Where the way out listens inside.
const PORT: u16 = 61_918;
/// Whoever owns nothing, as Linux calls it.
pub(super) const NOBODY: u32 = 65_534;
/// What a shell ends with when there is no such program.
pub(super) const NO_PROGRAM: i32 = 127;
/// Longest wait until somebody is inside. It takes some 50 ms.
const INSIDE_MAX: Duration = Duration::from_secs(30);
/// Of what bubblewrap says this much is read.
const SAID_BYTES_MAX: u64 = 1_024;
/// Where programs and their libraries are besides `/usr` and the store: links to there on most machines.
const TOP: [&str; 7] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/run/current-system"];
/// Parts of what programs need that only some machines have.
const PARTS: [&str; 3] = ["/nix/var/nix/profiles", "/etc/ld.so.cache", "/etc/alternatives"];
/// Where programs look for the authorities that they trust, first where Nix does.
const AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-bundle.crt"];

/// What a process that was started inside is told.
#[derive(Clone, Debug)]
pub struct FenceOptions {
    /// Show the processes that are inside as `/proc`, with nothing hidden: Nix's sandbox could not make one otherwise.
    pub shows_processes: bool,
    /// As whom the program runs, if not as this one.
    pub user: Option<u32>,
    /// The program and its arguments.
    pub program: Vec<OsString>,
}

/// A fence, as its maker is told of it.
#[derive(Clone)]
pub(super) struct Fence {
    words: Vec<OsString>,
    shows_processes: bool,
    user: Option<u32>,
}

/// What goes into a fence.
pub(super) struct Entering<'a> {
    /// The program and its arguments.
    pub(super) program: Vec<OsString>,
    /// Whether it is told of the way out of its network.
    pub(super) has_way_out: bool,
    /// What it may use.
    pub(super) ration: &'a Ration,
}

/// A program in a fence, which ends with this.
pub(super) struct Fenced {
    pub(super) child: Child,
    pub(super) group: Group,
    pub(super) stdout: tokio::net::UnixStream,
    pub(super) stderr: Option<ChildStderr>,
    /// The way out of its network; there is none once this is gone.
    pub(super) way_out: tokio::net::TcpListener,
}

impl Fence {
    fn new() -> Self {
        let own = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"];
        // Without a session of its own, what is inside could type into the terminal that the node was started from.
        let words = own.into_iter().chain(["--new-session", "--die-with-parent"]).map(OsString::from).collect();
        Self { words, shows_processes: false, user: None }
    }

    /// Around what keeps the store and builds.
    pub(super) fn of_store(room: &Room) -> Self {
        let mut fence = Self::new();
        fence.words.extend(["--cap-add", "ALL", "--dev-bind", "/", "/"].map(OsString::from));
        // What it builds takes room where builds do.
        fence.words.extend(["--bind".into(), room.scratch.clone().into(), "/var/tmp".into()]);
        fence.shows_processes = true;
        fence
    }

    /// Around what evaluates: nothing is inside but what is named here. Looks at how this machine is laid out.
    pub(super) fn of_evaluation(room: &Room) -> Self {
        let mut files = Files { words: Vec::new(), made: BTreeSet::new() };
        files.same("--ro-bind", Path::new("/usr"));
        for top in TOP.map(Path::new) {
            match fs::read_link(top) {
                Ok(target) => files.put("--symlink", &target, top),
                Err(_) if top.is_dir() => files.same("--ro-bind", top),
                Err(_) => {}
            }
        }
        files.same("--ro-bind", Path::new("/nix/store"));
        PARTS.into_iter().for_each(|part| files.same("--ro-bind-try", Path::new(part)));
        if let Some(found) = AUTHORITIES.into_iter().find(|file| Path::new(file).is_file()) {
            AUTHORITIES.into_iter().for_each(|file| files.put("--ro-bind", Path::new(found), Path::new(file)));
        }
        files.same("--ro-bind", &room.source);
        files.same("--ro-bind", &room.sockets);
        files.same("--bind", &room.home);
        let mut fence = Self::new();
        fence.words.append(&mut files.words);
        fence.words.extend(["--proc", "/proc", "--dev", "/dev"].map(OsString::from));
        // To become nobody, who may do neither.
        fence.words.extend(["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"].map(OsString::from));
        fence.user = Some(NOBODY);
        fence
    }

    /// Runs a program inside, with nothing of this process's environment but what `prepare` adds.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when nothing makes fences here; otherwise why nobody came inside.
    pub(super) async fn run(&self, what: Entering<'_>, prepare: impl FnOnce(&mut Command)) -> io::Result<Fenced> {
        let entrances = what.ration.entrances()?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(BUBBLEWRAP);
        // This program goes inside, also when the file that it was started from has been replaced.
        command.args(&self.words).args(["--chdir", "/", "--", "/proc/self/fd/0", "fence"]);
        command.stdin(fs::File::open("/proc/self/exe")?).stdout(OwnedFd::from(theirs)).stderr(Stdio::piped());
        if self.shows_processes {
            command.arg("--show-processes");
        }
        if let Some(user) = self.user {
            command.args(["--user", &user.to_string()]);
        }
        command.arg("--").args(what.program).env_clear();
        if what.has_way_out {
            let way_out = format!("http://{}:{PORT}", Ipv4Addr::LOCALHOST);
            command.envs(["http_proxy", "https_proxy", "all_proxy"].map(|name| (name, &way_out)));
        }
        prepare(&mut command);
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        // Its end of the socket is the only one now, so that its end is seen.
        drop(command);
        let (group, mut stderr) = (Group::of(&child), child.stderr.take());
        let taken = blocking(move || {
            let listener = handover::take(&ours, INSIDE_MAX)?;
            handover::give_files(&ours, &entrances)?;
            Ok::<_, io::Error>((ours, listener))
        });
        let (stdout, listener) = match taken.await {
            Ok(taken) => taken,
            // Then whoever ended has said why.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(said(&mut stderr, error).await),
            Err(error) => return Err(error),
        };
        listener.set_nonblocking(true)?;
        stdout.set_nonblocking(true)?;
        let way_out = tokio::net::TcpListener::from_std(listener)?;
        Ok(Fenced { child, group, stdout: tokio::net::UnixStream::from_std(stdout)?, stderr, way_out })
    }
}

async fn said(stderr: &mut Option<ChildStderr>, error: io::Error) -> io::Error {
    let mut text = Vec::new();
    if let Some(stderr) = stderr {
        // Half of a reason is better than none.
        let _ = stderr.take(SAID_BYTES_MAX).read_to_end(&mut text).await;
    }
    match String::from_utf8_lossy(&text).trim() {
        "" => error,
        said => io::Error::other(said.to_owned()),
    }
}

/// What bubblewrap is told of files. It makes missing folders for root alone: so they are made first.
struct Files {
    words: Vec<OsString>,
    made: BTreeSet<PathBuf>,
}

impl Files {
    /// Puts what is there to where it is.
    fn same(&mut self, how: &str, path: &Path) {
        self.put(how, path, path);
    }

    fn put(&mut self, how: &str, what: &Path, at: &Path) {
        let above: Vec<&Path> = at.ancestors().skip(1).filter(|path| path.parent().is_some()).collect();
        for folder in above.into_iter().rev() {
            if self.made.insert(folder.to_owned()) {
                self.words.extend(["--dir".into(), folder.into()]);
            }
        }
        self.words.extend([how.into(), what.into(), at.into()]);
    }
}

/// The work of a process that was started inside: listens there, hands the socket out over its standard output, goes into the control groups
/// that come back, and becomes the program.
/// To be called while the process has one thread.
///
/// # Errors
/// Why it did not become the program; who started it was told when it is not that there is none.
pub fn enter_fence(options: &FenceOptions) -> io::Result<Infallible> {
    let starter = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    let listener = match prepare(options) {
        Ok(listener) => listener,
        Err(error) => {
            handover::refuse(&starter, &error.to_string())?;
            return Err(error);
        }
    };
    handover::give(&starter, &listener)?;
    for mut entrance in handover::take_files(&starter, INSIDE_MAX)? {
        // Whoever writes this means itself.
        entrance.write_all(b"0")?;
    }
    let (program, arguments) = options.program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    if let Some(user) = options.user {
        command.uid(user).gid(user);
    }
    let error = command.exec();
    if error.kind() == io::ErrorKind::NotFound {
        std::process::exit(NO_PROGRAM);
    }
    // As Nix begins its own: it is read as that.
    Err(io::Error::new(error.kind(), format!("cannot start {}: {error}", program.display())))
}

fn prepare(options: &FenceOptions) -> io::Result<TcpListener> {
    if options.shows_processes {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", flags, None)?;
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_evaluates_sees_what_is_named_and_folders_above_it() {
        let room = |name: &str| PathBuf::from("/data/build/x").join(name);
        let room = Room {
            source: room("source"),
            home: room("home"),
            sockets: room("sockets"),
            scratch: room("scratch"),
            of_root: room("root"),
        };
        let words = Fence::of_evaluation(&room).words;
        let words: Vec<&str> = words.iter().map(|word| word.to_str().expect("text")).collect();
        let bound: BTreeSet<&str> =
            words.windows(2).filter(|pair| pair[0].contains("bind")).map(|pair| pair[1]).collect();
        let writable: Vec<&str> = words.windows(2).filter(|pair| pair[0] == "--bind").map(|pair| pair[1]).collect();
        assert_eq!(writable, ["/data/build/x/home"]);
        assert!(bound.contains("/data/build/x/source") && bound.contains("/nix/store"), "{bound:?}");
        for hidden in
            ["/", "/nix", "/nix/var", "/etc", "/etc/nix", "/data", "/data/build", "/data/build/x", "/run", "/root"]
        {
            assert!(!bound.contains(hidden), "{hidden}");
        }
        let made = words.windows(2).filter(|pair| *pair == ["--dir", "/data/build"]).count();
        assert_eq!(made, 1, "{words:?}");
        let (store, evaluation) = (Fence::of_store(&room), Fence::of_evaluation(&room));
        assert!(evaluation.user == Some(NOBODY) && store.user.is_none());
        for own in ["--unshare-net", "--unshare-pid", "--die-with-parent", "--new-session"] {
            assert!([&store, &evaluation].iter().all(|fence| fence.words.contains(&own.into())), "{own}");
        }
    }
}
