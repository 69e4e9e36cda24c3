//! Ends the running step of a Podman build that was given up.
//!
//! Docker ends a build when its client goes away. Podman does too, but leaves the command of the running step behind,
//! for ever if need be (seen with 4.3.1). So each build gets a control group of its own, and when the build is dropped
//! every process in it is killed until none comes back. The same group bounds how many processes its steps have. Works for
//! engines of this machine that run as root, as the node then does; elsewhere the group cannot be seen: the step ends by
//! itself, and nothing bounds its processes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::Kind;
use crate::task::{OnError, Supervisor};

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// The group below it in which the steps run. Podman's runtime removes it after each of them, with its limits.
const STEPS: &str = "steps";
/// How often the group is looked at.
const PERIOD: Duration = Duration::from_millis(100);
/// How many looks in a row have to find it empty: Podman may begin one more step before it sees that its client is gone.
const EMPTY_LOOKS: u32 = 20;
/// How many looks at most: a step that cannot be killed (it hangs in the kernel) is left.
const LOOKS_MAX: u32 = 300;

/// Kills what is left of a build when it is dropped.
pub(super) struct StepReaper {
    group: Option<String>,
    ended: bool,
    supervisor: Supervisor,
}

impl StepReaper {
    /// For one build, whose steps run in the control group of that name.
    pub(super) fn new(kind: Kind, group: String, supervisor: Supervisor) -> Self {
        Self { group: (kind == Kind::Podman).then_some(group), ended: false, supervisor }
    }

    /// The group to run steps in, when one is needed.
    pub(super) fn control_group(&self) -> Option<String> {
        self.group.as_ref().map(|group| format!("/{group}/{STEPS}"))
    }

    /// Makes the group, so that no step runs without the limit.
    pub(super) fn limit_processes(&self, most: u32) {
        let Some(group) = &self.group else { return };
        if let Err(error) = limit(Path::new(ROOT), group, most) {
            tracing::warn!(%error, "the number of processes of a build is not bounded: this takes root, and an engine here");
        }
    }

    /// The build ended by itself: nothing runs any more, only the empty group is to be removed.
    pub(super) fn build_ended(&mut self) {
        self.ended = true;
    }
}

impl Drop for StepReaper {
    fn drop(&mut self) {
        let Some(group) = self.group.take() else { return };
        let empty_looks = if self.ended { 1 } else { EMPTY_LOOKS };
        self.supervisor.spawn("end build steps", OnError::Log, async move {
            reap(&group, empty_looks).await;
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

async fn reap(group: &str, empty_looks: u32) {
    let mut empty = 0;
    for _ in 0..LOOKS_MAX {
        let name = group.to_owned();
        let killed = tokio::task::spawn_blocking(move || kill_all(&folders(&name))).await.unwrap_or(0);
        empty = if killed == 0 { empty + 1 } else { 0 };
        if empty >= empty_looks {
            break;
        }
        tokio::time::sleep(PERIOD).await;
    }
    for folder in folders(group) {
        if let Err(error) = std::fs::remove_dir(&folder) {
            tracing::debug!(folder = %folder.display(), %error, "control group of a build stays");
        }
    }
}

/// The folders of a group and of the one below it, which comes first: one for each hierarchy (v1), or one (v2).
fn folders(group: &str) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(root.to_owned())
        .chain(hierarchies)
        .map(|folder| folder.join(group))
        .flat_map(|folder| [folder.join(STEPS), folder])
        .filter(|folder| folder.is_dir())
        .collect()
}

/// Makes a group that never has more processes than this, its groups below included.
fn limit(root: &Path, group: &str, most: u32) -> io::Result<()> {
    let hierarchy = root.join("pids");
    let folder = if hierarchy.is_dir() {
        hierarchy.join(group)
    } else {
        // One hierarchy for everything (v2): what the groups below can be limited in is switched on above them.
        std::fs::write(root.join("cgroup.subtree_control"), "+pids")?;
        root.join(group)
    };
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("pids.max"), most.to_string())
}

/// Kills every process of the group; returns how many there were.
fn kill_all(folders: &[PathBuf]) -> usize {
    let mut found = 0;
    for folder in folders {
        let Ok(pids) = std::fs::read_to_string(folder.join("cgroup.procs")) else { continue };
        for pid in pids.lines().filter_map(|pid| pid.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
            found += 1;
            // It may have ended meanwhile.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_written_where_the_kernel_has_it() {
        let root = tempfile::tempdir().expect("a folder");
        limit(root.path(), "build", 7).expect("one hierarchy");
        let read = |path: &str| std::fs::read_to_string(root.path().join(path)).expect("written");
        assert_eq!((read("cgroup.subtree_control"), read("build/pids.max")), ("+pids".to_owned(), "7".to_owned()));
        std::fs::create_dir(root.path().join("pids")).expect("a folder");
        limit(root.path(), "build", 8).expect("many hierarchies");
        assert_eq!(read("pids/build/pids.max"), "8");
    }
}
