//! Packing a folder of the user's own.

use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flate2::GzBuilder;

use super::names::{Kind, Names, Refused};
use super::{Error, shown};
use crate::build::ignore::Ignore;
use crate::build::tree::{self, Limits, Tree};

/// The files of rules, the first one that is there counts.
const IGNORE_FILES: [&str; 2] = [".narvanaignore", ".dockerignore"];
/// Kept whatever the rules say: the builder needs them.
const ALWAYS: [&str; 4] = ["Dockerfile", "Containerfile", ".dockerignore", "flake.nix"];
const MAX_IGNORE_FILE: u64 = 1024 * 1024;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// `.tar.gz`
    Gzip,
    /// `.tar.zst`
    Zstd,
}

/// Packs a folder without `.git` and without what `.narvanaignore`, or else `.dockerignore`, names. The same tree makes the
/// same bytes. Returns what was packed.
///
/// # Errors
/// [`Error::Entry`] and [`Error::Duplicate`] for what [`super::unpack`] would refuse on the other side, [`Error::Tree`] for the
/// folder, [`Error::Stream`] when `out` fails.
pub fn pack(folder: &Path, out: impl Write, compression: Compression, limits: &Limits) -> Result<Tree, Error> {
    let tree = what_is_packed(folder, limits)?;
    check(&tree, limits)?;
    let out = BufWriter::new(out);
    match compression {
        Compression::Gzip => {
            // No name and no time in the header.
            let mut encoder = GzBuilder::new().mtime(0).write(out, flate2::Compression::default());
            write(&tree, &mut encoder)?;
            encoder.finish().and_then(|mut out| out.flush()).map_err(Error::Stream)?;
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(Error::Stream)?;
            encoder.include_checksum(true).map_err(Error::Stream)?;
            write(&tree, &mut encoder)?;
            encoder.finish().and_then(|mut out| out.flush()).map_err(Error::Stream)?;
        }
    }
    Ok(tree)
}

/// What [`pack`] would take of a folder.
///
/// # Errors
/// [`tree::Error`] for the folder.
pub fn what_is_packed(folder: &Path, limits: &Limits) -> Result<Tree, tree::Error> {
    let mut rules = None;
    for file in IGNORE_FILES {
        if rules.is_none() {
            rules = tree::read_inside(folder, file, MAX_IGNORE_FILE)?;
        }
    }
    let ignore = Ignore::parse(&String::from_utf8_lossy(&rules.unwrap_or_default()));
    Tree::scan(folder, &ignore, &ALWAYS, limits)
}

fn write(tree: &Tree, out: impl Write) -> Result<(), Error> {
    tree.write_tar(out, 0).map_err(|error| match error {
        tree::Error::Write(source) => Error::Stream(source),
        error => Error::Tree(error),
    })
}

/// Finds here what would be refused after the upload.
fn check(tree: &Tree, limits: &Limits) -> Result<(), Error> {
    let mut names = Names::new(*limits);
    for (index, entry) in tree.entries().iter().enumerate() {
        let (number, path) = (index + 1, entry.path.as_os_str().as_bytes());
        let kind = match &entry.kind {
            tree::Kind::Folder => Kind::Folder,
            tree::Kind::File { .. } => Kind::File,
            tree::Kind::Link(target) => Kind::Link(target.to_string_lossy().into_owned()),
        };
        names.add(number, path, kind).map_err(|refused| error(number, path, refused, limits))?;
    }
    escaping_link(&names)
}

/// The public form of a refusal.
pub(super) fn error(number: usize, path: &[u8], refused: Refused, limits: &Limits) -> Error {
    match refused {
        Refused::Name(reason) => Error::Entry { number, path: shown(path), reason },
        Refused::Duplicate(other) => Error::Duplicate { number, path: shown(path), other },
        Refused::TooMany => Error::TooLarge { what: "entries", limit: limits.entries as u64 },
    }
}

/// The first link that leads outside, as an error.
pub(super) fn escaping_link(names: &Names) -> Result<(), Error> {
    match names.escaping_link() {
        None => Ok(()),
        Some((number, path, target)) => {
            let reason = format!("the symbolic link leads outside of the source, to {}", shown(target.as_bytes()));
            Err(Error::Entry { number, path, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use tokio_util::sync::CancellationToken;

    use super::super::unpack;
    use super::*;

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (path, text) in
            [("a/b.txt", "b"), ("a/é.txt", "e"), (".git/config", "x"), ("target/big", "x"), ("Dockerfile", "FROM a")]
        {
            fs::create_dir_all(dir.path().join(path).parent().expect("a parent")).expect("a folder");
            fs::write(dir.path().join(path), text).expect("a file");
        }
        fs::set_permissions(dir.path().join("a/b.txt"), fs::Permissions::from_mode(0o775)).expect("a mode");
        symlink("a/b.txt", dir.path().join("link")).expect("a link");
        fs::write(dir.path().join(".narvanaignore"), "target\nDockerfile\n").expect("rules");
        fs::write(dir.path().join(".dockerignore"), "a\n").expect("rules");
        dir
    }

    #[test]
    fn the_same_tree_makes_the_same_bytes_and_comes_back() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let (one, two) = (sample(), sample());
            let file = fs::File::options().write(true).open(two.path().join("a/b.txt")).expect("a file");
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000)).expect("a time");
            let (mut first, mut second) = (Vec::new(), Vec::new());
            let tree = pack(one.path(), &mut first, compression, &Limits::default()).expect("packed");
            pack(two.path(), &mut second, compression, &Limits::default()).expect("packed");
            assert_eq!(first, second);

            let into = tempfile::tempdir().expect("a folder");
            unpack(first.as_slice(), into.path(), &Limits::default(), &CancellationToken::new()).expect("unpacked");
            let back = Tree::scan(into.path(), &Ignore::default(), &[], &Limits::default()).expect("a tree");
            assert_eq!(back.entries(), tree.entries());
            assert_eq!(back.digest().expect("a digest"), tree.digest().expect("a digest"));
            assert!(into.path().join("Dockerfile").exists() && !into.path().join("target").exists());
            assert!(!into.path().join(".git").exists());
        }
    }

    #[test]
    fn links_come_back_letter_by_letter() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("d")).expect("a folder");
        let deep = "./".repeat(60);
        for (name, target) in [("a", ".//d"), ("b", "d/"), ("c", "d/./../d"), ("e", &deep), ("f", &"x".repeat(100))] {
            symlink(target, dir.path().join(name)).expect("a link");
        }
        symlink("y".repeat(101), dir.path().join("n".repeat(120))).expect("a link");
        let mut packed = Vec::new();
        let tree = pack(dir.path(), &mut packed, Compression::Gzip, &Limits::default()).expect("packed");
        let into = tempfile::tempdir().expect("a folder");
        unpack(packed.as_slice(), into.path(), &Limits::default(), &CancellationToken::new()).expect("unpacked");
        let back = Tree::scan(into.path(), &Ignore::default(), &[], &Limits::default()).expect("a tree");
        assert_eq!(back.entries(), tree.entries());
    }

    #[test]
    fn what_would_be_refused_later_is_refused_at_once() {
        let dir = sample();
        symlink("/etc/passwd", dir.path().join("z")).expect("a link");
        let error = pack(dir.path(), std::io::sink(), Compression::Gzip, &Limits::default()).expect_err("refused");
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
        fs::remove_file(dir.path().join("z")).expect("no link");
        fs::write(dir.path().join("A"), "twin").expect("a file");
        let error = pack(dir.path(), std::io::sink(), Compression::Gzip, &Limits::default()).expect_err("refused");
        assert!(matches!(error, Error::Duplicate { .. }), "{error}");
    }
}
