//! What readers see.

use crate::state::State;

/// The state as of one index of the log. Cheap to clone, and never changes.
#[derive(Clone)]
pub struct View {
    /// The last entry that is in it; 0 before the first.
    pub index: u64,
    /// The state.
    pub state: State,
}
