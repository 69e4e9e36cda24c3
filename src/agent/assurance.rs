//! The newest assurance of a node, in a file of its data folder, for whoever has to act on it when the node's program cannot.
//!
//! One record, written over the last one in its place: that needs no space on a disk which an application has filled. Times are those of
//! [`clock::since_boot`]; what another start of the machine wrote says nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::decide::isolation::ISOLATED_AFTER;

const FILE: &str = "assured";
/// Which start of the machine this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Said in the place of a time by the only member of a cluster, which is never cut off.
const ONLY_MEMBER: &str = "only-member";
/// Of the record; what is left over is blank.
const BYTES: usize = 128;

/// What the newest assurance means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The cluster was heard of a moment ago.
    Assured,
    /// What must not run twice must not run here any more.
    Over,
    /// There is nobody else who could run it.
    OnlyMember,
}

/// See the module. Clones are the same file, also when its folder gets another name.
#[derive(Clone, Debug)]
pub struct Assurance {
    file: Arc<File>,
    boot: String,
}

impl Assurance {
    /// In this data folder.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(data_dir.join(FILE))?;
        // Without it every start of the machine looks the same, and its clock begins anew: then what was written is old.
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Ok(Self { file: Arc::new(file), boot })
    }

    /// Writes that a question of that time was answered; `only` says that this node is the only member. A power cut may take it
    /// away, and ends what it is for.
    pub fn note(&self, asked: Duration, only: bool) -> io::Result<()> {
        let said = if only { ONLY_MEMBER.to_owned() } else { asked.as_nanos().to_string() };
        let record = format!("{:<width$}\n", format!("{} {said}", self.boot), width = BYTES - 1);
        self.file.write_all_at(record.as_bytes(), 0)
    }

    /// What was written last. A record that cannot be read is as good as none.
    pub fn standing(&self) -> Standing {
        let mut record = [0; BYTES];
        let read = self.file.read_exact_at(&mut record, 0);
        let text = std::str::from_utf8(&record).unwrap_or_default();
        match text.trim().split_once(' ') {
            Some((boot, said)) if read.is_ok() && boot == self.boot => match said.parse().map(Duration::from_nanos) {
                Ok(asked) if clock::since_boot().saturating_sub(asked) < ISOLATED_AFTER => Standing::Assured,
                Err(_) if said == ONLY_MEMBER => Standing::OnlyMember,
                _ => Standing::Over,
            },
            _ => Standing::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assurance_is_over_after_its_time_and_when_it_cannot_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let assurance = Assurance::open(folder.path()).expect("opens");
        assert_eq!(assurance.standing(), Standing::Over, "there was none");
        let now = clock::since_boot();
        for (asked, only, standing) in [
            (now, false, Standing::Assured),
            (now.saturating_sub(ISOLATED_AFTER), false, Standing::Over),
            (Duration::ZERO, true, Standing::OnlyMember),
            (now, false, Standing::Assured),
        ] {
            assurance.note(asked, only).expect("writes");
            assert_eq!(assurance.standing(), standing, "{asked:?} {only}");
            assert_eq!(Assurance::open(folder.path()).expect("opens").standing(), standing, "another process sees it");
        }
        let other = Assurance { boot: "another".to_owned(), ..assurance.clone() };
        assert_eq!(other.standing(), Standing::Over, "of another start of the machine");
        fs::rename(folder.path().join(FILE), folder.path().join("moved")).expect("renamed");
        Assurance::open(folder.path()).expect("opens").note(now, true).expect("writes");
        assert_eq!(assurance.standing(), Standing::Assured, "another node in its place is not this one");
        fs::write(folder.path().join("moved"), b"nonsense").expect("writes");
        assert_eq!(assurance.standing(), Standing::Over);
    }
}
