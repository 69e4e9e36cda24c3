//! What a simulation hears of the state machines that run on its thread: every entry that one applies, and every state that one
//! takes from a snapshot. Only tests have this.

use std::cell::RefCell;
use std::rc::Rc;

use super::machine::Applied;
use super::raft_types::{Entry, LogId, Response};
use crate::state::{ChangeSet, State};

/// Hears what happens; the machine that it happens on is the current one (`crate::host`).
pub(crate) trait Observer {
    /// An entry was applied, with this answer; it changed this, and this is the state now.
    fn applied(&self, entry: &Entry, response: &Response, changes: ChangeSet, state: &State);
    /// A state was taken from a snapshot as a whole.
    fn installed(&self, last: Option<LogId>, state: &State);
}

thread_local! {
    static OBSERVER: RefCell<Option<Rc<dyn Observer>>> = const { RefCell::new(None) };
    /// What the entry changes that is being applied.
    static CHANGES: RefCell<Option<ChangeSet>> = const { RefCell::new(None) };
}

/// Has this one hear everything from now on, instead of whoever did.
pub(crate) fn observe(observer: Option<Rc<dyn Observer>>) {
    OBSERVER.set(observer);
}

fn observer() -> Option<Rc<dyn Observer>> {
    OBSERVER.with_borrow(Clone::clone)
}

/// The command of an entry changes this; [`applied`] follows.
pub(super) fn changes(changes: &ChangeSet) {
    CHANGES.set(observer().map(|_| changes.clone()));
}

pub(super) fn applied(entry: &Entry, response: &Response, after: &Applied) {
    let changes = CHANGES.take();
    if let Some(observer) = observer() {
        observer.applied(entry, response, changes.unwrap_or_default(), &after.state);
    }
}

pub(super) fn installed(applied: &Applied) {
    if let Some(observer) = observer() {
        observer.installed(applied.last, &applied.state);
    }
}
