//! Histograms for openraft, without the tables that the library of this name keeps: it has all that openraft calls, and
//! counts by powers of two. `docs/decisions/0016-histograms-without-tables.md` says why.

use std::fmt;
use std::marker::PhantomData;

/// How many values were seen of each number of binary digits. `T` is what the library of this name labels spans of time
/// with, which openraft does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; 65],
    labels: PhantomData<T>,
}

/// The least values that so many of all values do not exceed; each is the smallest of its number of binary digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were seen.
    pub samples: u64,
    /// Of one in a thousand.
    pub p0_1: u64,
    /// Of one in a hundred.
    pub p1: u64,
    /// Of one in twenty.
    pub p5: u64,
    /// Of one in ten.
    pub p10: u64,
    /// Of half of them.
    pub p50: u64,
    /// Of nine in ten.
    pub p90: u64,
    /// Of all but one in a hundred.
    pub p99: u64,
    /// Of all but one in a thousand.
    pub p99_9: u64,
}

/// Several histograms, to be shown below each other.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(Vec<(String, Histogram)>);

impl Histogram {
    /// Nothing was seen.
    pub fn new() -> Self {
        Self { counts: [0; 65], labels: PhantomData }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts the same value several times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        self.counts[digits(value)] += times;
    }

    /// How the values are spread.
    pub fn percentile_stats(&self) -> PercentileStats {
        let samples = self.counts.iter().sum();
        let of = |permille: u64| {
            let wanted = (u128::from(samples) * u128::from(permille)).div_ceil(1_000);
            let mut seen = 0;
            let reached = self.counts.iter().position(|count| {
                seen += u128::from(*count);
                seen >= wanted.max(1)
            });
            reached.map_or(0, smallest)
        };
        PercentileStats {
            samples,
            p0_1: of(1),
            p1: of(10),
            p5: of(50),
            p10: of(100),
            p50: of(500),
            p90: of(900),
            p99: of(990),
            p99_9: of(999),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

fn digits(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()) as usize
}

fn smallest(digits: usize) -> u64 {
    if digits == 0 { 0 } else { 1 << (digits - 1) }
}

impl AsciiChart {
    /// Nothing to show.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more below.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.0.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.0 {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values: p50 {}, p90 {}, p99 {}, p99.9 {}", self.samples, self.p50, self.p90, self.p99, self.p99_9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_their_binary_digits() {
        let mut histogram: Histogram = Histogram::new();
        assert_eq!(histogram.percentile_stats().p50, 0, "there is none");
        for value in (0..=100).chain([u64::MAX]) {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p10, stats.p50, stats.p90), (102, 0, 8, 32, 64));
        assert_eq!((stats.p99, stats.p99_9), (64, 1 << 63));
    }
}
