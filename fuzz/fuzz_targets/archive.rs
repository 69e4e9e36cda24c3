//! Source archives, as anybody may upload them.
//!
//! The first byte of the input chooses whether the rest is taken as it is, or as a tar whose checksums are made right
//! first (no fuzzer guesses those), which is then compressed or not. Whatever it is, nothing appears outside of the folder,
//! no link in it leads out, the limits hold, and what was unpacked is the same after it was packed again.

#![no_main]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use narvana::build::archive::{Compression, Error, Unpacked, pack, unpack};
use narvana::build::tree::{Entry, Kind, Limits, Tree};
use tokio_util::sync::CancellationToken;

const LIMITS: Limits = Limits { bytes: 64 * 1024, entries: 40, depth: 6 };
const BLOCK: usize = 512;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let archive = match kind % 4 {
        0 => rest.to_vec(),
        1 => mended(rest),
        2 => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&mended(rest)).and_then(|()| gzip.finish()).expect("into memory")
        }
        _ => zstd::encode_all(mended(rest).as_slice(), 1).expect("into memory"),
    };
    let around = Surroundings::new();
    let result = unpack(archive.as_slice(), &around.into, &LIMITS, &CancellationToken::new());
    around.check_untouched();
    check_inside(&around.into, &around.into, 0);
    match result {
        Ok(unpacked) => check_again(&around.into, unpacked),
        // The disk did what it was told, so that was not the reason.
        Err(error @ (Error::Io { .. } | Error::Stream(_) | Error::Tree(_) | Error::Stopped)) => {
            panic!("refused for the wrong reason: {error}, {:?}", std::error::Error::source(&error))
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
});

/// A tar with the checksum of every header as it should be, and an end.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    let mut at = 0;
    while at < tar.len() {
        let header = &mut tar[at..at + BLOCK];
        at += BLOCK;
        if header.iter().all(|byte| *byte == 0) {
            continue;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..136]).unwrap_or_default();
        let size = usize::from_str_radix(size.trim_matches([' ', '\0']), 8).unwrap_or(0);
        at = at.saturating_add(size.next_multiple_of(BLOCK));
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}

/// The folder to unpack into, three deep among others, with files beside it at every step.
struct Surroundings {
    _folder: tempfile::TempDir,
    into: PathBuf,
    beside: Vec<PathBuf>,
}

impl Surroundings {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut into = folder.path().to_owned();
        let mut beside = Vec::new();
        for name in ["a", "b", "into"] {
            let file = into.join("beside");
            fs::write(&file, "untouched").expect("writes");
            beside.push(file);
            into.push(name);
            fs::create_dir(&into).expect("makes a folder");
        }
        Self { _folder: folder, into, beside }
    }

    fn check_untouched(&self) {
        for file in &self.beside {
            assert_eq!(fs::read(file).expect("it is there"), b"untouched");
            let around = file.parent().expect("it lies in a folder");
            assert_eq!(fs::read_dir(around).expect("reads").count(), 2, "something appeared in {}", around.display());
        }
        assert!(!Path::new("/narvana-escaped").exists(), "something appeared in the root");
    }
}

/// Only files, folders and links that end inside, with nothing special about them.
fn check_inside(root: &Path, folder: &Path, depth: usize) {
    assert!(depth <= LIMITS.depth + 1, "{} lies too deep", folder.display());
    for item in fs::read_dir(folder).expect("reads") {
        let path = item.expect("an entry").path();
        let metadata = fs::symlink_metadata(&path).expect("it is there");
        if metadata.is_symlink() {
            let target = fs::read_link(&path).expect("reads");
            assert!(target.is_relative(), "{} leads to {}", path.display(), target.display());
            // Without an end when it leads nowhere or in a circle.
            if let Ok(end) = fs::canonicalize(&path) {
                let root = fs::canonicalize(root).expect("it is there");
                assert!(end.starts_with(root), "{} leads to {}", path.display(), end.display());
            }
        } else if metadata.is_dir() {
            check_inside(root, &path, depth + 1);
        } else {
            assert!(metadata.is_file(), "{} is neither", path.display());
            assert_eq!(metadata.permissions().mode() & 0o7000, 0, "{} has special bits", path.display());
            assert!(metadata.len() <= LIMITS.bytes);
        }
    }
}

fn check_again(into: &Path, unpacked: Unpacked) {
    let none = narvana::build::ignore::Ignore::parse("");
    let tree = Tree::scan(into, &none, &[], &LIMITS).expect("what was unpacked is within the limits");
    let sizes = |entry: &Entry| if let Kind::File { size, .. } = entry.kind { size } else { 0 };
    let bytes: u64 = tree.entries().iter().map(sizes).sum();
    assert!(bytes <= unpacked.bytes && unpacked.bytes <= LIMITS.bytes, "{bytes} bytes, told {unpacked:?}");
    assert!(unpacked.entries <= LIMITS.entries);
    // Rules of what to leave out would change it.
    if [".narvanaignore", ".dockerignore"].iter().any(|rules| fs::symlink_metadata(into.join(rules)).is_ok()) {
        return;
    }
    let mut packed = Vec::new();
    let first = pack(into, &mut packed, Compression::Gzip, &LIMITS).expect("what was unpacked can be packed");
    let second = tempfile::tempdir().expect("a folder");
    unpack(packed.as_slice(), second.path(), &LIMITS, &CancellationToken::new()).expect("what was packed is unpacked");
    let again = Tree::scan(second.path(), &none, &[], &LIMITS).expect("as before");
    assert_eq!(again.digest().expect("reads"), first.digest().expect("reads"), "it is another source after packing");
}
