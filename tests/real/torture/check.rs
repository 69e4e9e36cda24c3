//! What must hold of a history and of the nodes after it, beside the order of each object.

use std::time::{Duration, Instant};

use narvana::state::Record;
use narvana::store::BackupReader;

use super::ground::Ground;
use super::history::{Action, Event};

/// How long the nodes may take to agree when nothing is wrong and nobody asks for anything.
const AGREED_WITHIN: Duration = Duration::from_secs(30);

/// No answer is made from less than an answer that came before it was asked for.
pub(super) fn indexes(events: &[Event]) -> Vec<String> {
    let mut by_call: Vec<&Event> = events.iter().filter(|event| event.is_answered()).collect();
    by_call.sort_by_key(|event| event.call);
    let mut by_end = by_call.clone();
    by_end.sort_by_key(|event| event.end);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Event> = None;
    let mut wrong = Vec::new();
    for event in by_call {
        while let Some(earlier) = ended.next_if(|earlier| earlier.end < event.call) {
            if newest.is_none_or(|known| known.index < earlier.index) {
                newest = Some(earlier);
            }
        }
        if let Some(earlier) = newest.filter(|earlier| earlier.index > event.index) {
            let kind = if event.action == Action::Get { "a stale read" } else { "an index that went back" };
            wrong.push(format!("{kind}: {event:?} after {earlier:?}"));
        }
    }
    wrong
}

/// Every node comes to the same state at the same index.
pub(super) fn agreement(ground: &Ground) -> Result<u64, String> {
    let deadline = Instant::now() + AGREED_WITHIN;
    loop {
        let states: Vec<_> = (0..ground.seats.len()).map(|number| state(ground, number)).collect();
        let indexes: Vec<_> = states.iter().map(|state| state.as_ref().map(|(index, _)| *index)).collect();
        if let Some(Some((index, rows))) = states.first()
            && indexes.iter().all(|other| *other == Some(*index))
        {
            let differing = states.iter().flatten().position(|(_, other)| other != rows);
            return match differing {
                None => Ok(*index),
                Some(other) => {
                    Err(format!("nodes 0 and {other} differ at index {index}: {}", difference(&states, other)))
                }
            };
        }
        if Instant::now() > deadline {
            return Err(format!("the nodes do not come to one index: {indexes:?}"));
        }
        std::thread::sleep(Duration::from_millis(100)); // poll
    }
}

type Rows = Vec<Record>;

/// All rows of a node, from its backup.
fn state(ground: &Ground, number: usize) -> Option<(u64, Rows)> {
    let file = ground.folder().join(format!("state-{number}"));
    let node = &ground.seats[number].node;
    let authorization = format!("Authorization: Bearer {}", ground.token);
    let url = format!("{}/v1/backup?consistency=stale", node.api);
    let path = file.to_str().expect("UTF-8");
    let answer = node.curl(&["-H", &authorization, "--output", path, &url]);
    if answer.status != 200 {
        return None;
    }
    let mut reader = BackupReader::begin(std::fs::File::open(&file).ok()?).ok()?;
    let index = reader.header().index;
    let mut rows = Vec::new();
    while let Some(more) = reader.next_rows().ok()? {
        rows.extend(more);
    }
    Some((index, rows))
}

fn difference(states: &[Option<(u64, Rows)>], other: usize) -> String {
    let keys = |number: usize| {
        let rows = states[number].iter().flat_map(|(_, rows)| rows);
        rows.map(|row| (row.key().to_bytes(), row)).collect::<std::collections::BTreeMap<_, _>>()
    };
    let (one, other) = (keys(0), keys(other));
    let only = |a: &std::collections::BTreeMap<Vec<u8>, &Record>, b: &std::collections::BTreeMap<Vec<u8>, &Record>| {
        let kinds = a.iter().filter(|(key, row)| b.get(*key) != Some(row)).map(|(_, row)| row.key().kind());
        kinds.collect::<Vec<_>>()
    };
    format!("{:?} here, {:?} there", only(&one, &other), only(&other, &one))
}

/// No node has panicked, and none says that it found damage.
pub(super) fn logs(ground: &Ground) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, seat) in ground.seats.iter().enumerate() {
        let log = seat.node.log();
        for line in log.lines().filter(|line| line.contains("panicked") || line.contains("this is a defect")) {
            wrong.push(format!("node {number}: {line}"));
        }
    }
    wrong
}
