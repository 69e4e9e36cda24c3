//! What one build by Nix may use of the machine: a control group for all of its processes.
//!
//! Made where the kernel has them, as root. Where that cannot be (a container that may not), builds go on without, and the node's log
//! says so.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::build::Options;
use crate::build::dockerfile::PIDS_MAX;
use crate::model::BuildId;
use crate::task::{OnError, Supervisor};

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// How often, and how many times, a group is looked at whether it is empty: its processes may take a moment to end.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);
const LOOKS_MAX: u32 = 200;

/// The control group of one build: a folder for each hierarchy. Removed when dropped, once it is empty.
pub(super) struct Ration {
    folders: Vec<PathBuf>,
    supervisor: Supervisor,
}

impl Ration {
    /// Makes the group, or says in the node's log that there is none.
    pub(super) fn of(options: &Options, build: BuildId, supervisor: Supervisor) -> Self {
        let name = format!("{}{build}", prefix(options));
        let folders = match limit(Path::new(ROOT), &name, options.memory.bytes) {
            Ok(folders) => folders,
            Err(error) => {
                tracing::warn!(%error, "memory and processes of a build by Nix are not bounded: this takes control groups");
                Vec::new()
            }
        };
        Self { folders, supervisor }
    }

    /// Where a process writes that it belongs to the group.
    pub(super) fn entrances(&self) -> io::Result<Vec<File>> {
        let open = |folder: &PathBuf| File::options().write(true).open(folder.join("cgroup.procs"));
        self.folders.iter().map(open).collect()
    }

    /// Whether a process of the group was killed for memory.
    pub(super) fn was_exceeded(&self) -> bool {
        let files = ["memory.events", "memory.oom_control"];
        let mut texts = self.folders.iter().flat_map(|folder| files.map(|file| fs::read_to_string(folder.join(file))));
        texts.any(|text| text.is_ok_and(|text| counts_kills(&text)))
    }
}

impl Drop for Ration {
    fn drop(&mut self) {
        let folders = std::mem::take(&mut self.folders);
        if folders.is_empty() {
            return;
        }
        self.supervisor.spawn("remove a control group", OnError::Log, async move {
            for _ in 0..LOOKS_MAX {
                if folders.iter().all(|folder| fs::remove_dir(folder).is_ok() || !folder.exists()) {
                    break;
                }
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

/// Removes what an earlier run of this node left behind.
pub(in crate::build) fn remove_left_behind(options: &Options) {
    let prefix = prefix(options);
    for hierarchy in ["", "memory", "pids"] {
        let entries = fs::read_dir(Path::new(ROOT).join(hierarchy)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            // One that is in use has a process that does not end.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// What the groups of this node's builds are called, before their ids.
fn prefix(options: &Options) -> String {
    format!("narvana-nix-{}-{}-", options.cluster, options.lease.node)
}

fn counts_kills(text: &str) -> bool {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
    count.is_some_and(|count| count > 0)
}

/// Makes a group that never has more memory and processes than this.
fn limit(root: &Path, name: &str, memory: u64) -> io::Result<Vec<PathBuf>> {
    let processes = PIDS_MAX.to_string();
    let make = |folder: PathBuf| fs::create_dir(&folder).map(|()| folder);
    // What is swapped out is used too; where nothing can be, the file is not there.
    if root.join("memory").is_dir() {
        let folders = vec![make(root.join("memory").join(name))?, make(root.join("pids").join(name))?];
        fs::write(folders[0].join("memory.limit_in_bytes"), memory.to_string())?;
        let _ = fs::write(folders[0].join("memory.memsw.limit_in_bytes"), memory.to_string());
        fs::write(folders[1].join("pids.max"), processes)?;
        return Ok(folders);
    }
    // One hierarchy for everything (v2): what the groups below can be limited in is switched on above them.
    fs::write(root.join("cgroup.subtree_control"), "+memory +pids")?;
    let folder = make(root.join(name))?;
    fs::write(folder.join("memory.max"), memory.to_string())?;
    let _ = fs::write(folder.join("memory.swap.max"), "0");
    fs::write(folder.join("pids.max"), processes)?;
    Ok(vec![folder])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_written_where_the_kernel_has_them() {
        let root = tempfile::tempdir().expect("a folder");
        let read = |path: &str| fs::read_to_string(root.path().join(path)).expect("written");
        let folders = limit(root.path(), "build", 700).expect("one hierarchy");
        assert_eq!(folders, [root.path().join("build")]);
        assert_eq!((read("cgroup.subtree_control"), read("build/memory.max")), ("+memory +pids".into(), "700".into()));
        assert_eq!((read("build/memory.swap.max"), read("build/pids.max")), ("0".into(), PIDS_MAX.to_string()));
        for name in ["memory", "pids"] {
            fs::create_dir(root.path().join(name)).expect("a folder");
        }
        limit(root.path(), "build", 800).expect("many hierarchies");
        assert_eq!(read("memory/build/memory.limit_in_bytes"), "800");
        assert_eq!(read("pids/build/pids.max"), PIDS_MAX.to_string());
    }

    #[test]
    fn a_kill_is_counted_by_the_kernel() {
        assert!(counts_kills("low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 0\n"));
        assert!(counts_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"));
        assert!(!counts_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n") && !counts_kills(""));
    }
}
