//! The ingress of one node: a reverse proxy by host name over HTTP/1.1, with WebSocket and streaming.
//!
//! Comes in: clients' connections and route tables. Goes out: requests to instances. One task serves one client
//! connection together with the backend connections it uses at that moment: a client that goes away takes its backend
//! request with it, and nothing is handed from thread to thread. Time ends a connection only before its request head
//! is complete, while it idles, and while an instance owes the head of its answer; bodies may flow for as long as
//! they like.
//!
//! Any node answers for any service. Of several healthy instances the one with the fewest requests open gets the next
//! one; those of this node are preferred, until they are busier than the others by a fixed number. A request goes to an
//! instance of another node through that node. Deliberately absent: TLS, HTTP/2, buffering of bodies, retries of requests that an instance may have
//! seen.

mod body;
mod counters;
mod exchange;
mod headers;
mod link;
mod page;
mod proxy;
mod server;
mod target;
mod tunnel;
mod upstream;
mod upstreams;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use self::counters::Counters;
use self::proxy::Proxy;
use self::upstreams::Upstreams;
use super::{Error, Reach};
use crate::decide::route_table::RouteTable;
use crate::model::InstanceId;
use crate::task::{OnError, Supervisor};

pub use self::counters::{IngressNumbers, InstanceNumbers};

/// Where the ingress listens and how long it waits.
#[derive(Clone, Debug)]
pub struct Options {
    /// The local address to listen on.
    pub address: IpAddr,
    /// The port to listen on; 0 lets the operating system pick one.
    pub port: u16,
    /// Time and size limits.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 80, limits: Limits::default() }
    }
}

/// What one client or one instance may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long connecting to an instance may take before another one is tried.
    pub connect: Duration,
    /// How long a client may take to send a complete request head; also how long a connection may idle in between.
    pub request_head: Duration,
    /// How long an instance may take to send the head of its answer, counted from the last piece of the request.
    pub response_head: Duration,
    /// The size of a request head in bytes, request line included.
    pub request_head_bytes: usize,
    /// Client connections open at once; more wait in the listen queue.
    pub connections: usize,
    /// Of these, how many one address (or one IPv6 /64) may have; more are closed at once.
    pub connections_per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            request_head: Duration::from_secs(30),
            response_head: Duration::from_secs(120),
            request_head_bytes: 32 * 1024,
            connections: 16_384,
            // Room for a proxy before this one, and still a sixteenth of all.
            connections_per_address: 1_024,
        }
    }
}

/// An ingress that is bound to its address and not yet serving.
pub struct Ingress {
    listener: TcpListener,
    routes: watch::Receiver<Arc<RouteTable>>,
    proxy: Arc<Proxy>,
    handle: IngressHandle,
}

impl Ingress {
    /// Binds the address. Clients may connect from now on; they are served after [`Ingress::run`].
    pub async fn bind(
        options: Options,
        routes: watch::Receiver<Arc<RouteTable>>,
        reach: Arc<dyn Reach>,
    ) -> Result<Self, Error> {
        let address = SocketAddr::new(options.address, options.port);
        let bind_error = |source| Error::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind_error)?;
        let bound = listener.local_addr().map_err(bind_error)?;
        let upstreams = Arc::new(Upstreams::new());
        let counters = Arc::new(Counters::default());
        let handle =
            IngressHandle { address: bound, upstreams: Arc::clone(&upstreams), counters: Arc::clone(&counters) };
        let proxy = Arc::new(Proxy { upstreams, reach, limits: options.limits, counters });
        Ok(Self { listener, routes, proxy, handle })
    }

    /// Asks what is open and waits for what drains; lives longer than the ingress.
    pub fn handle(&self) -> IngressHandle {
        self.handle.clone()
    }

    /// Serves until `supervisor` stops: no new connections from then on, idle ones are closed, open requests finish
    /// within its grace period, and what is left then (WebSockets too) is cut.
    ///
    /// The supervisor should be the ingress's own, so that its grace period is the ingress's.
    pub fn run(self, supervisor: &Supervisor) {
        let Self { listener, mut routes, proxy, .. } = self;
        // Before the first connection is accepted, or early clients would be told that their host is unknown.
        proxy.upstreams.apply(&routes.borrow_and_update());
        let upstreams = Arc::clone(&proxy.upstreams);
        supervisor.spawn(
            "ingress routes",
            OnError::StopNode,
            upstreams::follow(upstreams, routes, supervisor.stopping()),
        );
        let accept = server::accept(listener, proxy, supervisor.clone());
        supervisor.spawn("ingress accept", OnError::StopNode, accept);
    }
}

/// A view of a running ingress. Clones see the same one.
#[derive(Clone)]
pub struct IngressHandle {
    address: SocketAddr,
    upstreams: Arc<Upstreams>,
    counters: Arc<Counters>,
}

impl IngressHandle {
    /// The address clients connect to, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests and upgraded connections that are open on an instance now.
    pub fn in_flight(&self, instance: InstanceId) -> usize {
        self.upstreams.in_flight(instance)
    }

    /// Waits until an instance has left the table and nothing is open on it. `false` at the deadline.
    ///
    /// After `true` this ingress opens no connection to the instance until a later table names it again.
    pub async fn drained(&self, instance: InstanceId, deadline: Instant) -> bool {
        self.upstreams.drained(instance, deadline).await
    }

    /// What happened so far.
    pub fn numbers(&self) -> IngressNumbers {
        self.counters.read()
    }

    /// What happened so far on each instance that is in the table or still has requests open, in the order of ids.
    pub fn instances(&self) -> Vec<(InstanceId, InstanceNumbers)> {
        self.upstreams.numbers()
    }
}
