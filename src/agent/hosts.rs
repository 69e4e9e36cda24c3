//! The files that are `/etc/hosts` in this node's containers.
//!
//! Each container has one, which only the node writes. It is written over, never replaced: a mounted file is what it was
//! when it was mounted.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::model::InstanceId;

/// The files, by instance.
#[derive(Clone, Debug)]
pub struct Hosts {
    folder: PathBuf,
}

impl Hosts {
    /// In this folder of the node's own, an absolute path.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes the file that is to be mounted. Fails in a folder that no engine can be told of: a colon ends its path there.
    pub(super) fn begin(&self, instance: InstanceId, text: &str) -> io::Result<PathBuf> {
        if self.folder.to_str().is_none_or(|folder| folder.contains(':')) {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        self.write(instance, text)
    }

    /// Writes the file of an instance, and says where it is.
    pub fn write(&self, instance: InstanceId, text: &str) -> io::Result<PathBuf> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let path = self.folder.join(instance.to_string());
        // Whatever user a program in a container is: it reads the file, which nobody reaches but through the mount.
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o644).open(&path)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)?;
        Ok(path)
    }

    /// The instances that have a file.
    pub fn list(&self) -> io::Result<Vec<InstanceId>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok())));
        names.filter_map(Result::transpose).collect()
    }

    /// Removes the file of an instance.
    pub fn remove(&self, instance: InstanceId) -> io::Result<()> {
        fs::remove_file(self.folder.join(instance.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::random;

    #[test]
    fn a_file_that_is_mounted_is_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let hosts = Hosts::new(folder.path().join("hosts"));
        assert_eq!(hosts.list().expect("nothing yet"), []);
        let (one, other): (InstanceId, InstanceId) = (random::id(), random::id());
        let path = hosts.begin(one, "first and longer").expect("written");
        let mut mounted = fs::File::open(&path).expect("there");
        hosts.write(one, "second").expect("written");
        let mut text = String::new();
        mounted.read_to_string(&mut text).expect("text");
        assert_eq!(text, "second");

        let unspeakable = Hosts::new(folder.path().join("a:b"));
        assert_eq!(unspeakable.begin(one, "x").expect_err("refused").kind(), io::ErrorKind::InvalidFilename);
        hosts.write(other, "x").expect("written");
        hosts.remove(other).expect("removed");
        assert_eq!(hosts.list().expect("one"), [one]);
    }
}
