//! Paths that users give, inside a source and never outside of it.

use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::{Error, open_file};

/// The folder `sub` of a source, links followed, never outside of it.
///
/// # Errors
/// [`Error::Path`] when it is not relative, not there, not a folder, or elsewhere.
pub fn folder_inside(root: &Path, sub: &str) -> Result<PathBuf, Error> {
    let found = locate(root, sub)?.ok_or_else(|| path_error(sub, "there is no such folder"))?;
    if found.is_dir() { Ok(found) } else { Err(path_error(sub, "it is not a folder")) }
}

/// A file of a source, links followed, never outside of it; `None` when there is none.
///
/// # Errors
/// [`Error::Path`] when the path leads elsewhere or is no regular file, [`Error::TooLarge`], [`Error::Io`].
pub fn read_inside(root: &Path, path: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
    let bytes = head_inside(root, path, max_bytes + 1)?;
    if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 > max_bytes) {
        return Err(Error::TooLarge { what: "bytes in one file that must be read", limit: max_bytes });
    }
    Ok(bytes)
}

/// The first bytes of such a file.
///
/// # Errors
/// [`Error::Path`] and [`Error::Io`], as above.
pub fn head_inside(root: &Path, path: &str, bytes: u64) -> Result<Option<Vec<u8>>, Error> {
    let Some(found) = locate(root, path)? else { return Ok(None) };
    // Before it is opened: opening a pipe would wait for its writer.
    if !found.is_file() {
        return Err(path_error(path, "it is not a regular file"));
    }
    let mut head = Vec::new();
    open_file(&found)?.take(bytes).read_to_end(&mut head).map_err(|source| Error::Io { path: found, source })?;
    Ok(Some(head))
}

/// Follows links, but only within `root`. Nothing writes to a source while it is looked at, so what was checked stays true.
fn locate(root: &Path, path: &str) -> Result<Option<PathBuf>, Error> {
    if path.len() > 4096 || path.contains('\0') {
        return Err(path_error(path, "it is too long or holds a NUL character"));
    }
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(path).components().all(plain) {
        return Err(path_error(path, "it must be relative and without \"..\""));
    }
    let real = |path: &Path| fs::canonicalize(path);
    let root = real(root).map_err(|source| Error::Io { path: root.to_owned(), source })?;
    let joined = root.join(path);
    match real(&joined) {
        Ok(found) if found.starts_with(&root) => Ok(Some(found)),
        Ok(_) => Err(path_error(path, "a symbolic link leads outside")),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Err(path_error(path, "symbolic links run in a circle"))
        }
        Err(source) => Err(Error::Io { path: joined, source }),
    }
}

fn path_error(path: &str, reason: &'static str) -> Error {
    Error::Path { path: path.chars().take(128).collect(), reason }
}
