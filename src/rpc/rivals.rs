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

/// They are heard each minute at least (`node::left_behind`), mostly each second.
const KEPT: Duration = Duration::from_secs(150);
/// Whoever reaches the port can be one, so only so many are kept.
const RIVALS_MAX: usize = 16;

/// Somebody who acts in this cluster's name and is not of it, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Where: host and port between nodes when this node called, the address alone when it was called.
    pub address: String,
    /// What was seen, and what to do.
    pub why: String,
}

/// Those that were heard of lately. Clones share it.
#[derive(Clone, Default)]
pub struct Rivals(Arc<Mutex<BTreeMap<String, (String, Instant)>>>);

impl Rivals {
    /// Those that are there now, by address.
    pub fn now(&self) -> Vec<Rival> {
        let mut heard = self.heard(Instant::now());
        heard.iter_mut().map(|(address, (why, _))| Rival { address: address.clone(), why: why.clone() }).collect()
    }

    /// Takes one down, and says so in this node's log when it is new there.
    pub fn note(&self, address: &str, why: String) {
        let now = Instant::now();
        let mut heard = self.heard(now);
        if heard.len() == RIVALS_MAX && !heard.contains_key(address) {
            return;
        }
        if heard.insert(address.to_owned(), (why.clone(), now)).is_none() {
            drop(heard);
            tracing::warn!(address, "somebody acts in the name of this cluster: {why}");
        }
    }

    /// One is no more.
    pub fn forget(&self, address: &str) {
        self.heard(Instant::now()).remove(address);
    }

    /// Somebody calls a node of this cluster by its name, and has another authority.
    pub(super) fn note_stranger(&self, from: IpAddr, distrust: Distrust) {
        let why = format!(
            "{distrust} an authority that this cluster does not know: it was removed before `narvana ca rotate`, or restored \
             from a backup of before that, and goes on by itself; stop it there"
        );
        self.note(&from.to_canonical().to_string(), why);
    }

    fn heard(&self, now: Instant) -> MutexGuard<'_, BTreeMap<String, (String, Instant)>> {
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
        rivals.note("10.0.0.1:9090", "first".to_owned());
        tokio::time::advance(KEPT / 2).await;
        rivals.note_stranger("::ffff:10.0.0.2".parse().expect("an address"), Distrust::Shows);
        assert_eq!(addresses(&rivals), ["10.0.0.1:9090", "10.0.0.2"]);
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(addresses(&rivals), ["10.0.0.2"], "it was not heard again");
        rivals.forget("10.0.0.2");
        assert_eq!(rivals.now(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_kept_and_those_that_are_known_stay() {
        let rivals = Rivals::default();
        for number in 0..100 {
            rivals.note(&format!("10.0.0.{number:03}"), "one".to_owned());
        }
        assert_eq!(rivals.now().len(), RIVALS_MAX);
        rivals.note("10.0.0.003", "more".to_owned());
        assert_eq!(rivals.now()[3].why, "more");
    }
}
