//! The Raft group: proposing commands, reading what is certain, watching the state.
//!
//! Runs here: openraft's own tasks, a task that serves read rounds, one that greets the voters, one that keeps the log
//! bounded, and one that asks who leads when the leader is silent. In: commands
//! ([`Consensus::propose`]). Out: their answers, a [`View`] of the state after every applied batch, and a [`Status`].
//! A failure of the store cancels the node's fatal token, stops openraft, and fails every waiting call.
//!
//! Absent on purpose: the transport between members (`rpc`), who should vote (`control`),
//! and what commands mean (`state`). The store is opened by whoever starts the node, and closed here.

mod beats;
mod error;
mod group;
mod lent;
mod mark;
mod members;
mod network;
mod propose;
mod pulse;
mod reads;
mod receive;
mod roll;
mod said;
mod status;
mod transport;
mod upkeep;
mod wire;

#[cfg(test)]
mod made_up;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ForwardToLeader, InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::model::NodeId;
use crate::planted::{self, Bug};
use crate::space::Space;
use crate::store::{self, Member, StateMachine, Store, TypeConfig};
use crate::task::{OnError, Supervisor};
use network::{Addresses, Network};
use pulse::Pulse;
use reads::Reads;
use roll::Roll;

pub use crate::store::View;
pub use error::{Error, ProposeError, ReadError};
pub use group::{Group, GroupMember};
pub use mark::Mark;
pub use members::MemberError;
pub use propose::Committed;
pub use receive::{ReceiveError, Receiver};
pub use roll::{MissingVoter, Quorum};
pub use status::{RaftRole, Status};
pub use transport::{Asked, NoTransport, Peer, Replies, Transport, TransportError};
pub use wire::Malformed;

type Raft = openraft::Raft<TypeConfig, StateMachine>;
type Metrics = openraft::RaftMetrics<TypeConfig>;
/// What of it does not change with every heartbeat.
type ServerMetrics = openraft::metrics::RaftServerMetrics<TypeConfig>;

/// What is heard of openraft in the log: it reports each of its steps at `info`, and warns of each heartbeat that was not answered or is
/// left out, and each second of a member that is away; what concerns an operator is said by narvana itself.
pub const LOG_FILTER: &str = "openraft=warn,openraft::core::heartbeat=error,openraft::replication=error,\
                              openraft::core::raft_core=error,openraft::engine::handler::replication_handler=error";

/// Pause before a leader is looked for again. An election takes some hundred milliseconds.
const LEADER_PAUSE: Duration = Duration::from_millis(25);
/// How rarely a member that does not vote hears its leader, which it believes to be there for two seconds (`roll`).
const LEARNER_HEARTBEAT_MAX: Duration = Duration::from_millis(750);
/// Longest wait for the tasks of this module at shutdown; they only wait on channels.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How the group behaves. The defaults suit members within one site.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often the leader says that it is there.
    pub heartbeat: Duration,
    /// How often it says so to a member that does not vote, which never campaigns; no less than [`heartbeat`](Self::heartbeat). In a large
    /// group nearly all are of that kind.
    pub learner_heartbeat: Duration,
    /// A follower campaigns when it heard nothing for the longer of these two, which is the lease of a leader, and then for a
    /// random time between them.
    pub election: (Duration, Duration),
    /// A proposal or read without an answer for this long gets "outcome unknown" or "timed out".
    pub patience: Duration,
    /// A snapshot is made after this many entries.
    pub snapshot_entries: u64,
    /// A snapshot is made, and the log purged, when the log has this many bytes.
    pub log_bytes: u64,
    /// Entries that stay in the log after a snapshot, so that a member that was away shortly needs none.
    pub keep_entries: u64,
    /// Whom to ask who leads while no member of the group is known: those that let this node in.
    pub doors: Vec<Peer>,
}

impl Options {
    /// For a group in which a node counts as away when it was silent for this long. One that is there must be heard several times as
    /// often (`decide::liveness`).
    pub fn of_threshold(health_threshold: Duration) -> Self {
        let learner_heartbeat = (health_threshold / 8).min(LEARNER_HEARTBEAT_MAX);
        Self { learner_heartbeat, ..Self::default() }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // Three are missed before anybody campaigns.
            heartbeat: Duration::from_millis(250),
            learner_heartbeat: LEARNER_HEARTBEAT_MAX,
            election: (Duration::from_millis(300), Duration::from_millis(450)),
            // So that whoever asks has the answer within five.
            patience: Duration::from_secs(4),
            snapshot_entries: 10_000,
            log_bytes: 32 * 1024 * 1024,
            keep_entries: 2_000,
            doors: Vec::new(),
        }
    }
}

/// The running group member. Clones share it.
#[derive(Clone)]
pub struct Consensus {
    raft: Raft,
    store: Store,
    node: NodeId,
    view: watch::Receiver<View>,
    reads: Reads,
    roll: Roll,
    patience: Duration,
    transport: Arc<dyn Transport>,
    space: Space,
    supervisor: Supervisor,
    stop: CancellationToken,
}

impl Consensus {
    /// Starts this member on its store. A member of an existing group takes its place again; the only member of a
    /// group leads at once.
    pub async fn start(
        node: NodeId,
        options: Options,
        store: Store,
        transport: Arc<dyn Transport>,
        supervisor: Supervisor,
    ) -> Result<Self, Error> {
        let config = config(&options)?;
        let addresses = Addresses::default();
        let fatal = store.fatal().clone();
        // It is one of the heartbeats, which do not come to the millisecond.
        let learner_heartbeat = options.learner_heartbeat.saturating_sub(options.heartbeat / 2);
        let network =
            Network { transport: Arc::clone(&transport), addresses: addresses.clone(), learner_heartbeat, fatal };
        let raft = Raft::new(node.0, Arc::new(config), network, store.log(), store.machine())
            .await
            .map_err(|fatal| stopped(&store, &fatal))?;
        // Its task says who votes when it has begun, and answers only then. Before that it looks as if nobody did.
        raft.is_initialized().await.map_err(|fatal| stopped(&store, &fatal))?;
        if votes_alone(&raft.metrics().borrow_watched()) {
            // It need not wait for anybody to be silent.
            raft.trigger().elect(false).await.map_err(|fatal| stopped(&store, &fatal))?;
        }
        let (reads, rounds) = reads::channel();
        let roll = Roll::new(node, options.doors.clone());
        let pulse = Pulse::new(raft.clone(), roll.clone(), &options);
        supervisor.spawn("pulse", OnError::StopNode, pulse.run(supervisor.stopping()));
        let rounds =
            rounds.run((raft.clone(), Arc::clone(&transport), roll.clone()), options.patience, supervisor.stopping());
        supervisor.spawn("read rounds", OnError::StopNode, rounds);
        let call = roll.clone().call((raft.clone(), store.log(), Arc::clone(&transport)), supervisor.stopping());
        supervisor.spawn("roll call", OnError::StopNode, call);
        let upkeep = upkeep::Upkeep { raft: raft.clone(), log: store.log(), log_bytes: options.log_bytes };
        supervisor.spawn("log upkeep", OnError::StopNode, upkeep.run(supervisor.stopping()));
        let watch = watch_over(raft.clone(), store.clone(), addresses, supervisor.stopping());
        supervisor.spawn("watch over consensus", OnError::StopNode, watch);
        let view = store.machine().view();
        let stop = supervisor.stopping();
        let space = store.space();
        Ok(Self {
            raft,
            store,
            node,
            view,
            reads,
            roll,
            patience: options.patience,
            transport,
            space,
            supervisor,
            stop,
        })
    }

    /// Forms a new group with this node as its only member, and waits until it leads.
    pub async fn initialize(&self, address: &str) -> Result<(), Error> {
        match self.raft.initialize(Member::alone(self.node.0, address)).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => return Err(Error::AlreadyInitialized),
            Err(RaftError::APIError(error)) => return Err(Error::Settings(error.to_string())),
            Err(RaftError::Fatal(fatal)) => return Err(stopped(&self.store, &fatal)),
        }
        let leads =
            self.raft.wait(Some(self.patience)).current_leader(self.node.0, "a group of one leads itself").await;
        leads.map(drop).map_err(|error| Error::Stopped(error.to_string()))
    }

    /// Whether this node belongs to a group.
    pub async fn is_initialized(&self) -> Result<bool, Error> {
        self.raft.is_initialized().await.map_err(|fatal| stopped(&self.store, &fatal))
    }

    /// The state with everything in it that was answered, anywhere, before this was called.
    pub async fn linearizable(&self) -> Result<View, ReadError> {
        let deadline = Instant::now() + self.patience;
        if planted::is(Bug::LocalRead) && self.latest().state.cluster().is_some() {
            return Ok(self.latest());
        }
        let mut refusal = ReadError::TimedOut;
        let index = loop {
            let Ok(asked) = timeout_at(deadline, self.reads.index()).await else { return Err(refusal) };
            match asked {
                Ok(index) => break index,
                Err(ReadError::Stopped) => return Err(ReadError::Stopped),
                // A read changes nothing: whatever it was refused for, it can be asked again.
                Err(error) => refusal = error,
            }
            if Instant::now() + LEADER_PAUSE >= deadline {
                return Err(refusal);
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        };
        self.wait_index(index, deadline).await
    }

    /// The state as this node has it, maybe behind the others.
    pub fn latest(&self) -> View {
        self.view.borrow().clone()
    }

    /// The state with every change that reaches this node. The newest counts; those between may be missed.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// The state once it contains this index of the log.
    pub async fn wait_index(&self, index: u64, deadline: Instant) -> Result<View, ReadError> {
        let latest = self.latest();
        if latest.index >= index {
            return Ok(latest);
        }
        let mut view = self.view.clone();
        let reached = timeout_at(deadline, view.wait_for(|view| view.index >= index)).await;
        match reached {
            Ok(Ok(view)) => Ok(view.clone()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::TimedOut),
        }
    }

    /// Brings to the disk how far the log is committed: all that is applied now is applied again at the next start, also when
    /// nobody else is there then.
    pub async fn note_committed(&self) -> Result<(), Error> {
        Ok(self.store.log().note_committed().await?)
    }

    /// What makes the data folder unusable, if that was found since the start.
    pub fn damage(&self) -> Option<store::Error> {
        self.store.fatal().damage()
    }

    /// The space that is left for the store, and for what else is on its disk.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// How this node stands in the group.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Status::new(&metrics, &self.store.log(), self.store.fatal().reason().map(str::to_owned))
    }

    /// Stops openraft, then brings everything to the disk and closes the store. Whoever waits gets an error.
    pub async fn shutdown(&self) -> Result<(), Error> {
        // First, so that nothing new comes in, and the end of openraft is not taken for a failure.
        self.stop.cancel();
        // First those who ask openraft things: to them its end would look like a failure.
        self.supervisor.stop(STOP_GRACE).await;
        // Its tasks end also when they ended with an error, which the store remembers.
        let _ = self.raft.shutdown().await;
        Ok(self.store.close().await?)
    }
}

fn config(options: &Options) -> Result<Config, Error> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "narvana".to_owned(),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election.0),
        election_timeout_max: millis(options.election.1),
        enable_pre_vote: Some(true),
        // A leader that starts again does not know how far its log was agreed on, which reaches the disk late: as leader of the
        // same term it would answer reads from before that. Votes bring that with them.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_entries),
        max_in_snapshot_log_to_keep: options.keep_entries,
        replication_lag_threshold: options.snapshot_entries.saturating_add(options.keep_entries),
        ..Config::default()
    };
    config.validate().map_err(|error| Error::Settings(error.to_string()))
}

/// Who leads and where, from openraft's refusal.
fn leader_of(forward: &ForwardToLeader<TypeConfig>) -> (Option<NodeId>, Option<String>) {
    (forward.leader_id.map(NodeId), forward.leader_node.as_ref().map(|member| member.address.clone()))
}

/// The leader of which term this node knows.
fn known_leader(raft: &Raft) -> (u64, Option<u64>) {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    (metrics.vote.leader_id.term, metrics.current_leader)
}

/// Returns when this node knows another leader than it did, and than the one that it asks: one that is gone may let a call wait for as
/// long as its connection seems to live.
async fn another_leads(raft: &Raft, known: (u64, Option<u64>), asked: NodeId) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = known_leader(raft);
        if now != known && now.1.is_some_and(|leader| leader != asked.0) {
            return;
        }
        if metrics.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn stopped(store: &Store, fatal: &openraft::errors::Fatal<TypeConfig>) -> Error {
    match store.fatal().damage() {
        Some(damage) => Error::Store(damage),
        None => Error::Stopped(store.fatal().reason().map_or_else(|| fatal.to_string(), str::to_owned)),
    }
}

/// Whether this node is the only one that votes.
fn votes_alone(metrics: &Metrics) -> bool {
    let mut voters = metrics.membership_config.membership().voter_ids();
    voters.next() == Some(metrics.id) && voters.next().is_none()
}

/// Notes where members are, and ends the node when consensus cannot go on. A store that fails stops openraft at once: a node
/// that cannot write must not vote or lead. openraft that stops by itself stops the node: nothing else would.
async fn watch_over(raft: Raft, store: Store, addresses: Addresses, stop: CancellationToken) -> Result<(), Error> {
    let mut metrics = raft.server_metrics();
    let mut noted = None;
    loop {
        let membership = Arc::clone(&metrics.borrow_watched().membership_config);
        if Some(membership.log_id()) != noted.as_ref() {
            addresses.note(membership.membership());
            noted = Some(*membership.log_id());
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = store.fatal().failed() => {
                // It ends with the store's error, which is the one that is told.
                let _ = raft.shutdown().await;
                return Err(Error::Stopped(store.fatal().reason().unwrap_or("the store failed").to_owned()));
            }
            // Its tasks have ended.
            changed = metrics.changed() => if changed.is_err() {
                if stop.is_cancelled() {
                    return Ok(());
                }
                let running = raft.metrics().borrow_watched().running_state.clone();
                return Err(match running {
                    Err(fatal) => stopped(&store, &fatal),
                    Ok(()) => Error::Stopped("its tasks are gone".to_owned()),
                });
            },
        }
    }
}
