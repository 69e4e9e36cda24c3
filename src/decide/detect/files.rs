//! The files of a source, as far as they are known.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::{Undetected, broken};

/// What is read of a manifest.
const MANIFEST_BYTES: u32 = 1024 * 1024;

/// What is read of a lock file: those of large applications have some megabytes.
const LOCK_BYTES: u32 = 16 * 1024 * 1024;

/// Paths of all files of a source: relative, with `/`, sorted, each once.
#[derive(Clone, Debug, Default)]
pub struct Listing(Vec<String>);

impl Listing {
    /// Sorts them.
    pub fn new(mut paths: Vec<String>) -> Self {
        paths.sort_unstable();
        paths.dedup();
        Self(paths)
    }
}

/// Contents by path, or why there are none: a file is too large, no text, or a link that leads elsewhere.
pub type Contents = BTreeMap<String, Result<String, String>>;

/// Contents that are needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    /// Of which file.
    pub path: String,
    /// How much of it at most.
    pub bytes: u32,
    /// Whether it is of no use when it is longer, or no text. Of others the beginning will do.
    pub whole: bool,
}

/// The files, and what was asked of them that is not known yet.
pub(in crate::decide) struct Files<'a> {
    listing: &'a [String],
    contents: &'a Contents,
    wants: RefCell<BTreeSet<Want>>,
}

impl<'a> Files<'a> {
    pub(in crate::decide) fn new(listing: &'a Listing, contents: &'a Contents) -> Self {
        Self { listing: &listing.0, contents, wants: RefCell::default() }
    }

    pub(in crate::decide) fn into_wants(self) -> Vec<Want> {
        self.wants.into_inner().into_iter().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listing.is_empty()
    }

    pub(in crate::decide) fn has(&self, path: &str) -> bool {
        self.listing.binary_search_by(|it| it.as_str().cmp(path)).is_ok()
    }

    /// All files below a folder, at any depth; `""` is the source itself.
    pub(in crate::decide) fn below(&self, folder: &str) -> impl Iterator<Item = &'a str> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let first = self.listing.partition_point(|it| it.as_str() < prefix.as_str());
        self.listing[first..].iter().map(String::as_str).take_while(move |it| it.starts_with(&prefix))
    }

    /// Names of the folders directly in a folder, sorted.
    pub(super) fn folders(&self, folder: &str) -> Vec<&'a str> {
        let skip = if folder.is_empty() { 0 } else { folder.len() + 1 };
        let mut names: Vec<&str> = Vec::new();
        for path in self.below(folder) {
            if let Some((name, _)) = path[skip..].split_once('/')
                && names.last() != Some(&name)
            {
                names.push(name);
            }
        }
        names
    }

    /// Folders that hold one of these files, with the file, nearest to the root first.
    pub(super) fn folders_with(&self, names: &[&str]) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for path in self.listing {
            let Some((folder, name)) = path.rsplit_once('/') else { continue };
            if names.contains(&name) && !is_foreign(folder) && found.iter().all(|(known, _)| *known != folder) {
                found.push((folder, name));
                if found.len() == FOUND_MAX {
                    break;
                }
            }
        }
        found.sort_by_key(|(folder, _)| (folder.matches('/').count(), *folder));
        found.into_iter()
    }

    /// A manifest, when it is there and known.
    ///
    /// # Errors
    /// It was read in vain.
    pub(in crate::decide) fn manifest(&self, path: &str) -> Result<Option<&'a str>, Undetected> {
        let known = self.known(Want { path: path.to_owned(), bytes: MANIFEST_BYTES, whole: true });
        known.transpose().map_err(|reason| broken(path, reason))
    }

    /// A file in which a package manager keeps what exactly it takes, when it is there and known.
    ///
    /// # Errors
    /// It was read in vain.
    pub(in crate::decide) fn lock(&self, path: &str) -> Result<Option<&'a str>, Undetected> {
        let known = self.known(Want { path: path.to_owned(), bytes: LOCK_BYTES, whole: true });
        known.transpose().map_err(|reason| broken(path, reason))
    }

    /// A file that says more about what was found, when it is there and known.
    pub(in crate::decide) fn text(&self, path: &str) -> Option<&'a str> {
        self.head(path, MANIFEST_BYTES)
    }

    /// The beginning of a file, when it is there and known.
    pub(in crate::decide) fn head(&self, path: &str, bytes: u32) -> Option<&'a str> {
        self.known(Want { path: path.to_owned(), bytes, whole: false })?.ok()
    }

    fn known(&self, want: Want) -> Option<Result<&'a str, &'a str>> {
        if let Some(known) = self.contents.get(&want.path) {
            return Some(known.as_deref().map_err(String::as_str));
        }
        if self.has(&want.path) {
            self.wants.borrow_mut().insert(want);
        }
        None
    }
}

/// So many folders are looked at for what they hold.
const FOUND_MAX: usize = 100;

/// Folders that hold what others wrote, or nothing that is built.
pub(in crate::decide) fn is_foreign(folder: &str) -> bool {
    folder
        .split('/')
        .any(|part| part.starts_with('.') || matches!(part, "vendor" | "node_modules" | "testdata" | "target"))
}

/// A path with its `.` and `..` settled; `None` when it leads out of the source.
pub(in crate::decide) fn inside(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!path.starts_with('/')).then(|| parts.join("/"))
}

/// A path below a folder; `""` is the source itself.
pub(in crate::decide) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
