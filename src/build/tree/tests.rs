//! On real folders.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use futures::StreamExt;

use super::*;

fn sample() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path();
    for folder in ["src/deep", ".git", "node_modules/x", "docker"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    for (path, text) in [
        ("Dockerfile", "FROM scratch"),
        ("src/main.rs", "fn main() {}"),
        ("src/deep/a", "a"),
        (".git/config", "[core]"),
        ("node_modules/x/y", "y"),
        ("docker/Dockerfile", "FROM scratch"),
        ("run.sh", "#!/bin/sh"),
    ] {
        fs::write(root.join(path), text).expect("a file");
    }
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o700)).expect("a mode");
    symlink("/etc/shadow", root.join("secret")).expect("a link");
    dir
}

fn paths(tree: &Tree) -> Vec<String> {
    tree.entries().iter().map(|entry| entry.path.display().to_string()).collect()
}

#[test]
fn a_context_leaves_out_what_the_rules_say() {
    let dir = sample();
    fs::write(dir.path().join(".dockerignore"), "*\n!src\nsrc/deep\n").expect("rules");
    let tree = Tree::context(dir.path(), "", "docker/Dockerfile", &Limits::default()).expect("a context");
    assert_eq!(paths(&tree), [".dockerignore", "docker", "docker/Dockerfile", "src", "src/main.rs"]);
    fs::write(dir.path().join("docker/Dockerfile.dockerignore"), "src\nnode_modules\n").expect("rules");
    let tree = Tree::context(dir.path(), "", "docker/Dockerfile", &Limits::default()).expect("a context");
    assert!(paths(&tree).contains(&"run.sh".to_owned()) && !paths(&tree).contains(&"src".to_owned()));
}

#[test]
fn the_digest_sees_names_contents_and_the_executable_bit_only() {
    let digest = |root: &Path| {
        Tree::scan(root, &Ignore::default(), &[], &Limits::default()).and_then(|tree| tree.digest()).expect("a digest")
    };
    let (one, two) = (sample(), sample());
    assert_eq!(digest(one.path()), digest(two.path()));
    let before = digest(two.path());
    fs::set_permissions(two.path().join("run.sh"), fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::write(two.path().join(".git/config"), "[other]").expect("a file");
    assert_eq!(digest(two.path()), before);
    let changes: [fn(&Path); 5] = [
        |root| fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o644)).expect("a mode"),
        |root| fs::write(root.join("src/main.rs"), "fn main() { }").expect("a file"),
        |root| fs::rename(root.join("src/deep/a"), root.join("src/deep/b")).expect("a name"),
        |root| fs::create_dir(root.join("empty")).expect("a folder"),
        |root| {
            fs::remove_file(root.join("secret")).expect("no link");
            symlink("/etc/passwd", root.join("secret")).expect("a link");
        },
    ];
    let mut seen = vec![before];
    for change in changes {
        change(two.path());
        let digest = digest(two.path());
        assert!(!seen.contains(&digest));
        seen.push(digest);
    }
}

#[tokio::test]
async fn the_stream_is_a_tar_archive_of_the_tree() {
    let dir = sample();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    fs::create_dir(dir.path().join("d".repeat(120))).expect("a folder");
    fs::write(dir.path().join(&long), vec![7; 3 * CHUNK + 5]).expect("a file");
    let tree = Tree::context(dir.path(), "", "Dockerfile", &Limits::default()).expect("a context");
    let expected = paths(&tree);
    let mut bytes = Vec::new();
    let mut stream = tree.into_stream();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.expect("a chunk"));
    }
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut found = Vec::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").display().to_string();
        if path == long {
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).expect("contents");
            assert_eq!(contents, vec![7; 3 * CHUNK + 5]);
        }
        if path == "secret" {
            assert_eq!(entry.link_name().expect("a link").as_deref(), Some(Path::new("/etc/shadow")));
        }
        assert_eq!(entry.header().mtime().expect("a time"), CONTEXT_MTIME);
        found.push(path.trim_end_matches('/').to_owned());
    }
    assert_eq!(found, expected);
}

#[test]
fn a_file_that_shrinks_breaks_the_stream_instead_of_shifting_it() {
    let dir = sample();
    let tree = Tree::scan(dir.path(), &Ignore::default(), &[], &Limits::default()).expect("a tree");
    fs::write(dir.path().join("src/main.rs"), "short").expect("a file");
    assert!(matches!(tree.write_tar(io::sink(), 0), Err(Error::Changed(_))));
    assert!(matches!(tree.digest(), Err(Error::Changed(_))));
}

#[test]
fn paths_never_lead_outside() {
    let dir = sample();
    for bad in ["../x", "/etc", "src/../../x", "secret", "a\0b"] {
        assert!(matches!(read_inside(dir.path(), bad, 10), Err(Error::Path { .. })), "{bad:?}");
        assert!(folder_inside(dir.path(), bad).is_err(), "{bad:?}");
    }
    symlink("src", dir.path().join("inside")).expect("a link");
    assert_eq!(read_inside(dir.path(), "inside/deep/a", 10).expect("inside"), Some(b"a".to_vec()));
    assert_eq!(read_inside(dir.path(), "none", 10).expect("inside"), None);
    assert!(matches!(read_inside(dir.path(), "src/main.rs", 3), Err(Error::TooLarge { .. })));
    assert!(folder_inside(dir.path(), "src").is_ok() && folder_inside(dir.path(), "run.sh").is_err());
}

#[test]
fn limits_hold() {
    let dir = sample();
    for limits in [
        Limits { entries: 3, ..Limits::default() },
        Limits { bytes: 20, ..Limits::default() },
        Limits { depth: 1, ..Limits::default() },
    ] {
        let result = Tree::scan(dir.path(), &Ignore::default(), &[], &limits);
        assert!(matches!(result, Err(Error::TooLarge { .. })), "{limits:?}");
    }
}
