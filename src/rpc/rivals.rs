//! Nodes that act in this cluster's name beside it: of before a new beginning, and not to be told of it.
//!
//! A backup may be older than a rotation of the authority, or than a new beginning: what is restored from it can then not
//! end the nodes that go on. Neither can a member that was away while it was removed and the authority rotated be told. All
//! that can be done is that people hear of it, on both sides: in the log, and in `status`. Nothing is decided by it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::tls::Distrust;
use crate::model::NodeId;

/// They are heard each minute at least (`node::left_behind`), mostly each second.
const KEPT: Duration = Duration::from_secs(150);
/// Whoever reaches the port can pass for one that shows nothing, so only so many of those are kept.
const STRANGERS_MAX: usize = 16;

/// Somebody who acts in this cluster's name and is not of it, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Where: host and port between nodes when this node called, the address alone when it was called.
    pub address: String,
    /// What was seen, and what to do.
    pub why: String,
}

/// By what one is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// It has shown who it is, or is called by that.
    Node(NodeId),
    /// It has not.
    Stranger(IpAddr),
}

/// Those that were heard of lately. Clones share it.
#[derive(Clone, Default)]
pub struct Rivals(Arc<Mutex<BTreeMap<Who, (Rival, Instant)>>>);

impl Rivals {
    /// Those that are there now.
    pub fn now(&self) -> Vec<Rival> {
        self.heard(Instant::now()).values().map(|(rival, _)| rival.clone()).collect()
    }

    /// Takes a node down, and says so in this node's log when it is new there.
    pub fn note(&self, node: NodeId, address: &str, why: String) {
        self.insert(Who::Node(node), Rival { address: address.to_owned(), why });
    }

    /// It is no more.
    pub fn forget(&self, node: NodeId) {
        self.heard(Instant::now()).remove(&Who::Node(node));
    }

    /// Somebody calls a node of this cluster by its name, which it may have from that node itself, and has another authority.
    pub(super) fn note_stranger(&self, from: IpAddr, distrust: Distrust) {
        let why = format!(
            "somebody calls this node as one of this cluster, and {distrust} an authority that this cluster does not know. It may \
             have been removed before `narvana ca rotate`, or restored from a backup of before that, and go on by itself: look \
             at that machine, and stop it there"
        );
        let address = from.to_canonical();
        self.insert(Who::Stranger(address), Rival { address: address.to_string(), why });
    }

    fn insert(&self, who: Who, rival: Rival) {
        let now = Instant::now();
        let mut heard = self.heard(now);
        let is_new = !heard.contains_key(&who);
        let strangers = heard.keys().filter(|known| matches!(known, Who::Stranger(_))).count();
        if is_new && matches!(who, Who::Stranger(_)) && strangers >= STRANGERS_MAX {
            return;
        }
        if is_new {
            let Rival { address, why } = &rival;
            tracing::warn!(address, "somebody acts in the name of this cluster: {why}");
        }
        heard.insert(who, (rival, now));
    }

    fn heard(&self, now: Instant) -> MutexGuard<'_, BTreeMap<Who, (Rival, Instant)>> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, (_, at)| now.duration_since(*at) < KEPT);
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(rivals: &Rivals) -> Vec<String> {
        rivals.now().into_iter().map(|rival| rival.address).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_rival_is_known_while_it_is_heard() {
        let rivals = Rivals::default();
        rivals.note(NodeId(1), "10.0.0.1:9090", "first".to_owned());
        tokio::time::advance(KEPT / 2).await;
        rivals.note_stranger("::ffff:10.0.0.2".parse().expect("an address"), Distrust::Shows);
        rivals.note(NodeId(3), "10.0.0.1:9090", "where the first one was".to_owned());
        assert_eq!(addresses(&rivals), ["10.0.0.1:9090", "10.0.0.1:9090", "10.0.0.2"]);
        rivals.forget(NodeId(1));
        assert_eq!(addresses(&rivals), ["10.0.0.1:9090", "10.0.0.2"], "the other one is there");
        tokio::time::advance(KEPT).await;
        assert_eq!(rivals.now(), [], "they were not heard again");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_are_few_and_hide_nobody() {
        let rivals = Rivals::default();
        for number in 0..100 {
            rivals.note_stranger(IpAddr::from([10, 0, 0, number]), Distrust::Trusts);
        }
        assert_eq!(rivals.now().len(), STRANGERS_MAX);
        rivals.note(NodeId(1), "10.0.1.1:9090", "it has shown who it is".to_owned());
        assert_eq!(rivals.now().len(), STRANGERS_MAX + 1);
    }
}
