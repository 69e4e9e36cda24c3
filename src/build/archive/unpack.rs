//! Unpacking an archive nobody vouches for.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tar::EntryType;
use tokio_util::sync::CancellationToken;

use super::names::{Kind, Names};
use super::pack::{error as refusal, escaping_link};
use super::source::{Decoded, Meter, Metered};
use super::{Error, shown};
use crate::build::tree::Limits;

const BLOCK: u64 = 512;
/// What a global header may hold.
const MAX_GLOBAL_HEADER: u64 = 64 * 1024;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, folders and links.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Unpacks a tar, tar.gz or tar.zst into `into`, an empty folder that nobody else writes to. On an error the folder holds a
/// part of it and is to be thrown away.
///
/// # Errors
/// As [`Error`] says; whatever its variant, nothing was written outside of `into`.
pub fn unpack(archive: impl Read, into: &Path, limits: &Limits, stop: &CancellationToken) -> Result<Unpacked, Error> {
    // No file is written through a link because no link exists until the last file is written (`Unpacking::finish`); that
    // needs a folder without links to begin with.
    if fs::read_dir(into)
        .and_then(|mut items| items.next().transpose())
        .map_err(|source| io_error(into, source))?
        .is_some()
    {
        return Err(io_error(into, io::ErrorKind::DirectoryNotEmpty.into()));
    }
    let meter = Rc::new(Meter::new(*limits, stop.clone()));
    let source = Decoded::open(archive, &meter)?;
    let mut archive = tar::Archive::new(Metered { inner: source, meter: Rc::clone(&meter) });
    let mut work = Unpacking {
        into,
        limits,
        meter: &meter,
        names: Names::new(*limits),
        links: Vec::new(),
        done: Unpacked::default(),
    };
    let end = work.entries(&mut archive)?;
    let mut rest = archive.into_inner();
    check_end(&mut rest, &meter, end)?;
    rest.inner.check_nothing_follows()?;
    work.finish()
}

struct Unpacking<'a> {
    into: &'a Path,
    limits: &'a Limits,
    meter: &'a Rc<Meter>,
    names: Names,
    /// Links to make at the very end: path and target.
    links: Vec<(PathBuf, String)>,
    done: Unpacked,
}

impl Unpacking<'_> {
    /// Takes all entries and returns the offset behind the last one.
    fn entries<R: Read>(&mut self, archive: &mut tar::Archive<R>) -> Result<u64, Error> {
        let mut end = 0;
        let mut number = 0;
        let mut entries = archive.entries().map_err(|error| self.meter.explain(error))?;
        loop {
            self.meter.begin_header();
            let Some(entry) = entries.next() else { return Ok(end) };
            let mut entry = entry.map_err(|error| self.meter.explain(error))?;
            self.meter.begin_content();
            number += 1;
            if number > self.limits.entries {
                return Err(Error::TooLarge { what: "entries", limit: self.limits.entries as u64 });
            }
            end = entry.raw_file_position() + entry.size().next_multiple_of(BLOCK);
            self.entry(number, &mut entry)?;
        }
    }

    fn entry<R: Read>(&mut self, number: usize, entry: &mut tar::Entry<'_, R>) -> Result<(), Error> {
        let raw_path = entry.path_bytes().into_owned();
        let refused = |reason: &str| Error::Entry { number, path: shown(&raw_path), reason: reason.to_owned() };
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            return self.global_header(number, entry);
        }
        check_extensions(entry).map_err(|reason| refused(&reason))?;
        let kind = entry.header().entry_type();
        if !kind.is_file() && kind != EntryType::Continuous && entry.size() > 0 {
            return Err(refused("something that is not a file has contents"));
        }
        // As of a checkout: what git keeps for itself is no part of a source.
        if raw_path.split(|byte| *byte == b'/').any(|name| name == b".git") {
            // Read now: what is left unread counts for the header after it.
            return io::copy(entry, &mut io::sink()).map(|_| ()).map_err(|error| self.meter.explain(error));
        }
        match kind {
            // Old archives mark a folder by the slash at the end of its name.
            EntryType::Regular if raw_path.ends_with(b"/") && entry.size() == 0 => self.folder(number, &raw_path),
            EntryType::Regular | EntryType::Continuous => self.file(number, &raw_path, entry),
            EntryType::Directory => self.folder(number, &raw_path),
            EntryType::Symlink => self.link(number, &raw_path, &link_target(entry)),
            EntryType::Link => self.hard_link(number, &raw_path, &link_target(entry), executable(entry)),
            EntryType::Char | EntryType::Block => Err(refused("it is a device")),
            EntryType::Fifo => Err(refused("it is a pipe")),
            EntryType::GNUSparse => Err(refused("it is a sparse file; pack without --sparse")),
            _ => Err(refused("it is of a kind that sources do not have")),
        }
    }

    /// `git archive` writes the commit into a comment there; anything else would change what later entries mean.
    fn global_header<R: Read>(&mut self, number: usize, entry: &mut tar::Entry<'_, R>) -> Result<(), Error> {
        let refused =
            |reason: &str| Err(Error::Entry { number, path: "global header".to_owned(), reason: reason.to_owned() });
        if entry.size() > MAX_GLOBAL_HEADER {
            return refused("it is too large");
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|error| self.meter.explain(error))?;
        let only_comments =
            tar::PaxExtensions::new(&bytes).all(|field| field.is_ok_and(|field| field.key_bytes() == b"comment"));
        if only_comments { Ok(()) } else { refused("it sets more than a comment") }
    }

    fn folder(&mut self, number: usize, raw_path: &[u8]) -> Result<(), Error> {
        let path = self.add(number, raw_path, Kind::Folder)?;
        self.make_folder(&self.into.join(path))
    }

    fn file(&mut self, number: usize, raw_path: &[u8], entry: &mut tar::Entry<'_, impl Read>) -> Result<(), Error> {
        let (size, executable) = (entry.size(), executable(entry));
        let path = self.add(number, raw_path, Kind::File)?;
        self.count_bytes(size)?;
        let mut file = self.create(&path, executable)?;
        let mut source = SourceErrors { inner: entry, failed: None };
        let copied = io::copy(&mut source, &mut file);
        if let Some(error) = source.failed {
            return Err(self.meter.explain(error));
        }
        let copied = copied.map_err(|source| io_error(&self.into.join(&path), source))?;
        if copied < size {
            return Err(Error::Malformed(format!("it ends inside of entry {number} ({})", shown(raw_path))));
        }
        Ok(())
    }

    fn link(&mut self, number: usize, raw_path: &[u8], target: &[u8]) -> Result<(), Error> {
        let target = match std::str::from_utf8(target) {
            Ok(target) if !target.is_empty() && target.len() <= 4096 && !target.contains('\0') => target,
            _ => {
                let reason = "its target is empty, too long or not UTF-8".to_owned();
                return Err(Error::Entry { number, path: shown(raw_path), reason });
            }
        };
        let path = self.add(number, raw_path, Kind::Link(target.to_owned()))?;
        self.links.push((self.into.join(path), target.to_owned()));
        Ok(())
    }

    /// A copy: two names for one file would be two files after the next packing anyway.
    fn hard_link(&mut self, number: usize, raw_path: &[u8], target: &[u8], executable: bool) -> Result<(), Error> {
        let target = self.names.file(target).map_err(|refused| refusal(number, raw_path, refused, self.limits))?;
        let path = self.add(number, raw_path, Kind::File)?;
        let target = self.into.join(target);
        let mut from = fs::File::open(&target).map_err(|source| io_error(&target, source))?;
        let size = from.metadata().map_err(|source| io_error(&target, source))?.len();
        self.count_bytes(size)?;
        let mut file = self.create(&path, executable)?;
        io::copy(&mut from, &mut file).map_err(|source| io_error(&self.into.join(path), source))?;
        Ok(())
    }

    /// Makes the links, now that no file is to be written any more and all of them are known to stay inside.
    fn finish(self) -> Result<Unpacked, Error> {
        escaping_link(&self.names)?;
        for (path, _) in &self.links {
            if let Some(parent) = path.parent() {
                self.make_folder(parent)?;
            }
        }
        for (path, target) in &self.links {
            symlink(target, path).map_err(|source| io_error(path, source))?;
        }
        Ok(self.done)
    }

    fn add(&mut self, number: usize, raw_path: &[u8], kind: Kind) -> Result<String, Error> {
        let path = self
            .names
            .add(number, raw_path, kind)
            .map_err(|refused| refusal(number, raw_path, refused, self.limits))?;
        self.done.entries += usize::from(!path.is_empty());
        Ok(path)
    }

    fn count_bytes(&mut self, size: u64) -> Result<(), Error> {
        self.done.bytes = self.done.bytes.saturating_add(size);
        if self.done.bytes > self.limits.bytes {
            return Err(self.meter.too_large());
        }
        Ok(())
    }

    fn make_folder(&self, path: &Path) -> Result<(), Error> {
        fs::create_dir_all(path).map_err(|source| io_error(path, source))
    }

    fn create(&self, path: &str, executable: bool) -> Result<fs::File, Error> {
        let path = self.into.join(path);
        if let Some(parent) = path.parent() {
            self.make_folder(parent)?;
        }
        let mode = if executable { 0o755 } else { 0o644 };
        // `create_new` never follows a link and never touches what is there.
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(|source| io_error(&path, source))
    }
}

/// Refuses extended headers that other programs read differently.
fn check_extensions<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<(), String> {
    let header_size = entry.header().entry_size().map_err(|_| "its size is no number".to_owned())?;
    let Some(fields) = entry.pax_extensions().map_err(|_| "its extended header cannot be read".to_owned())? else {
        return Ok(());
    };
    for field in fields {
        let field = field.map_err(|_| "its extended header cannot be read".to_owned())?;
        let key = field.key_bytes();
        if key == b"size" && field.value_bytes() != header_size.to_string().as_bytes() {
            return Err("its two headers name different sizes".to_owned());
        }
        if key.starts_with(b"GNU.sparse.") {
            return Err("it is a sparse file; pack without --sparse".to_owned());
        }
    }
    Ok(())
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>) -> Vec<u8> {
    entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default()
}

fn executable<R: Read>(entry: &tar::Entry<'_, R>) -> bool {
    entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0)
}

/// After the last entry stand at least two blocks of zeros, and nothing but zeros.
fn check_end<R: Read>(rest: &mut Metered<R>, meter: &Meter, end: u64) -> Result<(), Error> {
    meter.begin_content();
    let mut buffer = [0; 8 * 1024];
    loop {
        let read = rest.read(&mut buffer).map_err(|error| meter.explain(error))?;
        if read == 0 {
            break;
        }
        if buffer[..read].iter().any(|byte| *byte != 0) {
            return Err(Error::Malformed("something follows after its end".to_owned()));
        }
    }
    if meter.unpacked.get() < end.saturating_add(2 * BLOCK) {
        return Err(Error::Malformed("it is cut off: its end is missing".to_owned()));
    }
    Ok(())
}

/// Tells an error of the archive from one of the disk when copying between them.
struct SourceErrors<R> {
    inner: R,
    failed: Option<io::Error>,
}

impl<R: Read> Read for SourceErrors<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
