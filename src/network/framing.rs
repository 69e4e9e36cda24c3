//! Looks at the bytes of an HTTP/1 connection on their way to hyper, for what hyper does not tell.
//!
//! Given both `Content-Length` and `Transfer-Encoding`, hyper follows the second, drops the first and ends the
//! connection: safe by itself (RFC 9112, section 6.1), but whoever stands before this node may have followed the first,
//! and such a request is an attack or a broken client. The head's size is counted here too. Nothing is changed or held
//! back: the answer is left to whoever holds the [`Verdict`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What begins an HTTP/2 connection (RFC 9113, section 3.4); its frames are none of this file's business.
const HTTP2: &[u8] = b"PRI * HTTP/2";
/// Bytes of a line that are kept: enough for the name of either field and any length that hyper takes.
const LINE_KEPT: usize = 96;

/// What is wrong with the framing of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A request has both a length and a coding.
    TwoFramings,
    /// The head of a request is larger than allowed.
    LargeHead,
}

/// Whether something was wrong on a connection until now. It stays wrong: what follows cannot be trusted.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<AtomicU8>);

impl Verdict {
    /// The first flaw that was seen.
    pub fn flaw(&self) -> Option<Flaw> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Flaw::TwoFramings),
            _ => Some(Flaw::LargeHead),
        }
    }

    fn condemn(&self, flaw: Flaw) {
        let code = if flaw == Flaw::TwoFramings { 1 } else { 2 };
        // Only the first one counts; whether it was there before does not matter.
        let _kept = self.0.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// A stream whose bytes are looked at as they are read.
pub struct Watched<S> {
    stream: S,
    framing: Framing,
    verdict: Verdict,
}

impl<S> Watched<S> {
    /// `head_bytes_max`: the size of a request head from which on it is a flaw.
    pub fn new(stream: S, head_bytes_max: usize) -> Self {
        Self { stream, framing: Framing::new(head_bytes_max), verdict: Verdict::default() }
    }

    /// What is found, now and later.
    pub fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buf);
        if let Some(flaw) = self.framing.feed(&buf.filled()[before..]) {
            self.verdict.condemn(flaw);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    RequestLine,
    Fields,
    /// So many bytes of a body.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk and its line end.
    Chunk(u64),
    Trailers,
    /// Not HTTP/1, or not understood: hyper ends such a connection, or it is none of ours.
    Ignored,
}

/// Where in the sequence of requests a connection is: pure.
struct Framing {
    head_bytes_max: usize,
    part: Part,
    head_bytes: usize,
    line: [u8; LINE_KEPT],
    /// Length of the line, of which at most `LINE_KEPT` bytes are kept.
    line_bytes: usize,
    length: Option<u64>,
    coded: bool,
}

impl Framing {
    fn new(head_bytes_max: usize) -> Self {
        let part = Part::RequestLine;
        Self { head_bytes_max, part, head_bytes: 0, line: [0; LINE_KEPT], line_bytes: 0, length: None, coded: false }
    }

    /// Takes the next bytes of the connection.
    fn feed(&mut self, mut bytes: &[u8]) -> Option<Flaw> {
        let mut flaw = None;
        while !bytes.is_empty() {
            match self.part {
                Part::Ignored => break,
                Part::Body(left) | Part::Chunk(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[taken..];
                    self.part = self.after(left - taken as u64);
                }
                Part::RequestLine | Part::Fields | Part::ChunkSize | Part::Trailers => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |at| at + 1));
                    bytes = rest;
                    let found = self.push(line).or_else(|| end.and_then(|_| self.end_line()));
                    flaw = flaw.or(found);
                }
            }
        }
        flaw
    }

    /// The part after some bytes of a body or a chunk, of which so many are left.
    fn after(&self, left: u64) -> Part {
        match (self.part, left) {
            (Part::Chunk(_), 0) => Part::ChunkSize,
            (Part::Chunk(_), left) => Part::Chunk(left),
            (_, 0) => Part::RequestLine,
            (_, left) => Part::Body(left),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Option<Flaw> {
        let kept = self.line_bytes.min(LINE_KEPT);
        let taken = bytes.len().min(LINE_KEPT - kept);
        self.line[kept..kept + taken].copy_from_slice(&bytes[..taken]);
        self.line_bytes += bytes.len();
        if matches!(self.part, Part::RequestLine | Part::Fields) {
            self.head_bytes += bytes.len();
        }
        (self.head_bytes > self.head_bytes_max).then_some(Flaw::LargeHead)
    }

    fn end_line(&mut self) -> Option<Flaw> {
        let line = self.line;
        let whole = self.line_bytes <= LINE_KEPT;
        let line = line[..self.line_bytes.min(LINE_KEPT)].trim_ascii();
        self.line_bytes = 0;
        match self.part {
            // Empty lines before a request are passed over (RFC 9112, section 2.2).
            Part::RequestLine if line.is_empty() => None,
            Part::RequestLine => {
                self.part = if line.starts_with(HTTP2) { Part::Ignored } else { Part::Fields };
                None
            }
            Part::Fields if line.is_empty() => self.end_head(),
            Part::Fields => {
                let mut halves = line.splitn(2, |byte| *byte == b':');
                let name = halves.next().unwrap_or_default();
                if name.eq_ignore_ascii_case(b"content-length") {
                    self.length = Some(decimal(halves.next().unwrap_or_default()).unwrap_or(0));
                    // Padded beyond what any client does, so that it cannot be read here.
                    return (!whole).then_some(Flaw::TwoFramings);
                }
                self.coded |= name.eq_ignore_ascii_case(b"transfer-encoding");
                None
            }
            Part::ChunkSize => {
                self.part = match hexadecimal(line) {
                    Some(0) => Part::Trailers,
                    Some(bytes) => Part::Chunk(bytes.saturating_add(2)),
                    None => Part::Ignored,
                };
                None
            }
            Part::Trailers if line.is_empty() => {
                self.part = Part::RequestLine;
                None
            }
            _ => None,
        }
    }

    fn end_head(&mut self) -> Option<Flaw> {
        let (length, coded) = (self.length.take(), std::mem::take(&mut self.coded));
        self.head_bytes = 0;
        self.part = match length {
            _ if coded => Part::ChunkSize,
            Some(bytes @ 1..) => Part::Body(bytes),
            _ => Part::RequestLine,
        };
        (coded && length.is_some()).then_some(Flaw::TwoFramings)
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// The size of a chunk; extensions may follow it.
fn hexadecimal(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD_MAX: usize = 1_000;

    const BOTH: &str = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    const BOTH_TURNED: &str = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nCONTENT-LENGTH:3\r\n\r\n0\r\n\r\n";
    const SIZED: &str = "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n\n\n1234567";
    /// A body that looks like the flaw.
    const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
        1e;x=y\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n0\r\nContent-Length: 1\r\n\r\n";
    const BARE: &str = "\r\nGET / HTTP/1.1\nHost: a\n\n";

    fn fed(text: &str, step: usize) -> Option<Flaw> {
        let mut framing = Framing::new(HEAD_MAX);
        text.as_bytes().chunks(step).fold(None, |flaw, bytes| {
            let found = framing.feed(bytes);
            flaw.or(found)
        })
    }

    #[test]
    fn two_framings_are_seen_wherever_they_come() {
        for step in [1, 2, 7, 10_000] {
            for good in [SIZED, CHUNKED, BARE] {
                assert_eq!(fed(&good.repeat(3), step), None, "{good}");
            }
            for bad in [BOTH, BOTH_TURNED] {
                for before in ["", SIZED, CHUNKED, BARE] {
                    assert_eq!(fed(&format!("{before}{bad}"), step), Some(Flaw::TwoFramings), "{before}{bad}");
                }
            }
            let padded = format!("POST / HTTP/1.1\r\nContent-Length:{}3\r\n\r\nabc", " ".repeat(200));
            assert_eq!(fed(&padded, step), Some(Flaw::TwoFramings));
            assert_eq!(fed(&format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{BOTH}"), step), None);
        }
    }

    #[test]
    fn a_head_has_a_size_and_a_body_has_none() {
        let with = |bytes: usize| format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(bytes));
        for step in [1, 100, 10_000] {
            assert_eq!(fed(&with(900).repeat(3), step), None);
            assert_eq!(fed(&with(1_000), step), Some(Flaw::LargeHead));
        }
        let body = format!("POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{}", "\n".repeat(5_000));
        assert_eq!(fed(&format!("{body}{}", with(10)), 64), None);
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1_usize..50) {
            let mut framing = Framing::new(HEAD_MAX);
            for bytes in bytes.chunks(step) {
                framing.feed(bytes);
            }
        }
    }
}
