//! Which process speaks as which node, and what each node was heard to hold.
//!
//! A copy of a data folder has the node's certificate, its vote and its log. Two processes that act as one node, or one that
//! goes on from an older copy, can take back what the node promised, and the cluster loses what it acknowledged. So
//! every process says who it is at the beginning of each connection ([`Hello`]), whoever hears it judges it by what it remembers of that
//! node, and nothing else is heard from one that was not accepted. What is remembered lasts as long as somebody keeps it
//! ([`Witness::memory`]).
//!
//! It is for honest programs with a wrong folder: a member that lies cannot be told apart (see docs/decisions/0012).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Admit, Refusal, Rivals, SharedOptions};
use crate::consensus::Mark;
use crate::model::{Incarnation, NodeId};

/// A process that was silent for this long is taken for gone, and another one may speak for its node. Every node greets
/// the voters, or is greeted by them, once a second.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// What was heard of a process within this time after another one came may have waited here since before it ended.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// How long a process that has to wait is remembered after it asked. That the other one was heard since is said of any length of time.
const CONTENDER_KEPT: Duration = Duration::from_secs(60);

/// How a process introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Made anew at every start.
    pub run: Incarnation,
    /// What its store held then.
    pub began: Mark,
}

/// What is made of a process that introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    /// The process before it was heard a moment ago.
    Wait(String),
    /// It can never be accepted.
    Refused(Refusal),
}

/// What is remembered of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Which one.
    pub node: NodeId,
    /// The process that speaks for it.
    pub run: Incarnation,
    /// The most that it was heard to hold of what is agreed on.
    pub holds: Mark,
    /// The last that it acknowledged to this node as its leader, agreed on or not.
    pub acknowledged: Mark,
}

/// What this process says of itself, and what it remembers of others. Clones share it.
#[derive(Clone)]
pub struct Witness {
    own: Hello,
    known: Arc<Mutex<BTreeMap<NodeId, Known>>>,
    /// Somebody asked this process to wait.
    waits: Arc<AtomicBool>,
    /// Everybody who was reached has accepted this process.
    takes_part: Arc<AtomicBool>,
    /// Whose word counts.
    members: Arc<OnceLock<Admit>>,
    /// Why others do not hear this process any more.
    refused: watch::Sender<Option<Refusal>>,
    /// What nodes were started with.
    shared_options: SharedOptions,
    /// Who acts in this cluster's name beside it.
    rivals: Rivals,
}

struct Known {
    run: Incarnation,
    holds: Mark,
    acknowledged: Mark,
    /// Not since this process started.
    heard: Option<Instant>,
    /// Which other processes want to speak for the node: when each came, and when it asked last.
    contenders: BTreeMap<Incarnation, (Instant, Instant)>,
    /// Whose place it took.
    before: Option<Incarnation>,
}

impl Witness {
    /// With what was remembered before.
    pub fn new(own: Hello, memory: impl IntoIterator<Item = Memory>) -> Self {
        let known = memory.into_iter().map(|Memory { node, run, holds, acknowledged }| {
            (node, Known { run, holds, acknowledged, heard: None, contenders: BTreeMap::new(), before: None })
        });
        Self {
            own,
            known: Arc::new(Mutex::new(known.collect())),
            waits: Arc::default(),
            takes_part: Arc::default(),
            members: Arc::default(),
            refused: watch::Sender::new(None),
            shared_options: SharedOptions::default(),
            rivals: Rivals::default(),
        }
    }

    /// The same, which also tells what this node was started with.
    pub fn with_shared_options(self, shared_options: SharedOptions) -> Self {
        Self { shared_options, ..self }
    }

    /// What nodes were started with.
    pub fn shared_options(&self) -> &SharedOptions {
        &self.shared_options
    }

    /// Who acts in this cluster's name beside it.
    pub fn rivals(&self) -> &Rivals {
        &self.rivals
    }

    /// What this process says of itself.
    pub fn own(&self) -> Hello {
        self.own
    }

    /// What is to be remembered after the next start.
    pub fn memory(&self) -> Vec<Memory> {
        let known = self.known();
        let memory = |(node, known): (&NodeId, &Known)| {
            let Known { run, holds, acknowledged, .. } = *known;
            Memory { node: *node, run, holds, acknowledged }
        };
        known.iter().map(memory).collect()
    }

    /// Set when a member refuses this process for good, or says that the cluster goes on without this node.
    pub fn refused(&self) -> watch::Receiver<Option<Refusal>> {
        self.refused.subscribe()
    }

    /// Whether somebody asked this process to wait since this was asked last.
    pub fn was_asked_to_wait(&self) -> bool {
        self.waits.swap(false, Ordering::Relaxed)
    }

    /// From now on this process sends and answers what Raft says, until it is refused. Not before it has introduced itself: what an old
    /// copy promises to one who does not know better, the newest folder lacks, and would be refused for.
    pub fn take_part(&self) {
        self.takes_part.store(true, Ordering::Release);
    }

    /// Whether it does.
    pub(super) fn takes_part(&self) -> bool {
        self.takes_part.load(Ordering::Acquire) && self.refused.borrow().is_none()
    }

    /// From now on only the word of members counts: those that were left behind, or removed, may have heard of another process that
    /// has the same name.
    pub fn heed(&self, members: Admit) {
        // Whoever came first says the same.
        let _set = self.members.set(members);
    }

    pub(super) fn end(&self, refusal: Refusal) {
        self.refused.send_replace(Some(refusal));
    }

    /// Takes to heart what another one makes of this process.
    pub(super) fn hear(&self, from: NodeId, verdict: &Verdict) {
        match verdict {
            Verdict::Wait(_) if self.heeds(from) => self.waits.store(true, Ordering::Relaxed),
            Verdict::Accepted | Verdict::Wait(_) => {}
            Verdict::Refused(refusal) => self.refused_by(from, refusal.clone()),
        }
    }

    /// Takes to heart that another one does not hear this process any more.
    pub(super) fn refused_by(&self, from: NodeId, refusal: Refusal) {
        if self.heeds(from) {
            self.end(refusal);
        }
    }

    /// The word of a node that is no member itself, as far as is known here, does not count.
    pub(super) fn heeds(&self, from: NodeId) -> bool {
        self.members.get().is_none_or(|admit| admit(from).is_ok())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<NodeId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is made of a process that says this of itself in the name of this node.
    pub(super) fn judge(&self, node: NodeId, hello: &Hello, now: Instant) -> Verdict {
        let mut all = self.known();
        let newcomer = Known {
            run: hello.run,
            holds: Mark { vote: hello.began.vote, last: None },
            acknowledged: Mark::default(),
            heard: Some(now),
            contenders: BTreeMap::new(),
            before: None,
        };
        let Some(known) = all.get_mut(&node) else {
            all.insert(node, newcomer);
            return Verdict::Accepted;
        };
        if known.run == hello.run {
            known.heard = Some(now);
            return Verdict::Accepted;
        }
        if known.before == Some(hello.run) {
            return Verdict::Refused(replaced(node));
        }
        if let Some(heard) = known.heard.filter(|heard| now.duration_since(*heard) < SILENT_AFTER) {
            known.contenders.retain(|_, (_, asked)| now.duration_since(*asked) < CONTENDER_KEPT);
            let (came, asked) = known.contenders.entry(hello.run).or_insert((now, now));
            *asked = now;
            return if heard > *came + UNDER_WAY {
                Verdict::Refused(twin(node))
            } else {
                Verdict::Wait(too_early(node))
            };
        }
        // Only now: what helps an old copy of a node that is gone would be the end of one that lives.
        if !hello.began.reaches(&known.holds) || hello.began.is_before(&known.acknowledged) {
            return Verdict::Refused(outdated(node));
        }
        let Known { run, holds, acknowledged, .. } = *known;
        *known = Known { holds: holds.with(newcomer.holds), acknowledged, before: Some(run), ..newcomer };
        Verdict::Accepted
    }

    /// Whether this process speaks for the node still.
    pub(super) fn is_current(&self, node: NodeId, run: Incarnation) -> Result<(), Refusal> {
        match self.known().get(&node) {
            Some(known) if known.run != run => Err(replaced(node)),
            _ => Ok(()),
        }
    }

    /// A node that was accepted said what it holds.
    pub(super) fn note(&self, node: NodeId, run: Incarnation, holds: Mark, now: Instant) {
        if let Some(known) = self.known().get_mut(&node).filter(|known| known.run == run) {
            known.heard = Some(now);
            known.holds = known.holds.with(holds);
        }
    }
}

impl Witness {
    /// The node acknowledged to its leader, which is this one, that it has the log up to here; or a vote.
    pub(super) fn acknowledged(&self, node: NodeId, mark: Mark) {
        if let Some(known) = self.known().get_mut(&node).filter(|known| known.acknowledged.is_before(&mark)) {
            known.acknowledged = mark;
        }
    }
}

fn too_early(node: NodeId) -> String {
    format!("another process spoke as node {node} a moment ago; it has to be silent for {} s", SILENT_AFTER.as_secs())
}

fn twin(node: NodeId) -> Refusal {
    let words = format!(
        "node {node} runs already, elsewhere: this data folder is a copy of that node's. To make this machine a node of its own, \
         run `narvana join` with a new token and another --data-dir; to move node {node} here, stop the other one first"
    );
    Refusal { words, lives: true }
}

fn replaced(node: NodeId) -> Refusal {
    let words = format!(
        "another process took the place of this one as node {node} while this one was not heard: two were started from copies of one \
         data folder. To make this machine a node of its own, run `narvana join` with a new token and another --data-dir"
    );
    Refusal { words, lives: true }
}

fn outdated(node: NodeId) -> Refusal {
    Refusal::end(format!(
        "this data folder is an old copy: it lacks what node {node} promised to the others since, so it must never speak for that \
         node again. If the newer folder is lost, make this machine a new node in its place with `narvana node rebuild`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    const NODE: NodeId = NodeId(7);

    fn mark(term: u64, index: u64) -> Mark {
        Mark { vote: Some((term, 1, true)), last: Some((term, 1, index)) }
    }

    fn hello(began: Mark) -> Hello {
        Hello { run: random::id(), began }
    }

    fn witness() -> Witness {
        Witness::new(hello(Mark::default()), [])
    }

    fn refused(verdict: &Verdict, words: &str) {
        assert!(matches!(verdict, Verdict::Refused(refusal) if refusal.words.contains(words)), "{words}: {verdict:?}");
    }

    #[test]
    fn a_process_takes_the_place_of_one_that_has_ended_and_no_other() {
        let (witness, begun) = (witness(), Instant::now());
        let after = |milliseconds: u64| begun + Duration::from_millis(milliseconds);
        let (first, next) = (hello(mark(1, 5)), hello(mark(1, 9)));
        assert_eq!(witness.judge(NODE, &first, begun), Verdict::Accepted, "nobody is known");
        witness.note(NODE, first.run, mark(1, 9), after(1_000));
        assert!(matches!(witness.judge(NODE, &next, after(1_100)), Verdict::Wait(_)));
        assert!(matches!(witness.judge(NODE, &next, after(2_999)), Verdict::Wait(_)));
        assert_eq!(witness.is_current(NODE, first.run), Ok(()));
        assert_eq!(witness.judge(NODE, &next, after(3_000)), Verdict::Accepted, "it was silent");
        assert_eq!(witness.judge(NODE, &next, after(3_100)), Verdict::Accepted, "it connects again");
        let ended = witness.is_current(NODE, first.run).expect_err("its place is taken");
        assert!(ended.lives, "{ended:?}");
        refused(&witness.judge(NODE, &first, after(60_000)), "took the place");
    }

    #[test]
    fn a_copy_of_a_node_that_lives_is_refused_and_the_node_is_not() {
        let (witness, begun) = (witness(), Instant::now());
        let after = |milliseconds: u64| begun + Duration::from_millis(milliseconds);
        let (first, copy) = (hello(mark(1, 5)), hello(mark(1, 5)));
        assert_eq!(witness.judge(NODE, &first, begun), Verdict::Accepted);
        assert!(matches!(witness.judge(NODE, &copy, after(500)), Verdict::Wait(_)));
        witness.note(NODE, first.run, mark(1, 5), after(1_000));
        assert!(matches!(witness.judge(NODE, &copy, after(1_100)), Verdict::Wait(_)), "it may be an old word");
        witness.note(NODE, first.run, mark(1, 5), after(1_150));
        refused(&witness.judge(NODE, &copy, after(1_200)), "narvana join");
        // An old one is one of a node that lives as well: `rebuild` would remove the node.
        let old = hello(Mark::default());
        assert!(matches!(witness.judge(NODE, &old, after(1_250)), Verdict::Wait(_)));
        assert_eq!(witness.judge(NODE, &first, after(1_300)), Verdict::Accepted);
        // Two at a time wait no longer than one.
        let copies = [hello(mark(1, 5)), hello(mark(1, 5))];
        let ask = |which: usize, at| witness.judge(NODE, &copies[which], after(at));
        for at in [2_000, 2_200, 2_400] {
            assert!(matches!((ask(0, at), ask(1, at + 100)), (Verdict::Wait(_), Verdict::Wait(_))), "{at}");
        }
        witness.note(NODE, first.run, mark(1, 5), after(2_700));
        for which in [0, 1] {
            refused(&ask(which, 2_800), "narvana join");
        }
        // What somebody says who is not accepted counts for nothing.
        witness.note(NODE, copy.run, mark(9, 9), after(1_400));
        assert_eq!(
            witness.memory()[0],
            Memory { node: NODE, run: first.run, holds: mark(1, 5), acknowledged: Mark::default() }
        );
    }

    #[test]
    fn what_a_leader_was_told_counts_at_once_and_only_for_its_term() {
        let (own, begun) = (hello(Mark::default()), Instant::now());
        let witness = Witness::new(own, []);
        assert_eq!(witness.judge(NODE, &hello(mark(1, 5)), begun), Verdict::Accepted);
        witness.acknowledged(NODE, mark(2, 9));
        witness.acknowledged(NODE, mark(2, 8));
        let judged = |began| Witness::new(own, witness.memory()).judge(NODE, &hello(began), begun);
        refused(&judged(mark(2, 8)), "old copy");
        refused(&judged(mark(1, 20)), "old copy");
        assert_eq!(judged(mark(2, 9)), Verdict::Accepted);
        assert_eq!(judged(mark(3, 7)), Verdict::Accepted, "a later leader took away what was not agreed on");
    }

    #[test]
    fn a_folder_that_went_back_is_refused_also_after_a_start() {
        let (witness, begun) = (witness(), Instant::now());
        let first = hello(mark(1, 5));
        assert_eq!(witness.judge(NODE, &first, begun), Verdict::Accepted);
        witness.note(NODE, first.run, mark(2, 9), begun);
        witness.note(NODE, first.run, mark(2, 8), begun);
        let kept = serde_json::to_string(&witness.memory()).expect("JSON");
        let memory: Vec<Memory> = serde_json::from_str(&kept).expect("the same");
        for (began, fine) in [
            (Mark::default(), false),
            (mark(2, 8), false),
            (mark(1, 20), false),
            (Mark { vote: Some((1, 1, true)), ..mark(2, 9) }, false),
            (Mark { vote: Some((2, 1, false)), ..mark(2, 9) }, false),
            (mark(2, 9), true),
            (mark(3, 10), true),
        ] {
            let later = Witness::new(hello(Mark::default()), memory.clone());
            match later.judge(NODE, &hello(began), begun) {
                Verdict::Accepted if fine => {}
                verdict if !fine => refused(&verdict, "old copy"),
                verdict => panic!("{began:?}: {verdict:?}"),
            }
        }
    }
}
