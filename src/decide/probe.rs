//! From the results of health checks to what they mean.
//!
//! Comes in: each result with its time. Goes out: the instance's health and whether its node should give it up.
//! Deliberately absent: doing the checks and their timing.

use std::time::Duration;

use crate::model::{Health, HealthCheck, Timestamp};

/// Times the tolerated failures in a row after which an instance that once worked is given up. Until then it gets no
/// requests, but may recover without a restart.
const PATIENCE: u32 = 2;

/// Counts the results of one instance's health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probing {
    began_at: Timestamp,
    window: Duration,
    retries: u32,
    worked: bool,
    failures_in_a_row: u32,
    health: Health,
    give_up: bool,
}

/// What the results so far mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to report.
    pub health: Health,
    /// That the instance should be ended and reported as failed.
    pub give_up: bool,
}

impl Probing {
    /// For an instance whose process began at this time.
    pub fn new(check: &HealthCheck, began_at: Timestamp) -> Self {
        Self {
            began_at,
            window: start_window(check),
            retries: check.retries.max(1),
            worked: false,
            failures_in_a_row: 0,
            health: Health::Starting,
            give_up: false,
        }
    }

    /// For an instance that is known to have worked already, as after a restart of its node's process.
    pub fn resumed(check: &HealthCheck, began_at: Timestamp) -> Self {
        Self { worked: true, health: Health::Healthy, ..Self::new(check, began_at) }
    }

    /// Takes one more result. Before the first success failures count by time, since starting takes what it takes;
    /// after it they count by number.
    pub fn record(&mut self, at: Timestamp, passed: bool) -> Verdict {
        if passed {
            self.worked = true;
            self.failures_in_a_row = 0;
            self.health = Health::Healthy;
            self.give_up = false;
            return self.verdict();
        }
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if !self.worked {
            if at.since(self.began_at) >= self.window {
                self.health = Health::Unhealthy;
                self.give_up = true;
            }
        } else if self.failures_in_a_row >= self.retries {
            self.health = Health::Unhealthy;
            self.give_up = self.failures_in_a_row >= self.retries.saturating_mul(PATIENCE);
        }
        self.verdict()
    }

    /// What the results so far mean.
    pub fn verdict(&self) -> Verdict {
        Verdict { health: self.health, give_up: self.give_up }
    }
}

/// How long an instance may take until its first success.
pub fn start_window(check: &HealthCheck) -> Duration {
    Duration::from_secs(u64::from(check.interval_seconds) * u64::from(check.retries.max(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Probe;

    fn check() -> HealthCheck {
        HealthCheck { probe: Probe::Tcp { port: None }, interval_seconds: 5, timeout_seconds: 1, retries: 3 }
    }

    fn run(results: &[(i64, bool)]) -> Verdict {
        let mut probing = Probing::new(&check(), Timestamp(0));
        for (seconds, passed) in results {
            probing.record(Timestamp(seconds * 1_000), *passed);
        }
        probing.verdict()
    }

    #[test]
    fn verdicts() {
        let verdict = |health, give_up| Verdict { health, give_up };
        for (results, expected, why) in [
            (&[][..], verdict(Health::Starting, false), "nothing known yet"),
            (
                &[(1, false), (2, false), (3, false), (4, false)],
                verdict(Health::Starting, false),
                "starting takes time",
            ),
            (&[(14, false)], verdict(Health::Starting, false), "just before the end of the window"),
            (&[(15, false)], verdict(Health::Unhealthy, true), "retries times interval without a success"),
            (&[(1, false), (14, true)], verdict(Health::Healthy, false), "worked in time"),
            (&[(1, true), (50, false), (55, false)], verdict(Health::Healthy, false), "two of three failures"),
            (&[(1, true), (50, false), (55, false), (60, false)], verdict(Health::Unhealthy, false), "three in a row"),
            (
                &[(1, true), (5, false), (6, false), (7, true), (8, false), (9, false)],
                verdict(Health::Healthy, false),
                "a success begins the count anew",
            ),
            (
                &[(1, true), (2, false), (3, false), (4, false), (5, false), (6, false), (7, false)],
                verdict(Health::Unhealthy, true),
                "twice as many as tolerated",
            ),
            (
                &[(1, true), (2, false), (3, false), (4, false), (5, true)],
                verdict(Health::Healthy, false),
                "recovered by itself",
            ),
        ] {
            assert_eq!(run(results), expected, "{why}");
        }
    }

    #[test]
    fn one_that_worked_before_is_not_started_over() {
        let mut probing = Probing::resumed(&check(), Timestamp(0));
        assert_eq!(probing.record(Timestamp(60_000), false).health, Health::Healthy);
    }

    proptest! {
        #[test]
        fn a_success_always_makes_healthy_and_giving_up_needs_unhealthy(
            results in prop::collection::vec((0_i64..60_000, any::<bool>()), 1..60)
        ) {
            let mut probing = Probing::new(&check(), Timestamp(0));
            let mut at = 0;
            for (pause, passed) in results {
                at += pause;
                let verdict = probing.record(Timestamp(at), passed);
                prop_assert_eq!(passed, verdict.health == Health::Healthy && probing.failures_in_a_row == 0);
                prop_assert!(!verdict.give_up || verdict.health == Health::Unhealthy);
            }
        }
    }
}
