//! openraft's way to other members, over a [`Transport`].

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt};
use narvana_proto::v1;
use narvana_proto::v1::snapshot_part::Part;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::beats::Beats;
use super::lent::lend;
use super::said::{Agreed, Said};
use super::transport::{Peer, Transport, TransportError};
use super::wire::{self, Malformed};
use crate::model::NodeId;
use crate::store::{self, Chunks, Fatal, LeaderId, LogId, Member, Membership, SnapshotFile, TypeConfig, Vote};
use crate::task::blocking;

type Snapshot = openraft::Snapshot<LeaderId, u64, Member, SnapshotFile>;

/// Makes connections to members.
pub(super) struct Network {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) addresses: Addresses,
    /// See [`Options::learner_heartbeat`](super::Options::learner_heartbeat).
    pub(super) learner_heartbeat: Duration,
    /// For a snapshot of this node's that cannot be read.
    pub(super) fatal: Fatal,
}

/// Where members are reached, and who votes. openraft keeps the connection to a member for as long as it leads, also when the
/// member moves; so every call looks here.
#[derive(Clone, Default)]
pub(super) struct Addresses(Arc<Mutex<BTreeMap<u64, Known>>>);

#[derive(Clone, Default)]
struct Known {
    address: String,
    learns: bool,
}

impl Addresses {
    /// Notes where everybody is now.
    pub(super) fn note(&self, membership: &Membership) {
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (node, member) in membership.nodes() {
            known.insert(*node, Known { address: member.address.clone(), learns: !voters.contains(node) });
        }
    }

    fn note_one(&self, node: u64, member: &Member) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(node).or_default().address = member.address.clone();
    }

    fn find(&self, node: u64) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned().unwrap_or_default()
    }
}

/// The connection to one member.
pub(super) struct Connection {
    transport: Arc<dyn Transport>,
    addresses: Addresses,
    fatal: Fatal,
    node: u64,
    beats: Beats,
    /// When the last heartbeat went out that was answered, and up to where the log was agreed on then.
    beat: Option<(Instant, Option<LogId>)>,
    learner_heartbeat: Duration,
    agreed: Agreed,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Member) -> Connection {
        self.addresses.note_one(target, node);
        let (transport, fatal) = (Arc::clone(&self.transport), self.fatal.clone());
        let (addresses, beats, agreed) = (self.addresses.clone(), Beats::default(), Agreed::default());
        let learner_heartbeat = self.learner_heartbeat;
        Connection { transport, addresses, fatal, node: target, beats, beat: None, learner_heartbeat, agreed }
    }
}

impl Connection {
    fn peer(&self) -> Peer {
        Peer { node: NodeId(self.node), address: self.addresses.find(self.node).address }
    }

    /// Whether this heartbeat may be left out: it says nothing new to one that does not campaign.
    fn is_early(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        self.beat
            .is_some_and(|(at, committed)| at.elapsed() < self.learner_heartbeat && committed == request.leader_commit)
            && self.addresses.find(self.node).learns
    }

    async fn ask(
        &self,
        request: v1::VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (peer, term) = (self.peer(), request.ballot.unwrap_or_default().term);
        let reply = within(option.soft_ttl(), &peer, self.transport.vote(&peer, request)).await?;
        wire::vote_response(reply, term).map_err(|error| broken(&error))
    }

    /// Sends one of the requests that come one at a time.
    async fn beat(
        &mut self,
        request: &AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        let said = Said::to(request);
        // openraft sends no such request but from where the follower has said to be.
        self.agreed.note(request.prev_log_id);
        let (peer, request) = (self.peer(), wire::append_request(request).map_err(|error| broken(&error))?);
        let asked = self.beats.exchange(&*self.transport, peer.clone(), request);
        // openraft waits no longer than that itself; the disk of the follower may need it.
        let reply = within(option.hard_ttl(), &peer, asked).await?;
        said.heard(reply, &self.agreed).map_err(|error| broken(&error))
    }
}

/// The answer, or after this time a failure.
async fn within<A>(
    patience: Duration,
    peer: &Peer,
    asked: impl Future<Output = Result<A, TransportError>>,
) -> Result<A, RPCError<TypeConfig>> {
    match timeout(patience, asked).await {
        Ok(answer) => answer.map_err(failure),
        Err(_) => {
            let reason = format!("no answer within {} ms", patience.as_millis());
            Err(failure(TransportError::Refused { peer: peer.clone(), reason }))
        }
    }
}

fn failure(error: TransportError) -> RPCError<TypeConfig> {
    match error {
        TransportError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(&error)),
        TransportError::Refused { .. } => RPCError::Network(NetworkError::new(&error)),
    }
}

fn broken(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.beat(&request, option).await?.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let mut input = input.fuse();
            // openraft's pause after a failure is in this stream. A transport that connects before it takes a request
            // from it would never wait, and ask a node that is gone as fast as it can.
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            let second = input.next().now_or_never();
            // It is a heartbeat. What has entries may take longer than that may.
            if first.entries.is_empty() && matches!(second, Some(None)) {
                if self.is_early(&first) {
                    return Ok(stream::empty().boxed());
                }
                let sent = (Instant::now(), first.leader_commit);
                let result = self.beat(&first, option).await?;
                self.beat = Some(sent);
                return Ok(stream::iter([Ok(result)]).boxed());
            }
            let input = stream::iter(std::iter::once(first).chain(second.flatten())).chain(input);
            let (asked, mut questions) = mpsc::unbounded_channel();
            let requests = input.map(move |request| {
                // Nobody waits for it any more when the stream of replies is gone.
                let _asked = asked.send(Said::to(&request));
                wire::append_request(&request)
            });
            // An entry that cannot be encoded was never in the log; the stream would end there.
            let requests = requests.take_while(|encoded| {
                std::future::ready(encoded.as_ref().inspect_err(|error| tracing::error!(%error, "cannot send")).is_ok())
            });
            let requests = requests.filter_map(|encoded| std::future::ready(encoded.ok()));
            // The next stream has to find this one gone: both take what openraft has for the member from one place, and what
            // goes out on a connection that broke is lost. It begins again where it began before then, for ever if the log does
            // not go back so far. A transport may need its time to see that nobody waits for its answers any more.
            let (requests, owner) = lend(requests);
            let peer = self.peer();
            let mut replies = within(option.soft_ttl(), &peer, self.transport.append(&peer, requests.boxed())).await?;
            let agreed = &self.agreed;
            let results = async_stream::stream! {
                let _owner = owner;
                let mut none_came = true;
                while let Some(reply) = replies.next().await {
                    none_came = false;
                    let said = questions.try_recv().map_err(|_| broken(&Malformed::Unasked));
                    yield match (said, reply) {
                        (Ok(said), Ok(reply)) => said.heard(reply, agreed).map_err(|error| broken(&error)),
                        (Err(error), _) => Err(error),
                        (_, Err(error)) => Err(failure(error)),
                    };
                }
                // An end alone would have openraft take up what it had for the member before.
                if none_came || questions.try_recv().is_ok() {
                    let reason = "it ended the stream without a reply".to_owned();
                    yield Err(failure(TransportError::Refused { peer, reason }));
                }
            };
            Ok(results.boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(wire::vote_request(&request, false), option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(wire::vote_request(&request, true), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let term = vote.leader_id.term;
        let parts = parts(vote, snapshot, self.fatal.clone()).boxed();
        let peer = self.peer();
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            // As long as it moves: the transport notices a peer that is gone.
            sent = self.transport.snapshot(&peer, parts) => {
                let reply = sent.map_err(|error| match error {
                    TransportError::Unreachable { .. } => StreamingError::Unreachable(Unreachable::new(&error)),
                    TransportError::Refused { .. } => StreamingError::Network(NetworkError::new(&error)),
                })?;
                let vote = wire::vote(reply.ballot, term);
                Ok(SnapshotResponse::new(vote.map_err(|error| StreamingError::Network(NetworkError::new(&error)))?))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let peer = self.peer();
        let asked = self.transport.transfer(&peer, wire::transfer_request(&request));
        let reply = within(option.soft_ttl(), &peer, asked).await?;
        wire::transfer_response(&request, reply).map_err(|error| broken(&error))
    }
}

/// A snapshot as it is sent. Parts after a failure are missing, the end among them, so that the receiver throws away what it
/// got; this node ends, since it would fail in the same way for as long as it leads.
fn parts(vote: Vote, snapshot: Snapshot, fatal: Fatal) -> impl Stream<Item = v1::SnapshotPart> + Send {
    async_stream::stream! {
        let mut reading = blocking(move || begin(&vote, &snapshot)).await;
        let mut count = 0;
        loop {
            let (part, mut chunks) = match reading {
                Ok((part, chunks)) => (part, chunks),
                Err(error) => return fatal.report(&error),
            };
            let is_end = matches!(part, Part::End(_));
            yield v1::SnapshotPart { part: Some(part) };
            if is_end {
                return;
            }
            reading = blocking(move || {
                let next = chunks.next()?.map(|chunk| Part::Chunk(chunk.into()));
                Ok((next.unwrap_or(Part::End(v1::SnapshotEnd { chunks: count })), chunks))
            })
            .await;
            count += 1;
        }
    }
}

fn begin(vote: &Vote, snapshot: &Snapshot) -> Result<(Part, Chunks), store::Error> {
    let head = v1::SnapshotHead { ballot: Some(wire::ballot(vote)), meta: store::encode_meta(&snapshot.meta)? };
    Ok((Part::Head(head), snapshot.snapshot.read()?))
}

#[cfg(test)]
mod tests {
    use openraft::network::RPCOption;
    use tokio_stream::wrappers::UnboundedReceiverStream;
    use tokio_util::sync::CancellationToken;

    use super::super::made_up::MadeUp;
    use super::super::transport::Replies;
    use super::*;

    async fn connection(
        answer: impl Fn(BoxStream<'static, v1::AppendRequest>) -> Replies + Send + Sync + 'static,
    ) -> Connection {
        let mut network = Network {
            transport: Arc::new(MadeUp(answer)),
            addresses: Addresses::default(),
            learner_heartbeat: Duration::ZERO,
            fatal: Fatal::new(CancellationToken::new()),
        };
        network.new_client(2, &Member { address: "other:9090".to_owned() }).await
    }

    fn option() -> RPCOption {
        RPCOption::new(Duration::from_secs(10))
    }

    fn empty_request() -> AppendEntriesRequest<TypeConfig> {
        let vote = Vote::new_committed(1, 1);
        AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None }
    }

    /// Simulated seeds 2576, 2660 and 2945: an old stream took what was meant for the next one, and the member got nothing more.
    #[tokio::test]
    async fn requests_are_gone_with_whoever_waits_for_their_answers() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeps = Arc::clone(&kept);
        // A transport that does not see yet that nobody waits.
        let mut connection = connection(move |requests| {
            keeps.lock().expect("not poisoned").push(requests);
            stream::pending().boxed()
        })
        .await;
        let (sender, requests) = mpsc::unbounded_channel();
        sender.send(empty_request()).expect("there");
        let answers = connection.stream_append(UnboundedReceiverStream::new(requests), option()).await;
        let answers = answers.expect("it is reached");
        assert!(!sender.is_closed());
        drop(answers);
        assert!(sender.is_closed());
        assert_eq!(kept.lock().expect("not poisoned").len(), 1);
    }

    #[tokio::test]
    async fn an_end_without_a_reply_is_a_failure() {
        let mut connection = connection(|_| stream::empty().boxed()).await;
        let (sender, requests) = mpsc::unbounded_channel();
        sender.send(empty_request()).expect("there");
        let answers = connection.stream_append(UnboundedReceiverStream::new(requests), option()).await;
        let answers: Vec<_> = answers.expect("it is reached").collect().await;
        assert!(matches!(answers.as_slice(), [Err(RPCError::Network(_))]), "{answers:?}");
    }
}
