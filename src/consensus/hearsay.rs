//! Who leads, as others say: for a node that its leader does not reach, because one of the two moved meanwhile, or the
//! node was never reached yet.
//!
//! A node hears of its leader from the leader. When that is silent for longer than an election takes, this node asks every
//! member that it knows. What they say is used for proposals and reads until the leader is heard again: so a node that moved
//! can say where it is, and one that was removed is told so.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use narvana_proto::v1::{self, read_index_reply};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Metrics, Peer, Raft, Transport};
use crate::model::NodeId;

/// Silence after which others are asked: elections take less.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How often, while it lasts.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// When the leader was heard, and who others say it is. Clones share it.
#[derive(Clone)]
pub(super) struct Hearsay {
    heard: Arc<Mutex<Instant>>,
    told: watch::Sender<Option<Peer>>,
}

impl Hearsay {
    pub(super) fn new() -> Self {
        Self { heard: Arc::new(Mutex::new(Instant::now())), told: watch::Sender::new(None) }
    }

    /// The leader sent something.
    pub(super) fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Who leads as others say, while the leader is silent here.
    pub(super) fn leader(&self) -> Option<Peer> {
        self.told.borrow().clone()
    }

    fn is_silent(&self, metrics: &Metrics) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.state != openraft::ServerState::Leader && heard.elapsed() > SILENCE_MAX
    }

    /// Asks others whenever the leader is silent, until told to stop. `doors` are asked while no member is known.
    pub(super) async fn run(
        self,
        raft: Raft,
        transport: Arc<dyn Transport>,
        doors: Vec<Peer>,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        let metrics = raft.metrics();
        loop {
            let now = metrics.borrow_watched().clone();
            if self.is_silent(&now) {
                let told = ask(&*transport, &whom(&now, &doors), NodeId(now.id)).await;
                if told.is_some() && told != *self.told.borrow() {
                    tracing::info!(leader = ?told, "the leader is silent here; others say who leads");
                }
                self.told.send_replace(told);
            } else {
                self.told.send_if_modified(|told| told.take().is_some());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(ASK_EVERY) => {}
            }
        }
    }
}

/// The other members, or the doors.
fn whom(metrics: &Metrics, doors: &[Peer]) -> Vec<Peer> {
    let members = metrics.membership_config.membership().nodes();
    let others = members.filter(|(id, _)| **id != metrics.id);
    let others: Vec<Peer> =
        others.map(|(id, member)| Peer { node: NodeId(*id), address: member.address.clone() }).collect();
    if others.is_empty() { doors.to_vec() } else { others }
}

/// The first answer that names a leader other than this node.
async fn ask(transport: &dyn Transport, whom: &[Peer], own: NodeId) -> Option<Peer> {
    let mut answers: FuturesUnordered<_> = whom
        .iter()
        .map(|peer| async move {
            let reply = timeout(ANSWER_MAX, transport.read_index(peer)).await.ok()?.ok()?;
            match reply.result? {
                read_index_reply::Result::Index(_) | read_index_reply::Result::Unknown(_) => Some(peer.clone()),
                read_index_reply::Result::NotLeading(v1::NotLeading { leader }) => {
                    leader.map(|leader| Peer { node: NodeId(leader.node), address: leader.address })
                }
            }
        })
        .collect();
    while let Some(answer) = answers.next().await {
        if let Some(leader) = answer.filter(|leader| leader.node != own) {
            return Some(leader);
        }
    }
    None
}
