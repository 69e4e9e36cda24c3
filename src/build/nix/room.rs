//! The folders of one build by Nix, beside its source.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::fence::NOBODY;

/// Where what belongs to a build is. All of it goes with the build: what one flake left behind is nothing for the next.
#[derive(Clone)]
pub(super) struct Room {
    /// The files that are built.
    pub(super) source: PathBuf,
    /// Where what evaluates may write; its own.
    pub(super) home: PathBuf,
    /// Where the store is asked.
    pub(super) sockets: PathBuf,
    /// Where builders work.
    pub(super) scratch: PathBuf,
    /// The home of what runs as root: nobody else writes there, since programs believe what they find at home.
    pub(super) of_root: PathBuf,
}

impl Room {
    /// Makes the folders beside the source, which anybody may read from then on: who can reach it is decided above it.
    pub(super) fn beside(source: &Path) -> io::Result<Self> {
        let source = fs::canonicalize(source)?;
        let folder = |name: &str, mode: u32| {
            let path = source.with_file_name(name);
            DirBuilder::new().mode(mode).create(&path)?;
            // Whatever mask this program has.
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
            Ok::<_, io::Error>(path)
        };
        let home = folder("home", 0o700)?;
        chown(&home, Some(NOBODY), Some(NOBODY))?;
        let (sockets, scratch, of_root) =
            (folder("sockets", 0o755)?, folder("scratch", 0o1777)?, folder("root", 0o700)?);
        make_readable(&source)?;
        Ok(Self { source, home, sockets, scratch, of_root })
    }

    /// Where Nix is asked what the store has, and to build.
    pub(super) fn socket(&self) -> PathBuf {
        self.sockets.join("nix")
    }
}

/// Lets everybody read what is in a folder.
fn make_readable(folder: &Path) -> io::Result<()> {
    // Folders may be nested as deep as paths go, which is deeper than a stack.
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let about = fs::symlink_metadata(&path)?;
        if about.is_symlink() {
            continue;
        }
        let wanted = if about.is_dir() { 0o755 } else { 0o444 };
        let mode = about.permissions().mode();
        if mode & wanted != wanted {
            fs::set_permissions(&path, Permissions::from_mode(mode | wanted))?;
        }
        if about.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_linked_to_keeps_its_mode() {
        let folder = tempfile::tempdir().expect("a folder");
        let (inside, outside) = (folder.path().join("source"), folder.path().join("outside"));
        fs::create_dir_all(inside.join("a")).expect("folders");
        for file in [inside.join("a/b"), outside.clone()] {
            fs::write(&file, "text").expect("writes");
            fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("changes");
        }
        fs::set_permissions(inside.join("a"), Permissions::from_mode(0o700)).expect("changes");
        symlink(&outside, inside.join("link")).expect("links");
        make_readable(&inside).expect("it can be");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&inside.join("a")), mode(&inside.join("a/b")), mode(&outside)), (0o755, 0o644, 0o600));
    }
}
