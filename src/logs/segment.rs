//! The form of a log on disk.
//!
//! A log is a folder of segments. A segment is named by the sequence number of its first line and holds one line of text
//! per entry, `<nanoseconds> <o|e|s> <text>\n`, so that it can be read with nothing but a pager. Sequence numbers follow
//! from position. The text of a line holds no line end, so a record without one is torn and was never acknowledged to
//! anybody: it is cut when the log is opened. A file named `closed` says that the log is complete.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Error, LogKey, LogLine, LogStream, LogTime};

/// Says by its presence that a log is complete.
pub(super) const CLOSED: &str = "closed";
/// Longest record: the text, twenty digits, stream, spaces and line end.
const RECORD_BYTES_MAX: usize = super::LINE_BYTES_MAX + 32;
/// Read at once; larger than any record, so that a chunk always holds a whole one.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;
const _: () = assert!(CHUNK_BYTES > RECORD_BYTES_MAX);

/// Where reading an instance's output goes on after a restart of narvana.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Latest engine time that was written.
    pub at: LogTime,
    /// How many lines of that very time were written: ask the engine for lines since `at`, and skip this many with it.
    pub lines: u64,
}

impl Resume {
    /// Counts one more line that is on disk. Lines of narvana itself have no engine time.
    pub(super) fn note(resume: &mut Option<Self>, line: &LogLine) {
        if line.stream == LogStream::System {
            return;
        }
        match resume {
            Some(last) if last.at > line.at => {}
            Some(last) if last.at == line.at => last.lines += 1,
            _ => *resume = Some(Self { at: line.at, lines: 1 }),
        }
    }
}

/// One file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Sequence number of its first line.
    pub first: u64,
    /// Bytes of whole lines in it.
    pub bytes: u64,
}

impl Segment {
    /// Its file. Zeros lead, so that names sort as numbers.
    pub(super) fn path(first: u64, dir: &Path) -> PathBuf {
        dir.join(format!("{first:020}.log"))
    }
}

/// What is on disk and may be read; published by the writer after each batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// In order; each ends where the next begins, the last one at `next`.
    pub segments: Vec<Segment>,
    /// Sequence number of the next line to come.
    pub next: u64,
    /// No line will come any more.
    pub closed: bool,
    /// Where to read on.
    pub resume: Option<Resume>,
}

impl View {
    /// Reads a log's folder and cuts a torn end off. Call before there is a writer. A missing folder is an empty log.
    pub(super) fn load(key: LogKey, dir: &Path) -> Result<Self, Error> {
        let mut view = Self::default();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(view),
            Err(error) => return Err(Error::io("read", dir)(error)),
        };
        // A build does not outlive the process that ran it, so what lies here without its mark was cut short.
        view.closed = matches!(key, LogKey::Build(_));
        for entry in entries {
            let entry = entry.map_err(Error::io("read", dir))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            view.closed |= name == CLOSED;
            let Some(first) = name.strip_suffix(".log").and_then(|digits| digits.parse().ok()) else { continue };
            let bytes = entry.metadata().map_err(Error::io("read", &entry.path()))?.len();
            view.segments.push(Segment { first, bytes });
        }
        view.segments.sort_unstable_by_key(|segment| segment.first);
        view.measure_last(dir)?;
        view.find_resume(dir)?;
        Ok(view)
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Counts the lines of the last segment; whatever follows the last whole line is cut.
    fn measure_last(&mut self, dir: &Path) -> Result<(), Error> {
        let Some(last) = self.segments.last_mut() else { return Ok(()) };
        let path = Segment::path(last.first, dir);
        let scan = Scan::of(&path)?;
        if scan.bytes < last.bytes {
            let file = OpenOptions::new().write(true).open(&path).map_err(Error::io("open", &path))?;
            file.set_len(scan.bytes).map_err(Error::io("shorten", &path))?;
            last.bytes = scan.bytes;
        }
        self.next = last.first + scan.lines;
        self.resume = scan.resume;
        Ok(())
    }

    /// Looks further back when the last segment holds no line of the engine.
    fn find_resume(&mut self, dir: &Path) -> Result<(), Error> {
        for segment in self.segments.iter().rev().skip(1) {
            if self.resume.is_some() {
                break;
            }
            self.resume = Scan::of(&Segment::path(segment.first, dir))?.resume;
        }
        Ok(())
    }
}

/// The well-formed lines at the start of a segment.
#[derive(Debug, Default)]
pub(super) struct Scan {
    lines: u64,
    bytes: u64,
    resume: Option<Resume>,
    /// The last of them.
    pub last: Option<LogLine>,
}

impl Scan {
    /// Reads a segment up to its end or to the first thing that is not a line.
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let mut scan = Self::default();
        loop {
            let chunk = read_chunk(&file, scan.bytes, u64::MAX).map_err(Error::io("read", path))?;
            if chunk.is_empty() {
                return Ok(scan);
            }
            for record in chunk.split_inclusive(|byte| *byte == b'\n') {
                let Some(line) = record.strip_suffix(b"\n").and_then(decode) else { return Ok(scan) };
                Resume::note(&mut scan.resume, &line);
                scan.lines += 1;
                scan.bytes += record.len() as u64;
                scan.last = Some(line);
            }
        }
    }
}

/// Up to [`CHUNK_BYTES`] from `offset`, not beyond `end`, cut after the last line end when there is one.
pub(super) fn read_chunk(file: &File, offset: u64, end: u64) -> std::io::Result<Vec<u8>> {
    let wanted = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(CHUNK_BYTES);
    let mut chunk = vec![0; wanted];
    let mut filled = 0;
    while filled < wanted {
        match file.read_at(&mut chunk[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    if let Some(end) = chunk.iter().rposition(|byte| *byte == b'\n') {
        chunk.truncate(end + 1);
    }
    Ok(chunk)
}

/// Adds the record of a line.
pub(super) fn encode(line: &LogLine, out: &mut Vec<u8>) {
    let stream = match line.stream {
        LogStream::Stdout => 'o',
        LogStream::Stderr => 'e',
        LogStream::System => 's',
    };
    writeln!(out, "{} {stream} {}", line.at.0, line.text()).expect("writing to memory does not fail");
}

/// A line from its record without line end; `None` when it is not one.
pub(super) fn decode(record: &[u8]) -> Option<LogLine> {
    let record = std::str::from_utf8(record).ok()?;
    let (at, rest) = record.split_once(' ')?;
    let (stream, text) = rest.split_once(' ')?;
    let stream = match stream {
        "o" => LogStream::Stdout,
        "e" => LogStream::Stderr,
        "s" => LogStream::System,
        _ => return None,
    };
    Some(LogLine::from_clean(LogTime(at.parse().ok()?), stream, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::model::{BuildId, InstanceId};

    fn instance() -> LogKey {
        LogKey::Instance(InstanceId(Uuid::nil()))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(at: i64, raw: Vec<u8>, which in 0..3_usize) {
            let stream = [LogStream::Stdout, LogStream::Stderr, LogStream::System][which];
            let line = LogLine::new(LogTime(at), stream, raw);
            let mut record = Vec::new();
            encode(&line, &mut record);
            prop_assert!(record.len() <= RECORD_BYTES_MAX);
            prop_assert_eq!(record.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(decode(&record[..record.len() - 1]), Some(line));
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_keeps_its_whole_lines() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut file = Vec::new();
        let mut ends = vec![0];
        for (at, text) in [(10, "one"), (20, "two"), (20, "zwölf"), (15, "")] {
            encode(&LogLine::new(LogTime(at), LogStream::Stdout, text), &mut file);
            ends.push(file.len());
        }
        let path = Segment::path(7, dir.path());
        for length in 0..=file.len() {
            // What a power cut may leave behind the last whole line: nothing, zeros, half a character.
            for garbage in [b"".as_slice(), &[0; 40], b"\xc3\n12 o x\n"] {
                std::fs::write(&path, [&file[..length], garbage].concat()).expect("write");
                let view = View::load(instance(), dir.path()).expect("load");
                let whole = ends.iter().rposition(|end| *end <= length).expect("zero is one");
                assert_eq!(view.next, 7 + whole as u64, "cut at {length}");
                assert_eq!(std::fs::metadata(&path).expect("stat").len(), ends[whole] as u64);
            }
        }
        std::fs::write(&path, &file).expect("write");
        let view = View::load(instance(), dir.path()).expect("load");
        assert_eq!(view.resume, Some(Resume { at: LogTime(20), lines: 2 }));
    }

    #[test]
    fn resuming_looks_past_lines_of_our_own() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(Segment::path(0, dir.path()), "5 e x\n").expect("write");
        std::fs::write(Segment::path(1, dir.path()), "9 s restarted\n").expect("write");
        std::fs::write(dir.path().join("notes.txt"), "not ours").expect("write");
        let view = View::load(instance(), dir.path()).expect("load");
        assert_eq!((view.next, view.closed), (2, false));
        assert_eq!(view.resume, Some(Resume { at: LogTime(5), lines: 1 }));
        assert!(View::load(LogKey::Build(BuildId(Uuid::nil())), dir.path()).expect("load").closed);
    }
}
