//! The roll call: which voters answer this node, and since when the others do not.
//!
//! A leader hears its followers and a follower its leader, but followers do not hear each other; and it is when the leader
//! is gone that people ask who is there. So every node greets every voter, whoever leads. What is heard stays in memory: it
//! explains, and nothing is decided by it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{Consensus, Peer, Raft, Transport, TransportError};
use crate::clock;
use crate::model::{NodeId, Timestamp};

/// How often voters are greeted.
const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for their answers.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// A voter that answered nothing for this long is missing.
const MISSING_AFTER: Duration = Duration::from_secs(3);

/// What the calls found. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Roll(Arc<Mutex<BTreeMap<NodeId, Heard>>>);

/// What is known of one voter.
#[derive(Clone, Copy)]
struct Heard {
    /// Its newest answer, or the first question.
    at: Instant,
    /// The same by the clock on the wall.
    time: Timestamp,
    answered: bool,
}

/// How this node sees the voters: enough to explain why the cluster cannot decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// How many vote.
    pub voters: usize,
    /// How many of them have to agree.
    pub needed: usize,
    /// Those that do not answer this node.
    pub missing: Vec<MissingVoter>,
}

/// A voter that does not answer this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingVoter {
    /// Which one.
    pub node: NodeId,
    /// Its name, as far as that is known here.
    pub name: String,
    /// Host and port between nodes.
    pub address: String,
    /// When it was heard last.
    pub since: Timestamp,
    /// That this node has not heard it at all since it started; the time is then that of its first question, or of the
    /// record that the voter is away.
    pub never: bool,
}

impl Quorum {
    /// How many answer, this node included when it votes.
    pub fn answering(&self) -> usize {
        self.voters - self.missing.len()
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.voters == 0 {
            return f.write_str("this node does not know yet who votes");
        }
        let voters = if self.voters == 1 { "voter is" } else { "voters are" };
        write!(f, "{} of {} {voters} needed", self.needed, self.voters)?;
        for (position, voter) in self.missing.iter().enumerate() {
            f.write_str(if position == 0 { "; " } else { ", " })?;
            write!(f, "{voter}")?;
        }
        if self.answering() >= self.needed {
            let who = if self.missing.is_empty() { "all of them" } else { "the others" };
            write!(f, "; {who} answer this node, so that this may pass by itself")?;
        }
        Ok(())
    }
}

impl fmt::Display for MissingVoter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, address, since, never, .. } = self;
        match never {
            false => write!(f, "{name} ({address}) has not been heard since {since}"),
            true => write!(f, "{name} ({address}) has not been heard since {since} or longer"),
        }
    }
}

impl Consensus {
    /// Which voters do not answer this node. Not a decision: with other nodes it may be otherwise.
    pub fn quorum(&self) -> Quorum {
        let voters = voters(&self.raft);
        let state = self.latest().state;
        let missing = voters.iter().filter(|peer| peer.node != self.node).filter_map(|peer| {
            let heard = self.roll.silent(peer.node)?;
            // What the cluster put on record may be older than what this process remembers.
            let on_record = state.absence(peer.node).map(|absence| absence.since).filter(|_| !heard.answered);
            let name = state.node(peer.node).map(|node| node.name.clone());
            Some(MissingVoter {
                node: peer.node,
                name: name.unwrap_or_else(|| format!("node {}", peer.node)),
                address: peer.address.clone(),
                since: on_record.map_or(heard.time, |since| since.min(heard.time)),
                never: !heard.answered && on_record.is_none(),
            })
        });
        Quorum { voters: voters.len(), needed: voters.len() / 2 + 1, missing: missing.collect() }
    }
}

fn voters(raft: &Raft) -> Vec<Peer> {
    let metrics = raft.metrics();
    let membership = Arc::clone(&metrics.borrow_watched().membership_config);
    let membership = membership.membership();
    let peer = |node: u64| {
        let address = membership.get_node(&node).map(|member| member.address.clone()).unwrap_or_default();
        Peer { node: NodeId(node), address }
    };
    membership.voter_ids().map(peer).collect()
}

impl Roll {
    /// Greets the voters until told to stop.
    pub(super) async fn call(
        self,
        (own, raft, transport): (NodeId, Raft, Arc<dyn Transport>),
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut metrics = raft.metrics();
        loop {
            let others: Vec<Peer> = voters(&raft).into_iter().filter(|peer| peer.node != own).collect();
            if others.is_empty() {
                // An idle node is not woken for nobody.
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    changed = metrics.changed() => if changed.is_err() { return Ok(()) },
                }
            } else {
                self.expect(&others);
                let greeted = join_all(others.iter().map(|peer| self.greet(&*transport, peer)));
                if stop.run_until_cancelled(greeted).await.is_none() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = every.tick() => {}
            }
        }
    }

    /// Begins to wait for those that are new, and forgets those that do not vote any more.
    fn expect(&self, others: &[Peer]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|node, _| others.iter().any(|peer| peer.node == *node));
        for peer in others {
            known.entry(peer.node).or_insert_with(|| Heard::now(false));
        }
    }

    async fn greet(&self, transport: &dyn Transport, peer: &Peer) {
        let answer = timeout(ANSWER_MAX, transport.greet(peer)).await;
        // A refusal is a sign of life too.
        if matches!(answer, Ok(Ok(()) | Err(TransportError::Refused { .. }))) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(peer.node, Heard::now(true));
        }
    }

    /// The last that was heard of a voter that is missing.
    fn silent(&self, node: NodeId) -> Option<Heard> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&node).copied().filter(|heard| heard.at.elapsed() >= MISSING_AFTER)
    }
}

impl Heard {
    fn now(answered: bool) -> Self {
        Self { at: Instant::now(), time: clock::now(), answered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(name: &str, never: bool) -> MissingVoter {
        let address = format!("{name}:9090");
        MissingVoter { node: NodeId(2), name: name.to_owned(), address, since: Timestamp(1_700_000_000_123), never }
    }

    #[test]
    fn it_names_who_is_missing_and_since_when() {
        let lost = Quorum { voters: 3, needed: 2, missing: vec![missing("n2", false), missing("n3", true)] };
        assert_eq!(lost.answering(), 1);
        assert_eq!(
            lost.to_string(),
            "2 of 3 voters are needed; n2 (n2:9090) has not been heard since 2023-11-14T22:13:20.123Z, \
             n3 (n3:9090) has not been heard since 2023-11-14T22:13:20.123Z or longer"
        );
        let electing = Quorum { voters: 3, needed: 2, missing: vec![missing("n2", false)] };
        assert!(electing.to_string().ends_with("the others answer this node, so that this may pass by itself"));
        let nobody = Quorum { voters: 3, needed: 2, missing: Vec::new() };
        assert!(nobody.to_string().contains("all of them answer"), "{nobody}");
        assert!(Quorum { voters: 0, needed: 1, missing: Vec::new() }.to_string().contains("who votes"));
    }
}
