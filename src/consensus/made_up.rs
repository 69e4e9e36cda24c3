//! For tests: members that answer what a leader sends them in a made-up way, and nothing else.

use std::future::ready;

use futures::FutureExt;
use futures::stream::BoxStream;
use narvana_proto::v1;

use super::{Asked, Mark, NoTransport, Peer, Replies, Transport};

pub(super) struct MadeUp<F>(pub(super) F);

impl<F> Transport for MadeUp<F>
where
    F: Fn(BoxStream<'static, v1::AppendRequest>) -> Replies + Send + Sync + 'static,
{
    fn append<'a>(&'a self, _: &'a Peer, requests: BoxStream<'static, v1::AppendRequest>) -> Asked<'a, Replies> {
        ready(Ok((self.0)(requests))).boxed()
    }

    fn vote<'a>(&'a self, peer: &'a Peer, request: v1::VoteRequest) -> Asked<'a, v1::VoteReply> {
        NoTransport.vote(peer, request)
    }

    fn snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        parts: BoxStream<'static, v1::SnapshotPart>,
    ) -> Asked<'a, v1::SnapshotReply> {
        NoTransport.snapshot(peer, parts)
    }

    fn transfer<'a>(&'a self, peer: &'a Peer, request: v1::TransferRequest) -> Asked<'a, v1::TransferReply> {
        NoTransport.transfer(peer, request)
    }

    fn propose<'a>(&'a self, peer: &'a Peer, request: v1::ProposeRequest) -> Asked<'a, v1::ProposeReply> {
        NoTransport.propose(peer, request)
    }

    fn read_index<'a>(&'a self, peer: &'a Peer) -> Asked<'a, v1::ReadIndexReply> {
        NoTransport.read_index(peer)
    }

    fn greet<'a>(&'a self, peer: &'a Peer, holds: Mark) -> Asked<'a, v1::RollCallReply> {
        NoTransport.greet(peer, holds)
    }
}
