//! How this member reaches the others. Defined here, implemented by `rpc`.

use std::future::ready;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use narvana_proto::v1;

use super::Mark;
use crate::model::NodeId;

/// A member to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it has to be: whoever else answers there is refused.
    pub node: NodeId,
    /// Host and port between nodes.
    pub address: String,
}

/// A message that got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer is not there, or not any more. Asking again at once is pointless.
    #[error("node {} at {} cannot be reached: {reason}", peer.node, peer.address)]
    Unreachable {
        /// Who was asked.
        peer: Peer,
        /// What was seen.
        reason: String,
        /// Whether it may have got the message: the connection broke after it was made.
        sent: bool,
    },
    /// It is there and did not answer as it should.
    #[error("node {} at {} did not answer: {reason}", peer.node, peer.address)]
    Refused {
        /// Who was asked.
        peer: Peer,
        /// What was seen.
        reason: String,
    },
}

/// Replies in the order of the requests.
pub type Replies = BoxStream<'static, Result<v1::AppendReply, TransportError>>;

/// The answer of a peer, when it comes.
pub type Asked<'a, T> = BoxFuture<'a, Result<T, TransportError>>;

/// Carries what members ask each other.
pub trait Transport: Send + Sync + 'static {
    /// Sends entries and heartbeats for as long as there are any.
    fn append<'a>(&'a self, peer: &'a Peer, requests: BoxStream<'static, v1::AppendRequest>) -> Asked<'a, Replies>;

    /// Asks for a vote, or whether there would be one.
    fn vote<'a>(&'a self, peer: &'a Peer, request: v1::VoteRequest) -> Asked<'a, v1::VoteReply>;

    /// Sends a snapshot and waits until it is installed.
    fn snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        parts: BoxStream<'static, v1::SnapshotPart>,
    ) -> Asked<'a, v1::SnapshotReply>;

    /// Tells that another member shall lead.
    fn transfer<'a>(&'a self, peer: &'a Peer, request: v1::TransferRequest) -> Asked<'a, v1::TransferReply>;

    /// Hands a command to the leader.
    fn propose<'a>(&'a self, peer: &'a Peer, request: v1::ProposeRequest) -> Asked<'a, v1::ProposeReply>;

    /// Asks the leader what a read has to have seen.
    fn read_index<'a>(&'a self, peer: &'a Peer) -> Asked<'a, v1::ReadIndexReply>;

    /// Asks for a sign of life, and says what this node holds.
    fn greet<'a>(&'a self, peer: &'a Peer, holds: Mark) -> Asked<'a, v1::RollCallReply>;
}

/// Reaches nobody: for a group that is only being founded.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTransport;

fn nobody<T: Send + 'static>(peer: &Peer) -> Asked<'static, T> {
    let reason = "this process has no transport between nodes".to_owned();
    ready(Err(TransportError::Unreachable { peer: peer.clone(), reason, sent: false })).boxed()
}

impl Transport for NoTransport {
    fn append<'a>(&'a self, peer: &'a Peer, _: BoxStream<'static, v1::AppendRequest>) -> Asked<'a, Replies> {
        nobody(peer)
    }

    fn vote<'a>(&'a self, peer: &'a Peer, _: v1::VoteRequest) -> Asked<'a, v1::VoteReply> {
        nobody(peer)
    }

    fn snapshot<'a>(&'a self, peer: &'a Peer, _: BoxStream<'static, v1::SnapshotPart>) -> Asked<'a, v1::SnapshotReply> {
        nobody(peer)
    }

    fn transfer<'a>(&'a self, peer: &'a Peer, _: v1::TransferRequest) -> Asked<'a, v1::TransferReply> {
        nobody(peer)
    }

    fn propose<'a>(&'a self, peer: &'a Peer, _: v1::ProposeRequest) -> Asked<'a, v1::ProposeReply> {
        nobody(peer)
    }

    fn read_index<'a>(&'a self, peer: &'a Peer) -> Asked<'a, v1::ReadIndexReply> {
        nobody(peer)
    }

    fn greet<'a>(&'a self, peer: &'a Peer, _: Mark) -> Asked<'a, v1::RollCallReply> {
        nobody(peer)
    }
}
