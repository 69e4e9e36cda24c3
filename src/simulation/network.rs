//! The network between machines: every message takes a time that the seed chooses, and cables can be cut in one direction or both.
//!
//! It stands in for `rpc`: as there, only the node that is meant may answer, a member that was removed is refused, a machine that is
//! dead refuses connections, and one that cannot be reached answers nothing until the caller gives up. What was sent before its
//! sender died, or gave up, arrives all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use narvana_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::trace::Trace;
use crate::consensus::{Asked, Mark, Peer, ReceiveError, Receiver, Replies, Transport, TransportError};
use crate::host::Host;
use crate::model::NodeId;
use crate::rpc::Admit;
use crate::store::crash_disk::Dice;

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A connection over which nothing comes for this long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// Messages of a stream that are under way at once.
const UNDER_WAY: usize = 64;

/// What listens on a machine.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) node: NodeId,
    pub(super) host: Host,
    pub(super) receiver: Receiver,
    pub(super) admit: Admit,
}

/// How long messages take, in microseconds, and how often one has to be sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) latency: (u64, u64),
    /// Of a thousand messages.
    pub(super) lost: usize,
}

/// All cables. Clones share them.
#[derive(Clone)]
pub(super) struct Net(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Counts changes of the cables.
    changes: watch::Sender<u64>,
    trace: Trace,
}

struct Inner {
    dice: Dice,
    weather: Weather,
    places: BTreeMap<usize, Place>,
    /// From which machine nothing reaches which other one.
    cut: BTreeSet<(usize, usize)>,
}

/// The name of a machine on the network, with the port.
pub(super) fn address(machine: usize) -> String {
    format!("m{machine}:9090")
}

fn machine_at(address: &str) -> Option<usize> {
    address.strip_prefix('m')?.strip_suffix(":9090")?.parse().ok()
}

impl Net {
    pub(super) fn new(dice: Dice, weather: Weather, trace: Trace) -> Self {
        let inner = Inner { dice, weather, places: BTreeMap::new(), cut: BTreeSet::new() };
        Self(Arc::new(Shared { inner: Mutex::new(inner), changes: watch::Sender::new(0), trace }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a process listen on a machine.
    pub(super) fn listen(&self, machine: usize, place: Place) {
        self.inner().places.insert(machine, place);
    }

    /// Who listens there.
    fn place(&self, machine: usize) -> Option<Place> {
        self.inner().places.get(&machine).filter(|place| !place.host.is_dead()).cloned()
    }

    /// Cuts or mends one direction of a cable.
    pub(super) fn set_cut(&self, from: usize, to: usize, cut: bool) {
        let mut inner = self.inner();
        if cut {
            inner.cut.insert((from, to))
        } else {
            inner.cut.remove(&(from, to))
        };
        drop(inner);
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// Mends everything.
    pub(super) fn heal(&self) {
        self.inner().cut.clear();
        self.0.changes.send_modify(|count| *count += 1);
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.inner().cut.contains(&(from, to))
    }

    /// When a message that is sent now arrives, if the cable is whole.
    fn arrival(&self) -> Instant {
        let mut inner = self.inner();
        let (least, most) = inner.weather.latency;
        let mut micros = least + inner.dice.roll(usize::try_from(most - least).unwrap_or(0) + 1) as u64;
        let lost = inner.weather.lost;
        while inner.dice.roll(1000) < lost {
            micros += 200_000;
        }
        Instant::now() + Duration::from_micros(micros)
    }

    /// Takes as long as a message takes; false when none gets through for so long.
    async fn pass(&self, from: usize, to: usize, arrival: Instant, patience: Duration) -> bool {
        let whole = async {
            let mut changes = self.0.changes.subscribe();
            while self.is_cut(from, to) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(patience, whole).await.is_err() {
            return false;
        }
        sleep_until(arrival).await;
        true
    }
}

/// One machine's end of the network.
#[derive(Clone)]
pub(super) struct Cable {
    pub(super) net: Net,
    pub(super) machine: usize,
    pub(super) node: NodeId,
    pub(super) host: Host,
    /// Told when a member refuses this machine's node.
    pub(super) refused: CancellationToken,
}

fn unreachable(peer: &Peer, reason: &str, sent: bool) -> TransportError {
    TransportError::Unreachable { peer: peer.clone(), reason: reason.to_owned(), sent }
}

fn refused(peer: &Peer, reason: impl ToString) -> TransportError {
    TransportError::Refused { peer: peer.clone(), reason: reason.to_string() }
}

#[expect(clippy::disallowed_methods, reason = "what is under way belongs to the network, not to who sent it")]
fn under_way(travels: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(travels));
}

impl Cable {
    /// Reaches whoever is meant, or not.
    async fn reach(&self, peer: &Peer) -> Result<(usize, Place), TransportError> {
        let (net, from) = (&self.net, self.machine);
        let Some(to) = machine_at(&peer.address) else { return Err(unreachable(peer, "no such address", false)) };
        if !net.pass(from, to, net.arrival(), CONNECT_MAX).await {
            return Err(unreachable(peer, "no connection in time", false));
        }
        let place = net.place(to).filter(|place| place.node == peer.node);
        let Some(place) = place else { return Err(unreachable(peer, "nobody listens", false)) };
        if let Err(reason) = (place.admit)(self.node) {
            // That has to get through as well.
            if !net.pass(to, from, net.arrival(), SILENCE_MAX).await {
                return Err(unreachable(peer, "no answer comes through", true));
            }
            self.refused.cancel();
            return Err(refused(peer, reason));
        }
        Ok((to, place))
    }

    /// Asks once. The question goes its way also when nobody waits for the answer any more.
    fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        peer: &Peer,
        call: impl FnOnce(Receiver) -> BoxFuture<'static, Result<T, ReceiveError>> + Send + 'static,
    ) -> Asked<'static, T> {
        let (cable, net, from, peer) = (self.clone(), self.net.clone(), self.machine, peer.clone());
        let (answer, answered) = oneshot::channel();
        let gone = unreachable(&peer, "the connection broke", true);
        under_way(async move {
            let asked = async {
                let (to, place) = cable.reach(&peer).await?;
                net.0.trace.note(&[what, &from.to_string(), &to.to_string()]);
                let (done, result) = oneshot::channel();
                place.host.spawn(async move {
                    let _nobody_waits = done.send(call(place.receiver).await);
                });
                let result = result.await;
                if !net.pass(to, from, net.arrival(), SILENCE_MAX).await {
                    return Err(unreachable(&peer, "no answer comes through", true));
                }
                let Ok(result) = result else { return Err(unreachable(&peer, "it died", true)) };
                result.map_err(|error| refused(&peer, error))
            };
            let _nobody_waits = answer.send(asked.await);
        });
        async move { answered.await.unwrap_or(Err(gone)) }.boxed()
    }

    /// Sends a stream, in order. The inbox ends when the sender does, or nothing gets through.
    fn send<T: Send + 'static>(&self, to: usize, mut items: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let (net, from) = (self.net.clone(), self.machine);
        let (sender, mut sent) = mpsc::channel(UNDER_WAY);
        let (arrived, inbox) = mpsc::channel(UNDER_WAY);
        let stamp = net.clone();
        self.host.spawn(async move {
            while let Some(item) = items.next().await {
                if sender.send((stamp.arrival(), item)).await.is_err() {
                    return;
                }
            }
        });
        under_way(async move {
            while let Some((arrival, item)) = sent.recv().await {
                if !net.pass(from, to, arrival, SILENCE_MAX).await || arrived.send(item).await.is_err() {
                    return;
                }
            }
        });
        stream::unfold(inbox, async |mut inbox| Some((inbox.recv().await?, inbox))).boxed()
    }
}

impl Transport for Cable {
    fn append<'a>(&'a self, peer: &'a Peer, requests: BoxStream<'static, v1::AppendRequest>) -> Asked<'a, Replies> {
        async move {
            let (net, from, asking) = (self.net.clone(), self.machine, self.node);
            let (to, place) = self.reach(peer).await?;
            let inbox = self.send(to, requests);
            let (replied, mut replies) = mpsc::channel::<(Instant, _)>(UNDER_WAY);
            let (trace, stamp) = (net.clone(), net.clone());
            place.host.spawn(async move {
                let inbox = inbox.inspect(move |request| {
                    let words =
                        (from, to, &request.ballot, &request.previous, &request.committed, request.entries.len());
                    trace.0.trace.note(&["append", &format!("{words:?}")]);
                });
                // A leader that was removed meanwhile is heard no more.
                let inbox = inbox.take_while(move |_| ready((place.admit)(asking).is_ok()));
                let mut answers = place.receiver.append(inbox);
                while let Some(answer) = answers.next().await {
                    if replied.send((stamp.arrival(), answer)).await.is_err() {
                        return;
                    }
                }
            });
            let (arrived, inbox) = mpsc::channel(UNDER_WAY);
            let about = peer.clone();
            under_way(async move {
                while let Some((arrival, answer)) = replies.recv().await {
                    let answer = answer.map_err(|error: ReceiveError| refused(&about, error));
                    if !net.pass(to, from, arrival, SILENCE_MAX).await || arrived.send(answer).await.is_err() {
                        break;
                    }
                }
                let _nobody_waits = arrived.send(Err(unreachable(&about, "the connection broke", true))).await;
            });
            Ok(stream::unfold(inbox, async |mut inbox| Some((inbox.recv().await?, inbox))).boxed())
        }
        .boxed()
    }

    fn vote<'a>(&'a self, peer: &'a Peer, request: v1::VoteRequest) -> Asked<'a, v1::VoteReply> {
        self.ask("vote", peer, move |receiver| async move { receiver.vote(request).await }.boxed())
    }

    fn snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        parts: BoxStream<'static, v1::SnapshotPart>,
    ) -> Asked<'a, v1::SnapshotReply> {
        async move {
            let (to, place) = self.reach(peer).await?;
            let inbox = self.send(to, parts);
            let (net, from, about) = (self.net.clone(), self.machine, peer.clone());
            net.0.trace.note(&["snapshot", &from.to_string(), &to.to_string()]);
            let (done, result) = oneshot::channel();
            place.host.spawn(async move {
                let _nobody_waits = done.send(place.receiver.snapshot(inbox).await);
            });
            let result = result.await;
            if !net.pass(to, from, net.arrival(), SILENCE_MAX).await {
                return Err(unreachable(&about, "no answer comes through", true));
            }
            let Ok(result) = result else { return Err(unreachable(&about, "it died", true)) };
            result.map_err(|error| refused(&about, error))
        }
        .boxed()
    }

    fn transfer<'a>(&'a self, peer: &'a Peer, request: v1::TransferRequest) -> Asked<'a, v1::TransferReply> {
        self.ask("transfer", peer, move |receiver| async move { receiver.transfer(request).await }.boxed())
    }

    fn propose<'a>(&'a self, peer: &'a Peer, request: v1::ProposeRequest) -> Asked<'a, v1::ProposeReply> {
        let asking = self.node;
        self.ask("propose", peer, move |receiver| async move { receiver.propose(request, asking).await }.boxed())
    }

    fn read_index<'a>(&'a self, peer: &'a Peer) -> Asked<'a, v1::ReadIndexReply> {
        let asking = self.node;
        self.ask("read", peer, move |receiver| async move { Ok(receiver.read_index(asking).await) }.boxed())
    }

    fn greet<'a>(&'a self, peer: &'a Peer, _: Mark) -> Asked<'a, v1::RollCallReply> {
        let asking = self.node;
        self.ask("greet", peer, move |receiver| async move { Ok(receiver.roll_call(asking)) }.boxed())
    }
}
