//! Requests to a follower that come one at a time: the heartbeats of a leader to which nothing happens, four a second.
//!
//! They share a stream that stays open, since a stream for each of them costs twice as much, on both sides.

use std::sync::{Mutex, PoisonError};

use futures::{FutureExt, StreamExt};
use narvana_proto::v1;
use narvana_proto::v1::append_reply::Result as Said;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::transport::{Peer, Replies, Transport, TransportError};

/// The stream to one follower, when there is one. Behind a lock that nobody waits for, since openraft wants to share what it has
/// of a network between threads.
#[derive(Default)]
pub(super) struct Beats(Mutex<Option<Open>>);

struct Open {
    peer: Peer,
    requests: mpsc::Sender<v1::AppendRequest>,
    replies: Replies,
}

impl Beats {
    /// Sends one and waits for its reply. When nobody waits that long, or the follower moves or hangs up, the next one goes on a new
    /// stream: no reply is taken for that to another request.
    pub(super) async fn exchange(
        &mut self,
        transport: &dyn Transport,
        peer: Peer,
        request: v1::AppendRequest,
    ) -> Result<v1::AppendReply, TransportError> {
        let open = self.open().take().filter(|open| open.peer == peer).and_then(|open| open.sending(&request));
        let mut open = match open {
            Some(open) => open,
            None => Open::with(transport, peer, request).await?,
        };
        let reply = open.replies.next().await.unwrap_or_else(|| {
            let reason = "it ended the stream without a reply".to_owned();
            Err(TransportError::Refused { peer: open.peer.clone(), reason })
        })?;
        // After any other reply openraft takes nothing more from the stream.
        if matches!(reply.result, Some(Said::Matching(_))) {
            *self.open() = Some(open);
        }
        Ok(reply)
    }

    fn open(&mut self) -> &mut Option<Open> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    async fn with(transport: &dyn Transport, peer: Peer, first: v1::AppendRequest) -> Result<Self, TransportError> {
        let (requests, sent) = mpsc::channel(1);
        // There is room, and the other end is in the next line.
        let _sent = requests.try_send(first);
        let replies = transport.append(&peer, ReceiverStream::new(sent).boxed()).await?;
        Ok(Self { peer, requests, replies })
    }

    /// Sends one more, unless the follower has hung up meanwhile: it says nothing unasked but that.
    fn sending(mut self, request: &v1::AppendRequest) -> Option<Self> {
        let waits = self.replies.next().now_or_never().is_none();
        (waits && self.requests.try_send(request.clone()).is_ok()).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use futures::stream::{self, BoxStream};
    use tokio::time::timeout;

    use super::*;
    use crate::consensus::made_up::MadeUp;
    use crate::model::NodeId;

    /// Of a follower that has the log up to the position in each request, and hangs up after so many. It does not have position 9,
    /// and answers nothing after that, as openraft does.
    fn answers(requests: BoxStream<'static, v1::AppendRequest>, most: usize) -> Replies {
        // A request to position 0 is not answered.
        let answered = requests.then(|request| async move {
            match request.previous {
                Some(v1::LogId { index: 0, .. }) => std::future::pending().await,
                Some(missing @ v1::LogId { index: 9, .. }) => Said::Conflict(missing),
                last => Said::Matching(v1::Matching { last }),
            }
        });
        let mut ends = false;
        let answered = answered.take(most).flat_map(move |result| {
            let ended = std::mem::replace(&mut ends, matches!(result, Said::Conflict(_)));
            stream::iter((!ended).then_some(Ok(v1::AppendReply { result: Some(result) })))
        });
        answered.boxed()
    }

    struct Leader {
        beats: Beats,
        follower: Box<dyn Transport>,
        streams: Arc<AtomicU64>,
    }

    impl Leader {
        fn of(most: usize) -> Self {
            let streams = Arc::new(AtomicU64::new(0));
            let opened = Arc::clone(&streams);
            let follower = MadeUp(move |requests| {
                opened.fetch_add(1, Ordering::Relaxed);
                answers(requests, most)
            });
            Self { beats: Beats::default(), follower: Box::new(follower), streams }
        }

        /// The position in the answer to a request with this one, if it comes within a second.
        async fn beat(&mut self, at: &str, index: u64) -> Option<u64> {
            let peer = Peer { node: NodeId(2), address: at.to_owned() };
            let previous = Some(v1::LogId { term: 1, leader: 1, index });
            let request = v1::AppendRequest { previous, ..v1::AppendRequest::default() };
            let asked = self.beats.exchange(&*self.follower, peer, request);
            match timeout(Duration::from_secs(1), asked).await.ok()?.expect("answers").result {
                Some(Said::Matching(v1::Matching { last: Some(last) }) | Said::Conflict(last)) => Some(last.index),
                other => panic!("{other:?}"),
            }
        }

        fn streams(&self) -> u64 {
            self.streams.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_share_a_stream_until_it_ends() {
        let mut leader = Leader::of(3);
        for index in 1..=3 {
            assert_eq!((leader.beat("a", index).await, leader.streams()), (Some(index), 1));
        }
        assert_eq!((leader.beat("a", 4).await, leader.streams()), (Some(4), 2), "it hung up");
        assert_eq!((leader.beat("b", 5).await, leader.streams()), (Some(5), 3), "it moved");
        assert_eq!((leader.beat("b", 9).await, leader.streams()), (Some(9), 3), "it lacks something");
        assert_eq!((leader.beat("b", 6).await, leader.streams()), (Some(6), 4), "the stream was of no use any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_reply_is_never_taken_for_that_to_the_next_request() {
        let mut leader = Leader::of(5);
        assert_eq!(leader.beat("a", 1).await, Some(1));
        assert_eq!(leader.beat("a", 0).await, None);
        assert_eq!((leader.beat("a", 2).await, leader.streams()), (Some(2), 2));
    }
}
