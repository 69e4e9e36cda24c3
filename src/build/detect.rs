//! What a source is: reads for `decide::detect` what that asks for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::decide::detect::{Answer, Contents, Detection, Listing, Undetected, Want, detect};
use crate::space::{Full, Space, Use};
use crate::task::blocking;

use super::archive::what_is_packed;
use super::git;
use super::tree::{self, Kind, Limits, Tree, folder_inside, head_inside};

/// Repositories that are looked at on one node at once: each is a copy of all its files on the disk.
const INSPECTIONS_MAX: usize = 2;
/// Longest time to fetch one; somebody waits.
const FETCH_MAX: Duration = Duration::from_secs(120);

/// Looks at a source that was listed. Blocks.
///
/// # Errors
/// Why it cannot be said.
pub fn detect_in(tree: &Tree) -> Result<Detection, Undetected> {
    // A name that is no text is none that anything asks for.
    let files =
        tree.entries().iter().filter(|entry| entry.kind != Kind::Folder).filter_map(|entry| entry.path.to_str());
    let listing = Listing::new(files.map(str::to_owned).collect());
    let mut contents = Contents::new();
    loop {
        match detect(&listing, &contents) {
            Answer::Found(detection) => return Ok(*detection),
            Answer::NotFound(undetected) => return Err(undetected),
            Answer::Wants(wants) => contents.extend(wants.into_iter().map(|want| {
                let text = read(tree.root(), &want);
                (want.path, text)
            })),
        }
    }
}

fn read(root: &Path, want: &Want) -> Result<String, String> {
    let bytes = u64::from(want.bytes);
    let read = head_inside(root, &want.path, bytes + 1).map_err(|error| error.to_string())?;
    let mut head = read.ok_or("the link leads nowhere")?;
    if want.whole && head.len() as u64 > bytes {
        return Err(format!("it is larger than {} KiB", bytes >> 10));
    }
    head.truncate(want.bytes as usize);
    match String::from_utf8(head) {
        Err(_) if want.whole => Err("it is no text in UTF-8".to_owned()),
        Err(error) => Ok(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        Ok(text) => Ok(text),
    }
}

/// A repository to be looked at.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Where to clone it from.
    pub url: String,
    /// Branch, tag or commit; without, as [`git::fetch`] chooses.
    pub reference: Option<String>,
    /// The folder in it that is looked at; without, all of it.
    pub folder: Option<String>,
}

/// What was found in a repository.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What it is.
    pub detection: Detection,
    /// What exactly was looked at.
    pub fetched: git::Fetched,
}

/// Why a repository was not looked at, or nothing was found in it.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Ask again later.
    #[error("this node looks at {INSPECTIONS_MAX} repositories already, which is the most; ask again in a moment")]
    Busy,
    /// The node has no space for it.
    #[error(transparent)]
    Full(#[from] Full),
    /// It was not fetched.
    #[error(transparent)]
    Fetch(#[from] git::Error),
    /// The folder cannot be looked at.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// It was looked at in vain.
    #[error("{}", .0.message)]
    Undetected(Undetected),
    /// The node's disk failed.
    #[error("cannot keep a repository in {}: {source}", folder.display())]
    Disk {
        /// Where.
        folder: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Looks at repositories before anybody builds them. Clones share the places.
#[derive(Clone)]
pub struct Inspector {
    folder: PathBuf,
    space: Space,
    allow_loopback: bool,
    places: Arc<Semaphore>,
}

impl Inspector {
    /// `folder` is where repositories lie while they are looked at; it exists, and is emptied by whoever makes it.
    pub fn new(folder: PathBuf, space: Space, allow_loopback: bool) -> Self {
        Self { space: space.at(&folder), folder, allow_loopback, places: Arc::new(Semaphore::new(INSPECTIONS_MAX)) }
    }

    /// Fetches a repository, looks at it, and throws it away. Dropped, it ends what it began.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn inspect(&self, repository: Repository, stop: &CancellationToken) -> Result<Inspected, InspectError> {
        let _place = self.places.try_acquire().map_err(|_| InspectError::Busy)?;
        self.space.check(Use::Bulk)?;
        let disk = |source| InspectError::Disk { folder: self.folder.clone(), source };
        let folder = tempfile::Builder::new().prefix("detect-").tempdir_in(&self.folder).map_err(disk)?;
        let files = folder.path().join("source");
        std::fs::create_dir(&files).map_err(disk)?;
        let options =
            git::Options { allow_loopback: self.allow_loopback, deadline: FETCH_MAX, ..git::Options::default() };
        let Repository { url, reference, folder: sub } = repository;
        // Nobody reads how far it is.
        let (nobody, _) = mpsc::channel(1);
        let fetched = git::fetch(&options, &url, reference.as_deref(), &files, &nobody, stop).await?;
        let detection = blocking(move || {
            let root = folder_inside(&files, &sub.unwrap_or_default())?;
            let tree = what_is_packed(&root, &Limits::default())?;
            detect_in(&tree).map_err(InspectError::Undetected)
        });
        Ok(Inspected { detection: detection.await?, fetched })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BuildStrategy;

    #[test]
    fn a_folder_is_looked_at_without_leaving_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(outside.path(), "module outside\ngo 1.1\n").expect("writes");
        std::os::unix::fs::symlink(outside.path(), folder.path().join("go.mod")).expect("a link");
        let look = || detect_in(&what_is_packed(folder.path(), &Limits::default()).expect("a tree"));
        let said = look().expect_err("it leads outside").message;
        assert!(said.starts_with("\"go.mod\" cannot be read: ") && said.contains("leads outside"), "{said}");
        std::fs::remove_file(folder.path().join("go.mod")).expect("removes");
        std::fs::write(folder.path().join("real.mod"), "module inside\ngo 1.22\n").expect("writes");
        std::os::unix::fs::symlink("real.mod", folder.path().join("go.mod")).expect("a link");
        std::fs::write(folder.path().join("main.go"), b"package main\n// \xff\n").expect("writes");
        let found = look().expect("Go");
        assert_eq!((found.strategy, found.version.as_deref()), (BuildStrategy::AutoGo, Some("1.22")));
        assert_eq!(found.entry_points.len(), 1);
    }

    #[test]
    fn a_manifest_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("package.json");
        let look = || detect_in(&what_is_packed(folder.path(), &Limits::default()).expect("a tree"));
        let padding = "x".repeat(1 << 20);
        for (bytes, words) in [
            (format!("{{\"name\": \"{padding}\"}}").into_bytes(), "larger than 1024 KiB"),
            (b"{\"name\": \"\xff\"}".to_vec(), "no text in UTF-8"),
        ] {
            std::fs::write(&file, bytes).expect("writes");
            let said = look().expect_err("it cannot be read").message;
            assert!(said.contains(words), "{said}");
        }
        std::fs::write(&file, "{}").expect("writes");
        look().expect("Node.js");
    }
}
