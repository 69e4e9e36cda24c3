//! Where time enters the program. Pure modules get time as an argument; everyone else reads it here.

use std::time::SystemTime;

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
