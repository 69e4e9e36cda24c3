//! A place in a log from which it is read on. Blocks.

use std::fs::File;
use std::path::PathBuf;

use super::segment::{Segment, View, decode, read_chunk};
use super::{Entry, Error, Followed, LogKey, LogLine, LogStream, LogTime};

/// Reads entries in order, never beyond what the writer has published, so that it never sees half a line.
pub(super) struct Cursor {
    key: LogKey,
    dir: PathBuf,
    /// The next line to read.
    pub(super) seq: u64,
    open: Option<Open>,
}

struct Open {
    first: u64,
    file: File,
    offset: u64,
    /// Time of the line before, for a line that cannot be read.
    at: LogTime,
}

impl Cursor {
    /// Before the line `seq`.
    pub(super) fn new(key: LogKey, dir: PathBuf, seq: u64) -> Self {
        Self { key, dir, seq, open: None }
    }

    /// The next lines: at most `max`, at most one chunk of the file; none only at the end of the view. What rotation has
    /// dropped is skipped and counted, and so is what a power cut took from the end of an older segment.
    pub(super) fn read(&mut self, view: &View, max: usize) -> Result<Vec<Followed>, Error> {
        let mut items = Vec::new();
        while items.is_empty() && self.seq < view.next && max > 0 {
            let position = view.segments.partition_point(|segment| segment.first <= self.seq);
            let Some(segment) = position.checked_sub(1).and_then(|index| view.segments.get(index)) else {
                self.skip_to(view.segments.first().map_or(view.next, |segment| segment.first), &mut items);
                continue;
            };
            let end = view.segments.get(position).map_or(view.next, |segment| segment.first);
            let open = match self.open.take_if(|open| open.first == segment.first) {
                Some(open) => Some(open),
                None => self.open(segment)?,
            };
            // No file when it was dropped since the view was taken.
            if let Some(open) = open {
                self.read_segment(open, segment, end, max, &mut items)?;
            }
            if items.is_empty() && end == view.next && Segment::path(segment.first, &self.dir).exists() {
                let path = Segment::path(segment.first, &self.dir);
                return Err(Error::Damaged { key: self.key, seq: self.seq, path });
            }
            if items.is_empty() {
                self.skip_to(end, &mut items);
            }
        }
        Ok(items)
    }

    fn skip_to(&mut self, seq: u64, items: &mut Vec<Followed>) {
        items.push(Followed::Skipped { count: seq - self.seq });
        self.seq = seq;
    }

    /// Opens a segment and goes to the cursor's line by counting line ends, or to the end when there are fewer.
    fn open(&self, segment: &Segment) -> Result<Option<Open>, Error> {
        let path = Segment::path(segment.first, &self.dir);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        let mut open = Open { first: segment.first, file, offset: 0, at: LogTime::default() };
        let mut before = self.seq - segment.first;
        while before > 0 {
            let chunk = read_chunk(&open.file, open.offset, segment.bytes).map_err(Error::io("read", &path))?;
            if chunk.is_empty() {
                break;
            }
            for record in chunk.split_inclusive(|byte| *byte == b'\n') {
                open.offset += record.len() as u64;
                before -= 1;
                if before == 0 {
                    break;
                }
            }
        }
        Ok(Some(open))
    }

    fn read_segment(
        &mut self,
        mut open: Open,
        segment: &Segment,
        end: u64,
        max: usize,
        items: &mut Vec<Followed>,
    ) -> Result<(), Error> {
        let chunk = read_chunk(&open.file, open.offset, segment.bytes)
            .map_err(Error::io("read", &Segment::path(segment.first, &self.dir)))?;
        for record in chunk.split_inclusive(|byte| *byte == b'\n') {
            if items.len() == max || self.seq == end {
                break;
            }
            let line = record.strip_suffix(b"\n").and_then(decode).unwrap_or_else(|| unreadable(open.at));
            open.at = line.at;
            open.offset += record.len() as u64;
            items.push(Followed::Entry(Entry { seq: self.seq, line }));
            self.seq += 1;
        }
        self.open = Some(open);
        Ok(())
    }
}

/// Stands where the file holds something that is not a line, so that the lines after it keep their numbers.
fn unreadable(at: LogTime) -> LogLine {
    LogLine::new(at, LogStream::System, "a line of this log is damaged and cannot be read")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::InstanceId;

    const KEY: LogKey = LogKey::Instance(InstanceId(Uuid::nil()));

    /// What is read from `from`: `seq:text`, `+n` for what was skipped, `!` for an error.
    fn read(view: &View, dir: &std::path::Path, from: u64) -> Vec<String> {
        let mut cursor = Cursor::new(KEY, dir.to_owned(), from);
        let mut seen = Vec::new();
        loop {
            match cursor.read(view, 2) {
                Ok(items) if items.is_empty() => return seen,
                Ok(items) => seen.extend(items.into_iter().map(|item| match item {
                    Followed::Entry(entry) => format!("{}:{}", entry.seq, &entry.line.text()[..1]),
                    Followed::Begins { .. } => unreachable!("a place was asked for"),
                    Followed::Skipped { count } => format!("+{count}"),
                })),
                Err(error) => {
                    assert!(matches!(error, Error::Damaged { seq, .. } if seq == cursor.seq));
                    seen.push("!".to_owned());
                    return seen;
                }
            }
        }
    }

    #[test]
    fn damage_costs_the_damaged_lines_only() {
        let dir = tempfile::tempdir().expect("temp dir");
        let write = |first, text: &str| std::fs::write(Segment::path(first, dir.path()), text).expect("write");
        write(2, "1 o C\n1 o D\n");
        write(7, "1 o H\nnot a line\n1 o J\n");
        write(10, "1 o K\n1 o L\n");
        let view = View::load(KEY, dir.path()).expect("load");
        assert_eq!(read(&view, dir.path(), 0), ["+2", "2:C", "3:D", "+3", "7:H", "8:a", "9:J", "10:K", "11:L"]);
        assert_eq!(read(&view, dir.path(), 5), ["+2", "7:H", "8:a", "9:J", "10:K", "11:L"]);
        assert_eq!(read(&view, dir.path(), 12), [] as [&str; 0]);

        // Shortened by somebody else while we run.
        write(10, "1 o K\n");
        assert_eq!(read(&view, dir.path(), 9), ["9:J", "10:K", "!"]);
        // Dropped by rotation after the view was taken.
        std::fs::remove_file(Segment::path(2, dir.path())).expect("remove");
        assert_eq!(read(&view, dir.path(), 3), ["+4", "7:H", "8:a", "9:J", "10:K", "!"]);
        std::fs::remove_file(Segment::path(10, dir.path())).expect("remove");
        assert_eq!(read(&view, dir.path(), 10), ["+2"]);
    }
}
