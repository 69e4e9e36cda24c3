//! One request and its answer: which instance gets it, and when it may be sent again.
//!
//! A request is sent again in two cases only. Nothing of it was sent: the connection could not be opened, or hyper
//! gives it back untouched. Or a connection from the pool turned out to be closed, and the request is one that may be
//! repeated: an idempotent method and no body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout};

use super::body::RequestBody;
use super::counters::add;
use super::link::Link;
use super::proxy::Proxy;
use super::upstream::{Lease, Upstream};
use super::upstreams::NoPick;
use crate::decide::route_table::Place;
use crate::network::{Carries, ReachError};

/// Instances tried for one request at most, so that one request cannot knock at all doors of a large service.
const INSTANCES_TRIED_MAX: usize = 5;

/// How long a request waits for routes that do not name an instance any more which its node has refused as gone. They
/// come with the next entries of the log.
const ROUTES_WAIT_MAX: Duration = Duration::from_secs(3);

/// How long requests wait for a node that cannot be reached, from when that was seen, when nothing else has an instance: one that
/// starts again is back in less.
const NODE_WAIT_MAX: Duration = Duration::from_secs(3);
/// Pause before such a node is asked again.
const NODE_PAUSE: Duration = Duration::from_millis(100);

/// An answer whose body still moves on its connection.
pub(super) struct Exchange {
    pub(super) response: Response<Incoming>,
    pub(super) link: Link,
    pub(super) lease: Lease,
}

pub(super) enum Failure {
    NoPick(NoPick),
    Unreachable,
    /// The node on which the instance runs.
    NodeUnreachable,
    Broken,
    Slow,
}

enum SendFailure {
    Slow,
    /// `unsent` is the request if nothing of it was sent.
    Broken {
        unsent: Option<Box<Request<RequestBody>>>,
        garbled: bool,
    },
}

impl Proxy {
    /// Gets the head of an answer from an instance of `host`.
    pub(super) async fn exchange(&self, host: &str, mut request: Request<RequestBody>) -> Result<Exchange, Failure> {
        let repeatable = matches!(request.body(), RequestBody::Empty) && request.method().is_idempotent();
        let mut tried: Vec<Place> = Vec::new();
        let mut lease = self.upstreams.pick(host, &tried).map_err(Failure::NoPick)?;
        let mut idle = lease.upstream.take_idle();
        loop {
            let reused = idle.is_some();
            let mut link = match idle.take() {
                Some(link) => link,
                None => {
                    let (opened, by) = self.open(host, lease, &mut tried).await?;
                    lease = by;
                    opened
                }
            };
            let spare = (reused && repeatable).then(|| again(&request));
            match send(&mut link, request, self.limits.response_head).await {
                Ok(response) => return Ok(Exchange { response, link, lease }),
                Err(SendFailure::Slow) => return Err(Failure::Slow),
                Err(SendFailure::Broken { unsent, garbled }) if reused && !garbled => {
                    // If one was closed, so were probably the others: the next one is fresh.
                    lease.upstream.forget_idle();
                    request = unsent.map(|unsent| *unsent).or(spare).ok_or(Failure::Broken)?;
                    add(&self.counters.retries);
                }
                Err(SendFailure::Broken { unsent, .. }) => {
                    // Closed as soon as it was open: as good as refused.
                    request = *unsent.ok_or(Failure::Broken)?;
                    lease = self.another(host, &lease, &mut tried, Failure::Unreachable)?;
                    idle = lease.upstream.take_idle();
                }
            }
        }
    }

    /// A fresh connection, to the instance that was picked or to the next one that can be reached.
    async fn open(&self, host: &str, mut lease: Lease, tried: &mut Vec<Place>) -> Result<(Link, Lease), Failure> {
        loop {
            let upstream = Arc::clone(&lease.upstream);
            let error = match self.connect(&upstream).await {
                Ok(link) => {
                    self.upstreams.reached(upstream.place);
                    return Ok((link, lease));
                }
                Err(error) => error,
            };
            if !tried.contains(&upstream.place) {
                tracing::info!(instance = %upstream.instance, place = ?upstream.place, %error,
                    "an instance cannot be reached");
            }
            let failure = match (&error, upstream.place) {
                (ReachError::Gone(_), _) => {
                    drop(lease);
                    lease = self.successor(host, &upstream, tried).await?;
                    continue;
                }
                (ReachError::Node(_), Place::There { node, .. }) => {
                    self.upstreams.shun_node(node);
                    Failure::NodeUnreachable
                }
                _ => Failure::Unreachable,
            };
            match self.another(host, &lease, tried, failure) {
                Ok(next) => lease = next,
                // Nothing of the request was sent, and nobody else can answer it.
                Err(Failure::NodeUnreachable) if self.upstreams.unreachable_for(upstream.place) < NODE_WAIT_MAX => {
                    sleep(NODE_PAUSE).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn connect(&self, upstream: &Upstream) -> Result<Link, ReachError> {
        let link = match upstream.place {
            Place::Here(address) => Link::open(address, self.limits.connect).await,
            Place::There { node, port } => {
                let reach = self.reach.reach(node, upstream.instance, port, Carries::Requests);
                let Ok(wire) = timeout(self.limits.connect, reach).await else {
                    return Err(ReachError::Node(format!("node {node} did not answer in time")));
                };
                Link::over(wire?).await
            }
        };
        link.map_err(|error| ReachError::Instance(error.to_string()))
    }

    /// The next instance, after one that could not be reached.
    fn another(&self, host: &str, failed: &Lease, tried: &mut Vec<Place>, last: Failure) -> Result<Lease, Failure> {
        failed.upstream.shun();
        if !tried.contains(&failed.upstream.place) {
            tried.push(failed.upstream.place);
        }
        if tried.len() >= INSTANCES_TRIED_MAX {
            return Err(last);
        }
        let Ok(lease) = self.upstreams.pick(host, tried) else { return Err(last) };
        add(&self.counters.retries);
        Ok(lease)
    }

    /// The next instance, after one that its node knows to be gone and this one does not yet. The routes that say so
    /// also name those that took its place.
    async fn successor(&self, host: &str, gone: &Upstream, tried: &mut Vec<Place>) -> Result<Lease, Failure> {
        tried.push(gone.place);
        if tried.len() >= INSTANCES_TRIED_MAX {
            return Err(Failure::Unreachable);
        }
        if !self.upstreams.retired(gone, Instant::now() + ROUTES_WAIT_MAX).await {
            gone.put_last();
        }
        let lease = self.upstreams.pick(host, tried).map_err(Failure::NoPick)?;
        add(&self.counters.retries);
        Ok(lease)
    }
}

async fn send(
    link: &mut Link,
    request: Request<RequestBody>,
    limit: Duration,
) -> Result<Response<Incoming>, SendFailure> {
    let moved = match request.body() {
        RequestBody::Empty => None,
        RequestBody::Stream { moved, .. } => Some(Arc::clone(moved)),
    };
    let mut answer = std::pin::pin!(link.send(request));
    loop {
        match timeout(limit, answer.as_mut()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(mut error)) => {
                tracing::debug!(error = %error.error(), "an instance broke off before its answer");
                return Err(SendFailure::Broken {
                    unsent: error.take_message().map(Box::new),
                    garbled: error.error().is_parse(),
                });
            }
            // A long upload is no silence.
            Err(_) if moved.as_deref().is_some_and(took_note) => {}
            Err(_) => return Err(SendFailure::Slow),
        }
    }
}

fn took_note(moved: &AtomicBool) -> bool {
    moved.swap(false, Ordering::Relaxed)
}

fn again(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
