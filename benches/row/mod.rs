//! One line of the table of `scripts/bench.sh`, which collects them from what the benchmarks print.

use std::ops::RangeInclusive;

/// A figure, next to its peer's of the same run if it has one.
pub(crate) struct Row<'a> {
    /// What was measured.
    pub(crate) what: &'a str,
    /// Our figure with its unit.
    pub(crate) ours: String,
    /// The peer's figure with its unit and its name, or nothing.
    pub(crate) peer: String,
    /// What is compared with the limit: ours over the peer's, or the figure itself.
    pub(crate) measured: f64,
    /// What it has to be: `at least..=INFINITY` or `0.0..=at most`.
    pub(crate) wanted: RangeInclusive<f64>,
}

impl Row<'_> {
    /// Prints it, the fields between bars.
    pub(crate) fn print(&self) {
        let wanted = match (self.wanted.start(), self.wanted.end()) {
            (least, end) if end.is_infinite() => format!(">= {least}"),
            (_, most) => format!("<= {most}"),
        };
        let verdict = if self.wanted.contains(&self.measured) { "ok" } else { "MISSED" };
        println!("row: {}|{}|{}|{:.2}|{wanted}|{verdict}", self.what, self.ours, self.peer, self.measured);
    }
}
