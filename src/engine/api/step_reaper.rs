//! Ends the running step of a Podman build that was given up.
//!
//! Docker ends a build when its client goes away. Podman does too, but leaves the command of the running step behind,
//! for ever if need be (seen with 4.3.1). So each build gets a control group of its own, and when the build is dropped
//! every process in it is killed until none comes back. Works for engines of this machine that run as root; elsewhere
//! the group cannot be seen and the step ends by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::Kind;
use crate::task::{OnError, Supervisor};

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
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
    pub(super) fn control_group(&self) -> Option<&str> {
        self.group.as_deref()
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

/// The folders of a group: one for each hierarchy (v1), or one (v2).
fn folders(group: &str) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(root.to_owned())
        .chain(hierarchies)
        .map(|folder| folder.join(group))
        .filter(|f| f.is_dir())
        .collect()
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
