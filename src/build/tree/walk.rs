//! Walking a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Entry, Error, Kind, Limits};
use crate::build::ignore::Ignore;

pub(super) struct Walk<'a> {
    pub(super) root: &'a Path,
    pub(super) ignore: &'a Ignore,
    pub(super) always: &'a [&'a str],
    pub(super) limits: &'a Limits,
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: u64,
}

impl Walk<'_> {
    /// Lists one folder. In an `excluded` one only what rules take back is kept, and the folders on the way there.
    pub(super) fn folder(&mut self, relative: &Path, depth: usize, excluded: bool) -> Result<(), Error> {
        if depth > self.limits.depth {
            return Err(Error::TooLarge { what: "folders within folders", limit: self.limits.depth as u64 });
        }
        let path = self.root.join(relative);
        let io = |source| Error::Io { path: path.clone(), source };
        let before = self.entries.len();
        for item in fs::read_dir(&path).map_err(io)? {
            let item = item.map_err(io)?;
            if item.file_name() != ".git" {
                self.item(&relative.join(item.file_name()), depth, &item)?;
            }
        }
        if excluded && self.entries.len() > before {
            self.push(relative, Kind::Folder)?;
        }
        Ok(())
    }

    fn item(&mut self, relative: &Path, depth: usize, item: &fs::DirEntry) -> Result<(), Error> {
        let text = relative.to_string_lossy();
        let always = |folder: bool| {
            self.always.iter().any(|keep| {
                *keep == text || (folder && keep.strip_prefix(&*text).is_some_and(|rest| rest.starts_with('/')))
            })
        };
        let excluded = self.ignore.excludes(&text);
        let io = |source| Error::Io { path: item.path(), source };
        let kind = item.file_type().map_err(io)?;
        if kind.is_dir() {
            if !excluded {
                self.push(relative, Kind::Folder)?;
            }
            if !excluded || !self.ignore.prunes() || always(true) {
                self.folder(relative, depth + 1, excluded)?;
            }
        } else if excluded && !always(false) {
        } else if kind.is_symlink() {
            self.push(relative, Kind::Link(fs::read_link(item.path()).map_err(io)?))?;
        } else if kind.is_file() {
            let metadata = item.metadata().map_err(io)?;
            self.bytes = self.bytes.saturating_add(metadata.len());
            if self.bytes > self.limits.bytes {
                return Err(Error::TooLarge { what: "bytes", limit: self.limits.bytes });
            }
            let executable = metadata.permissions().mode() & 0o111 != 0;
            self.push(relative, Kind::File { size: metadata.len(), executable })?;
        }
        Ok(())
    }

    fn push(&mut self, path: &Path, kind: Kind) -> Result<(), Error> {
        if self.entries.len() >= self.limits.entries {
            return Err(Error::TooLarge { what: "files and folders", limit: self.limits.entries as u64 });
        }
        self.entries.push(Entry { path: path.to_owned(), kind });
        Ok(())
    }
}
