//! Durations, sorted.

use std::time::Duration;

pub(crate) struct Figures(Vec<Duration>);

impl Figures {
    pub(crate) fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self(durations)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// In seconds. Of fewer than a hundred the 99th percentile is the largest.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let at = (self.0.len() * percent / 100).min(self.0.len() - 1);
        self.0[at].as_secs_f64()
    }
}
