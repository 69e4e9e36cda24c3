//! When a node that is cut off stops what must not run twice, and when the leader may count on that.
//!
//! Nobody's clock is compared with another's: each side measures how long something took, and both leave room for clocks
//! that do not run at the same rate. `docs/decisions/0008-one-place-at-a-time.md` has the argument.

use std::time::Duration;

/// A node that was assured of nothing by a leader with a quorum for this long stops its instances that run alone (exclusive services and those with volumes).
pub const ISOLATED_AFTER: Duration = Duration::from_secs(10);
/// How often a node asks for that assurance while something runs alone on it.
pub const ASSURED_EVERY: Duration = Duration::from_secs(2);
/// How often it does otherwise: what is to run alone there finds it in touch.
pub const ASSURED_IDLY_EVERY: Duration = Duration::from_secs(6);
/// A leader assures only nodes that answered it within this time: what it says must not reach farther than what it hears.
pub const ASSURED_IF_HEARD_WITHIN: Duration = Duration::from_secs(3);
/// Longest time that a cut-off node takes from seeing that it is to the end of its processes: noticing it, asking them to
/// end, ending them.
pub const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// For clocks that run at different rates, and for a machine that is slow. A twentieth of all that is waited for would
/// be a bad clock; this is more than a third.
const MARGIN: Duration = Duration::from_secs(12);

/// A node that did not answer for this long has stopped its instances that run alone, if it still works at all.
pub const FENCED_AFTER: Duration = Duration::from_secs(
    ASSURED_IF_HEARD_WITHIN.as_secs() + ISOLATED_AFTER.as_secs() + STOPPED_WITHIN.as_secs() + MARGIN.as_secs(),
);
