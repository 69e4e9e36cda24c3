//! From chunks of output to lines.

use super::line::LINE_BYTES_MAX;
use super::{LogLine, LogStream, LogTime};

/// Cuts the output of one stream into lines. Holds a bounded part of a line that has not ended, so that a program which
/// prints a gibibyte without a line end costs nothing.
#[derive(Debug)]
pub struct LineSplitter {
    stream: LogStream,
    partial: Vec<u8>,
    started: Option<LogTime>,
}

/// One byte more than fits, so that the line is seen to be too long and gets its cut marker.
const PARTIAL_BYTES_MAX: usize = LINE_BYTES_MAX + 1;

impl LineSplitter {
    /// For one stream of one program.
    pub fn new(stream: LogStream) -> Self {
        Self { stream, partial: Vec::new(), started: None }
    }

    /// Takes a chunk that arrived at `at`; adds the lines it completes to `lines`. A line has the time of its first byte.
    pub fn push(&mut self, at: LogTime, chunk: &[u8], lines: &mut Vec<LogLine>) {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) if self.partial.is_empty() => {
                    lines.push(LogLine::new(self.started.take().unwrap_or(at), self.stream, end));
                }
                Some(end) => {
                    self.keep(at, end);
                    lines.extend(self.finish());
                }
                None => self.keep(at, part),
            }
        }
    }

    /// What came after the last line end, when the output is over.
    pub fn finish(&mut self) -> Option<LogLine> {
        let at = self.started.take()?;
        let line = LogLine::new(at, self.stream, &self.partial);
        self.partial.clear();
        Some(line)
    }

    fn keep(&mut self, at: LogTime, part: &[u8]) {
        self.started.get_or_insert(at);
        let room = PARTIAL_BYTES_MAX - self.partial.len();
        self.partial.extend_from_slice(&part[..part.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut splitter = LineSplitter::new(LogStream::Stdout);
        let mut lines = Vec::new();
        for at in 0..1_000 {
            splitter.push(LogTime(at), &[b'x'; 10_000], &mut lines);
        }
        assert!(lines.is_empty() && splitter.partial.len() == PARTIAL_BYTES_MAX);
        splitter.push(LogTime(1_000), b"\nnext\n", &mut lines);
        assert_eq!((lines.len(), lines[0].at, lines[1].at), (2, LogTime(0), LogTime(1_000)));
        assert!(lines[0].text().contains("[line cut"));
        assert_eq!(splitter.finish(), None);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(text in "[a-c\n]{0,60}", cuts in prop::collection::vec(0_usize..60, 0..6)) {
            let mut splitter = LineSplitter::new(LogStream::Stderr);
            let mut lines = Vec::new();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                splitter.push(LogTime(0), &text.as_bytes()[pair[0]..pair[1]], &mut lines);
            }
            lines.extend(splitter.finish());
            let got: Vec<_> = lines.iter().map(LogLine::text).collect();
            prop_assert_eq!(got, text.lines().collect::<Vec<_>>());
        }
    }
}
