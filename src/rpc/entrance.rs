//! Where other nodes get in to the instances of this one, and to nothing else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use narvana_proto::v1;
use narvana_proto::v1::tunnel_part::Part;
use narvana_proto::v1::tunnel_server::Tunnel;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::Admit;
use super::caller::{member, until_removed};
use super::wire::{Wire, parts};
use crate::consensus::Consensus;
use crate::decide::entrance;
use crate::model::{InstanceId, NodeId};
use crate::task::{OnError, Supervisor};

/// Longest wait for the part that names the target.
const TARGET_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for entries of the log that the caller has seen already.
const ENTRIES_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest wait for an instance to take a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Tunnels of all callers together, of ingresses and of services each, for the memory and the files that they take.
const TUNNELS_MAX: usize = 4_096;
/// What is on its way between an instance and its tunnel, in each direction.
const BUFFER_BYTES: usize = 16 * 1024;
/// How long open requests may take when the node stops.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Counts the connections of other nodes to instances of this one, and knows which of them an instance is left to finish. Clones
/// share the count.
#[derive(Clone, Default)]
pub struct OpenTunnels(Arc<Counts>);

#[derive(Default)]
struct Counts {
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Default)]
struct Open {
    /// Those that an instance is left to finish, by the instance.
    requests: BTreeMap<InstanceId, usize>,
    /// Those of other services, which nobody waits for.
    services: usize,
}

impl OpenTunnels {
    /// Connections of ingresses that are open to an instance now, also those on which no request is.
    pub fn open(&self, instance: InstanceId) -> usize {
        self.0.lock().requests.get(&instance).copied().unwrap_or(0)
    }

    /// Waits until no connection is open to an instance. `false` at the deadline. When its stop was on record before, no
    /// other one follows.
    pub async fn drained(&self, instance: InstanceId, deadline: Instant) -> bool {
        loop {
            // Listening begins before looking, or the news could fall in between.
            let news = self.0.closed.notified();
            if self.open(instance) == 0 {
                return true;
            }
            if tokio::time::timeout_at(deadline, news).await.is_err() {
                return false;
            }
        }
    }

    fn enter(&self, instance: InstanceId, from_service: bool) -> Result<Entered, Status> {
        let mut open = self.0.lock();
        // Each kind by itself: services that hold many keep no visitor out.
        let carried = if from_service { open.services } else { open.requests.values().sum() };
        if carried >= TUNNELS_MAX {
            return Err(Status::resource_exhausted(format!(
                "this node carries {TUNNELS_MAX} tunnels, which is the most"
            )));
        }
        if from_service {
            open.services += 1;
        } else {
            *open.requests.entry(instance).or_default() += 1;
        }
        let waited_for = (!from_service).then_some(instance);
        Ok(Entered { tunnels: self.clone(), waited_for })
    }
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One tunnel, counted until it is dropped.
struct Entered {
    tunnels: OpenTunnels,
    /// The instance that is left to finish what is in it, if it is.
    waited_for: Option<InstanceId>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.tunnels.0.lock();
        match self.waited_for {
            None => open.services -= 1,
            Some(instance) => {
                if let Some(count) = open.requests.get_mut(&instance) {
                    *count -= 1;
                    if *count == 0 {
                        open.requests.remove(&instance);
                    }
                }
            }
        }
        drop(open);
        self.tunnels.0.closed.notify_waiters();
    }
}

/// Takes the tunnels of other members.
pub(super) struct Entrance {
    pub(super) node: NodeId,
    pub(super) consensus: Consensus,
    pub(super) admit: Admit,
    pub(super) tunnels: OpenTunnels,
    pub(super) supervisor: Supervisor,
}

impl Entrance {
    /// Where the target listens on this machine, by the state and nothing else.
    async fn address(&self, instance: InstanceId, port: u16, index: u64) -> Result<SocketAddr, Status> {
        let known = self.consensus.latest();
        let refusal = match entrance(&known.state, self.node, instance, port) {
            Ok(address) => return Ok(address),
            Err(refusal) => refusal,
        };
        if known.index >= index {
            return Err(Status::not_found(refusal));
        }
        match self.consensus.wait_index(index, Instant::now() + ENTRIES_WAIT_MAX).await {
            Ok(view) => entrance(&view.state, self.node, instance, port).map_err(Status::not_found),
            Err(_) => {
                Err(Status::failed_precondition(format!("{refusal}, as far as this node knows, which is behind")))
            }
        }
    }
}

#[tonic::async_trait]
impl Tunnel for Entrance {
    type OpenStream = BoxStream<'static, Result<v1::TunnelPart, Status>>;

    async fn open(&self, request: Request<Streaming<v1::TunnelPart>>) -> Result<Response<Self::OpenStream>, Status> {
        let caller = member(&request)?;
        let stop = self.supervisor.stopping();
        if stop.is_cancelled() {
            return Err(Status::unavailable("this node is about to stop"));
        }
        let mut incoming = request.into_inner();
        let first = timeout(TARGET_WAIT_MAX, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no target was named"))??;
        let Some(Part::Target(target)) = first.and_then(|part| part.part) else {
            return Err(Status::invalid_argument("the first part of a tunnel names its target"));
        };
        let malformed = || Status::invalid_argument("the target is malformed");
        let instance = InstanceId(Uuid::from_slice(&target.instance).map_err(|_| malformed())?);
        let port = u16::try_from(target.port).map_err(|_| malformed())?;
        // Counted first: whoever waits for the last one after a stop was put on record either sees it, or it is refused.
        let entered = self.tunnels.enter(instance, target.from_service)?;
        let address = self.address(instance, port, target.index).await?;
        let stream = connect(instance, address).await?;

        let (outgoing, parts) = parts();
        let gone = CancellationToken::new();
        let left = gone.clone().drop_guard();
        let answer = ReceiverStream::new(parts).map(move |part| {
            let _left = &left;
            Ok(part)
        });
        let wire = Wire::new(incoming, outgoing);
        let admit = self.admit.clone();
        self.supervisor.spawn("tunnel", OnError::Log, async move {
            let cut = async {
                tokio::select! {
                    () = gone.cancelled() => "the caller left".to_owned(),
                    () = stop.cancelled().then(|()| tokio::time::sleep(LAST_REQUESTS)) => "this node stops".to_owned(),
                    status = until_removed(&admit, caller) => status.message().to_owned(),
                }
            };
            carry(wire, stream, cut).await;
            drop(entered);
            Ok::<(), Infallible>(())
        });
        Ok(Response::new(answer.boxed()))
    }
}

async fn connect(instance: InstanceId, address: SocketAddr) -> Result<TcpStream, Status> {
    let refused = |reason: String| Status::failed_precondition(format!("instance {instance} at {address}: {reason}"));
    let connected = timeout(CONNECT_MAX, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| refused("it does not answer".to_owned()))?;
    let stream = stream.map_err(|error| refused(error.to_string()))?;
    // Without it each small message waits some 40 ms.
    stream.set_nodelay(true).map_err(|error| refused(error.to_string()))?;
    Ok(stream)
}

/// Carries bytes both ways until both directions have ended, or one broke off, or it is cut.
async fn carry(mut wire: Wire, mut stream: TcpStream, cut: impl Future<Output = String>) {
    let copy = copy_bidirectional_with_sizes(&mut wire, &mut stream, BUFFER_BYTES, BUFFER_BYTES);
    let reason = tokio::select! {
        copied = copy => match copied {
            Ok(_) => return,
            Err(error) => error.to_string(),
        },
        reason = cut => reason,
    };
    tracing::debug!(%reason, "a tunnel was cut off");
    // The instance shall not take it for the end of what was sent.
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection to an instance ends as if all had been sent");
    }
}
