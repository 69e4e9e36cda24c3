//! Backups, as somebody hands them in.
//!
//! The first byte of the input chooses: a sealed file of any bytes; contents of any bytes; or a backup that was sealed here
//! with some bytes changed. What was not sealed with the passphrase is never opened, contents that are read to their
//! end are written again as they were, and a changed backup is refused.

#![no_main]

use std::io::Read;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use narvana::backup::{Opening, Passphrase, Sealing, Unopened};
use narvana::model::Timestamp;
use narvana::state::State;
use narvana::store::{BackupHeader, BackupReader, BackupUnreadable, Unencodable, write_backup};

/// Files that ask for more work than this are left out: each would take a second.
const WORK_FACTOR_MAX: u8 = 8;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => sealed(rest),
        1 => contents(rest),
        _ => changed(rest),
    }
});

fn passphrase() -> Passphrase {
    Passphrase::known("tulips".to_owned()).expect("a passphrase")
}

fn opened(bytes: &[u8]) -> Result<Vec<u8>, Unopened> {
    let mut opening = Opening::begin(bytes, &passphrase())?;
    let mut plain = Vec::new();
    match opening.read_to_end(&mut plain) {
        Ok(_) => Ok(plain),
        Err(error) => Err(error.downcast().expect("one of ours")),
    }
}

fn is_cheap(bytes: &[u8]) -> bool {
    let stanza = bytes.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
    let factor = stanza.rsplit(|byte| *byte == b' ').next().and_then(|word| std::str::from_utf8(word).ok());
    factor.and_then(|word| word.parse::<u8>().ok()).is_none_or(|factor| factor <= WORK_FACTOR_MAX || factor > 20)
}

fn sealed(bytes: &[u8]) {
    if is_cheap(bytes) {
        assert!(opened(bytes).is_err(), "any bytes were taken for what was sealed with the passphrase");
    }
}

fn read(bytes: &[u8]) -> Result<(BackupHeader, State), BackupUnreadable> {
    let mut reader = BackupReader::begin(bytes)?;
    let mut records = Vec::new();
    while let Some(rows) = reader.next_rows()? {
        records.extend(rows);
    }
    Ok((reader.header().clone(), State::from_records(records)))
}

fn written(header: &BackupHeader, state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    let made = write_backup::<Unencodable>(state, header.clone(), |block| {
        bytes.extend_from_slice(&block);
        Ok(())
    });
    made.expect("what was read can be written");
    bytes
}

fn contents(bytes: &[u8]) {
    let Ok((header, state)) = read(bytes) else { return };
    let (_, again) = read(&written(&header, &state)).expect("what was just written can be read");
    assert!(again == state, "the state is another one");
}

/// `position u16 | byte`, repeated; one more byte cuts the file.
fn changed(bytes: &[u8]) {
    static ORIGINAL: OnceLock<Vec<u8>> = OnceLock::new();
    let original = ORIGINAL.get_or_init(|| {
        let cluster = "00000000-0000-0000-0000-000000000001".parse().expect("an id");
        let version = "0".to_owned();
        let header = BackupHeader { cluster, created_at: Timestamp(1), index: 1, term: 1, version, bytes: 0 };
        let mut sealing = Sealing::begin_at(Vec::new(), &passphrase(), 1).expect("begins");
        let plain = written(&header, &State::from_records(narvana::state::sample_records()));
        std::io::Write::write_all(&mut sealing, &plain).expect("writes");
        sealing.finish().expect("finishes")
    });
    let mut file = original.clone();
    let changes = bytes.chunks_exact(3);
    if let [cut] = changes.remainder() {
        file.truncate(file.len() - usize::from(*cut).min(file.len()));
    }
    for change in changes {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
        if let Some(byte) = file.get_mut(at) {
            *byte ^= change[2];
        }
    }
    if is_cheap(&file) {
        assert_eq!(opened(&file).is_ok(), file == *original, "a changed backup was opened, or a whole one was not");
    }
}
