//! Fetching one commit of a git repository into a clean folder.
//!
//! Comes in: an address and a reference that a user typed, an empty folder, and the operator's limits. Goes out: the
//! files of one commit without `.git`, the commit, and lines of progress on the way. The git command line does the work,
//! told to trust nothing: no configuration but ours, no hooks, no helpers, no questions, http and https only, connected
//! to an address that was checked before (`remote`), redirects followed by us and checked again. The tree is
//! measured before it is written. Deliberately absent: ssh and credentials (not yet), submodules, LFS, history.

mod command;
mod counter;
mod error;
mod lines;
mod refs;
mod remote;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::command::{Git, Output, Task};
use self::counter::TreeCounter;
pub use self::error::Error;
use self::refs::{Advertised, Wanted};
use self::remote::{Pinned, Remote};
use super::tree::Limits;

/// Redirects that are followed, each to an address that is checked like the first.
const MAX_REDIRECTS: usize = 3;
/// A long list of branches; what is longer is cut.
const MAX_REF_BYTES: usize = 4 * 1024 * 1024;
/// The reference that everything fetched is put under.
const FETCHED: &str = "refs/narvana/source";

/// How this node fetches.
#[derive(Clone, Debug)]
pub struct Options {
    /// The git program, a name or a path. 2.37 or newer: older ones ignore the address they are told to use.
    pub program: PathBuf,
    /// `PATH` of the program, all that it gets of this process's environment.
    pub search_path: OsString,
    /// The operator allows loopback and link-local addresses.
    pub allow_loopback: bool,
    /// How large a source may be; the same number bounds what is received.
    pub limits: Limits,
    /// Without any progress for so long, the fetch ends.
    pub stall: Duration,
    /// The fetch ends after so long whatever its progress.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            program: "git".into(),
            search_path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin"
                .into(),
            allow_loopback: false,
            limits: Limits::default(),
            stall: Duration::from_secs(120),
            deadline: Duration::from_secs(300),
        }
    }
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// 40 hexadecimal digits.
    pub commit: String,
    /// The branch or tag by its full name (`refs/heads/main`), or the commit when one was asked for.
    pub reference: String,
}

/// Fetches `reference` (branch, tag or full commit) of `repository` into `into`, an existing, empty folder. Without a
/// reference that is `main`, or the repository's default branch when it has no `main`. Lines of progress go to `progress`;
/// a receiver that is gone does not disturb. Whether it fails, is dropped or is stopped, no process is left behind; the
/// folder then holds a part of the files and is to be thrown away.
///
/// # Errors
/// As [`Error`] says, each with cause and next step.
pub async fn fetch(
    options: &Options,
    repository: &str,
    reference: Option<&str>,
    into: &Path,
    progress: &mpsc::Sender<String>,
    stop: &CancellationToken,
) -> Result<Fetched, Error> {
    let remote = Remote::parse(repository)?;
    let wanted = Wanted::parse(reference)?;
    let scratch = scratch_folder(into)?;
    let git = Git {
        options,
        folder: scratch.path(),
        name: remote.shown(),
        deadline: Instant::now() + options.deadline,
        progress,
        stop,
    };
    git.check_version().await?;
    let (remote, advertised) = list(&git, remote, &wanted).await?;
    let refspec = match advertised.choose(&wanted) {
        Some(refspec) => refspec,
        None => return Err(not_found(&git, &remote, &wanted).await),
    };
    let commit = match receive(&git, &remote, &refspec).await {
        // A commit is only looked for when it is fetched.
        Err(Error::RefNotFound { .. }) => return Err(not_found(&git, &remote, &wanted).await),
        received => received?,
    };
    measure(&git, &commit).await?;
    check_out(&git, &commit, into).await?;
    if into.join(".gitmodules").exists() {
        git.say("The repository has submodules; they are not fetched.").await;
    }
    git.say(&format!("Fetched {commit} ({refspec}).")).await;
    Ok(Fetched { commit, reference: refspec })
}

/// Where the repository itself lies while it is needed: beside the files, so on the same disk, and gone afterwards.
fn scratch_folder(into: &Path) -> Result<tempfile::TempDir, Error> {
    let beside = into.parent().unwrap_or(into);
    let disk = |source| Error::Disk { path: into.to_owned(), source };
    let occupied = fs::read_dir(into).map_err(disk)?.next().is_some();
    if occupied {
        return Err(disk(std::io::ErrorKind::DirectoryNotEmpty.into()));
    }
    tempfile::Builder::new().prefix(".git-").tempdir_in(beside).map_err(disk)
}

/// Asks what the repository has, following redirects. Returns where it really is.
async fn list(git: &Git<'_>, mut remote: Remote, wanted: &Wanted) -> Result<(Pinned, Advertised), Error> {
    for _ in 0..=MAX_REDIRECTS {
        let pinned = remote.pin(git.options.allow_loopback).await?;
        let mut task = Task::new(["ls-remote", "--symref", "--", pinned.url()]).at(&pinned).keeping(MAX_REF_BYTES);
        task.args(wanted.patterns());
        let output = git.run(task).await?;
        if output.success {
            return Ok((pinned, Advertised::parse(&output.stdout)));
        }
        if !error::is_redirect(&output.stderr) {
            return Err(Error::from_git(&git.name, &output.stderr));
        }
        remote = pinned.redirected().await?;
        git.say(&format!("Redirected to {}.", remote.shown())).await;
    }
    Err(Error::CloneFailed {
        repository: git.name.clone(),
        cause: format!("it redirects more than {MAX_REDIRECTS} times"),
    })
}

/// The error that lists what there is instead.
async fn not_found(git: &Git<'_>, remote: &Pinned, wanted: &Wanted) -> Error {
    let task = Task::new(["ls-remote", "--heads", "--tags", "--", remote.url()]).at(remote).keeping(MAX_REF_BYTES);
    let exist = match git.run(task).await {
        Ok(output) => Advertised::parse(&output.stdout).names(),
        Err(error) => return error,
    };
    Error::RefNotFound { repository: git.name.clone(), wanted: wanted.shown(), exist }
}

/// Receives one commit without its history and returns its id.
async fn receive(git: &Git<'_>, remote: &Pinned, refspec: &str) -> Result<String, Error> {
    git.expect(Task::new(["init", "--quiet", "--template=", "--"]).arg(git.folder)).await?;
    let task = Task::new(["fetch", "--depth=1", "--no-tags", "--no-recurse-submodules", "--progress", "--"])
        .arg(remote.url())
        .arg(format!("+{refspec}:{FETCHED}"))
        .at(remote)
        .watched();
    git.expect(task).await?;
    let output = git.expect(Task::new(["rev-parse", "--verify"]).arg(format!("{FETCHED}^{{commit}}"))).await?;
    let commit = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(commit);
    }
    Err(Error::CloneFailed { repository: git.name.clone(), cause: "what was received is not a commit".to_owned() })
}

/// Counts files and bytes of the commit before one of them is written: a small pack can hold an endless tree.
async fn measure(git: &Git<'_>, commit: &str) -> Result<(), Error> {
    let mut counter = TreeCounter::new(git.options.limits);
    let task = Task::new(["ls-tree", "-r", "-z", "--long", commit]).counted(&mut counter);
    git.expect(task).await.map(|_| ())
}

async fn check_out(git: &Git<'_>, commit: &str, into: &Path) -> Result<(), Error> {
    let task = Task::new(["checkout", "--quiet", "--force", "--detach", "--no-recurse-submodules", commit, "--"]);
    git.expect(task.into_folder(into)).await.map(|_| ())
}

impl Git<'_> {
    /// Runs a task that has no reason to fail but the remote or the disk.
    async fn expect(&self, task: Task<'_>) -> Result<Output, Error> {
        let output = self.run(task).await?;
        if output.success { Ok(output) } else { Err(Error::from_git(&self.name, &output.stderr)) }
    }
}

#[cfg(test)]
#[path = "../../tests/support/git_server.rs"]
mod git_server;
#[cfg(test)]
mod tests;
