//! What every node applied, compared with what the others did: the invariants of Raft and of the state, at each entry.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::trace::Trace;
use crate::model::{AppId, DeploymentStatus, JoinTokenId, NodeId, RequestId};
use crate::state::{Change, ChangeSet, Command, Outcome, Record, Rejection, State, violations};
use crate::store::observed::Observer;
use crate::store::{Entry, LogId, Payload, Response};

/// The rules of the state are checked at every so many entries, and it is compared as a whole; in between it is compared what each
/// entry changes.
const WHOLE_EVERY: u64 = 8;

/// One entry of the log that somebody applied.
pub(super) struct Line {
    log_id: LogId,
    payload: Vec<u8>,
    result: Option<Result<Outcome, Rejection>>,
    changes: ChangeSet,
    state: State,
}

#[derive(Default)]
struct Inner {
    lines: BTreeMap<u64, Line>,
    /// What each request was answered when it was first applied.
    answers: BTreeMap<RequestId, Result<Outcome, Rejection>>,
    /// How often each token was used.
    uses: BTreeMap<JoinTokenId, u32>,
    granted: BTreeMap<JoinTokenId, u32>,
    members: BTreeSet<NodeId>,
    /// How many states were taken from snapshots.
    installed: u32,
    violation: Option<String>,
}

/// See the module.
pub(super) struct Ledger {
    inner: RefCell<Inner>,
    trace: Trace,
}

impl Ledger {
    pub(super) fn new(trace: Trace) -> Self {
        Self { inner: RefCell::default(), trace }
    }

    /// What was found to be wrong first.
    pub(super) fn violation(&self) -> Option<String> {
        self.inner.borrow().violation.clone()
    }

    /// Says that something is wrong.
    pub(super) fn accuse(&self, words: String) {
        self.inner.borrow_mut().violation.get_or_insert(words);
    }

    /// How many states were taken from snapshots.
    pub(super) fn installed(&self) -> u32 {
        self.inner.borrow().installed
    }

    /// The last entry that anybody applied.
    pub(super) fn last(&self) -> u64 {
        self.inner.borrow().lines.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// The newest state that anybody reached.
    pub(super) fn newest(&self) -> State {
        self.inner.borrow().lines.last_key_value().map(|(_, line)| line.state.clone()).unwrap_or_default()
    }

    /// The state after an entry, if anybody applied it.
    pub(super) fn state_at(&self, index: u64) -> Option<State> {
        Some(self.inner.borrow().lines.get(&index)?.state.clone())
    }

    /// The answer that the request got when it was applied, if it was.
    pub(super) fn answer(&self, request: RequestId) -> Option<Result<Outcome, Rejection>> {
        self.inner.borrow().answers.get(&request).cloned()
    }

    /// The version and the words of an app after an entry.
    pub(super) fn app_at(&self, index: u64, app: AppId) -> Option<(u64, String)> {
        let state = self.state_at(index)?;
        let app = state.app(app)?;
        Some((app.version, app.description.clone()))
    }

    /// A node begins with this state.
    pub(super) fn compare(&self, who: &str, index: u64, state: &State) {
        let known = self.state_at(index);
        if known.is_some_and(|known| known != *state) {
            self.accuse(format!("{who} has another state after entry {index} than others"));
        }
    }
}

impl Inner {
    fn check_new(&mut self, index: u64, line: &Line, entry: &Entry) -> Option<String> {
        if let Some((before, _)) = self.lines.last_key_value()
            && *before + 1 != index
        {
            return Some(format!("entry {index} was applied, and nobody applied {}", before + 1));
        }
        let Payload::Normal(proposal) = &entry.payload else { return None };
        let (command, result) = (&proposal.entry().command, line.result.clone()?);
        let mut is_first = true;
        if let Some(request) = proposal.entry().request {
            match self.answers.get(&request.id) {
                // Refusals are not remembered: the same request may succeed later.
                Some(Ok(first)) => {
                    is_first = false;
                    if result.as_ref() != Ok(first) {
                        return Some(format!(
                            "a request that got {first:?} was repeated in {index} and got {result:?}"
                        ));
                    }
                }
                _ => drop(self.answers.insert(request.id, result.clone())),
            }
        }
        if !is_first {
            return None;
        }
        match (command, result) {
            (Command::CreateJoinToken(token), Ok(_)) => drop(self.granted.insert(token.id, token.uses_left)),
            (Command::AdmitNode { token, .. }, Ok(Outcome::Node(node))) => {
                let uses = self.uses.entry(*token).or_default();
                *uses += 1;
                if *uses > self.granted.get(token).copied().unwrap_or_default() {
                    return Some(format!("entry {index} let a node in with a join token that was used already"));
                }
                if !self.members.insert(node) {
                    return Some(format!("entry {index} gave the id {node} a second time"));
                }
            }
            _ => {}
        }
        let before = self.lines.last_key_value().map(|(_, line)| &line.state)?;
        let changed = line.changes.0.iter().filter_map(|change| match change {
            Change::Put(Record::Deployment(now)) => Some(now),
            _ => None,
        });
        let back = changed.into_iter().find(|now| {
            let then = before.deployment(now.id).map(|then| then.status);
            then.is_some_and(|then| !may_follow(then, now.status))
        });
        back.map(|deployment| format!("deployment {} went back to {} in {index}", deployment.id, deployment.status))
    }
}

/// Whether a deployment may be here after it was there: forward only, and what has ended stays so.
fn may_follow(then: DeploymentStatus, now: DeploymentStatus) -> bool {
    use DeploymentStatus::{Failed, Stopped};
    match then {
        Stopped | Failed => now == then,
        _ => now == Failed || now >= then,
    }
}

impl Observer for Ledger {
    fn applied(&self, entry: &Entry, response: &Response, changes: ChangeSet, state: &State) {
        let index = entry.log_id.index;
        let payload = match &entry.payload {
            Payload::Normal(proposal) => proposal.bytes().to_vec(),
            other => format!("{other:?}").into_bytes(),
        };
        let result = match response {
            Response::Command { result, .. } => Some(result.clone()),
            Response::Internal => None,
        };
        let mut inner = self.inner.borrow_mut();
        if let Some(known) = inner.lines.get(&index) {
            let wrong = if known.log_id != entry.log_id || known.payload != payload {
                Some(format!("entry {index} is {} here and was {} elsewhere", entry.log_id, known.log_id))
            } else if known.result != result {
                Some(format!("entry {index} was answered {result:?} here and {:?} elsewhere", known.result))
            } else if known.changes != changes {
                Some(format!("entry {index} changed other rows here than elsewhere"))
            } else if index.is_multiple_of(WHOLE_EVERY) && known.state != *state {
                Some(format!("the state after entry {index} differs between nodes"))
            } else {
                None
            };
            if let Some(wrong) = wrong {
                inner.violation.get_or_insert(wrong);
            }
            return;
        }
        self.trace.note(&["applied", &entry.log_id.to_string(), &format!("{:016x}", sum(&payload))]);
        let line = Line { log_id: entry.log_id, payload, result, changes, state: state.clone() };
        let mut wrong = inner.check_new(index, &line, entry);
        if wrong.is_none() && index.is_multiple_of(WHOLE_EVERY) {
            wrong = violations(state).into_iter().next().map(|words| format!("after entry {index}: {words}"));
        }
        if let Some(wrong) = wrong {
            inner.violation.get_or_insert(wrong);
        }
        inner.lines.insert(index, line);
    }

    fn installed(&self, last: Option<LogId>, state: &State) {
        if let Some(last) = last {
            self.inner.borrow_mut().installed += 1;
            self.compare("whoever took a snapshot", last.index, state);
        }
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
