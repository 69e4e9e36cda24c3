//! A cluster in one process, on simulated time: machines with a disk and an engine each, the network between them, clients, and
//! everything that goes wrong; all of it chosen by one number.
//!
//! What runs is the real thing: consensus, the store on redb, the state machine, the leader's loops, the agents. What is
//! simulated is the world around it: the clocks, chance, the disk under redb, the network in the place of `rpc`, and the
//! engines. One thread runs all of it in an order that the seed decides, so that the same seed is the same run.
//!
//! A run has two parts. First things go wrong while clients work; then nothing does any more, and the cluster must decide again
//! and run what is wanted. In both, what each node applies, what clients are told, and what runs where is compared with what
//! must be (`ledger`, `workload`, `world`).
//!
//! ```text
//! scripts/simulate.sh --seeds 1000 --from 1     many runs
//! scripts/simulate.sh --seed 42                 one, with what happened
//! ```

mod disk;
mod faults;
mod guard;
mod ledger;
mod machine;
mod network;
mod recovery;
mod trace;
mod wait;
mod workload;
mod world;

#[cfg(not(tokio_unstable))]
compile_error!(
    "tests need --cfg tokio_unstable, which .cargo/config.toml sets: RUSTFLAGS in the environment replaces it"
);

use std::collections::BTreeMap;

use crate::planted::{self, Bug};
use faults::Kind;
use world::{Verdict, Wish, run};

fn number(name: &str, otherwise: u64) -> u64 {
    crate::config::test_setting(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[track_caller]
fn check(seed: u64, verdict: &Verdict) {
    if let Some(violation) = &verdict.violation {
        panic!("seed {seed}: {violation}\nagain, with what happened: scripts/simulate.sh --seed {seed}");
    }
}

/// The order of what happens does not depend on anything but the seed.
#[test]
fn the_same_seed_is_the_same_run() {
    let wish = Wish { readable: true, ..Wish::default() };
    let full = Wish { only: Some(Kind::FullDisk), readable: true };
    for (seed, wish) in [(1, &wish), (2, &wish), (3, &full)] {
        let (first, second) = (run(seed, wish), run(seed, wish));
        let differs = first.lines.iter().zip(&second.lines).position(|(one, other)| one != other);
        if let Some(line) = differs {
            panic!(
                "seed {seed} differs in event {line} of {}:\n{}\n{}",
                first.events, first.lines[line], second.lines[line]
            );
        }
        assert_eq!((first.sum, first.events), (second.sum, second.events), "seed {seed}");
    }
}

/// Each bug that can be planted is found, within so many seeds, and for what it does. What goes wrong is what brings it out.
#[test]
fn planted_bugs_are_found() {
    const SEEDS: u64 = 30;
    let all: [(Bug, Kind, &[&str]); 8] = [
        (
            Bug::AckBeforeSync,
            Kind::Power,
            &[
                "it ends before the last entry or vote that was answered",
                "is missing although the data folder was in use",
            ],
        ),
        (Bug::LocalRead, Kind::Isolate, &["were answered before it began"]),
        (Bug::SplitCheckpoint, Kind::PowerWhileWriting, &["has another state after entry"]),
        (Bug::ForgetRequests, Kind::OneWay, &["was repeated in"]),
        (Bug::NoFence, Kind::IsolateLong, &["runs alone and ran twice"]),
        (Bug::ReuseNodeId, Kind::Ghost, &["a second time"]),
        (Bug::CutDamagedLog, Kind::Damage, &["has forgotten what was on its disk"]),
        (Bug::UsedToken, Kind::Ghost, &["with a join token that was used already"]),
    ];
    for (bug, only, words) in all {
        planted::plant(Some(bug));
        let wish = Wish { only: Some(only), ..Wish::default() };
        let found = (1..=SEEDS).find_map(|seed| Some((seed, run(seed, &wish).violation?)));
        planted::plant(None);
        let Some((seed, violation)) = found else { panic!("{bug:?} was not found in {SEEDS} seeds") };
        assert!(
            words.iter().any(|words| violation.contains(words)),
            "{bug:?}, seed {seed}: not for what it does: {violation}"
        );
        println!("{bug:?}: seed {seed}: {violation}");
    }
}

/// In so many seeds everything happens that is to happen.
const ENOUGH: u64 = 8;

/// Seeds one after the other: `NARVANA_SEED` is the first, `NARVANA_SEEDS` how many.
#[test]
fn seeds_hold() {
    let (first, count) = (number("NARVANA_SEED", 100), number("NARVANA_SEEDS", 8));
    let wish = Wish { readable: count == 1, ..Wish::default() };
    let began = std::time::Instant::now();
    let (mut entries, mut events, mut simulated) = (0, 0, std::time::Duration::ZERO);
    let (mut containers, mut installed, mut done, mut reads) = (0, 0, 0, 0);
    let (mut joined, mut removed) = (0, 0);
    let mut faults: BTreeMap<Kind, u32> = BTreeMap::new();
    for seed in first..first + count {
        let verdict = run(seed, &wish);
        if wish.readable {
            verdict.lines.iter().for_each(|line| println!("{line}"));
        }
        println!("seed {seed}: {} entries, {:?}, {:?}", verdict.entries, verdict.counts, verdict.took);
        check(seed, &verdict);
        entries += verdict.entries;
        events += verdict.events;
        simulated += verdict.took;
        containers += verdict.containers;
        installed += verdict.installed;
        joined += verdict.joined;
        removed += verdict.removed;
        done += verdict.counts.done;
        reads += verdict.counts.reads;
        for (kind, count) in verdict.faults {
            *faults.entry(kind).or_default() += count;
        }
    }
    // What does not happen is not tested.
    if count >= ENOUGH {
        assert!(containers > 0 && installed > 0, "{containers} containers started, {installed} snapshots installed");
        assert!(done > 0 && reads > 0, "{done} changes, {reads} reads");
    }
    if count >= ENOUGH * Kind::ALL.len() as u64 {
        assert_eq!(faults.len(), Kind::ALL.len(), "{faults:?}");
        assert!(joined > 0 && removed > 0, "{joined} machines joined, and {removed} members were removed");
    }
    println!(
        "{count} seeds from {first} held in {:?}: {simulated:?} simulated, {entries} entries, {events} events, \
         {done} changes, {reads} reads, {containers} containers, {installed} snapshots installed, {joined} machines joined, {removed} members removed, {faults:?}",
        began.elapsed()
    );
}
