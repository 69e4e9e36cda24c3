//! The roll call: which voters answer this node, since when the others do not, and whom they take for the leader.
//!
//! A leader hears its followers and a follower its leader, but followers do not hear each other; and it is when the leader
//! is gone that people ask who is there. So every node greets every voter, whoever leads, and while none answers also those
//! that let it in. What is heard stays in memory. While the leader is heard, one greeting tells both who meet that the other one is
//! there.
//!
//! It explains why there is no quorum, and it shows the way to a leader that does not find this node, because one of the
//! two moved meanwhile, or the node was never reached yet: so a node that moved can say where it is. A removed node learns of
//! that by being refused. Nothing is decided by it: whoever is taken for the leader knows whether it is.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use narvana_proto::v1;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{Consensus, Mark, Peer, Raft, Transport, TransportError};
use crate::clock;
use crate::model::{NodeId, Timestamp};
use crate::store::{LogStore, Member};

/// How often voters are greeted.
const EVERY: Duration = Duration::from_secs(1);
/// Of two that greet each other one is enough: a voter that greeted this node within this time is not greeted.
const LATELY: Duration = Duration::from_millis(750);
/// Longest wait for their answers.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// The same when a process introduces itself, where a missing answer counts: a connection alone may take two seconds.
const INTRODUCED_MAX: Duration = Duration::from_secs(3);
/// A voter that answered nothing for this long is missing.
const MISSING_AFTER: Duration = Duration::from_secs(3);
/// Silence of the leader after which others are believed about it: elections take less.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// What the calls found. Clones share it.
#[derive(Clone)]
pub(super) struct Roll {
    node: NodeId,
    /// Those that let this node in: whom to greet while no voter answers.
    doors: Arc<[Peer]>,
    known: Arc<Mutex<Known>>,
}

struct Known {
    heard: BTreeMap<NodeId, Heard>,
    began: Instant,
    /// When this node last heeded a leader.
    leader: Option<Instant>,
}

/// What is known of one voter.
#[derive(Clone)]
struct Heard {
    /// Its newest answer or greeting, or the first question.
    at: Instant,
    /// The same by the clock on the wall.
    time: Timestamp,
    answered: bool,
    /// It greeted this node, that is.
    greeted: bool,
    /// Whom it took for the leader, and of which term.
    leader: Option<(u64, Peer)>,
    /// Why it was not reached since then, when that was last put into this node's log.
    unreached: Option<String>,
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
    /// Since when it does not answer: as the cluster put it on record, else when this node heard it last.
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
            false => write!(f, "{name} ({address}) does not answer since {since}"),
            true => write!(f, "{name} ({address}) does not answer since {since} or longer"),
        }
    }
}

impl Consensus {
    /// Which voters do not answer this node. Not a decision: with other nodes it may be otherwise.
    pub fn quorum(&self) -> Quorum {
        let (voters, now) = (voters(&self.raft), Instant::now());
        let state = self.latest().state;
        let missing = voters.iter().filter(|peer| peer.node != self.node).filter_map(|peer| {
            let heard = self.roll.silent(peer.node, now)?;
            let on_record = state.absence(peer.node).map(|absence| absence.since);
            let on_record = on_record.filter(|since| is_of_this_silence(*since, &heard));
            let known = state.node(peer.node).is_some() || state.admission(peer.node).is_some();
            Some(MissingVoter {
                node: peer.node,
                name: if known { state.name_of(peer.node) } else { format!("node {}", peer.node) },
                address: peer.address.clone(),
                since: on_record.unwrap_or(heard.time),
                never: !heard.answered && on_record.is_none(),
            })
        });
        Quorum { voters: voters.len(), needed: voters.len() / 2 + 1, missing: missing.collect() }
    }

    /// Greets once, and all at the same time, everybody who would know whether this node lives already.
    pub async fn introduce(&self) {
        let witnesses = self.roll.witnesses(voters(&self.raft), members(&self.raft));
        let holds = Mark::now(&self.raft, &self.store.log());
        let greet = |peer| self.roll.greet(&*self.transport, peer, holds, INTRODUCED_MAX);
        join_all(witnesses.iter().map(greet)).await;
    }
}

/// Whether what the cluster put on record of a voter is about the same silence as this node sees, so that one time is said of it
/// wherever it is said: it is not when the voter was heard here since.
fn is_of_this_silence(recorded: Timestamp, heard: &Heard) -> bool {
    !heard.answered || recorded >= heard.time
}

fn voters(raft: &Raft) -> Vec<Peer> {
    let metrics = raft.metrics();
    let membership = Arc::clone(&metrics.borrow_watched().membership_config);
    let voters: BTreeSet<u64> = membership.membership().voter_ids().collect();
    members(raft).into_iter().filter(|peer| voters.contains(&peer.node.0)).collect()
}

fn members(raft: &Raft) -> Vec<Peer> {
    let metrics = raft.metrics();
    let membership = Arc::clone(&metrics.borrow_watched().membership_config);
    let peer = |(node, member): (&u64, &Member)| Peer { node: NodeId(*node), address: member.address.clone() };
    membership.membership().nodes().map(peer).collect()
}

impl Roll {
    pub(super) fn new(node: NodeId, doors: Vec<Peer>) -> Self {
        let known = Known { heard: BTreeMap::new(), began: Instant::now(), leader: None };
        Self { node, doors: doors.into(), known: Arc::new(Mutex::new(known)) }
    }

    /// Who calls.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader sent something.
    pub(super) fn leader_is_there(&self) {
        self.known().leader = Some(Instant::now());
    }

    /// For how long the leader sent nothing; for ever when none did since this node started.
    pub(super) fn leader_silent_for(&self) -> Duration {
        self.known().leader.map_or(Duration::MAX, |leader| leader.elapsed())
    }

    /// Who leads as others say, while the leader is silent here: the newest that anybody knows of. In one term openraft lets a
    /// node of a higher number follow one of a lower.
    pub(super) fn leader(&self, now: Instant) -> Option<Peer> {
        let known = self.known();
        if now.duration_since(known.leader.unwrap_or(known.began)) <= SILENCE_MAX {
            return None;
        }
        let fresh = known.heard.values().filter(|heard| now.duration_since(heard.at) < MISSING_AFTER);
        let newest = fresh.filter_map(|heard| heard.leader.as_ref()).max_by_key(|(term, leader)| (*term, leader.node));
        newest.map(|(_, leader)| leader).filter(|leader| leader.node != self.node).cloned()
    }

    /// Another node greeted this one. What it thinks of the leader it did not say: while that is silent here, it has to be asked.
    pub(super) fn greeted_by(&self, node: NodeId) {
        let mut known = self.known();
        let leader_is_heard = known.leader.is_some_and(|leader| leader.elapsed() < EVERY);
        // One that was never reached is tried again: perhaps messages come through in one direction only.
        if let Some(heard) = known.heard.get_mut(&node).filter(|heard| heard.answered && leader_is_heard) {
            *heard = Heard { greeted: true, ..Heard::now(true, None) };
        }
    }

    /// Whether it greeted this node a moment ago.
    fn has_greeted(&self, node: NodeId, now: Instant) -> bool {
        let known = self.known();
        known.heard.get(&node).is_some_and(|heard| heard.greeted && now.duration_since(heard.at) < LATELY)
    }

    /// Greets the voters until told to stop.
    pub(super) async fn call(
        self,
        (raft, log, transport): (Raft, LogStore, Arc<dyn Transport>),
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut metrics = raft.metrics();
        loop {
            let others = self.others(&voters(&raft), Instant::now());
            if others.is_empty() {
                // An idle node is not woken for nobody.
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    changed = metrics.changed() => if changed.is_err() { return Ok(()) },
                }
            } else {
                self.expect(&others);
                let (holds, now) = (Mark::now(&raft, &log), Instant::now());
                let silent = others.iter().filter(|peer| !self.has_greeted(peer.node, now));
                let greeted = join_all(silent.map(|peer| self.greet(&*transport, peer, holds, ANSWER_MAX)));
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

    /// Whom to greet. A node that votes alone needs nobody.
    fn others(&self, voters: &[Peer], now: Instant) -> Vec<Peer> {
        let mut others: Vec<Peer> = voters.iter().filter(|peer| peer.node != self.node).cloned().collect();
        let alone = others.is_empty() && !voters.is_empty();
        if !alone && others.iter().all(|peer| self.silent(peer.node, now).is_some()) {
            let doors = self.doors.iter().filter(|door| voters.iter().all(|voter| voter.node != door.node));
            others.extend(doors.cloned());
        }
        others
    }

    /// Who hears this node every second: all members hear one that votes, and the voters any other. While no voter is known here,
    /// those that let it in.
    fn witnesses(&self, voters: Vec<Peer>, members: Vec<Peer>) -> Vec<Peer> {
        let votes = voters.iter().any(|peer| peer.node == self.node);
        let mut witnesses = match voters {
            _ if votes => members,
            voters if voters.is_empty() => self.doors.to_vec(),
            voters => voters,
        };
        witnesses.retain(|peer| peer.node != self.node);
        witnesses
    }

    /// Begins to wait for those that are new, and forgets those that are not greeted any more.
    fn expect(&self, others: &[Peer]) {
        let heard = &mut self.known().heard;
        heard.retain(|node, _| others.iter().any(|peer| peer.node == *node));
        for peer in others {
            heard.entry(peer.node).or_insert_with(|| Heard::now(false, None));
        }
    }

    async fn greet(&self, transport: &dyn Transport, peer: &Peer, holds: Mark, wait: Duration) {
        let leader = match timeout(wait, transport.greet(peer, holds)).await {
            Ok(Ok(v1::RollCallReply { leader, .. })) => {
                leader.map(|leader| (leader.term, Peer { node: NodeId(leader.node), address: leader.address }))
            }
            // A refusal is a sign of life too.
            Ok(Err(TransportError::Refused { .. })) => None,
            Ok(Err(error @ TransportError::Unreachable { .. })) => return self.note(peer.node, &error),
            Err(_) => return,
        };
        self.known().heard.insert(peer.node, Heard::now(true, leader));
    }

    /// Says in this node's log why a voter is not reached, once.
    fn note(&self, node: NodeId, error: &TransportError) {
        let (mut known, words) = (self.known(), error.to_string());
        let Some(heard) = known.heard.get_mut(&node).filter(|heard| heard.unreached.as_ref() != Some(&words)) else {
            return;
        };
        tracing::warn!("{words}");
        heard.unreached = Some(words);
    }

    /// The last that was heard of a voter that is missing.
    fn silent(&self, node: NodeId, now: Instant) -> Option<Heard> {
        self.known().heard.get(&node).filter(|heard| now.duration_since(heard.at) >= MISSING_AFTER).cloned()
    }
}

impl Heard {
    fn now(answered: bool, leader: Option<(u64, Peer)>) -> Self {
        Self { at: Instant::now(), time: clock::now(), answered, greeted: false, leader, unreached: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(name: &str, never: bool) -> MissingVoter {
        let address = format!("{name}:9090");
        MissingVoter { node: NodeId(2), name: name.to_owned(), address, since: Timestamp(1_700_000_000_123), never }
    }

    fn peer(node: u64) -> Peer {
        Peer { node: NodeId(node), address: format!("n{node}:9090") }
    }

    #[test]
    fn others_are_believed_about_the_leader_while_it_is_silent_and_no_longer() {
        let roll = Roll::new(NodeId(1), Vec::new());
        let begun = roll.known().began;
        let after = |milliseconds: u64| begun + Duration::from_millis(milliseconds);
        let heard = |from: u64, term: u64, leader: u64, at: Instant| {
            let heard = Heard { at, ..Heard::now(true, Some((term, peer(leader)))) };
            roll.known().heard.insert(NodeId(from), heard);
        };
        heard(2, 7, 2, after(1_000));
        assert_eq!(roll.leader(after(2_000)), None, "it was there a moment ago");
        assert_eq!(roll.leader(after(2_001)), Some(peer(2)));
        heard(3, 8, 3, after(2_500));
        assert_eq!(roll.leader(after(3_000)), Some(peer(3)), "of the newest term");
        assert_eq!(roll.leader(after(5_500)), None, "nobody has said anything lately");
        heard(3, 9, 1, after(3_000));
        assert_eq!(roll.leader(after(3_500)), None, "this node itself knows better");
        heard(3, 9, 3, after(3_000));
        roll.known().leader = Some(after(3_100));
        assert_eq!(roll.leader(after(3_500)), None, "it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_hear_the_leader_one_greets_the_other() {
        let roll = Roll::new(NodeId(1), Vec::new());
        roll.expect(&[peer(2)]);
        let greets = |roll: &Roll| !roll.has_greeted(NodeId(2), Instant::now());
        roll.leader_is_there();
        roll.greeted_by(NodeId(2));
        assert!(greets(&roll), "it was never reached");
        roll.known().heard.insert(NodeId(2), Heard::now(true, Some((7, peer(3)))));
        assert!(greets(&roll), "its answer is no greeting");
        roll.greeted_by(NodeId(2));
        assert!(!greets(&roll));
        tokio::time::advance(LATELY).await;
        assert!(greets(&roll), "it has not greeted for a while");
        tokio::time::advance(EVERY).await;
        roll.known().heard.insert(NodeId(2), Heard::now(true, Some((8, peer(3)))));
        roll.greeted_by(NodeId(2));
        assert!(greets(&roll), "the leader is silent, and what it says of that is wanted");
        tokio::time::advance(EVERY).await;
        assert_eq!(roll.leader(Instant::now()), Some(peer(3)));
    }

    #[test]
    fn who_let_this_node_in_is_greeted_while_no_voter_answers() {
        let roll = Roll::new(NodeId(1), vec![peer(9)]);
        let now = Instant::now();
        let later = now + MISSING_AFTER + Duration::from_secs(1);
        assert_eq!(roll.others(&[], now), [peer(9)], "nobody else is known");
        assert_eq!(roll.others(&[peer(1)], now), [], "it votes alone");
        let voters = [peer(1), peer(2), peer(3)];
        roll.expect(&roll.others(&voters, now));
        assert_eq!(roll.others(&voters, now), [peer(2), peer(3)]);
        assert_eq!(roll.others(&voters, later), [peer(2), peer(3), peer(9)]);
        roll.known().heard.insert(NodeId(3), Heard { at: later, ..Heard::now(true, None) });
        assert_eq!(roll.others(&voters, later), [peer(2), peer(3)]);
    }

    #[test]
    fn a_node_introduces_itself_to_everybody_who_hears_it() {
        let roll = Roll::new(NodeId(1), vec![peer(9)]);
        let members = [peer(1), peer(2), peer(3), peer(4)];
        let witnesses = |voters: &[Peer], members: &[Peer]| roll.witnesses(voters.to_vec(), members.to_vec());
        assert_eq!(witnesses(&members[..1], &members), members[1..], "all hear one that votes");
        assert_eq!(witnesses(&members[1..3], &members), members[1..3]);
        assert_eq!(witnesses(&[], &[]), [peer(9)], "it was not told yet who votes");
        assert_eq!(witnesses(&members[..1], &members[..1]), [], "it is alone");
    }

    #[test]
    fn one_silence_has_one_time() {
        let heard = |answered| Heard { time: Timestamp(1_000), ..Heard::now(answered, None) };
        assert!(is_of_this_silence(Timestamp(7_000), &heard(true)), "put on record a while after it was heard last");
        assert!(!is_of_this_silence(Timestamp(900), &heard(true)), "it came back since");
        for recorded in [900, 7_000] {
            assert!(is_of_this_silence(Timestamp(recorded), &heard(false)), "this node knows no better");
        }
    }

    #[test]
    fn it_names_who_is_missing_and_since_when() {
        let lost = Quorum { voters: 3, needed: 2, missing: vec![missing("n2", false), missing("n3", true)] };
        assert_eq!(lost.answering(), 1);
        assert_eq!(
            lost.to_string(),
            "2 of 3 voters are needed; n2 (n2:9090) does not answer since 2023-11-14T22:13:20.123Z, \
             n3 (n3:9090) does not answer since 2023-11-14T22:13:20.123Z or longer"
        );
        let electing = Quorum { voters: 3, needed: 2, missing: vec![missing("n2", false)] };
        assert!(electing.to_string().ends_with("the others answer this node, so that this may pass by itself"));
        let nobody = Quorum { voters: 3, needed: 2, missing: Vec::new() };
        assert!(nobody.to_string().contains("all of them answer"), "{nobody}");
        assert!(Quorum { voters: 0, needed: 1, missing: Vec::new() }.to_string().contains("who votes"));
    }
}
