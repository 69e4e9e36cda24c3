//! What a source is: reads for `decide::detect` what that asks for.

use crate::decide::detect::{Answer, Contents, Detection, Listing, Undetected, Want, detect};

use super::tree::{Kind, Tree, head_inside};

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
            Answer::Wants(wants) => contents.extend(wants.into_iter().map(|want| read(tree, want))),
        }
    }
}

fn read(tree: &Tree, Want { path, bytes }: Want) -> (String, Option<String>) {
    let head = head_inside(tree.root(), &path, bytes.into()).ok().flatten();
    let text = head.map(|head| String::from_utf8_lossy(&head).into_owned());
    (path, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::archive::what_is_packed;
    use crate::build::tree::Limits;
    use crate::model::BuildStrategy;

    #[test]
    fn a_folder_is_looked_at_without_leaving_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(outside.path(), "module outside\ngo 1.1\n").expect("writes");
        std::os::unix::fs::symlink(outside.path(), folder.path().join("go.mod")).expect("a link");
        let look = || detect_in(&what_is_packed(folder.path(), &Limits::default()).expect("a tree"));
        assert_eq!(
            look().expect_err("it leads outside").message,
            "\"go.mod\" cannot be read: \"it is too large, or no text\""
        );
        std::fs::remove_file(folder.path().join("go.mod")).expect("removes");
        std::fs::write(folder.path().join("real.mod"), "module inside\ngo 1.22\n").expect("writes");
        std::os::unix::fs::symlink("real.mod", folder.path().join("go.mod")).expect("a link");
        std::fs::write(folder.path().join("main.go"), b"package main\n// \xff\n").expect("writes");
        let found = look().expect("Go");
        assert_eq!((found.strategy, found.version.as_deref()), (BuildStrategy::AutoGo, Some("1.22")));
        assert_eq!(found.entry_points.len(), 1);
    }
}
