//! The one way from a request to the replicated state.
//!
//! The state is private to this file: handlers get a [`Caller`] and what its loaders give, and change things by
//! commands. What may be known without logging in is listed here, function by function.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Exec;
use crate::artifact::{ArtifactStore, Holdings, OnlyThere};
use crate::auth::{Caller, Passwords, RateLimiter};
use crate::build::Inspector;
use crate::clock;
use crate::consensus::{Committed, ProposeError, Quorum, ReadError, Status, View};
use crate::logs::Library;
use crate::model::{Cluster, NodeId, ServiceId, Timestamp, User};
use crate::state::{Actor, Command, LogEntry, Outcome, Request, Upgrade};
use crate::telemetry::Metrics;

use super::census::Census;
use super::context::Context;
use super::node::Sight;
use super::replica::Replica;
use super::{Error, Options, Parts};

/// Longest wait for the index a client asked for (`min_index`): with it, the answer is there within five seconds.
const MIN_INDEX_WAIT: Duration = Duration::from_secs(4);

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freshness {
    /// This node's last known state will do.
    pub(super) stale: bool,
    /// Not older than this index.
    pub(super) min_index: Option<u64>,
}

/// How long what the members have is not asked again.
const COPIES_KEPT: Duration = Duration::from_secs(5);

/// Shared by all handlers.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inner>);

struct Inner {
    replica: Replica,
    logs: Library,
    exec: Exec,
    artifacts: Holdings,
    metrics: Metrics,
    inspector: Inspector,
    options: Options,
    passwords: Passwords,
    by_address: RateLimiter<IpAddr>,
    by_account: RateLimiter<String>,
    without_copies: Mutex<Option<(Instant, BTreeSet<ServiceId>)>>,
    stopping: CancellationToken,
    started_at: Timestamp,
}

impl Gate {
    pub(super) fn new(parts: Parts, options: Options, stopping: CancellationToken) -> Self {
        let replica = Replica::Group(parts.consensus);
        Self::over(
            replica,
            (parts.logs, parts.exec, parts.artifacts, parts.metrics, parts.inspector),
            options,
            stopping,
        )
    }

    pub(super) fn over(
        replica: Replica,
        (logs, exec, artifacts, metrics, inspector): (Library, Exec, Holdings, Metrics, Inspector),
        options: Options,
        stopping: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            replica,
            logs,
            exec,
            artifacts,
            metrics,
            inspector,
            by_address: RateLimiter::new(options.pace_by_address),
            by_account: RateLimiter::new(options.pace_by_account),
            options,
            passwords: Passwords::default(),
            without_copies: Mutex::default(),
            stopping,
            started_at: clock::now(),
        }))
    }

    pub(super) fn options(&self) -> &Options {
        &self.0.options
    }

    pub(super) fn logs(&self) -> &Library {
        &self.0.logs
    }

    pub(super) fn exec(&self) -> &Exec {
        &self.0.exec
    }

    pub(super) fn artifacts(&self) -> &ArtifactStore {
        self.0.artifacts.store()
    }

    /// What only a node has copies of. For administrators only: the services may be anybody's.
    pub(super) async fn only_copies_on(&self, node: NodeId) -> OnlyThere {
        self.0.artifacts.only_on(node, &self.0.replica.latest().state).await
    }

    /// The services that cannot start from what the members have that answer, as it was some seconds ago at most: all members are asked,
    /// however many people want to know.
    pub(super) async fn without_copies(&self) -> BTreeSet<ServiceId> {
        let mut known = self.0.without_copies.lock().await;
        match &*known {
            Some((asked, services)) if asked.elapsed() < COPIES_KEPT => services.clone(),
            _ => {
                let services = self.0.artifacts.nowhere(&self.0.replica.latest().state).await;
                *known = Some((Instant::now(), services.clone()));
                services
            }
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn inspector(&self) -> &Inspector {
        &self.0.inspector
    }

    pub(super) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    pub(super) fn by_address(&self) -> &RateLimiter<IpAddr> {
        &self.0.by_address
    }

    pub(super) fn by_account(&self) -> &RateLimiter<String> {
        &self.0.by_account
    }

    /// Cancelled when the server stops: streams end.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// When this server began.
    pub(super) fn started_at(&self) -> Timestamp {
        self.0.started_at
    }

    /// How this node stands in the Raft group; not a secret of any organisation.
    pub(super) fn status(&self) -> Status {
        self.0.replica.status()
    }

    /// What this node knows of the others besides the state.
    pub(super) fn sight(&self) -> Sight {
        let quorum = self.quorum();
        // With one the leader knows better who is away, and puts that on record.
        let missing = if quorum.answering() < quorum.needed { quorum.missing } else { Vec::new() };
        Sight { status: self.status(), shared_options: self.0.options.shared_options.clone(), missing }
    }

    /// This node.
    pub(super) fn node(&self) -> NodeId {
        self.status().node
    }

    /// The whole state, for those who may have it: as new as what the caller was shown.
    pub(super) fn everything(&self, caller: &Caller) -> Result<View, Error> {
        caller.require_admin()?;
        Ok(self.0.replica.latest())
    }

    /// The index up to which this node has applied the log.
    pub(super) fn applied_index(&self) -> u64 {
        self.0.replica.watch().borrow().index
    }

    /// The person behind a token, in a state as fresh as asked for.
    pub(super) async fn caller(&self, token: &str, fresh: Freshness, context: &Context) -> Result<Caller, Error> {
        // Who is nobody costs the cluster nothing: no read round before the token is found to be ours.
        self.0.options.tokens.verify(&*self.cluster()?, token, clock::now())?;
        let known = self.0.replica.latest();
        let first = Caller::authenticate(known.state, &self.0.options.tokens, token, clock::now());
        if first.is_err() && !fresh.stale {
            // Perhaps only this node has not heard of the session yet.
            let view = self.view(fresh).await?;
            context.saw(view.index);
            return Ok(Caller::authenticate(view.state, &self.0.options.tokens, token, clock::now())?);
        }
        let first = first?;
        let view = self.view(fresh).await?;
        context.saw(view.index);
        Ok(first.again(view.state, clock::now())?)
    }

    async fn view(&self, fresh: Freshness) -> Result<View, Error> {
        let view = if fresh.stale { self.0.replica.latest() } else { self.confirmed().await? };
        match fresh.min_index {
            // Whatever index a client has seen is part of a confirmed state.
            Some(min) if view.index < min && !fresh.stale => Err(unwritten(min, view.index)),
            Some(min) if view.index < min => self.view_at(min).await,
            _ => Ok(view),
        }
    }

    async fn confirmed(&self) -> Result<View, Error> {
        self.0.replica.linearizable().await.map_err(|error| self.unread(error))
    }

    /// The state once it has this index, without asking anybody for it. Whether there is such an index at all is asked
    /// meanwhile.
    async fn view_at(&self, min: u64) -> Result<View, Error> {
        let deadline = tokio::time::Instant::now() + MIN_INDEX_WAIT;
        let reached = pin!(self.0.replica.wait_index(min, deadline));
        let confirmed = pin!(self.0.replica.linearizable());
        let reached = match select(reached, confirmed).await {
            Either::Left((reached, _)) => reached,
            Either::Right((Ok(confirmed), _)) if confirmed.index < min => return Err(unwritten(min, confirmed.index)),
            Either::Right((_, reached)) => reached.await,
        };
        reached.map_err(|error| self.unread(error))
    }

    /// Says who is missing when nobody could confirm a read.
    fn unread(&self, error: ReadError) -> Error {
        match error {
            ReadError::Stopped => error.into(),
            ReadError::NoLeader { .. } | ReadError::TimedOut => Error::NoQuorum(format!(
                "nothing was read or changed, since the cluster cannot decide: {}. A read with ?consistency=stale (`--stale`) shows what \
                 this node knew last",
                self.quorum()
            )),
        }
    }

    /// The answer this request got before, if it was made before with the same content.
    pub(super) fn answered(&self, request: Request) -> Option<Outcome> {
        let view = self.0.replica.latest();
        let record = view.state.request(request.id)?;
        (record.request.fingerprint == request.fingerprint).then(|| record.outcome.clone())
    }

    /// Asks for a change and waits until this node has applied it.
    pub(super) async fn submit(&self, actor: Actor, request: Request, command: Command) -> Result<Committed, Error> {
        self.0.metrics.proposed(command.name());
        let entry = LogEntry { proposed_at: clock::now(), actor, request: Some(request), command };
        self.0.replica.propose(entry).await.map_err(|error| match error {
            ProposeError::NoLeader { .. } => {
                Error::NoQuorum(format!("nothing was changed, since the cluster cannot decide: {}", self.quorum()))
            }
            error => error.into(),
        })
    }

    /// The same person in the newest state of this node.
    pub(super) fn newest(&self, caller: &Caller, context: &Context) -> Result<Caller, Error> {
        let view = self.0.replica.latest();
        context.saw(view.index);
        Ok(caller.again(view.state, clock::now())?)
    }

    /// The same person in every state to come; see [`Watch::changed`].
    pub(super) fn watch(&self, caller: &Caller) -> Watch {
        Watch { views: self.0.replica.watch(), caller: caller.clone() }
    }

    /// The cluster, for issuing and checking tokens.
    pub(super) fn cluster(&self) -> Result<Arc<Cluster>, Error> {
        let missing = || Error::NoQuorum("this node has no cluster yet; try again in a moment".to_owned());
        self.0.replica.latest().state.cluster().cloned().ok_or_else(missing)
    }

    /// How many accounts there are. Public: it is what `/auth/setup` tells.
    pub(super) fn user_count(&self) -> usize {
        self.0.replica.latest().state.users().count()
    }

    /// The account of a log-in, which may have been made a moment ago through another node. For checking its password only.
    pub(super) async fn account(&self, email: &str) -> Result<Option<Arc<User>>, Error> {
        Ok(self.confirmed().await?.state.user_by_email(email).cloned())
    }

    /// Whether the cluster confirms reads, and so writes.
    pub(super) async fn has_quorum(&self) -> Result<u64, Error> {
        Ok(self.confirmed().await?.index)
    }

    /// Which voters do not answer this node.
    pub(super) fn quorum(&self) -> Quorum {
        self.0.replica.quorum()
    }

    /// How many bytes the state has, and how many it may have.
    pub(super) fn state_size(&self) -> (u64, u64) {
        let state = self.0.replica.latest().state;
        (state.bytes(), state.bytes_max())
    }

    /// The later version that members are being upgraded to, as far as this node knows.
    pub(super) fn upgrade(&self) -> Option<Upgrade> {
        self.0.replica.latest().state.upgrade()
    }

    /// Numbers about the whole state, for metrics and the cluster's overview.
    pub(super) fn census(&self) -> Census {
        Census::of(&self.0.replica.latest().state)
    }
}

fn unwritten(min: u64, newest: u64) -> Error {
    Error::field("min_index", format!("nothing has been written at index {min} yet; the newest is {newest}"))
}

/// Follows the state for one caller.
pub(super) struct Watch {
    views: watch::Receiver<View>,
    caller: Caller,
}

impl Watch {
    /// Waits for the next state and gives the caller in it; an error when their session has ended meanwhile.
    pub(super) async fn changed(&mut self) -> Result<Caller, Error> {
        if self.views.changed().await.is_err() {
            return Err(Error::NoQuorum("this node is stopping".to_owned()));
        }
        self.now()
    }

    /// The caller in the newest state; an error when their session has ended or expired.
    pub(super) fn now(&mut self) -> Result<Caller, Error> {
        let state = self.views.borrow_and_update().state.clone();
        self.caller = self.caller.again(state, clock::now())?;
        Ok(self.caller.clone())
    }
}
