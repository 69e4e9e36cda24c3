//! Why no node can take an instance, said per filter.

use std::fmt;

/// Names of nodes listed for one filter at most; the others are counted.
const LISTED_MAX: usize = 3;

/// What a node can fail on, in the order in which is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// It must not be thought away.
    There,
    /// It must answer.
    Alive,
    /// It must take new work.
    Cordoned,
    /// It must have a container engine.
    Engine,
    /// It must have the image's architecture.
    Architecture,
    /// It must have the labels asked for.
    Constraints,
    /// It must hold the service's volumes.
    Volumes,
    /// It must have room.
    Capacity,
}

/// Why no node can take an instance. Displayed as one sentence that names every filter, how many nodes it refused and
/// which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Each node with the first filter it failed on and the reason: "node one has 0.4 of 2 cores free, 0.5 asked".
    pub nodes: Vec<(Filter, String)>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.is_empty() {
            return f.write_str("the cluster has no node");
        }
        f.write_str("no node can take it: ")?;
        let mut filters: Vec<Filter> = self.nodes.iter().map(|(filter, _)| *filter).collect();
        filters.sort_unstable();
        filters.dedup();
        let all = self.nodes.len();
        for (position, filter) in filters.into_iter().enumerate() {
            let reasons: Vec<&str> =
                self.nodes.iter().filter(|(other, _)| *other == filter).map(|(_, reason)| reason.as_str()).collect();
            if position > 0 {
                f.write_str("; ")?;
            }
            if all > 1 {
                write!(f, "{} of {all} nodes {}: ", reasons.len(), filter.failing(reasons.len()))?;
            }
            f.write_str(&listed(&reasons, ", "))?;
        }
        Ok(())
    }
}

impl Filter {
    fn failing(self, nodes: usize) -> &'static str {
        let one = nodes == 1;
        match self {
            Self::There => "would be gone",
            Self::Alive if one => "does not answer",
            Self::Alive => "do not answer",
            Self::Cordoned if one => "is cordoned",
            Self::Cordoned => "are cordoned",
            Self::Engine if one => "has no container engine",
            Self::Engine => "have no container engine",
            Self::Architecture if one => "has another architecture",
            Self::Architecture => "have another architecture",
            Self::Constraints if one => "lacks a label",
            Self::Constraints => "lack a label",
            Self::Volumes if one => "does not hold the volumes",
            Self::Volumes => "do not hold the volumes",
            Self::Capacity if one => "has no room",
            Self::Capacity => "have no room",
        }
    }
}

/// The first few, and how many more there are.
pub(in crate::decide) fn listed<T: AsRef<str>>(all: &[T], separator: &str) -> String {
    let shown: Vec<&str> = all.iter().take(LISTED_MAX).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(LISTED_MAX) {
        0 => shown.join(separator),
        more => format!("{}{separator}and {more} more", shown.join(separator)),
    }
}
