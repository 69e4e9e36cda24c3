//! Connections to other nodes: one per node, made when it is needed, shared by everything that talks to it.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_stream::stream;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use hyper_util::rt::TokioIo;
use narvana_proto::v1;
use narvana_proto::v1::append_reply;
use narvana_proto::v1::forward_client::ForwardClient;
use narvana_proto::v1::raft_client::RaftClient;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use super::caller::NO_PART;
use super::stream::{Link, Stay};
use super::tls::{Distrust, name_of};
use super::{MESSAGE_BYTES_MAX, Refusal, Tls, Witness, hello};
use crate::consensus::{Asked, Mark, Peer, Replies, Transport, TransportError};
use crate::model::{Epoch, Incarnation, NodeId};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A connection that was silent for this long is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(1);
/// It ends when it gives none within this time.
const PING_ANSWER: Duration = Duration::from_secs(2);

/// Longest wait for a node that is told that it was left behind.
const TELL_MAX: Duration = Duration::from_secs(5);

/// Bytes of one stream of visitors that may wait here for a visitor who reads slowly.
const TRAFFIC_WINDOW: u32 = 512 * 1024;
/// The same of as many streams as a connection has at most.
const TRAFFIC_WINDOWS: u32 = 1024 * TRAFFIC_WINDOW;

/// The connections of this node to others. Clones share them.
#[derive(Clone)]
pub struct Peers {
    tls: watch::Receiver<Arc<Tls>>,
    /// Bytes that may wait here: of one stream, and of a connection.
    windows: Option<(u32, u32)>,
    channels: Arc<Mutex<HashMap<NodeId, (String, Channel)>>>,
    witness: Witness,
}

impl Peers {
    /// No connection yet.
    pub fn new(tls: watch::Receiver<Arc<Tls>>, witness: Witness) -> Self {
        Self { tls, windows: None, channels: Arc::default(), witness }
    }

    /// The same for what visitors and readers of logs wait for: connections of their own, on which those who read slowly
    /// hold up nobody.
    pub fn for_traffic(tls: watch::Receiver<Arc<Tls>>, witness: Witness) -> Self {
        Self { windows: Some((TRAFFIC_WINDOW, TRAFFIC_WINDOWS)), ..Self::new(tls, witness) }
    }

    /// Tells a node of an earlier epoch that the cluster goes on without it. What it says to that is no reason for this
    /// node to end: a refusal means that the node knows another cluster of the same name.
    pub async fn leave_behind(&self, peer: &Peer, epoch: &Epoch) -> Told {
        let request = v1::LeaveBehindRequest { epoch: epoch.number, origin: epoch.origin.to_string() };
        let mut forward = match self.forward(peer) {
            Ok(forward) => forward,
            Err(error) => return Told::Nobody(error.to_string()),
        };
        let status = match timeout(TELL_MAX, forward.leave_behind(request)).await {
            Ok(Ok(_)) => return Told::Ends,
            Ok(Err(status)) => status,
            Err(_) => Status::unavailable(format!("no answer within {} seconds", TELL_MAX.as_secs())),
        };
        match (not_connected(&status), failure(peer, &status)) {
            (Some(NotConnected { distrust: Some(how), .. }), _) => Told::Distrusts(*how),
            (None, TransportError::Refused { reason, .. }) => Told::Refuses(reason),
            (_, error) => Told::Nobody(error.to_string()),
        }
    }

    fn raft(&self, peer: &Peer) -> Result<RaftClient<Channel>, TransportError> {
        if !self.witness.takes_part() {
            let (peer, reason) = (peer.clone(), NO_PART.to_owned());
            return Err(TransportError::Unreachable { peer, reason, sent: false });
        }
        let client = RaftClient::new(self.channel(peer)?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn forward(&self, peer: &Peer) -> Result<ForwardClient<Channel>, TransportError> {
        let client = ForwardClient::new(self.channel(peer)?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn answer<T>(&self, peer: &Peer, reply: Result<tonic::Response<T>, Status>) -> Result<T, TransportError> {
        reply.map(tonic::Response::into_inner).map_err(|status| heeded(peer, &status, &self.witness))
    }

    /// The connection to a node; a new one when its address changed.
    pub(super) fn channel(&self, peer: &Peer) -> Result<Channel, TransportError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((address, channel)) = channels.get(&peer.node)
            && *address == peer.address
        {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", peer.address)).map_err(|error| {
            TransportError::Refused { peer: peer.clone(), reason: format!("this is no address: {error}") }
        })?;
        let (tls, peer, witness) = (self.tls.clone(), peer.clone(), self.witness.clone());
        let (node, address) = (peer.node, peer.address.clone());
        let (stream_window, window) = self.windows.unzip();
        let channel = endpoint
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(window)
            .http2_keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                connect(Arc::clone(&tls.borrow()), peer.clone(), witness.clone())
            }));
        channels.insert(node, (address, channel.clone()));
        Ok(channel)
    }
}

/// What came of telling a node that it was left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It knows, and ends.
    Ends,
    /// It goes on, and says why.
    Refuses(String),
    /// One of the two does not believe the other's certificate.
    Distrusts(Distrust),
    /// Nobody is there, or nobody who speaks this protocol as a node of this cluster.
    Nobody(String),
}

type Connected = TokioIo<Link<tokio_rustls::client::TlsStream<TcpStream>, ()>>;

/// There is no connection, so that nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
struct NotConnected {
    words: String,
    /// Since one of the two does not believe the other's certificate: which.
    distrust: Option<Distrust>,
}

async fn connect(tls: Arc<Tls>, peer: Peer, witness: Witness) -> io::Result<Connected> {
    let failed = match timeout(CONNECT_MAX, shake_hands(tls, peer, witness)).await {
        Ok(Ok(connected)) => return Ok(connected),
        Ok(Err(error)) => error,
        Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", CONNECT_MAX.as_secs())),
    };
    let distrust = Distrust::of(&failed);
    let words = distrust.map_or_else(|| failed.to_string(), explained);
    Err(io::Error::new(failed.kind(), NotConnected { words, distrust }))
}

async fn shake_hands(tls: Arc<Tls>, peer: Peer, witness: Witness) -> io::Result<Connected> {
    let stream = TcpStream::connect(&peer.address).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::clone(&tls.client));
    let mut stream = connector.connect(name_of(tls.cluster, peer.node), stream).await?;
    // What it makes of this node's certificate arrives with its first answer.
    hello::call(&mut stream, &witness, peer.node).await?;
    let stay = Stay::while_member(move || witness.heeds(peer.node));
    Ok(TokioIo::new(Link { stream, stay, guest: () }))
}

/// Members that do not believe each other's certificates cannot tell one that it was removed: it has to be found out by people.
fn explained(distrust: Distrust) -> String {
    format!(
        "{distrust} an authority that this node does not know: the cluster's was rotated without this node, which happens after a \
         node is removed, or another cluster answers there; `narvana status` on another member says whether this node is one"
    )
}

/// All that a failed call says. tonic says little of a connection that cannot be made; its causes do, most of them twice.
pub(super) fn reason(status: &Status) -> String {
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let words = cause.to_string();
        if !reason.contains(&words) {
            reason = format!("{reason}: {words}");
        }
        source = cause.source();
    }
    reason
}

/// What a peer sends, up to the first failure: of what cannot be read tonic tells without end, as often as it is asked.
pub(super) fn answers<T: Send + 'static>(mut sent: Streaming<T>) -> BoxStream<'static, Result<T, Status>> {
    let answers = stream! {
        while let Some(answer) = sent.next().await {
            let last = answer.is_err();
            yield answer;
            if last {
                break;
            }
        }
    };
    answers.boxed()
}

/// Why there is no connection, when that is why a call failed: it has not reached its peer then.
fn not_connected(status: &Status) -> Option<&NotConnected> {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = cause.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref()));
        if found.is_some() {
            return found;
        }
        source = cause.source();
    }
    None
}

/// What a failed call says about its peer, and about this node, which ends by a refusal.
fn heeded(peer: &Peer, status: &Status, witness: &Witness) -> TransportError {
    if let Some(refusal) = Refusal::of(status) {
        witness.refused_by(peer.node, refusal);
    }
    failure(peer, status)
}

/// What a failed call says about its peer.
fn failure(peer: &Peer, status: &Status) -> TransportError {
    let (peer, reason) = (peer.clone(), reason(status));
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => {
            TransportError::Unreachable { peer, reason, sent: not_connected(status).is_none() }
        }
        _ => TransportError::Refused { peer, reason },
    }
}

/// A stream of requests under a name of its own: the compiler cannot prove that a call with the boxed one is `Send`
/// (rust-lang/rust#102211).
struct Outgoing<T>(BoxStream<'static, T>);

impl<T> Stream for Outgoing<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_next_unpin(cx)
    }
}

impl Transport for Peers {
    fn append<'a>(&'a self, peer: &'a Peer, requests: BoxStream<'static, v1::AppendRequest>) -> Asked<'a, Replies> {
        // All requests of a stream are of one leader.
        let ballot = Arc::new(OnceLock::new());
        let sent = Arc::clone(&ballot);
        let requests = requests.inspect(move |request| {
            if let Some(ballot) = request.ballot {
                let _first = sent.set(ballot);
            }
        });
        // The stream may be open for days, and this process be refused meanwhile.
        let witness = self.witness.clone();
        let requests = Outgoing(requests.take_while(move |_| std::future::ready(witness.takes_part())).boxed());
        async move {
            let replies =
                self.raft(peer)?.append(requests).await.map_err(|status| heeded(peer, &status, &self.witness))?;
            let (peer, witness) = (peer.clone(), self.witness.clone());
            let heard = move |reply: Result<v1::AppendReply, Status>| {
                let reply = reply.map_err(|status| heeded(&peer, &status, &witness))?;
                if let (Some(append_reply::Result::Matching(v1::Matching { last })), Some(ballot)) =
                    (&reply.result, ballot.get())
                {
                    witness.acknowledged(peer.node, v1::Mark { vote: Some(*ballot), last: *last }.into());
                }
                Ok(reply)
            };
            Ok(answers(replies.into_inner()).map(heard).boxed())
        }
        .boxed()
    }

    fn vote<'a>(&'a self, peer: &'a Peer, request: v1::VoteRequest) -> Asked<'a, v1::VoteReply> {
        async move {
            let pre_vote = request.pre_vote;
            let reply = self.answer(peer, self.raft(peer)?.vote(request).await)?;
            if reply.granted && !pre_vote {
                self.witness.acknowledged(peer.node, v1::Mark { vote: reply.ballot, last: None }.into());
            }
            Ok(reply)
        }
        .boxed()
    }

    fn snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        parts: BoxStream<'static, v1::SnapshotPart>,
    ) -> Asked<'a, v1::SnapshotReply> {
        let parts = Outgoing(parts);
        async move { self.answer(peer, self.raft(peer)?.snapshot(parts).await) }.boxed()
    }

    fn transfer<'a>(&'a self, peer: &'a Peer, request: v1::TransferRequest) -> Asked<'a, v1::TransferReply> {
        async move { self.answer(peer, self.raft(peer)?.transfer(request).await) }.boxed()
    }

    fn propose<'a>(&'a self, peer: &'a Peer, request: v1::ProposeRequest) -> Asked<'a, v1::ProposeReply> {
        async move { self.answer(peer, self.forward(peer)?.propose(request).await) }.boxed()
    }

    fn read_index<'a>(&'a self, peer: &'a Peer) -> Asked<'a, v1::ReadIndexReply> {
        async move { self.answer(peer, self.forward(peer)?.read_index(v1::ReadIndexRequest {}).await) }.boxed()
    }

    fn greet<'a>(&'a self, peer: &'a Peer, holds: Mark) -> Asked<'a, v1::RollCallReply> {
        async move {
            let request =
                v1::RollCallRequest { holds: Some(holds.into()), shared_options: self.witness.shared_options().told() };
            let reply = self.answer(peer, self.forward(peer)?.roll_call(request).await)?;
            self.witness.shared_options().note(peer.node, &reply.shared_options);
            if let (Ok(run), Some(holds)) = (Uuid::from_slice(&reply.run), reply.holds) {
                self.witness.note(peer.node, Incarnation(run), holds.into(), Instant::now());
            }
            Ok(reply)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;
    use tonic::codec::{DecodeBuf, Decoder};

    use super::*;

    /// Cannot read anything.
    struct Illiterate;

    impl Decoder for Illiterate {
        type Item = ();
        type Error = Status;

        fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
            Err(Status::internal("it cannot be read"))
        }
    }

    /// Whoever counted the answers of a member that somebody took over never came to an end.
    #[tokio::test]
    async fn of_an_answer_that_cannot_be_read_is_told_once() {
        let frame = [0, 0, 0, 0, 1, 7];
        let body = Full::new(Bytes::copy_from_slice(&[frame, frame].concat()));
        let sent = Streaming::new_response(Illiterate, body, http::StatusCode::OK, None, None);
        let told: Vec<_> = answers(sent).take(10).collect().await;
        assert!(matches!(&told[..], [Err(_)]), "{told:?}");
    }
}
