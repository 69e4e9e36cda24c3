//! A blob that was found to be whole.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use bytes::Bytes;
use futures::Stream;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::Digest;
use crate::task::blocking;

/// Read at once when a blob is streamed.
const CHUNK_BYTES: usize = 256 * 1024;

/// An open blob whose bytes were verified. It stays readable when it is removed from the store meanwhile.
#[derive(Debug)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    pub(super) file: File,
}

impl Blob {
    /// Its bytes, for async readers.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + use<> {
        stream(self.file, self.bytes)
    }

    /// At most so many of its bytes, from `offset` on, for async readers: for those who have its beginning already.
    pub async fn into_part(
        mut self,
        offset: u64,
        bytes: u64,
    ) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + Sync + use<>> {
        let file = blocking(move || self.file.seek(SeekFrom::Start(offset)).map(|_| self.file)).await?;
        Ok(stream(file, bytes))
    }

    /// Its file, at the start, for work on a blocking thread such as unpacking.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// So many bytes of a file, from where it stands.
fn stream(file: File, bytes: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + use<> {
    ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(bytes), CHUNK_BYTES)
}
