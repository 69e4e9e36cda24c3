//! An image of a closure: the store paths, in layers, and nothing else.
//!
//! Layers are made of nothing but the paths in them, so the same path is the same blob in every image, on every node and at any time.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use futures::stream;
use serde_json::json;
use tar::{EntryType, Header};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::artifact::{Error, Stored};
use crate::build::job::{Failure, Job, Made};
use crate::build::tree::{self, link};
use crate::decide::layers::{StorePath, layers};
use crate::model::{BuildCode, BuiltImage, Repository};
use crate::task::blocking;

/// What Nix gives everything in its store, in seconds.
const MTIME: u64 = 1;
/// Largest layer.
const LAYER_BYTES_MAX: u64 = 16 << 30;
/// Longest description of an image: a hundred layers take some twenty kilobytes.
const DESCRIPTION_BYTES_MAX: u64 = 1 << 20;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl Job {
    /// Puts the image into this node's store.
    pub(super) async fn store_closure(
        &self,
        out: &str,
        closure: &[StorePath],
        program: Option<String>,
        port: Option<u16>,
        lines: &mpsc::Sender<String>,
    ) -> Result<Made, Failure> {
        let began = Instant::now();
        // Programs expect a folder for temporary files.
        let mut stored = vec![self.put_layer(|tar| folder(tar, "tmp", 0o1777)).await?];
        for paths in layers(closure, out) {
            let paths: Vec<String> = paths.into_iter().map(str::to_owned).collect();
            stored.push(self.put_layer(move |tar| write_paths(tar, &paths)).await?);
        }
        let mut environment = vec![format!("PATH={out}/bin")];
        // Where there is no distribution, programs have to be told whom to trust.
        let authorities = format!("{out}/etc/ssl/certs/ca-bundle.crt");
        let looked_for = authorities.clone();
        if blocking(move || Path::new(&looked_for).is_file()).await {
            environment.push(format!("SSL_CERT_FILE={authorities}"));
        }
        let digests: Vec<String> = stored.iter().map(|layer| layer.digest.with_algorithm()).collect();
        let config = json!({
            "created": "1970-01-01T00:00:01Z",
            "architecture": self.options.arch,
            "os": "linux",
            "config": {
                "Env": environment,
                "Cmd": program.map(|program| [program]),
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let config = self.put_text(&config.to_string()).await?;
        let part = |kind: &str, part: &Stored| json!({"mediaType": kind, "digest": part.digest.with_algorithm(), "size": part.bytes});
        let parts: Vec<_> = stored.iter().map(|layer| part(LAYER, layer)).collect();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": part(CONFIG, &config), "layers": parts});
        let manifest = self.put_text(&manifest.to_string()).await?;
        let bytes: u64 = stored.iter().map(|layer| layer.bytes).sum();
        // The log is best effort, and its reader outlives this work.
        let _ = lines
            .send(format!(
                "Stored an image of {} store paths in {} layers of {} KiB, in {:.1} s.",
                closure.len(),
                stored.len(),
                bytes.div_ceil(1 << 10),
                began.elapsed().as_secs_f32()
            ))
            .await;
        Ok(Made {
            image: BuiltImage { repository: Repository(self.build.service), manifest: manifest.digest },
            id: config.digest.with_algorithm(),
            exposed_ports: port.into_iter().collect(),
        })
    }

    async fn put_layer(
        &self,
        write: impl FnOnce(&mut Tar<'_>) -> io::Result<()> + Send + 'static,
    ) -> Result<Stored, Failure> {
        let bytes = tree::stream(move |out| {
            let mut tar = Tar::new(out);
            write(&mut tar)?;
            tar.finish()
        });
        self.parts.artifacts.store().put(bytes, LAYER_BYTES_MAX).await.map_err(|error| not_stored(&error))
    }

    async fn put_text(&self, text: &str) -> Result<Stored, Failure> {
        let bytes = stream::iter([Ok::<_, io::Error>(Bytes::copy_from_slice(text.as_bytes()))]);
        self.parts.artifacts.store().put(bytes, DESCRIPTION_BYTES_MAX).await.map_err(|error| not_stored(&error))
    }
}

fn not_stored(error: &Error) -> Failure {
    Failure::new(
        BuildCode::Infrastructure,
        format!("the image was built and could not be stored on this node: {error}"),
        "look at the disk of this node, then deploy again",
    )
}

type Tar<'a> = tar::Builder<&'a mut dyn Write>;

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(MTIME);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

fn folder(tar: &mut Tar<'_>, name: &str, mode: u32) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Directory, mode, 0), name, io::empty())
}

/// The paths with all that is in them, sorted.
fn write_paths(tar: &mut Tar<'_>, paths: &[String]) -> io::Result<()> {
    folder(tar, "nix", 0o755)?;
    folder(tar, "nix/store", 0o755)?;
    for path in paths {
        write_path(tar, Path::new(path))?;
    }
    Ok(())
}

/// Everything below a path, each folder before what is in it.
fn write_path(tar: &mut Tar<'_>, path: &Path) -> io::Result<()> {
    // Folders may be nested as deep as paths go, which is deeper than a stack.
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let name = path.strip_prefix("/").map_err(io::Error::other)?;
        let about = fs::symlink_metadata(&path)?;
        if about.is_symlink() {
            link::append(tar, &mut header(EntryType::Symlink, 0o777, 0), name, &fs::read_link(&path)?)?;
        } else if about.is_dir() {
            tar.append_data(&mut header(EntryType::Directory, 0o555, 0), name, io::empty())?;
            let mut inside = fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            // The last is taken first.
            inside.sort_by(|one, other| other.cmp(one));
            open.append(&mut inside);
        } else {
            let mode = if about.permissions().mode() & 0o111 == 0 { 0o444 } else { 0o555 };
            tar.append_data(&mut header(EntryType::Regular, mode, about.len()), name, fs::File::open(&path)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_layer_is_what_is_there_however_deep_and_odd() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("x");
        let mut deep = root.clone();
        (0..600).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).expect("folders");
        fs::write(root.join("b"), "text").expect("writes");
        fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o4711)).expect("changes");
        fs::write(root.join(OsStr::from_bytes(b"a\xff")), "").expect("writes");
        symlink(".//x/", root.join("c")).expect("links");
        symlink("l".repeat(300), root.join("e")).expect("links");
        let write = || {
            let mut bytes = Vec::new();
            let mut tar: Tar<'_> = tar::Builder::new(&mut bytes);
            write_path(&mut tar, &root).expect("writes");
            tar.finish().expect("ends");
            drop(tar);
            bytes
        };
        let bytes = write();
        assert_eq!(bytes, write(), "the same is the same");
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().expect("an archive") {
            let entry = entry.expect("an entry");
            let link = entry.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
            seen.push((entry.path_bytes().into_owned(), entry.header().mode().expect("a mode"), link));
        }
        assert_eq!(seen.len(), 1 + 4 + 600);
        let base = root.strip_prefix("/").expect("it is whole").as_os_str().as_bytes();
        let find = |name: &[u8]| {
            let path = [base, b"/", name].concat();
            seen.iter().find(|(other, ..)| *other == path).expect("it is there")
        };
        assert_eq!((find(b"b").1, find(b"a\xff").1), (0o555, 0o444), "of its rights only that it runs");
        assert_eq!(find(b"c").2.as_deref(), Some(".//x/"));
        assert_eq!(find(b"e").2.as_deref(), Some("l".repeat(300).as_str()));
    }
}
