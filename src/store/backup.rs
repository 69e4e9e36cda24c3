//! The contents of a backup: every row of the state, and what is needed to begin a cluster with them.
//!
//! Layout: blocks `length u32 | envelope`: a header, chunks of rows, a trailer with the counts and the hash of everything
//! before it. Written and read in one pass, with about one chunk in memory. This is the state in the clear, the key of the
//! cluster's authority included: it exists on an encrypted connection and in memory, and on a disk sealed (`backup`).

use std::io::{self, Read};
use std::marker::PhantomData;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::envelope::{self, DECODED_BYTES_MAX, Kind, Stored, Unencodable, Unreadable};
use super::stored::SnapshotChunkV1;
use crate::config::cluster_versions;
use crate::model::{ClusterId, Timestamp, check_cluster_version};
use crate::state::{Record, State};

/// Rows are gathered until a chunk has about this size.
const CHUNK_BYTES: usize = 256 * 1024;

/// What a backup says of itself. Stored in this form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// The cluster.
    pub cluster: ClusterId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Up to where the log is in it.
    pub index: u64,
    /// The term of the leader then.
    pub term: u64,
    /// Version of the program that made it.
    pub version: String,
    /// How many bytes its rows have, encoded: for showing how far it is.
    pub bytes: u64,
}

/// The end of a backup: what must have come before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BackupTrailerV1 {
    pub(super) chunks: u64,
    pub(super) rows: u64,
    /// Over all blocks before this one, with their lengths.
    pub(super) sha256: [u8; 32],
}

/// Contents that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BackupUnreadable {
    /// They end before their end, or what is under them says so.
    #[error("it ends before its end")]
    Truncated,
    /// They do not add up.
    #[error("{0}")]
    Damaged(&'static str),
    /// A part is of a newer version, or is not what belongs there.
    #[error("its {part} cannot be read")]
    Part {
        /// Which part.
        part: &'static str,
        /// Why.
        source: Unreadable,
    },
    /// They cannot be got.
    #[error("it cannot be read")]
    Io(#[source] io::Error),
}

/// Hands out the contents of a backup of this state, block by block; the header's `bytes` are counted here.
pub fn write_backup<E: From<Unencodable>>(
    state: &State,
    header: BackupHeader,
    take: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut blocks = Blocks { hash: Sha256::new(), take, of: PhantomData };
    blocks.put(&BackupHeader { bytes: state.bytes(), ..header })?;
    let (mut rows, mut bytes, mut count, mut chunks) = (Vec::new(), 0, 0, 0);
    for record in state.records() {
        let row = envelope::encode(&record)?;
        bytes += row.len();
        count += 1;
        rows.push(Bytes::from(row));
        if bytes >= CHUNK_BYTES {
            blocks.put(&SnapshotChunkV1 { rows: std::mem::take(&mut rows) })?;
            (bytes, chunks) = (0, chunks + 1);
        }
    }
    if !rows.is_empty() {
        blocks.put(&SnapshotChunkV1 { rows })?;
        chunks += 1;
    }
    let sha256 = blocks.hash.clone().finalize().into();
    blocks.put(&BackupTrailerV1 { chunks, rows: count, sha256 })
}

struct Blocks<T, E> {
    hash: Sha256,
    take: T,
    of: PhantomData<E>,
}

impl<E: From<Unencodable>, T: FnMut(Bytes) -> Result<(), E>> Blocks<T, E> {
    fn put(&mut self, value: &impl Stored) -> Result<(), E> {
        let plain = envelope::encode(value)?;
        let length = u32::try_from(plain.len()).expect("an envelope is limited to far less than 4 GiB");
        let block = [&length.to_be_bytes()[..], &plain].concat();
        self.hash.update(&block);
        (self.take)(block.into())
    }
}

/// Reads a backup's contents. What was handed out counts only once [`Self::next_rows`] answered `None`.
pub struct BackupReader<R> {
    input: R,
    header: BackupHeader,
    rows: u64,
    chunks: u64,
    hash: Sha256,
    ended: bool,
}

impl<R: Read> BackupReader<R> {
    /// Reads as far as the header.
    pub fn begin(mut input: R) -> Result<Self, BackupUnreadable> {
        let mut hash = Sha256::new();
        let plain = block(&mut input, &mut hash)?;
        let header = part("header", &plain)?;
        Ok(Self { input, header, rows: 0, chunks: 0, hash, ended: false })
    }

    /// What it says of itself. As true as its source until the end was reached.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// The next rows; `None` when everything was there and adds up.
    pub fn next_rows(&mut self) -> Result<Option<Vec<Record>>, BackupUnreadable> {
        if self.ended {
            return Ok(None);
        }
        let before: [u8; 32] = self.hash.clone().finalize().into();
        let plain = block(&mut self.input, &mut self.hash)?;
        if envelope::kind_of(&plain) == Some(Kind::BackupTrailer as u16) {
            let trailer: BackupTrailerV1 = part("trailer", &plain)?;
            let found = BackupTrailerV1 { chunks: self.chunks, rows: self.rows, sha256: before };
            if trailer != found {
                return Err(BackupUnreadable::Damaged("its contents do not add up"));
            }
            if !up_to(1, &mut self.input)?.is_empty() {
                return Err(BackupUnreadable::Damaged("something follows its end"));
            }
            self.ended = true;
            return Ok(None);
        }
        let chunk: SnapshotChunkV1 = part("chunk", &plain)?;
        let records = chunk.rows.iter().map(|row| part("row", row)).collect::<Result<Vec<Record>, _>>()?;
        records.iter().try_for_each(supported)?;
        self.chunks += 1;
        self.rows += records.len() as u64;
        Ok(Some(records))
    }
}

/// Refuses the row of a cluster at a version that this program does not support, also when all rows can be read: it would misread
/// what they mean.
fn supported(record: &Record) -> Result<(), BackupUnreadable> {
    let Record::Cluster(cluster) = record else { return Ok(()) };
    check_cluster_version(cluster.cluster_version, &cluster_versions())
        .map_err(|source| BackupUnreadable::Part { part: "cluster", source: source.into() })
}

fn part<T: Stored>(part: &'static str, plain: &[u8]) -> Result<T, BackupUnreadable> {
    envelope::decode(plain).map_err(|source| BackupUnreadable::Part { part, source })
}

/// The next block.
fn block(input: &mut impl Read, hash: &mut Sha256) -> Result<Vec<u8>, BackupUnreadable> {
    let head: [u8; 4] = up_to(4, input)?.try_into().map_err(|_| BackupUnreadable::Truncated)?;
    let length = u32::from_be_bytes(head);
    if length as usize > DECODED_BYTES_MAX {
        return Err(BackupUnreadable::Damaged("a part of it has an impossible length"));
    }
    let plain = up_to(u64::from(length), input)?;
    if plain.len() < length as usize {
        return Err(BackupUnreadable::Truncated);
    }
    hash.update(head);
    hash.update(&plain);
    Ok(plain)
}

/// So many bytes, or as many as there are. Memory grows with what is there, not with what a length claims.
fn up_to(bytes: u64, input: &mut impl Read) -> Result<Vec<u8>, BackupUnreadable> {
    let mut found = Vec::new();
    input.take(bytes).read_to_end(&mut found).map_err(BackupUnreadable::Io)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::sample_records;

    fn header() -> BackupHeader {
        let cluster = ClusterId(uuid::Uuid::from_u128(1));
        BackupHeader { cluster, created_at: Timestamp(7), index: 300, term: 2, version: "0.1.0".to_owned(), bytes: 0 }
    }

    fn written(state: &State) -> Vec<u8> {
        let mut bytes = Vec::new();
        let taken = write_backup::<Unencodable>(state, header(), |block| {
            bytes.extend_from_slice(&block);
            Ok(())
        });
        taken.expect("encodes");
        bytes
    }

    fn read(bytes: &[u8]) -> Result<State, BackupUnreadable> {
        let mut reader = BackupReader::begin(bytes)?;
        assert_eq!(reader.header().cluster, header().cluster);
        let mut records = Vec::new();
        while let Some(rows) = reader.next_rows()? {
            records.extend(rows);
        }
        Ok(State::from_records(records))
    }

    #[test]
    fn what_is_written_is_read() {
        let state = State::from_records(sample_records());
        assert_eq!(read(&written(&state)).expect("reads"), state);
        assert_eq!(read(&written(&State::default())).expect("reads"), State::default());
    }

    #[test]
    fn every_cut_and_every_addition_is_noticed() {
        let bytes = written(&State::from_records(sample_records()));
        for length in 0..bytes.len() {
            assert!(matches!(read(&bytes[..length]), Err(BackupUnreadable::Truncated)), "cut at {length}");
        }
        assert!(matches!(read(&[&bytes[..], b"x"].concat()), Err(BackupUnreadable::Damaged(_))));
    }

    #[test]
    fn another_kind_and_a_newer_version_are_named() {
        let mut bytes = written(&State::default());
        assert!(matches!(read(b"\0\0\0\x05\x01\0\x02\0\x01"), Err(BackupUnreadable::Part { part: "header", .. })));
        bytes[8] = 9;
        let error = read(&bytes).expect_err("a newer header");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("upgrade narvana"), "{cause}");
        assert!(matches!(read(&[0xff; 64]), Err(BackupUnreadable::Damaged(_))), "an impossible length");
    }
}
