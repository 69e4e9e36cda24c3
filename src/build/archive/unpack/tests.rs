//! Archives built byte by byte, since no honest program writes them.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// One header block and the contents, padded.
struct Raw {
    name: Vec<u8>,
    kind: u8,
    link: Vec<u8>,
    mode: &'static str,
    size: Option<u64>,
    body: Vec<u8>,
}

fn raw(name: &str, kind: u8) -> Raw {
    Raw { name: name.into(), kind, link: Vec::new(), mode: "0000644", size: None, body: Vec::new() }
}

fn file(name: &str, body: &str) -> Raw {
    Raw { body: body.into(), ..raw(name, b'0') }
}

fn link(name: &str, target: &str) -> Raw {
    Raw { link: target.into(), ..raw(name, b'2') }
}

fn hard(name: &str, target: &str) -> Raw {
    Raw { link: target.into(), ..raw(name, b'1') }
}

/// An extended header for the next entry.
fn pax(fields: &[(&str, &str)]) -> Raw {
    let mut body = String::new();
    for (key, value) in fields {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len();
        while length != rest.len() + length.to_string().len() {
            length = rest.len() + length.to_string().len();
        }
        body.push_str(&format!("{length}{rest}"));
    }
    Raw { body: body.into_bytes(), ..raw("pax", b'x') }
}

impl Raw {
    fn bytes(&self) -> Vec<u8> {
        let mut block = [0_u8; 512];
        block[..self.name.len()].copy_from_slice(&self.name);
        block[100..107].copy_from_slice(self.mode.as_bytes());
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        let size = format!("{:011o}", self.size.unwrap_or(self.body.len() as u64));
        block[124..135].copy_from_slice(size.as_bytes());
        block[136..147].copy_from_slice(b"00000000000");
        block[148..156].fill(b' ');
        block[156] = self.kind;
        block[157..157 + self.link.len()].copy_from_slice(&self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut bytes = block.to_vec();
        bytes.extend_from_slice(&self.body);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn tar_of(entries: &[Raw]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(Raw::bytes).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("written");
    encoder.finish().expect("finished")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("compressed")
}

fn take(bytes: &[u8], limits: &Limits) -> (tempfile::TempDir, Result<Unpacked, Error>) {
    let parent = tempfile::tempdir().expect("a folder");
    let into = parent.path().join("into");
    fs::create_dir(&into).expect("a folder");
    let result = unpack(bytes, &into, limits, &CancellationToken::new());
    // Whatever the archive wanted, nothing lies beside the folder.
    let beside = fs::read_dir(parent.path()).expect("a folder").count();
    assert_eq!(beside, 1, "something was written outside");
    (parent, result)
}

#[track_caller]
fn refused(entries: &[Raw]) -> Error {
    take(&tar_of(entries), &Limits::default()).1.expect_err("refused")
}

#[track_caller]
fn refused_entry(entries: &[Raw], wanted: usize) -> String {
    match refused(entries) {
        Error::Entry { number, path, reason } => {
            assert_eq!(number, wanted, "{path}: {reason}");
            assert!(!path.contains(char::is_control), "{path:?}");
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_usual_archive_in_every_format() {
    let entries = [
        raw("./", b'5'),
        raw("top/", b'5'),
        Raw { mode: "0006755", ..file("top/run.sh", "#!/bin/sh") },
        file("top/sub/deep/a.txt", "hello"),
        link("top/link", "sub/deep/a.txt"),
        link("top/dangling", "not/there"),
        hard("top/again", "top/sub/deep/a.txt"),
        // After its contents, as some programs do.
        raw("top/sub/", b'5'),
    ];
    let plain = tar_of(&entries);
    for bytes in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let (dir, result) = take(&bytes, &Limits::default());
        assert_eq!(result.expect("unpacked"), Unpacked { entries: 7, bytes: 19 });
        let into = dir.path().join("into");
        assert_eq!(fs::read_to_string(into.join("top/link")).expect("a file"), "hello");
        assert_eq!(fs::read_to_string(into.join("top/again")).expect("a file"), "hello");
        let mode = fs::metadata(into.join("top/run.sh")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o7100, 0o100, "executable, not set-uid: {mode:o}");
    }
}

#[test]
fn paths_that_lead_outside() {
    assert!(refused_entry(&[file("ok", "x"), file("../../etc/cron.d/x", "x")], 2).contains("\"..\""));
    assert!(refused_entry(&[file("/abs", "x")], 1).contains("absolute"));
    refused_entry(&[file("a/../../b", "x")], 1);
    refused_entry(&[raw("..", b'5')], 1);
    refused_entry(&[pax(&[("path", "../x")]), file("fine", "x")], 1);
    refused_entry(&[pax(&[("path", "a\0b")]), file("fine", "x")], 1);
    refused_entry(&[Raw { name: b"latin-\xe9".to_vec(), ..file("", "x") }], 1);
    refused_entry(&[Raw { name: b"\x1b[2J/../x".to_vec(), ..file("", "x") }], 1);
}

#[test]
fn links_that_lead_outside() {
    assert!(refused_entry(&[link("a", "/"), file("a/etc/x", "x")], 2).contains("through a symbolic link"));
    assert!(refused_entry(&[link("a", "/etc/passwd")], 1).contains("/etc/passwd"));
    refused_entry(&[link("d/a", "../../x")], 1);
    refused_entry(&[link("d/e/s", "../.."), link("t", "d/e/s/../..")], 2);
    refused_entry(&[hard("a", "/etc/passwd")], 1);
    refused_entry(&[hard("a", "../../etc/passwd")], 1);
    // To a link: the copy would follow it.
    refused_entry(&[link("l", "f"), hard("a", "l")], 2);
    refused_entry(&[hard("a", "later"), file("later", "x")], 1);
    refused_entry(&[link("a", "")], 1);
}

#[test]
fn a_link_in_the_place_of_a_folder() {
    assert!(matches!(refused(&[link("a", "b"), raw("a/", b'5')]), Error::Duplicate { number: 2, .. }));
    assert!(matches!(refused(&[raw("a/", b'5'), link("a", "b")]), Error::Duplicate { number: 2, .. }));
    assert!(matches!(refused(&[file("a/x", "x"), link("a", "b")]), Error::Duplicate { number: 2, .. }));
    refused_entry(&[file("a", "x"), file("a/b", "x")], 2);
}

#[test]
fn what_is_neither_file_nor_folder_nor_link() {
    for kind in [b'3', b'4', b'6', b'V', b'M', b'Z'] {
        refused_entry(&[raw("x", kind)], 1);
    }
    refused(&[raw("x", b'S')]);
    refused_entry(&[Raw { body: b"x".to_vec(), ..raw("d", b'5') }], 1);
    refused_entry(&[pax(&[("GNU.sparse.major", "1")]), file("x", "x")], 1);
}

#[test]
fn headers_that_disagree() {
    refused_entry(&[pax(&[("size", "512")]), file("x", "y")], 1);
    take(&tar_of(&[pax(&[("size", "1")]), file("x", "y")]), &Limits::default()).1.expect("they agree");
    refused_entry(&[Raw { kind: b'g', ..pax(&[("path", "../x")]) }, file("x", "y")], 1);
    take(&tar_of(&[Raw { kind: b'g', ..pax(&[("comment", "abc")]) }, file("x", "y")]), &Limits::default())
        .1
        .expect("as git archive writes it");
}

#[test]
fn twins() {
    for (one, two) in [("a", "a"), ("a", "./a"), ("README", "readme"), ("caf\u{e9}", "cafe\u{301}"), ("Ä/x", "ä/y")] {
        let error = refused(&[file(one, "1"), file(two, "2")]);
        assert!(matches!(error, Error::Duplicate { number: 2, .. }), "{one} {two}: {error:?}");
    }
    assert!(matches!(refused(&[raw("d/", b'5'), raw("d/", b'5')]), Error::Duplicate { .. }));
}

#[test]
fn damage() {
    let plain = tar_of(&[file("a", &"x".repeat(3000)), file("b", "y")]);
    let packed = gzip(&plain);
    let framed = zstd(&plain);
    let joined = |one: &[u8], two: &[u8]| [one, two].concat();
    for (what, bytes) in [
        ("cut in a file", plain[..1500].to_vec()),
        ("cut after a file", plain[..512 + 3072].to_vec()),
        ("cut in a header", plain[..512 + 3072 + 100].to_vec()),
        ("one block of zeros only", plain[..plain.len() - 512].to_vec()),
        ("no block of zeros", plain[..plain.len() - 1024].to_vec()),
        ("garbage behind", joined(&plain, b"garbage")),
        ("a second archive behind", joined(&plain, &plain)),
        ("gzip cut", packed[..packed.len() - 9].to_vec()),
        ("gzip without its trailer", packed[..packed.len() - 8].to_vec()),
        ("gzip with garbage", joined(&packed, b"garbage")),
        ("two gzip members", joined(&packed, &packed)),
        ("the archive in two gzip members", joined(&gzip(&plain[..1000]), &gzip(&plain[1000..]))),
        ("zstd cut", framed[..framed.len() - 3].to_vec()),
        ("two zstd frames", joined(&framed, &framed)),
        ("zstd with garbage", joined(&framed, b"garbage")),
        ("gzip of garbage", gzip(&[7; 2000])),
    ] {
        let error = take(&bytes, &Limits::default()).1.expect_err(what);
        assert!(matches!(error, Error::Malformed(_)), "{what}: {error:?}");
    }
    let mut flipped = packed;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    take(&flipped, &Limits::default()).1.expect_err("a flipped bit");
}

#[test]
fn other_formats_are_named() {
    for (bytes, name) in [
        (&b""[..], "empty"),
        (b"PK\x03\x04rest", "zip"),
        (b"BZh9rest", "bzip2"),
        (b"\xfd7zXZ\0rest", "xz"),
        (&[b'x'; 600], "no archive"),
        (b"short", "no archive"),
    ] {
        let error = take(bytes, &Limits::default()).1.expect_err("refused");
        assert!(matches!(error, Error::UnknownFormat(_)) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn limits_hold() {
    let limits = Limits { bytes: 1000, entries: 5, depth: 3 };
    let too_large = |entries: &[Raw]| match take(&tar_of(entries), &limits).1 {
        Err(Error::TooLarge { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(too_large(&[file("a", &"x".repeat(1001))]), "bytes unpacked");
    // A hard link costs a copy.
    assert_eq!(too_large(&[file("a", &"x".repeat(600)), hard("b", "a")]), "bytes unpacked");
    let many: Vec<Raw> = (0..6).map(|number| file(&format!("f{number}"), "")).collect();
    assert_eq!(too_large(&many), "entries");
    // Folders count even when no entry names them.
    assert_eq!(too_large(&[file("a/b/c/x", ""), file("d/e/f/x", "")]), "entries");
    assert!(matches!(take(&tar_of(&[file("a/b/c/d/x", "")]), &limits).1, Err(Error::Entry { .. })));
    refused_entry(&[pax(&[("path", &"n".repeat(256))]), file("x", "")], 1);
    refused_entry(&[pax(&[("path", &"n/".repeat(2100))]), file("x", "")], 1);
}

#[test]
fn a_header_without_end_is_not_kept_in_memory() {
    let error = refused(&[Raw { body: vec![b'n'; 200_000], ..raw("././@LongLink", b'L') }, file("x", "")]);
    assert!(matches!(error, Error::TooLarge { what: "bytes in one header", .. }), "{error:?}");
}

#[test]
fn a_bomb_is_cut_short() {
    // 200 MiB of zeros in some 200 KiB.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let size = 200 * 1024 * 1024;
    encoder.write_all(&Raw { size: Some(size), ..raw("zeros", b'0') }.bytes()).expect("written");
    let megabyte = vec![0; 1024 * 1024];
    for _ in 0..200 {
        encoder.write_all(&megabyte).expect("written");
    }
    encoder.write_all(&[0; 1024]).expect("written");
    let bomb = encoder.finish().expect("finished");
    let (dir, result) = take(&bomb, &Limits::default());
    assert!(matches!(result, Err(Error::TooLarge { what: "times its own size in it", .. })), "{result:?}");
    let written = fs::metadata(dir.path().join("into/zeros")).expect("a file").len();
    assert!(written <= 65 * 1024 * 1024, "{written}");
}

#[test]
fn a_size_that_is_not_there_allocates_nothing() {
    let error = take(&tar_of(&[Raw { size: Some(8_589_934_591), ..raw("x", b'0') }]), &Limits::default()).1;
    assert!(matches!(error, Err(Error::TooLarge { .. })), "{error:?}");
}

#[test]
fn stopping_and_a_folder_in_use() {
    let bytes = tar_of(&[file("a", "x")]);
    let dir = tempfile::tempdir().expect("a folder");
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(matches!(unpack(bytes.as_slice(), dir.path(), &Limits::default(), &stop), Err(Error::Stopped)));
    fs::write(dir.path().join("there"), "x").expect("a file");
    let result = unpack(bytes.as_slice(), dir.path(), &Limits::default(), &CancellationToken::new());
    assert!(matches!(result, Err(Error::Io { .. })));
}

#[test]
fn an_upload_that_breaks_off_is_not_a_bad_archive() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let packed = gzip(&tar_of(&[file("a", &"x".repeat(100_000))]));
    let dir = tempfile::tempdir().expect("a folder");
    let source = io::Cursor::new(packed[..packed.len() / 2].to_vec()).chain(Broken);
    let result = unpack(source, dir.path(), &Limits::default(), &CancellationToken::new());
    assert!(matches!(result, Err(Error::Stream(_))), "{result:?}");
}

#[test]
fn arbitrary_bytes_never_panic() {
    use proptest::prelude::*;
    proptest!(|(noise in proptest::collection::vec(any::<u8>(), 0..64), at in 0_usize..3000)| {
        let mut bytes = tar_of(&[pax(&[("path", "a/b")]), file("x", "y"), link("l", "a/b"), raw("d/", b'5')]);
        let at = at.min(bytes.len());
        let end = (at + noise.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&noise[..end - at]);
        let _ = take(&bytes, &Limits::default());
        let _ = take(&noise, &Limits::default());
    });
}

/// `tar c .` in a checkout has it all, and some of it is large.
#[test]
fn what_git_keeps_for_itself_is_left_out() {
    let pack = "x".repeat(200_000);
    let entries = [
        raw("./", b'5'),
        raw("./.git/", b'5'),
        file("./.git/HEAD", "ref: refs/heads/main"),
        file("./.git/objects/pack/a.pack", &pack),
        file("./sub/.git", "gitdir: ../.git/modules/sub"),
        file("./.gitignore", "target"),
        file("./main.go", "package main"),
    ];
    let (dir, result) = take(&tar_of(&entries), &Limits::default());
    result.expect("taken");
    let into = dir.path().join("into");
    assert!(into.join("main.go").exists() && into.join(".gitignore").exists());
    assert!(!into.join(".git").exists() && !into.join("sub/.git").exists());
}
