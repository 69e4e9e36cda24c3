//! What a run came to.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Promises that were broken.
    pub(super) broken: Vec<String>,
    /// What should have happened in the run and did not.
    pub(super) missed: Vec<String>,
    pub(super) answers: usize,
    /// Of those, while something was wrong.
    pub(super) during: usize,
    pub(super) unknown: usize,
    pub(super) objects: usize,
    pub(super) faults: usize,
    /// Faults after which another leader, or the same one in a later term, led.
    pub(super) elections: usize,
    /// Objects whose answers nothing explains.
    pub(super) lost: usize,
    pub(super) stale: usize,
    /// Machines that came and went.
    pub(super) joined: usize,
    /// Looks at what must not run twice.
    pub(super) looks: usize,
    /// Lines of a stream that was followed, and connections for it.
    pub(super) followed: (usize, usize),
    /// The index at which all nodes agree.
    pub(super) index: u64,
    pub(super) started: Duration,
    pub(super) recovered: Duration,
    pub(super) has_recovered: bool,
    pub(super) checked: Duration,
}

impl Verdict {
    /// A line for each promise that was broken, and each thing that should have happened.
    pub(super) fn complaints(&self) -> String {
        let broken = self.broken.iter().map(|words| format!("\nbroken: {words}"));
        broken.chain(self.missed.iter().map(|words| format!("\nmissed: {words}"))).collect()
    }

    pub(super) fn is_good(&self) -> bool {
        self.broken.is_empty() && self.missed.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations ({} during faults, {} unknown) on {} objects, {} faults, {} elections, {} joins, {} looks, {} lines followed, {} lost, {} \
             stale, recovered in {:.1} s, one state at index {}, started in {:.1} s, checked in {:.1} s",
            self.answers,
            self.during,
            self.unknown,
            self.objects,
            self.faults,
            self.elections,
            self.joined,
            self.looks,
            self.followed.0,
            self.lost,
            self.stale,
            self.recovered.as_secs_f64(),
            self.index,
            self.started.as_secs_f64(),
            self.checked.as_secs_f64(),
        )
    }
}
