//! Read rounds: concurrent linearizable reads share one question to the cluster, on a follower one to the leader.
//!
//! A read may rely only on a round that began after the read did. So the task takes everybody who waits, asks once,
//! answers them all, and whoever came meanwhile is served by the next round.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use narvana_proto::v1::read_index_reply;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::roll::Roll;
use super::{Peer, Raft, ReadError, Transport, another_leads, known_leader, leader_of};
use crate::store::TypeConfig;

/// Reads that wait for the next round. Beyond that, callers wait to be let in, which bounds the memory.
const WAITING_READS: usize = 4096;

/// The index that a read must have applied, or why there is none.
pub(super) type Answer = Result<u64, ReadError>;

/// Asks for read rounds. Clones share them.
#[derive(Clone)]
pub(super) struct Reads {
    queue: mpsc::Sender<oneshot::Sender<Answer>>,
}

/// Serves the rounds.
pub(super) struct Rounds {
    waiting: mpsc::Receiver<oneshot::Sender<Answer>>,
}

pub(super) fn channel() -> (Reads, Rounds) {
    let (queue, waiting) = mpsc::channel(WAITING_READS);
    (Reads { queue }, Rounds { waiting })
}

impl Reads {
    /// The log index that was certainly committed when this was called, by a leader that still led.
    pub(super) async fn index(&self) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.queue.send(answer).await.map_err(|_| ReadError::Stopped)?;
        answered.await.map_err(|_| ReadError::Stopped)?
    }
}

impl Rounds {
    /// Runs until it is stopped.
    pub(super) async fn run(
        mut self,
        (raft, transport, roll): (Raft, Arc<dyn Transport>, Roll),
        patience: Duration,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        let mut round = Vec::new();
        loop {
            let waiting = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                waiting = self.waiting.recv_many(&mut round, WAITING_READS) => waiting,
            };
            if waiting == 0 {
                return Ok(());
            }
            // A leader without a quorum gets no answer; the next readers must not wait behind this round for ever.
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                asked = timeout(patience, ask(&raft, &*transport, &roll)) => asked,
            };
            for reader in round.drain(..) {
                // A reader that gave up is not an error.
                let _ = reader.send(match &asked {
                    Ok(answer) => answer.clone(),
                    Err(_) => Err(ReadError::TimedOut),
                });
            }
        }
    }
}

/// Here when this node leads, else of the node that does.
async fn ask(raft: &Raft, transport: &dyn Transport, roll: &Roll) -> Answer {
    let known = known_leader(raft);
    let refusal = match index_here(raft).await {
        Err(refusal @ ReadError::NoLeader { .. }) => refusal,
        answered => return answered,
    };
    let leader = match (roll.leader(Instant::now()), &refusal) {
        (Some(told), _) => told,
        (None, ReadError::NoLeader { leader: Some(leader), address: Some(address) }) if *leader != roll.node() => {
            Peer { node: *leader, address: address.clone() }
        }
        _ => return Err(refusal),
    };
    let reply = tokio::select! {
        reply = transport.read_index(&leader) => reply,
        () = another_leads(raft, known, leader.node) => return Err(ReadError::NoLeader { leader: None, address: None }),
    };
    match reply.map(|reply| reply.result) {
        Ok(Some(read_index_reply::Result::Index(index))) => Ok(index),
        Ok(Some(read_index_reply::Result::Unknown(_))) => Err(ReadError::TimedOut),
        Ok(Some(read_index_reply::Result::NotLeading(_)) | None) => {
            Err(ReadError::NoLeader { leader: None, address: None })
        }
        Err(error) => {
            tracing::debug!(%error, "a read was not answered");
            Err(ReadError::NoLeader { leader: Some(leader.node), address: Some(leader.address) })
        }
    }
}

/// The index that was committed when this was asked, if this node led then.
pub(super) async fn index_here(raft: &Raft) -> Answer {
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => Ok(linearizer.read_log_id().index()),
        Err(error) => Err(refusal(&error)),
    }
}

fn refusal(error: &RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            let (leader, address) = leader_of(forward);
            ReadError::NoLeader { leader, address }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::TimedOut,
        RaftError::Fatal(_) => ReadError::Stopped,
    }
}
