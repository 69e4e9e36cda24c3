//! Lines of a container's log, put together from the pieces engines send.

use bytes::Bytes;

use crate::model::Timestamp;

/// Longest line kept, in bytes; the rest of a longer one is dropped and the line marked. One line of a program gone
/// wrong must not fill memory.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a container's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When its first piece was written, by the engine's clock. Podman knows full seconds only.
    pub at: Timestamp,
    /// Where it stands in the log: give the last one seen to [`LogsFrom::after`] to go on without a gap.
    pub cursor: LogCursor,
    /// Where it was written.
    pub stream: LogStream,
    /// The line, without its line end.
    pub bytes: Bytes,
    /// That the line was longer than [`LINE_BYTES_MAX`] and the rest is missing.
    pub cut: bool,
}

/// A place in a container's log. Engines know no line numbers, and Podman tells full seconds only, so a place is a time
/// and how many lines of that very time came up to it. Not exact for lines that were read with [`LogsFrom::tail`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogCursor {
    /// Nanoseconds since 1970, as the engine said.
    pub nanos: i64,
    /// Lines that ended with a piece of this time, this one included.
    pub lines: u32,
}

/// Which part of a log is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogsFrom {
    /// Only lines after this one.
    pub after: Option<LogCursor>,
    /// Only that many of the last lines that exist now.
    pub tail: Option<u32>,
    /// Go on with new lines as long as the container runs.
    pub follow: bool,
}

/// Puts lines together. A piece is what an engine sends at once: a time, a space, a part of a line, and a line end when
/// it is the last part.
#[derive(Debug)]
pub(super) struct Assembler {
    after: Option<LogCursor>,
    position: LogCursor,
    stdout: Part,
    stderr: Part,
}

#[derive(Debug, Default)]
struct Part {
    started: Option<i64>,
    bytes: Vec<u8>,
    cut: bool,
}

impl Assembler {
    pub(super) fn new(after: Option<LogCursor>) -> Self {
        Self { after, position: LogCursor::default(), stdout: Part::default(), stderr: Part::default() }
    }

    /// Takes a piece; returns the line it ends, if it does and the line is wanted.
    pub(super) fn piece(&mut self, stream: LogStream, piece: &[u8]) -> Option<LogLine> {
        let (nanos, text) = split_time(piece);
        let nanos = nanos.unwrap_or(self.position.nanos);
        let (text, ended) = match text.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let part = self.part(stream);
        part.started.get_or_insert(nanos);
        let room = LINE_BYTES_MAX - part.bytes.len();
        part.cut |= text.len() > room;
        part.bytes.extend_from_slice(&text[..text.len().min(room)]);
        if ended { self.end(stream, nanos) } else { None }
    }

    /// The lines that were begun and not ended, when nothing more comes.
    pub(super) fn rest(&mut self) -> Vec<LogLine> {
        let nanos = self.position.nanos;
        [LogStream::Stdout, LogStream::Stderr]
            .into_iter()
            .filter_map(|stream| {
                let begun = self.part(stream).started?;
                self.end(stream, begun.max(nanos))
            })
            .collect()
    }

    fn end(&mut self, stream: LogStream, nanos: i64) -> Option<LogLine> {
        if nanos == self.position.nanos {
            self.position.lines += 1;
        } else {
            self.position = LogCursor { nanos, lines: 1 };
        }
        let cursor = self.position;
        let part = std::mem::take(self.part(stream));
        if self.after.is_some_and(|after| cursor <= after) {
            return None;
        }
        let mut bytes = part.bytes;
        if bytes.last() == Some(&b'\r') && !part.cut {
            bytes.pop();
        }
        let at = Timestamp(part.started.unwrap_or(nanos).div_euclid(1_000_000));
        Some(LogLine { at, cursor, stream, bytes: bytes.into(), cut: part.cut })
    }

    fn part(&mut self, stream: LogStream) -> &mut Part {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }
}

/// The leading RFC 3339 time of a piece in nanoseconds, and what follows it.
fn split_time(piece: &[u8]) -> (Option<i64>, &[u8]) {
    let Some(space) = piece.iter().take(40).position(|byte| *byte == b' ') else { return (None, piece) };
    let time = std::str::from_utf8(&piece[..space]).ok().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    match time.and_then(|time| i64::try_from(time.as_nanosecond()).ok()) {
        Some(nanos) => (Some(nanos), &piece[space + 1..]),
        None => (None, piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: LogStream = LogStream::Stdout;
    const ERR: LogStream = LogStream::Stderr;

    fn feed(after: Option<LogCursor>, pieces: &[(LogStream, &str)]) -> Vec<LogLine> {
        let mut assembler = Assembler::new(after);
        let mut lines: Vec<_> =
            pieces.iter().filter_map(|(stream, piece)| assembler.piece(*stream, piece.as_bytes())).collect();
        lines.extend(assembler.rest());
        lines
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| std::str::from_utf8(&line.bytes).expect("text")).collect()
    }

    #[test]
    fn pieces_of_two_streams_become_whole_lines() {
        let lines = feed(
            None,
            &[
                (OUT, "2026-01-02T03:04:05Z abc"),
                (ERR, "2026-01-02T03:04:05Z oops\r\n"),
                (OUT, "2026-01-02T03:04:06.25Z def\n"),
                (OUT, "2026-01-02T03:04:07Z \n"),
                (OUT, "2026-01-02T03:04:08Z no end"),
            ],
        );
        assert_eq!(texts(&lines), ["oops", "abcdef", "", "no end"]);
        assert_eq!(lines[1].at.to_string(), "2026-01-02T03:04:05.000Z");
        assert_eq!(lines[1].stream, OUT);
        assert!(lines.windows(2).all(|pair| pair[0].cursor < pair[1].cursor));
    }

    #[test]
    fn long_lines_are_cut_and_marked() {
        let piece = format!("2026-01-02T03:04:05Z {}", "x".repeat(9_000));
        let end = format!("{piece}\n");
        let lines = feed(None, &[(OUT, &piece), (OUT, &end), (OUT, "2026-01-02T03:04:05Z next\n")]);
        assert_eq!(lines[0].bytes.len(), LINE_BYTES_MAX);
        assert!(lines[0].cut);
        assert_eq!(texts(&lines)[1], "next");
        assert!(!lines[1].cut);
    }

    #[test]
    fn resuming_within_one_second_neither_repeats_nor_loses() {
        let pieces = [
            (OUT, "2026-01-02T03:04:05Z a\n"),
            (OUT, "2026-01-02T03:04:05Z b\n"),
            (ERR, "2026-01-02T03:04:05Z c\n"),
            (OUT, "2026-01-02T03:04:06Z d\n"),
        ];
        let all = feed(None, &pieces);
        for seen in 0..all.len() {
            let rest = feed(Some(all[seen].cursor), &pieces);
            assert_eq!(texts(&rest), &texts(&all)[seen + 1..], "after line {seen}");
        }
    }
}
