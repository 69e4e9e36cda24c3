//! How many instances a second the scheduler places on 1,000 nodes that hold 50,000 instances, how much more one placement
//! costs there than on a tenth of the nodes, and how long it takes to say what would go down with each node.
//!
//! Run with `cargo bench --bench schedule`. The world and the measurement are those of the test, which checks the same
//! limits in every run of the tests.

mod row;
#[path = "../tests/it/scheduling.rs"]
mod scheduling;

use row::Row;

fn main() {
    let (thousand, hundred) = (scheduling::placement_on(1_000), scheduling::placement_on(100));
    let per_second = 1.0 / thousand.as_secs_f64();
    Row {
        what: "placements, 1,000 nodes, 50,000 instances",
        ours: format!("{per_second:.0}/s"),
        peer: String::new(),
        measured: per_second,
        wanted: 5_000.0..=f64::INFINITY,
    }
    .print();
    Row {
        what: "one placement, 1,000 nodes against 100",
        ours: format!("{thousand:.1?}"),
        peer: format!("{hundred:.1?}"),
        measured: thousand.as_secs_f64() / hundred.as_secs_f64(),
        wanted: 0.0..=3.0,
    }
    .print();
    let losses = scheduling::all_losses(10_000);
    Row {
        what: "what goes down with each of 10 nodes, 10,000 services",
        ours: format!("{losses:.1?}"),
        peer: String::new(),
        measured: losses.as_secs_f64(),
        // It is computed whenever somebody asks for the status.
        wanted: 0.0..=0.25,
    }
    .print();
}
