//! Whole clusters under faults: real processes on machines of their own, things that go wrong, clients that write down what
//! they were told, and a judge who looks for an answer that cannot be.
//!
//! A seed decides everything: how many nodes, what goes wrong when, who asks for what. `scripts/torture.sh` makes many runs;
//! the tests here are two of them. A run passes when no promise was broken, every fault of its plan really happened, and
//! every node took changes again in time.

mod check;
mod client;
mod dice;
mod exclusive;
mod fault;
mod ground;
mod history;
mod line;
mod model;
mod nemesis;
mod plan;
mod proxy;
mod run;
mod sabotage;
mod shim;
mod stream;
mod verdict;

use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::{Plan, Wanted};

/// A run of this seed, or of the one that `scripts/torture.sh` asks for.
fn run_of(seed: u64, members: usize, steps: usize) {
    let plan = Plan::of(&Wanted::or_asked(seed, members, steps));
    let folder = run::folder_of(&plan);
    println!(
        "torture: seed {}, {} members, {} clients, {} faults",
        plan.seed,
        plan.members,
        plan.clients,
        plan.steps.len()
    );
    let verdict = catch_unwind(AssertUnwindSafe(|| run::carry_out(&plan, &folder)));
    let words = match verdict {
        Ok(verdict) if verdict.is_good() => {
            println!("torture: seed {} passed: {verdict}", plan.seed);
            if std::env::var_os("NARVANA_TORTURE_KEEP").is_none() {
                std::fs::remove_dir_all(&folder).expect("removed");
            }
            return;
        }
        Ok(verdict) => verdict.to_string() + &verdict.complaints(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
        }
    };
    panic!(
        "torture: seed {} failed: {words}\nits histories and logs: {}\nagain: {}",
        plan.seed,
        folder.display(),
        plan.command()
    );
}

#[test]
fn a_cluster_keeps_its_promises_whatever_goes_wrong() {
    run_of(1, 3, 6);
}

#[test]
fn a_cluster_keeps_its_promises_whatever_else_goes_wrong() {
    run_of(2, 3, 6);
}
