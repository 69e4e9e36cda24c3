//! Flipped bits anywhere in the files of a closed and of a killed node: what is read is right, or the store refuses,
//! names the file, and does not panic.
//!
//! `NARVANA_LONG_TESTS=1` flips 10,000 bits (`scripts/long-tests.sh`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::crash_disk::{Contents, CrashDisk, Dice, FILES, Others, is_long};
use super::crash_points::left;
use super::workload::{Finished, Said};
use super::*;

/// Around so many bytes of something else than zero, half of the flips happen: redb files are mostly empty.
const NEIGHBOURHOOD: usize = 64;

struct Tally {
    right: usize,
    refused: BTreeMap<String, usize>,
}

/// A place in a file, as often where something is written as anywhere.
fn place(bytes: &[u8], dice: &mut Dice) -> usize {
    let at = dice.roll(bytes.len());
    let written = |at: &usize| bytes[*at..bytes.len().min(at + NEIGHBOURHOOD)].iter().any(|byte| *byte != 0);
    if dice.roll(2) == 0 { at } else { (0..200).map(|_| dice.roll(bytes.len())).find(written).unwrap_or(at) }
}

fn flipped(contents: &Contents, others: &Others, dice: &mut Dice) -> (Contents, Others, String) {
    let (mut contents, mut others) = (contents.clone(), others.clone());
    let bit = 1 << dice.roll(8);
    // The small files are few bytes and would hardly ever be met.
    let small: Vec<PathBuf> =
        others.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(path, _)| path.clone()).collect();
    match dice.roll(20) {
        0 | 1 => {
            let path = &small[dice.roll(small.len())];
            let mut bytes = others[path].to_vec();
            let at = dice.roll(bytes.len());
            bytes[at] ^= bit;
            Arc::make_mut(&mut others).insert(path.clone(), Arc::new(bytes));
            let what = format!("{}, byte {at}, bit {bit}", path.display());
            (contents, others, what)
        }
        roll => {
            let file = roll % 2;
            let at = place(&contents[file], dice);
            contents[file][at] ^= bit;
            (contents, others, format!("{}, byte {at}, bit {bit}", FILES[file]))
        }
    }
}

/// Opens flipped files as the node would. An error is what it prints.
async fn outcome(finished: &Finished, contents: Contents, others: &Others) -> Result<(), Error> {
    let folder = left(others);
    let disk = CrashDisk::<Said>::new(folder.path(), contents);
    let key = SealKey::load(&folder.path().join(KEY_FILE))?;
    let store = Store::open_on(&disk, Options { key, ..finished.node.options(folder.path()) })?;
    finished.promise.check(&store, &finished.run).await.unwrap_or_else(|wrong| panic!("read as good data: {wrong}"));
    if let Some(snapshot) = store.machine().shared_snapshot() {
        // Sealed with the hash of the whole: what reads to its end is what was written.
        snapshot.chunks(|_| Ok::<_, Error>(()))?;
    }
    Ok(())
}

/// The message names the file that the bit was flipped in, and the table and the kind of key where it is a value.
#[track_caller]
fn says_where(error: &Error, flipped: &str) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    // There is one snapshot; its name would say nothing more.
    let named = if flipped.starts_with(SNAPSHOT_FOLDER) { "snapshot" } else { flipped };
    assert!(text.contains(named), "{flipped} was flipped: {text}");
    if let Error::Damaged { table, key, .. } | Error::Unreadable { table, key, .. } = error {
        let is_known = !key.is_empty() && !key.contains("unknown");
        assert!(!table.is_empty() && is_known && text.contains(table) && text.contains(key), "{text}");
    }
}

async fn flip(finished: &Finished, contents: &Contents, others: &Others, seed: u64, count: u64) -> Tally {
    outcome(finished, contents.clone(), others).await.expect("without a flip everything is right");
    let mut tally = Tally { right: 0, refused: BTreeMap::new() };
    for number in 0..count {
        let mut dice = Dice(seed << 32 | number);
        let (contents, others, what) = flipped(contents, others, &mut dice);
        println!("seed {seed}, flip {number}: {what}");
        match outcome(finished, contents, &others).await {
            Ok(()) => tally.right += 1,
            Err(error) => {
                assert!(error.is_unusable_folder(), "{what}: {error}");
                says_where(&error, what.split(", ").next().expect("a file"));
                *tally.refused.entry(error.to_string()).or_default() += 1;
            }
        }
    }
    tally
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_bit_is_read_as_good_data() {
    let (runs, count) = if is_long() { (10, 500) } else { (1, 200) };
    for seed in 1..=runs {
        let finished = Finished::new(seed).await;
        for (state, (contents, others)) in [("closed", &finished.closed), ("killed", &finished.killed)] {
            let began = std::time::Instant::now();
            let tally = flip(&finished, contents, others, seed, count).await;
            let refused: usize = tally.refused.values().sum();
            println!(
                "{state}: {} right, {refused} refused in {:?}: {:#?}",
                tally.right,
                began.elapsed(),
                tally.refused
            );
            assert_eq!(tally.right + refused, usize::try_from(count).expect("few"));
            // A flip in empty space does no harm, and most of the others are noticed.
            assert!(tally.right > 0 && refused > usize::try_from(count).expect("few") / 10, "{state}");
        }
    }
}
