//! What other members ask of this one. `rpc` has checked who they are.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use narvana_proto::v1::{self, read_index_reply, snapshot_part};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::StreamAppendError;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::wire::{self, Malformed};
use super::{Consensus, Mark, ReadError, reads};
use crate::decide::isolation::ASSURED_IF_HEARD_WITHIN;
use crate::model::NodeId;
use crate::space::{Full, Use};
use crate::state::Actor;
use crate::store::{self, SnapshotFile};
use crate::task::blocking;

type Snapshot = openraft::Snapshot<store::LeaderId, u64, store::Member, SnapshotFile>;

/// A message that was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It makes no sense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A snapshot did not come to its end, or does not add up.
    #[error("the snapshot cannot be used: {0}")]
    Snapshot(String),
    /// The disk failed.
    #[error("the message cannot be put on disk")]
    Store(#[from] store::Error),
    /// It is said in the name of another node.
    #[error("{0}")]
    Impostor(String),
    /// There is no space for one more copy of the state.
    #[error(transparent)]
    DiskFull(#[from] Full),
    /// This node has stopped.
    #[error("this node takes no part in the group any more: {0}")]
    Stopped(String),
}

/// Answers other members. Clones share it.
#[derive(Clone)]
pub struct Receiver(Consensus);

impl Consensus {
    /// For whoever serves the other members.
    pub fn receiver(&self) -> Receiver {
        Receiver(self.clone())
    }
}

impl Receiver {
    /// The newest term that this node knows.
    fn term(&self) -> u64 {
        self.0.raft.metrics().borrow_watched().current_term
    }

    /// Takes entries and heartbeats, and answers each in order. Ends at the first that makes no sense.
    pub fn append(
        &self,
        requests: impl Stream<Item = v1::AppendRequest> + Send + 'static,
    ) -> BoxStream<'static, Result<v1::AppendReply, ReceiveError>> {
        let (report, malformed) = mpsc::channel(1);
        let (roll, fatal) = (self.0.roll.clone(), self.0.store.fatal().clone());
        let known = self.term();
        let requests =
            requests.map(move |request| wire::append_entries(request, known)).scan(report, move |report, request| {
                std::future::ready(match request {
                    Ok(request) => Some(request),
                    Err(error) => {
                        // The leader would send it again without end.
                        if let Some(unsupported) = error.unsupported() {
                            fatal.meets(unsupported);
                        }
                        // There is room for the only one.
                        let _ = report.try_send(ReceiveError::from(error));
                        None
                    }
                })
            });
        let replies = self.0.raft.stream_append(requests).map(move |result| match result {
            Ok(result) => {
                // One that was deposed and does not know it is no sign of life of the leader.
                if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
                    roll.leader_is_there();
                }
                Ok(wire::append_reply(result))
            }
            Err(fatal) => Err(ReceiveError::Stopped(fatal.to_string())),
        });
        let last =
            futures::stream::unfold(malformed, async |mut malformed| Some((Err(malformed.recv().await?), malformed)));
        replies.chain(last).boxed()
    }

    /// Votes, or says whether it would.
    pub async fn vote(&self, request: v1::VoteRequest) -> Result<v1::VoteReply, ReceiveError> {
        let asked = wire::request_for_vote(&request, self.term())?;
        let answer = if request.pre_vote { self.0.raft.pre_vote(asked).await } else { self.0.raft.vote(asked).await };
        Ok(wire::vote_reply(&answer.map_err(|error| ReceiveError::Stopped(error.to_string()))?))
    }

    /// Takes a snapshot and installs it.
    pub async fn snapshot(
        &self,
        mut parts: impl Stream<Item = v1::SnapshotPart> + Send + Unpin,
    ) -> Result<v1::SnapshotReply, ReceiveError> {
        let head = match parts.next().await.and_then(|part| part.part) {
            Some(snapshot_part::Part::Head(head)) => head,
            _ => return Err(Malformed::Missing("head").into()),
        };
        let vote = wire::vote(head.ballot, self.term())?;
        let meta = store::decode_meta(&head.meta).map_err(Malformed::from)?;
        // openraft takes this for granted and ends the node otherwise.
        if meta.last_log_id.is_some_and(|last| last.leader_id > vote.leader_id) {
            return Err(ReceiveError::Snapshot("it is of a later term than its sender".to_owned()));
        }
        // It would be refused when all of it is on the disk.
        let own = self.0.raft.metrics().borrow_watched().vote;
        if own > vote {
            return Ok(v1::SnapshotReply { ballot: Some(wire::ballot(&own)) });
        }
        self.0.space.check(Use::Snapshot)?;
        let (machine, for_file) = (self.0.store.machine(), meta.clone());
        let mut writer = blocking(move || machine.receive(&for_file)).await?;
        let mut chunks = 0;
        // Only a whole one counts; what was begun goes with its writer.
        let snapshot = loop {
            match parts.next().await.and_then(|part| part.part) {
                Some(snapshot_part::Part::Chunk(chunk)) => {
                    writer = blocking(move || writer.chunk(&chunk).map(|()| writer)).await?;
                    chunks += 1;
                }
                Some(snapshot_part::Part::End(end)) if end.chunks == chunks => {
                    break blocking(move || writer.finish()).await?;
                }
                Some(_) => return Err(ReceiveError::Snapshot("its parts do not add up".to_owned())),
                None => return Err(ReceiveError::Snapshot("it broke off".to_owned())),
            }
        };
        let snapshot = Snapshot { meta, snapshot };
        let installed = self.0.raft.install_full_snapshot(vote, snapshot).await;
        let response = installed.map_err(|fatal| ReceiveError::Stopped(fatal.to_string()))?;
        Ok(v1::SnapshotReply { ballot: Some(wire::ballot(&response.vote)) })
    }

    /// Takes a command for a member that does not lead.
    pub async fn propose(&self, request: v1::ProposeRequest, asking: NodeId) -> Result<v1::ProposeReply, ReceiveError> {
        let proposal = wire::proposal(request.command)?;
        // What a node observed, only that node may say, and in no other name.
        let entry = proposal.entry();
        let named = match entry.actor {
            Actor::Node(node) => Some(node),
            _ => None,
        };
        if let Some(other) = entry.speaker().into_iter().chain(named).find(|node| *node != asking) {
            return Err(ReceiveError::Impostor(format!("node {asking} sent a command in the name of node {other}")));
        }
        Ok(self.0.propose_for_another(proposal).await)
    }

    /// What a read has to have seen, for a member that does not lead. Answered only when that member answers this one
    /// too: what follows from an answer must not reach farther than what the leader hears (`decide::isolation`).
    pub async fn read_index(&self, asking: NodeId) -> v1::ReadIndexReply {
        let group = self.0.group();
        let heard = group.and_then(|group| group.members.get(&asking)?.silent_for);
        if heard.is_none_or(|silent_for| silent_for >= ASSURED_IF_HEARD_WITHIN) {
            return v1::ReadIndexReply { result: Some(read_index_reply::Result::NotLeading(v1::NotLeading {})) };
        }
        let asked = timeout(self.0.patience, reads::index_here(&self.0.raft)).await.unwrap_or(Err(ReadError::TimedOut));
        let result = match asked {
            Ok(index) => read_index_reply::Result::Index(index),
            Err(ReadError::TimedOut) => read_index_reply::Result::Unknown(v1::OutcomeUnknown {}),
            Err(ReadError::NoLeader { .. } | ReadError::Stopped) => {
                read_index_reply::Result::NotLeading(v1::NotLeading {})
            }
        };
        v1::ReadIndexReply { result: Some(result) }
    }

    /// That this node is there, what it holds, and who leads as far as it knows. Whoever asks is there as well.
    pub fn roll_call(&self, asking: NodeId) -> v1::RollCallReply {
        self.0.roll.greeted_by(asking);
        // Let go of before the mark looks at them too: whoever reads them twice at once waits for ever when openraft wants to
        // write them between, and openraft waits for the reader.
        let leader = {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.membership();
            metrics.current_leader.and_then(|node| {
                let address = members.get_node(&node)?.address.clone();
                Some(v1::Leader { term: metrics.current_term, node, address })
            })
        };
        let holds = Some(Mark::now(&self.0.raft, &self.0.store.log()).into());
        v1::RollCallReply { leader, holds, ..v1::RollCallReply::default() }
    }

    /// Hears that another member shall lead.
    pub async fn transfer(&self, request: v1::TransferRequest) -> Result<v1::TransferReply, ReceiveError> {
        let asked = wire::request_to_lead(request, self.term())?;
        let answer = self.0.raft.handle_transfer_leader(asked).await;
        Ok(wire::transfer_reply(answer.map_err(|fatal| ReceiveError::Stopped(fatal.to_string()))?))
    }
}
