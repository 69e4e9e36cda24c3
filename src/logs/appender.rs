//! Writes lines into segments: rotates, drops the oldest, stops at the limit. Blocks; called by the writing task only.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use super::log::{Claim, ignore_missing};
use super::segment::{CLOSED, Resume, Scan, Segment, View, encode};
use super::{Error, LogKey, LogLine, LogStream, LogTime};
use crate::space::Use;

/// A log is cut into this many segments: the eighth that is lost with the oldest one is little, and finding a line by
/// reading a segment from its start is quick.
const SEGMENTS: u64 = 8;

/// What happens when a log has reached its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtLimit {
    DropOldest,
    Stop,
}

/// The only writer of one log's files.
pub(super) struct Appender {
    claim: Claim,
    bytes_max: u64,
    at_limit: AtLimit,
    /// What is on disk; published after each batch.
    view: View,
    /// The last segment of the view, when one is open.
    file: Option<File>,
    /// A failed write may have left bytes beyond the last line.
    torn: bool,
    /// Lines that could not be written since the last that could.
    lost: u64,
    /// The limit was reached and said so.
    full: bool,
    buffer: Vec<u8>,
}

impl Appender {
    /// Goes on at the end of what is there. A log that was closed is open again.
    pub(super) fn open(claim: Claim, bytes_max: u64) -> Result<Self, Error> {
        let dir = &claim.dir;
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let closed = dir.join(CLOSED);
        ignore_missing(std::fs::remove_file(&closed)).map_err(Error::io("remove", &closed))?;
        let view = View { closed: false, ..claim.view.borrow().clone() };
        let file = match view.segments.last() {
            Some(last) => {
                let path = Segment::path(last.first, dir);
                Some(OpenOptions::new().write(true).open(&path).map_err(Error::io("open", &path))?)
            }
            None => None,
        };
        let at_limit = match claim.key {
            LogKey::Build(_) => AtLimit::Stop,
            LogKey::Instance(_) => AtLimit::DropOldest,
        };
        let mut appender =
            Self { claim, bytes_max, at_limit, view, file, torn: false, lost: 0, full: false, buffer: Vec::new() };
        appender.full = appender.says_full()?;
        appender.publish();
        Ok(appender)
    }

    /// Writes a batch and lets followers see it. Never fails: a disk that is full must not stop what is being logged, so
    /// lines that could not be written are counted, and the log says so where they are missing.
    pub(super) fn append(&mut self, lines: &[LogLine]) {
        let Some(first) = lines.first() else { return };
        // Not to the last byte: the state on the same disk must be able to go on.
        let mut result = self.claim.space.check(Use::Bulk).map_err(io::Error::other);
        if self.lost > 0 && result.is_ok() {
            let text = format!("{} lines could not be written to this log and are lost", self.lost);
            result = self.write_all(&[LogLine::new(first.at, LogStream::System, text)]);
            if result.is_ok() {
                self.lost = 0;
            }
        }
        let before = self.view.next;
        if let Err(error) = result.and_then(|()| self.write_all(lines)) {
            if self.lost == 0 {
                let (key, dir) = (self.claim.key, self.claim.dir.display());
                tracing::warn!(log = %key, %dir, %error, "cannot write log lines; they are lost");
            }
            self.lost += lines.len() as u64 - (self.view.next - before);
        }
        self.publish();
    }

    /// Marks the log as complete.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        self.view.closed = true;
        let path = self.claim.dir.join(CLOSED);
        let result = File::create(&path).map(drop).map_err(Error::io("create", &path));
        self.publish();
        result
    }

    fn publish(&self) {
        self.claim.view.send_replace(self.view.clone());
    }

    fn write_all(&mut self, mut lines: &[LogLine]) -> io::Result<()> {
        while !lines.is_empty() && !self.full {
            let written = self.write_some(lines)?;
            lines = &lines[written..];
        }
        Ok(())
    }

    /// Writes the lines that fit into the current segment; makes the next segment when there are none.
    fn write_some(&mut self, lines: &[LogLine]) -> io::Result<usize> {
        let segment = self.view.segments.last().map_or(0, |last| last.bytes);
        let reserved = self.view.bytes() + self.marker_bytes();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut fitting = 0;
        for line in lines {
            let before = buffer.len();
            encode(line, &mut buffer);
            let grown = buffer.len() as u64;
            self.full = self.at_limit == AtLimit::Stop && reserved + grown > self.bytes_max;
            let fits = self.file.is_some() && (segment + grown <= self.segment_bytes() || segment + before as u64 == 0);
            if self.full || !fits {
                buffer.truncate(before);
                break;
            }
            fitting += 1;
        }
        let result = if self.full {
            encode(&self.marker(lines[fitting].at), &mut buffer);
            self.write(&buffer, &lines[..fitting], 1)
        } else if fitting == 0 {
            self.rotate()
        } else {
            self.write(&buffer, &lines[..fitting], 0)
        };
        self.buffer = buffer;
        // What was not said must be said when it can be.
        self.full &= result.is_ok();
        result.map(|()| fitting)
    }

    /// Writes records behind the last line; they count only when all of them are there.
    fn write(&mut self, records: &[u8], lines: &[LogLine], markers: u64) -> io::Result<()> {
        if self.file.is_none() {
            self.rotate()?;
        }
        let (Some(file), Some(last)) = (&self.file, self.view.segments.last_mut()) else {
            return Err(io::Error::other("the segment is not open"));
        };
        if self.torn {
            file.set_len(last.bytes)?;
            self.torn = false;
        }
        if let Err(error) = file.write_all_at(records, last.bytes) {
            self.torn = file.set_len(last.bytes).is_err();
            return Err(error);
        }
        last.bytes += records.len() as u64;
        self.view.next += lines.len() as u64 + markers;
        for line in lines {
            Resume::note(&mut self.view.resume, line);
        }
        Ok(())
    }

    /// Starts the next segment and drops the oldest ones that would take the log over its limit.
    fn rotate(&mut self) -> io::Result<()> {
        let first = self.view.next;
        self.file = Some(File::create(Segment::path(first, &self.claim.dir))?);
        self.torn = false;
        self.view.segments.push(Segment { first, bytes: 0 });
        while self.at_limit == AtLimit::DropOldest
            && self.view.segments.len() > 1
            && self.view.bytes() + self.segment_bytes() > self.bytes_max
        {
            let path = Segment::path(self.view.segments.remove(0).first, &self.claim.dir);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(log = %self.claim.key, path = %path.display(), %error, "cannot remove an old part of a log");
            }
        }
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        (self.bytes_max / SEGMENTS).max(1)
    }

    /// The marker is there already; with another limit in the settings it would be another one, and lines are taken again.
    fn says_full(&self) -> Result<bool, Error> {
        let (AtLimit::Stop, Some(segment)) = (self.at_limit, self.view.segments.last()) else { return Ok(false) };
        let last = Scan::of(&Segment::path(segment.first, &self.claim.dir))?.last;
        Ok(last.is_some_and(|line| line == self.marker(line.at)))
    }

    fn marker(&self, at: LogTime) -> LogLine {
        let text = format!("the log has reached its limit of {} bytes; what follows is not kept", self.bytes_max);
        LogLine::new(at, LogStream::System, text)
    }

    fn marker_bytes(&self) -> u64 {
        let mut record = Vec::new();
        encode(&self.marker(LogTime(i64::MIN)), &mut record);
        record.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::super::cursor::Cursor;
    use super::super::log::Log;
    use super::super::{Entry, Followed};
    use super::*;
    use crate::model::{BuildId, InstanceId};

    const INSTANCE: LogKey = LogKey::Instance(InstanceId(Uuid::nil()));
    const BUILD: LogKey = LogKey::Build(BuildId(Uuid::nil()));

    fn open(key: LogKey, dir: &Path, bytes_max: u64) -> (Arc<Log>, Appender) {
        let log = Arc::new(Log::load(key, dir.into()).expect("load"));
        let appender = Appender::open(log.claim().expect("free"), bytes_max).expect("open");
        (log, appender)
    }

    fn line(at: i64, text: &str) -> LogLine {
        LogLine::new(LogTime(at), LogStream::Stdout, text)
    }

    fn read(log: &Log, from: u64, max: usize) -> (u64, Vec<Entry>) {
        let view = log.view.borrow().clone();
        let mut cursor = Cursor::new(log.key, log.dir.clone(), from);
        let (mut skipped, mut entries) = (0, Vec::new());
        while cursor.seq < view.next {
            for item in cursor.read(&view, max).expect("readable") {
                match item {
                    Followed::Begins { .. } => unreachable!("a place was asked for"),
                    Followed::Skipped { count } => skipped += count,
                    Followed::Entry(entry) => entries.push(entry),
                }
            }
        }
        (skipped, entries)
    }

    fn disk_bytes(dir: &Path) -> u64 {
        let files = std::fs::read_dir(dir).expect("dir");
        files.map(|file| file.expect("entry").metadata().expect("stat").len()).sum()
    }

    #[test]
    fn a_build_log_ends_with_one_marker() {
        let dir = tempfile::tempdir().expect("temp dir");
        for round in 0..3 {
            let (log, mut appender) = open(BUILD, dir.path(), 1_000);
            for at in 0..100 {
                appender.append(&[line(at, "some output"), line(at, "x")]);
            }
            let (skipped, entries) = read(&log, 0, 50);
            assert_eq!(skipped, 0);
            let markers = entries.iter().filter(|entry| entry.line.stream == LogStream::System).count();
            assert_eq!(markers, 1, "after opening it {round} times again");
            assert_eq!(entries.last().expect("not empty").line.stream, LogStream::System);
            assert!(disk_bytes(dir.path()) <= 1_000 && disk_bytes(dir.path()) > 800);
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (log, mut appender) = open(INSTANCE, dir.path(), 1 << 20);
        appender.append(&[line(1, "before")]);
        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let good = appender.file.replace(full);
        appender.append(&[line(2, "lost"), line(3, "lost")]);
        appender.append(&[line(4, "lost")]);
        // As a write that stopped half-way would leave it.
        std::fs::OpenOptions::new()
            .append(true)
            .open(Segment::path(0, dir.path()))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"5 o half a line and more of it, and more\n6"))
            .expect("write");
        assert!(appender.torn, "a device cannot be shortened");
        appender.file = good;
        appender.append(&[line(7, "after")]);
        let (_, entries) = read(&log, 0, 50);
        let texts: Vec<_> = entries.iter().map(|entry| entry.line.text()).collect();
        assert_eq!(texts, ["before", "3 lines could not be written to this log and are lost", "after"]);
        drop(appender);
        let (log, _appender) = open(INSTANCE, dir.path(), 1 << 20);
        assert_eq!(read(&log, 0, 50).1, entries);
    }

    #[test]
    fn one_writer_at_a_time() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (log, appender) = open(INSTANCE, dir.path(), 1_000);
        assert!(matches!(log.claim(), Err(Error::BeingWritten(INSTANCE))));
        drop(appender);
        log.claim().expect("free again").keep();
        assert!(log.claim().is_err(), "kept for ever");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(Vec<usize>),
        Reopen,
        /// The process dies while writing: the last bytes are not there.
        Tear(u64),
        Read {
            from: u64,
            max: usize,
        },
        Follow,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::collection::vec(0..60_usize, 1..20).prop_map(Step::Append),
            1 => Just(Step::Reopen),
            1 => (0..200_u64).prop_map(Step::Tear),
            1 => (0..400_u64, 1..20_usize).prop_map(|(from, max)| Step::Read { from, max }),
            2 => Just(Step::Follow),
        ]
    }

    proptest! {
        /// Against a plain list: whatever happens, what can be read is the end of what was written, densely numbered.
        #[test]
        fn behaves_like_the_end_of_a_list(steps in prop::collection::vec(step(), 1..40)) {
            const BYTES_MAX: u64 = 1_600;
            const LONGEST: u64 = 100;
            let dir = tempfile::tempdir().expect("temp dir");
            let mut model: Vec<LogLine> = Vec::new();
            let (mut log, mut appender) = open(INSTANCE, dir.path(), BYTES_MAX);
            // A follower that is slow: it reads a few lines now and then, and never anew.
            let mut follower = Cursor::new(INSTANCE, dir.path().to_owned(), 0);
            let mut followed = 0;
            for step in steps {
                match step {
                    Step::Append(lengths) => {
                        let start = model.len();
                        model.extend(lengths.iter().enumerate().map(|(index, length)| {
                            line((start + index) as i64, &"é".repeat(length / 2))
                        }));
                        appender.append(&model[start..]);
                    }
                    Step::Reopen => {
                        drop(appender);
                        (log, appender) = open(INSTANCE, dir.path(), BYTES_MAX);
                    }
                    Step::Tear(bytes) => {
                        drop(appender);
                        let last = log.view.borrow().segments.last().copied();
                        if let Some(last) = last {
                            let path = Segment::path(last.first, dir.path());
                            let file = OpenOptions::new().write(true).open(path).expect("open");
                            file.set_len(last.bytes.saturating_sub(bytes)).expect("tear");
                        }
                        (log, appender) = open(INSTANCE, dir.path(), BYTES_MAX);
                        let next = log.view.borrow().next;
                        prop_assert!(next <= model.len() as u64);
                        model.truncate(next as usize);
                        // Followers die with the process.
                        follower = Cursor::new(INSTANCE, dir.path().to_owned(), followed.min(next));
                        followed = followed.min(next);
                    }
                    Step::Read { from, max } => {
                        let (skipped, entries) = read(&log, from, max);
                        let expected = (model.len() as u64).saturating_sub(from);
                        prop_assert_eq!(skipped + entries.len() as u64, expected);
                        for (index, entry) in entries.iter().enumerate() {
                            prop_assert_eq!(entry.seq, from + skipped + index as u64);
                            prop_assert_eq!(&entry.line, &model[entry.seq as usize]);
                        }
                    }
                    Step::Follow => {
                        let view = log.view.borrow().clone();
                        for item in follower.read(&view, 7).expect("readable") {
                            match item {
                                Followed::Begins { .. } => unreachable!("a place was asked for"),
                                Followed::Skipped { count } => {
                                    prop_assert!(followed + count <= view.segments[0].first);
                                    followed += count;
                                }
                                Followed::Entry(entry) => {
                                    prop_assert_eq!(entry.seq, followed);
                                    prop_assert_eq!(&entry.line, &model[followed as usize]);
                                    followed += 1;
                                }
                            }
                        }
                    }
                }
                let view = log.view.borrow().clone();
                prop_assert_eq!(view.next, model.len() as u64);
                prop_assert_eq!(view.bytes(), disk_bytes(dir.path()));
                prop_assert!(view.bytes() <= BYTES_MAX + LONGEST);
                let resume = view.resume.map(|resume| (resume.at.0 + 1, resume.lines));
                if !view.segments.iter().all(|segment| segment.bytes == 0) {
                    prop_assert_eq!(resume, Some((model.len() as i64, 1)));
                }
            }
        }
    }
}
