//! When a line was written, as finely as the engine says.

use std::fmt;
use std::str::FromStr;

use crate::model::Timestamp;

/// Nanoseconds since 1970-01-01 UTC. Finer than [`Timestamp`], because engines order and resume logs by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogTime(pub i64);

impl LogTime {
    /// The same time in milliseconds, rounded down.
    pub fn timestamp(self) -> Timestamp {
        Timestamp(self.0.div_euclid(1_000_000))
    }
}

impl From<Timestamp> for LogTime {
    fn from(time: Timestamp) -> Self {
        Self(time.0.saturating_mul(1_000_000))
    }
}

impl FromStr for LogTime {
    type Err = jiff::Error;

    /// RFC 3339 with any precision and offset, as engines print it before a line.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let nanoseconds = text.parse::<jiff::Timestamp>()?.as_nanosecond();
        // Saturating: nobody logs after the year 2262.
        Ok(Self(i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })))
    }
}

impl fmt::Display for LogTime {
    /// RFC 3339 in UTC with nine decimals; parses back to the same time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(time) => write!(f, "{time:.9}"),
            Err(_) => write!(f, "{}ns", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_nanoseconds() {
        let time: LogTime = "2023-11-14T22:13:20.123456789Z".parse().expect("valid");
        assert_eq!(time, LogTime(1_700_000_000_123_456_789));
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(time.timestamp(), Timestamp(1_700_000_000_123));
        assert_eq!("2023-11-15T00:13:20.123456789+02:00".parse::<LogTime>().expect("valid"), time);
        assert!("yesterday".parse::<LogTime>().is_err());
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(LogTime::from(Timestamp(i64::MAX)), LogTime(i64::MAX));
        assert_eq!("9999-12-30T00:00:00Z".parse::<LogTime>().expect("valid"), LogTime(i64::MAX));
        for time in [LogTime(i64::MIN), LogTime(-1), LogTime(i64::MAX)] {
            assert_eq!(time.to_string().parse::<LogTime>().expect("prints what it parses"), time);
        }
    }
}
