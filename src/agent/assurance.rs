//! The newest assurance of a node, in a file of its data folder, for whoever has to act on it when the node's program cannot.
//!
//! Times are those of the kernel's clock since the machine started, which nobody sets and which goes on while the machine
//! sleeps. What another start of the machine wrote says nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::decide::isolation::ISOLATED_AFTER;

const FILE: &str = "assured";
/// Which start of the machine this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Said in the place of a time by the only member of a cluster, which is never cut off.
const ALONE: &str = "only-member";

/// See the module. Clones are the same file.
#[derive(Clone, Debug)]
pub struct Assurance {
    path: PathBuf,
    boot: String,
}

/// Time since the machine started.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

impl Assurance {
    /// In this data folder.
    pub fn of(data_dir: &Path) -> Self {
        // Without it every start of the machine looks the same, and its clock begins anew: then what was written is old.
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Self { path: data_dir.join(FILE), boot }
    }

    /// Writes that a question so long ago was answered; `only` says that this node is the only member. A power cut may take it
    /// away, and ends what it is for.
    pub fn note(&self, age: Duration, only: bool) -> io::Result<()> {
        let at = since_boot().saturating_sub(age).as_nanos();
        let said = if only { ALONE.to_owned() } else { at.to_string() };
        // Whole or not at all, so that nobody reads half a number.
        let unfinished = self.path.with_extension("new");
        fs::write(&unfinished, format!("{} {said}\n", self.boot))?;
        fs::rename(&unfinished, &self.path)
    }

    /// Whether what must not run twice must not run here any more.
    pub fn is_over(&self) -> bool {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        match text.trim().split_once(' ') {
            Some((boot, said)) if boot == self.boot => match said.parse().map(Duration::from_nanos) {
                Ok(at) => since_boot().saturating_sub(at) >= ISOLATED_AFTER,
                Err(_) => said != ALONE,
            },
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assurance_is_over_after_its_time_and_when_it_cannot_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let assurance = Assurance::of(folder.path());
        assert!(assurance.is_over(), "there was none");
        assurance.note(Duration::ZERO, false).expect("writes");
        assert!(!assurance.is_over());
        assurance.note(ISOLATED_AFTER, false).expect("writes");
        assert!(assurance.is_over());
        assurance.note(ISOLATED_AFTER * 100, true).expect("writes");
        assert!(!assurance.is_over(), "there is nobody else");
        let other = Assurance { boot: "another".to_owned(), ..assurance.clone() };
        assert!(other.is_over(), "of another start of the machine");
        fs::write(folder.path().join(FILE), b"nonsense").expect("writes");
        assert!(assurance.is_over());
    }
}
