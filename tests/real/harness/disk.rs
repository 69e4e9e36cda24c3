//! A disk that a test can fill.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::DEADLINE;

/// A small file system, which goes with this, or with the process of the test however that ends.
pub(crate) struct SmallDisk {
    /// Unmounts when its standard input ends.
    holder: Child,
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl SmallDisk {
    /// So many mebibytes.
    pub(crate) fn new(mebibytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("disk");
        std::fs::create_dir(&path).expect("a folder");
        let script = r#"mount -t tmpfs -o "size=$2m" small "$1" && touch "$1/mounted"; cat; umount --lazy "$1""#;
        let holder = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&path)
            .arg(mebibytes.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let disk = Self { holder, _folder: folder, path };
        let deadline = Instant::now() + DEADLINE;
        while !disk.path.join("mounted").exists() {
            assert!(Instant::now() < deadline, "the file system is not there");
            std::thread::sleep(Duration::from_millis(10)); // poll
        }
        disk
    }

    /// Makes it larger or smaller.
    pub(crate) fn resize(&self, mebibytes: u64) {
        let size = format!("remount,size={mebibytes}m");
        let resized = Command::new("mount").args(["-o", &size]).arg(&self.path).status();
        assert!(resized.expect("mount runs").success());
    }

    /// Leaves this many bytes free.
    pub(crate) fn fill_to(&self, free: u64) {
        let filler = self.path.join("filler");
        let _none_yet = std::fs::remove_file(&filler);
        let filled = usize::try_from(self.available() - free).expect("small");
        std::fs::write(filler, vec![1; filled]).expect("it fits");
    }

    /// Bytes that are free.
    pub(crate) fn available(&self) -> u64 {
        rustix::fs::statvfs(&self.path).map(|fs| fs.f_bavail * fs.f_frsize).expect("it answers")
    }

    /// Nothing can be written any more.
    pub(crate) fn make_read_only(&self) {
        let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.path).status();
        assert!(remounted.expect("mount runs").success());
    }

    /// Takes away what filled it.
    pub(crate) fn clear(&self) {
        std::fs::remove_file(self.path.join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _best_effort = self.holder.wait();
    }
}
