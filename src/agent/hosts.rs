//! The files that are `/etc/hosts` in the containers of an app on this node.
//!
//! All containers of an app share one, which only the node writes. It is written over, never replaced: a mounted file is what
//! it was when it was mounted.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::model::AppId;

/// The files, by app.
#[derive(Clone, Debug)]
pub struct Hosts {
    folder: PathBuf,
}

impl Hosts {
    /// In this folder of the node's own, an absolute path.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, app: AppId) -> PathBuf {
        self.folder.join(app.to_string())
    }

    /// The file of an app, with this text if there was none.
    pub(super) fn ensure(&self, app: AppId, text: &str) -> io::Result<PathBuf> {
        let path = self.path(app);
        if !path.try_exists()? {
            self.write(app, text)?;
        }
        Ok(path)
    }

    /// Writes the file of an app.
    pub fn write(&self, app: AppId, text: &str) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        // Whatever user a program in a container is: it reads the file, which nobody reaches but through the mount.
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o644).open(self.path(app))?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    }

    /// Removes the files of all other apps.
    pub fn keep_only(&self, wanted: impl Fn(AppId) -> bool) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(|app| !wanted(app)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
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
        hosts.keep_only(|_| false).expect("nothing to remove");
        let (shop, other): (AppId, AppId) = (random::id(), random::id());
        let path = hosts.ensure(shop, "first and longer").expect("written");
        let mut mounted = fs::File::open(&path).expect("there");
        assert_eq!(hosts.ensure(shop, "another").expect("there"), path);
        assert_eq!(fs::read_to_string(&path).expect("text"), "first and longer");
        hosts.write(shop, "second").expect("written");
        let mut text = String::new();
        mounted.read_to_string(&mut text).expect("text");
        assert_eq!(text, "second");

        hosts.write(other, "x").expect("written");
        hosts.keep_only(|app| app == shop).expect("removed");
        assert!(path.exists() && !hosts.path(other).exists());
    }
}
