//! Where time enters the program. Pure modules get time as an argument; everyone else reads it here.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use crate::model::Timestamp;

/// The wall clock of this machine.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(now) = crate::host::now() {
        return now;
    }
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Time since this machine started. Nobody sets this clock, it goes on while the machine sleeps, and processes may compare what
/// they read of it.
pub fn since_boot() -> Duration {
    #[cfg(test)]
    if let Some(since_boot) = crate::host::since_boot() {
        return since_boot;
    }
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}
