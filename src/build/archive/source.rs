//! The bytes of an archive on their way in: told apart, decompressed, counted, and cut off at the limits.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::GzDecoder;
use tokio_util::sync::CancellationToken;

use super::{Error, shown};
use crate::build::tree::Limits;

const BLOCK: usize = 512;
/// What may stand before one entry: long names and extended headers. A path has at most 4 KiB.
const MAX_HEADER_BYTES: u64 = 64 * 1024;
/// Small archives may shrink by any factor, as empty files do.
const RATIO_FROM: u64 = 64 * 1024 * 1024;
/// No source shrinks by more; what does was made to fill a disk.
const MAX_RATIO: u64 = 100;
/// The largest window that the zstd command line uses without asking, 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Counts what goes in and what comes out, and stops both at the limits.
pub(super) struct Meter {
    limits: Limits,
    stop: CancellationToken,
    packed: Cell<u64>,
    pub(super) unpacked: Cell<u64>,
    /// What may still be read before the next entry begins; `None` inside of one.
    header_left: Cell<Option<u64>>,
    /// Why a read was refused, since an `io::Error` cannot say.
    tripped: RefCell<Option<Error>>,
}

impl Meter {
    pub(super) fn new(limits: Limits, stop: CancellationToken) -> Self {
        Self {
            limits,
            stop,
            packed: Cell::new(0),
            unpacked: Cell::new(0),
            header_left: Cell::new(None),
            tripped: RefCell::new(None),
        }
    }

    pub(super) fn begin_header(&self) {
        self.header_left.set(Some(MAX_HEADER_BYTES));
    }

    pub(super) fn begin_content(&self) {
        self.header_left.set(None);
    }

    pub(super) fn too_large(&self) -> Error {
        Error::TooLarge { what: "bytes unpacked", limit: self.limits.bytes }
    }

    fn trip(&self, error: Error) -> io::Error {
        *self.tripped.borrow_mut() = Some(error);
        io::Error::other("stopped")
    }

    /// Called with what was just unpacked.
    fn check(&self, read: u64) -> io::Result<()> {
        let unpacked = self.unpacked.get() + read;
        self.unpacked.set(unpacked);
        if self.stop.is_cancelled() {
            return Err(self.trip(Error::Stopped));
        }
        // Headers and padding come on top of the files: at most two blocks for each entry, and the end.
        let overhead = (self.limits.entries as u64 + 1).saturating_mul(4 * BLOCK as u64);
        if unpacked > self.limits.bytes.saturating_add(overhead) {
            return Err(self.trip(self.too_large()));
        }
        if unpacked > RATIO_FROM && unpacked / MAX_RATIO > self.packed.get() {
            return Err(self.trip(Error::TooLarge { what: "times its own size in it", limit: MAX_RATIO }));
        }
        if let Some(left) = self.header_left.get() {
            let Some(left) = left.checked_sub(read) else {
                return Err(self.trip(Error::TooLarge { what: "bytes in one header", limit: MAX_HEADER_BYTES }));
            };
            self.header_left.set(Some(left));
        }
        Ok(())
    }

    /// The public form of a read that failed.
    pub(super) fn explain(&self, error: io::Error) -> Error {
        if let Some(tripped) = self.tripped.borrow_mut().take() {
            return tripped;
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Malformed("it is cut off".to_owned()),
            _ => Error::Malformed(shown(error.to_string().as_bytes())),
        }
    }
}

/// Counts compressed bytes and keeps errors of the transport apart from those of the format.
pub(super) struct Packed<R> {
    inner: R,
    meter: Rc<Meter>,
}

impl<R: Read> Read for Packed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(read) => {
                self.meter.packed.set(self.meter.packed.get() + read as u64);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.meter.trip(Error::Stream(error))),
        }
    }
}

pub(super) struct Metered<R> {
    pub(super) inner: R,
    pub(super) meter: Rc<Meter>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A header is never read in one gulp with what follows, so that its limit is met in time.
        let want = buffer.len().min(64 * 1024);
        let read = self.inner.read(&mut buffer[..want])?;
        self.meter.check(read as u64)?;
        Ok(read)
    }
}

type Source<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, Packed<R>>>;

pub(super) enum Decoded<R: Read> {
    Plain(Source<R>),
    Gzip(Box<GzDecoder<Source<R>>>),
    Zstd(Box<zstd::Decoder<'static, Source<R>>>),
}

impl<R: Read> Decoded<R> {
    /// Looks at the first bytes and chooses.
    pub(super) fn open(inner: R, meter: &Rc<Meter>) -> Result<Self, Error> {
        let mut packed = Packed { inner, meter: Rc::clone(meter) };
        let mut head = Vec::new();
        (&mut packed).take(BLOCK as u64).read_to_end(&mut head).map_err(|error| meter.explain(error))?;
        let kind = match head.as_slice() {
            [] => return Err(Error::UnknownFormat("empty")),
            [0x1f, 0x8b, ..] => 1,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => 2,
            [b'P', b'K', 3 | 5, 4 | 6, ..] => return Err(Error::UnknownFormat("a zip file")),
            [b'B', b'Z', b'h', ..] => return Err(Error::UnknownFormat("compressed with bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(Error::UnknownFormat("compressed with xz")),
            head if looks_like_tar(head) => 0,
            _ => return Err(Error::UnknownFormat("no archive")),
        };
        let source = BufReader::with_capacity(64 * 1024, io::Cursor::new(head).chain(packed));
        match kind {
            1 => Ok(Self::Gzip(Box::new(GzDecoder::new(source)))),
            2 => {
                let mut decoder = zstd::Decoder::with_buffer(source).map_err(Error::Stream)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(Error::Stream)?;
                Ok(Self::Zstd(Box::new(decoder)))
            }
            _ => Ok(Self::Plain(source)),
        }
    }

    /// Behind the one compressed stream there must be nothing: programs differ in what they make of a second one.
    pub(super) fn check_nothing_follows(self) -> Result<(), Error> {
        let mut source = match self {
            Self::Plain(source) => source,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        if source.fill_buf().map_err(Error::Stream)?.is_empty() {
            return Ok(());
        }
        Err(Error::Malformed("something follows after its end".to_owned()))
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Whether the checksum of the first header holds, or the archive is an empty one.
fn looks_like_tar(head: &[u8]) -> bool {
    let Ok(block) = <&[u8; BLOCK]>::try_from(head) else { return false };
    if block.iter().all(|byte| *byte == 0) {
        return true;
    }
    let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    tar::Header::from_byte_slice(block).cksum().is_ok_and(|wanted| wanted == sum)
}
