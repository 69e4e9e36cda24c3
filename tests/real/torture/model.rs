//! What an object may answer: one cell with a version, and the search for an order of all operations that explains every
//! answer (porcupine).

use std::collections::BTreeMap;
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};

use super::history::{Action, Event, Outcome};

/// Longest search for one object.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(super) struct Cell;

impl Model for Cell {
    type State = Option<(u64, String)>;
    type Op = (Action, Outcome);
    type Metadata = ();

    fn init() -> Self::State {
        None
    }

    fn step(state: &Self::State, (action, outcome): &Self::Op) -> (bool, Self::State) {
        let changed = change(state, action);
        let unchanged = |is_right: bool| (is_right, state.clone());
        match outcome {
            Outcome::Done => (changed.is_some(), changed.unwrap_or_default()),
            // Optional: whoever looks for an order may put it to the end, where nobody sees it.
            Outcome::Unknown => (true, changed.unwrap_or_else(|| state.clone())),
            Outcome::Missing => unchanged(state.is_none() && !matches!(action, Action::Create(_) | Action::Set(_))),
            Outcome::Conflict => unchanged(state.is_some() && changed.is_none()),
            Outcome::Saw(version, value) => unchanged(
                state.as_ref().is_some_and(|(at, has)| has == value && version.is_none_or(|version| version == *at)),
            ),
            Outcome::Refused => unchanged(true),
        }
    }
}

/// The object after it, when it can be done.
fn change(state: &Option<(u64, String)>, action: &Action) -> Option<Option<(u64, String)>> {
    match (action, state) {
        (Action::Create(value), None) => Some(Some((1, value.clone()))),
        (Action::Replace(expected, value), Some((version, _)))
            if expected.is_none_or(|expected| expected == *version) =>
        {
            Some(Some((version + 1, value.clone())))
        }
        (Action::Set(value), _) => Some(Some((state.as_ref().map_or(1, |(version, _)| version + 1), value.clone()))),
        (Action::Delete, Some(_)) => Some(None),
        _ => None,
    }
}

/// The objects whose answers nothing explains, and how many were looked at.
pub(super) fn check(events: &[Event]) -> (Vec<String>, usize) {
    let mut by_object: BTreeMap<&str, Vec<Operation<Cell>>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.outcome != Outcome::Refused) {
        // A read without an answer says nothing.
        let is_unknown = event.outcome == Outcome::Unknown;
        if is_unknown && event.action == Action::Get {
            continue;
        }
        let end = if is_unknown { i64::MAX } else { i64::try_from(event.end).unwrap_or(i64::MAX) };
        by_object.entry(&event.object).or_default().push(Operation {
            client_id: Some(event.client),
            call_time: i64::try_from(event.call).unwrap_or(i64::MAX),
            return_time: end,
            op: (event.action.clone(), event.outcome.clone()),
            metadata: None,
        });
    }
    let mut wrong = Vec::new();
    for (object, operations) in &by_object {
        match check_operations_timeout(operations, PATIENCE) {
            CheckResult::Ok => {}
            CheckResult::Illegal => wrong.push(format!("no order explains what {object} answered")),
            CheckResult::Unknown => wrong.push(format!("no order was found within {PATIENCE:?} for {object}")),
        }
    }
    (wrong, by_object.len())
}

fn event(action: Action, outcome: Outcome, call: u64, end: u64) -> Event {
    let object = "a".to_owned();
    Event { client: 0, node: 0, object, action, outcome, call, end, index: 0, attempts: 1, statuses: Vec::new() }
}

fn value(text: &str) -> String {
    text.to_owned()
}

#[test]
fn a_lost_write_a_stale_read_and_a_change_twice_are_found_and_what_may_be_is_not() {
    let made = event(Action::Create(value("x")), Outcome::Done, 0, 10);
    let lost = event(Action::Get, Outcome::Missing, 20, 30);
    assert_eq!(check(&[made.clone(), lost]).0.len(), 1, "a lost write");
    let changed = event(Action::Replace(Some(1), value("y")), Outcome::Done, 20, 30);
    let stale = event(Action::Get, Outcome::Saw(Some(1), value("x")), 40, 50);
    assert_eq!(check(&[made.clone(), changed.clone(), stale]).0.len(), 1, "a stale read");
    let twice = event(Action::Replace(Some(1), value("z")), Outcome::Done, 40, 50);
    assert_eq!(check(&[made.clone(), changed.clone(), twice]).0.len(), 1, "one version changed twice");
    let at_once = event(Action::Get, Outcome::Saw(Some(1), value("x")), 25, 50);
    assert_eq!(check(&[made.clone(), changed, at_once]).0, Vec::<String>::new());
    let perhaps = event(Action::Replace(Some(1), value("y")), Outcome::Unknown, 20, 30);
    for (version, seen) in [(1, "x"), (2, "y")] {
        let read = event(Action::Get, Outcome::Saw(Some(version), value(seen)), 90, 95);
        assert_eq!(check(&[made.clone(), perhaps.clone(), read]).0, Vec::<String>::new());
    }
}
