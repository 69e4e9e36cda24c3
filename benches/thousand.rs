//! A cluster of 1,000 members that runs 20,000 instances: what enters the log while nothing happens, what that takes of the leader, and
//! how long a snapshot, a join and a failover take.
//!
//! Three voters, and a newcomer, are real: each on threads of its own, so that what those take is what it takes. The other members
//! are made up. They acknowledge what the leader sends them, greet the voters, ask whether they are in touch, and say that what is
//! assigned to them runs, as nodes do; they keep nothing. Messages go from memory to memory: what TLS and a network take comes on top.
//!
//! Run with `cargo bench --bench thousand`; a first argument is how many members.

#[path = "fill/mod.rs"]
mod fill;
mod row;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use narvana::consensus::{
    Asked, Consensus, Mark, Options, Peer, ReceiveError, Receiver, Replies, Transport, TransportError,
};
use narvana::control::{self, Control};
use narvana::model::{
    Cause, ClusterId, Cpu, InstanceId, InstanceState, JoinToken, Memory, NodeId, NodeResources, NodeRole, Resources,
    ServiceSpec, SettingKey,
};
use narvana::state::{Actor, Command, LogEntry, NewApp, NewDeployment, NewService, NodeFacts, Outcome};
use narvana::store::{self, KEY_FILE, SealKey, Store};
use narvana::task::{OnError, Supervisor};
use narvana::{clock, config, random};
use narvana_proto::v1::{self, append_reply, snapshot_part};
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;
use row::Row;
use tempfile::TempDir;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

const MEMBERS: u64 = 1_000;
const VOTERS: u64 = 3;
/// There is a service for so many members, with so many replicas.
const MEMBERS_EACH: u64 = 20;
const REPLICAS: u32 = 400;
/// How long nothing happens.
const CALM: Duration = Duration::from_secs(60);
/// How often those that are made up do a part of what they do every second.
const TICK: Duration = Duration::from_millis(10);
/// How often a node on which nothing runs alone asks whether it is in touch, in seconds.
const IN_TOUCH_EVERY: usize = 6;
const DEADLINE: Duration = Duration::from_secs(600);

fn main() -> anyhow::Result<()> {
    let members = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let members = members.map_or(Ok(MEMBERS), |text| text.parse().context("the argument is how many members"))?;
    let crowd = Builder::new_multi_thread().worker_threads(2).thread_name("crowd").enable_all().build()?;
    crowd.block_on(measure(members))
}

/// Who can be reached.
#[derive(Clone, Default)]
struct Reach(Arc<Mutex<Reached>>);

#[derive(Default)]
struct Reached {
    real: BTreeMap<NodeId, Receiver>,
    made_up: BTreeSet<NodeId>,
}

impl Reach {
    fn now(&self) -> MutexGuard<'_, Reached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn real(&self, node: NodeId) -> Option<Receiver> {
        self.now().real.get(&node).cloned()
    }
}

/// What one member sends to the others.
struct Line {
    own: NodeId,
    reach: Reach,
}

fn gone<T: Send + 'static>(peer: &Peer) -> Asked<'static, T> {
    let reason = "nobody is there".to_owned();
    ready(Err(TransportError::Unreachable { peer: peer.clone(), reason, sent: false })).boxed()
}

fn refused(peer: &Peer, error: &ReceiveError) -> TransportError {
    TransportError::Refused { peer: peer.clone(), reason: error.to_string() }
}

/// As a follower answers that has it all.
fn acknowledged(request: &v1::AppendRequest) -> v1::AppendReply {
    let last = match request.entries.last() {
        None => request.previous,
        Some(bytes) => store::decode_entry(bytes).ok().map(|entry| {
            let id = entry.log_id;
            v1::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
        }),
    };
    v1::AppendReply { result: Some(append_reply::Result::Matching(v1::Matching { last })) }
}

impl Transport for Line {
    fn append<'a>(&'a self, peer: &'a Peer, requests: BoxStream<'static, v1::AppendRequest>) -> Asked<'a, Replies> {
        if self.reach.now().made_up.contains(&peer.node) {
            let replies = requests.map(|request| Ok(acknowledged(&request)));
            return ready(Ok(replies.boxed())).boxed();
        }
        let Some(receiver) = self.reach.real(peer.node) else { return gone(peer) };
        let peer = peer.clone();
        let replies = receiver.append(requests).map(move |reply| reply.map_err(|error| refused(&peer, &error)));
        ready(Ok(replies.boxed())).boxed()
    }

    fn vote<'a>(&'a self, peer: &'a Peer, request: v1::VoteRequest) -> Asked<'a, v1::VoteReply> {
        let Some(receiver) = self.reach.real(peer.node) else { return gone(peer) };
        async move { receiver.vote(request).await.map_err(|error| refused(peer, &error)) }.boxed()
    }

    fn snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        mut parts: BoxStream<'static, v1::SnapshotPart>,
    ) -> Asked<'a, v1::SnapshotReply> {
        let receiver = self.reach.real(peer.node);
        async move {
            if let Some(receiver) = receiver {
                return receiver.snapshot(parts).await.map_err(|error| refused(peer, &error));
            }
            let mut ballot = None;
            while let Some(part) = parts.next().await {
                if let Some(snapshot_part::Part::Head(head)) = part.part {
                    ballot = head.ballot;
                }
            }
            Ok(v1::SnapshotReply { ballot })
        }
        .boxed()
    }

    fn transfer<'a>(&'a self, peer: &'a Peer, request: v1::TransferRequest) -> Asked<'a, v1::TransferReply> {
        let Some(receiver) = self.reach.real(peer.node) else { return gone(peer) };
        async move { receiver.transfer(request).await.map_err(|error| refused(peer, &error)) }.boxed()
    }

    fn propose<'a>(&'a self, peer: &'a Peer, request: v1::ProposeRequest) -> Asked<'a, v1::ProposeReply> {
        let Some(receiver) = self.reach.real(peer.node) else { return gone(peer) };
        async move { receiver.propose(request, self.own).await.map_err(|error| refused(peer, &error)) }.boxed()
    }

    fn read_index<'a>(&'a self, peer: &'a Peer) -> Asked<'a, v1::ReadIndexReply> {
        let Some(receiver) = self.reach.real(peer.node) else { return gone(peer) };
        async move { Ok(receiver.read_index(self.own).await) }.boxed()
    }

    fn greet<'a>(&'a self, peer: &'a Peer, _: Mark) -> Asked<'a, v1::RollCallReply> {
        let Some(receiver) = self.reach.real(peer.node) else { return gone(peer) };
        async move { Ok(receiver.roll_call(self.own)) }.boxed()
    }
}

/// Where real members are.
struct Place {
    folder: TempDir,
    cluster: ClusterId,
    reach: Reach,
}

/// A real member on threads of its own.
struct Member {
    consensus: Consensus,
    store: Store,
    threads: Threads,
}

/// Which end when this is dropped, as those of a process that is killed.
struct Threads(Option<Runtime>);

impl Threads {
    fn new(node: NodeId) -> anyhow::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        Ok(Self(Some(builder.worker_threads(2).thread_name(thread(node)).enable_all().build()?)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("until it is dropped").handle()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Member {
    async fn start(place: &Place, node: NodeId) -> anyhow::Result<Self> {
        let Place { folder, cluster, reach } = place;
        let folder = folder.path().join(node.to_string());
        fs::create_dir_all(&folder)?;
        let fatal = CancellationToken::new();
        let key = SealKey::create(&folder.join(KEY_FILE))?;
        let store = Store::open(store::Options { folder, cluster: *cluster, node, key, fatal: fatal.clone() })?;
        let threads = Threads::new(node)?;
        let (line, kept) = (Arc::new(Line { own: node, reach: reach.clone() }), store.clone());
        let started = on(threads.handle(), async move {
            let part = Supervisor::new("consensus", fatal.clone());
            let consensus = Consensus::start(node, Options::default(), kept, line, part).await?;
            let control = Control::new(control::Options::default(), consensus.clone());
            let part = Supervisor::new("control", fatal);
            part.spawn("control", OnError::StopNode, control.run(part.stopping()));
            // Its tasks end with the runtime.
            std::mem::forget(part);
            anyhow::Ok(consensus)
        });
        let consensus = started.await??;
        reach.now().real.insert(node, consensus.receiver());
        Ok(Self { consensus, store, threads })
    }

    fn has(&self, index: u64) -> bool {
        self.consensus.latest().index >= index
    }
}

/// Threads have short names.
fn thread(node: NodeId) -> String {
    format!("member-{node}")
}

async fn on<T: Send + 'static>(handle: &Handle, work: impl Future<Output = T> + Send + 'static) -> anyhow::Result<T> {
    Ok(handle.spawn(work).await?)
}

/// What the threads of a member have taken since they began.
fn processor_time(node: NodeId) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    for task in fs::read_dir("/proc/self/task")? {
        // A thread may end meanwhile.
        let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
        let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).context("a thread")?;
        if name == thread(node) {
            let fields: Vec<&str> = rest.split_whitespace().collect();
            ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
    }
    // As the kernel counts for everybody, whatever its own clock does.
    Ok(Duration::from_millis(ticks * 10))
}

fn entry(actor: Actor, command: Command) -> LogEntry {
    LogEntry { proposed_at: clock::now(), actor, request: None, command }
}

async fn command(consensus: &Consensus, command: Command) -> anyhow::Result<Outcome> {
    Ok(consensus.propose(entry(Actor::System, command)).await?.outcome)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<Duration> {
    let began = Instant::now();
    while !holds() {
        ensure!(began.elapsed() < DEADLINE, "still not: {what}");
        sleep(TICK).await;
    }
    Ok(began.elapsed())
}

async fn token(consensus: &Consensus, role: NodeRole, uses: u64) -> anyhow::Result<JoinToken> {
    let token = JoinToken {
        id: random::id(),
        digest: [7; 32],
        role,
        uses_left: u32::try_from(uses)?,
        expires_at: clock::now().plus(Duration::from_secs(3_600)),
        revoked: false,
        created_by: random::id(),
        created_at: clock::now(),
    };
    command(consensus, Command::CreateJoinToken(token.clone())).await?;
    Ok(token)
}

/// Lets one more member in, which registers as a node.
async fn admit(consensus: &Consensus, token: &JoinToken, number: u64) -> anyhow::Result<NodeId> {
    let admission = Command::AdmitNode {
        token: token.id,
        digest: token.digest,
        name: format!("n{number}"),
        address: format!("n{number}:9090"),
        cluster_version_max: *config::cluster_versions().end(),
    };
    let Outcome::Node(node) = command(consensus, admission).await? else { anyhow::bail!("it is not let in") };
    Ok(node)
}

fn facts(node: NodeId, number: u64) -> NodeFacts {
    NodeFacts {
        id: node,
        name: format!("n{number}"),
        address: format!("n{number}"),
        api_port: 8080,
        grpc_port: 9090,
        ingress_http_port: 0,
        arch: "amd64".to_owned(),
        version: "0.1.0".to_owned(),
        cluster_version_max: *config::cluster_versions().end(),
        engine: Ok("made up".to_owned()),
        resources: NodeResources {
            cpu: Cpu::from_millis(8_000),
            memory: Memory::from_mebibytes(16_384),
            disk: Memory::from_mebibytes(65_536),
        },
        labels: BTreeMap::new(),
        incarnation: random::id(),
    }
}

async fn register(consensus: &Consensus, node: NodeId, number: u64) -> anyhow::Result<()> {
    command(consensus, Command::RegisterNode(facts(node, number))).await.map(drop)
}

/// What those that are made up ask of a voter: each greets it every second, and asks the one that leads whether it is in touch.
async fn bustle(receiver: Receiver, made_up: Vec<NodeId>) {
    let mut every = interval(TICK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let each_second = usize::try_from(Duration::from_secs(1).as_millis() / TICK.as_millis()).expect("few");
    let in_touch = each_second * IN_TOUCH_EVERY;
    for tick in 0.. {
        every.tick().await;
        for node in made_up.iter().skip(tick % each_second).step_by(each_second) {
            receiver.roll_call(*node);
        }
        for node in made_up.iter().skip(tick % in_touch).step_by(in_touch) {
            receiver.read_index(*node).await;
        }
    }
}

/// Says that what is assigned runs, until everything does.
async fn run_what_is_assigned(consensus: &Consensus, wanted: usize) -> anyhow::Result<()> {
    let mut said: BTreeSet<InstanceId> = BTreeSet::new();
    let began = Instant::now();
    loop {
        let state = consensus.latest().state;
        let runs = state.live_instances().filter(|instance| instance.status.state == InstanceState::Running).count();
        if runs == wanted {
            return Ok(());
        }
        ensure!(began.elapsed() < DEADLINE, "{runs} of {wanted} run");
        let new = state.live_instances().filter(|instance| instance.status.state < InstanceState::Running);
        let new: Vec<_> = new.filter(|instance| said.insert(instance.id)).collect();
        let reports = new.into_iter().map(|instance| entry(Actor::Node(instance.placement.node), fill::runs(instance)));
        fill::propose_all(consensus, reports).await?;
        sleep(TICK).await;
    }
}

fn spec() -> ServiceSpec {
    let resources = Resources { cpu: Cpu::from_millis(100), memory: Memory::from_mebibytes(64) };
    ServiceSpec { replicas: REPLICAS, ..fill::service(resources) }
}

async fn deploy(consensus: &Consensus, services: u64) -> anyhow::Result<()> {
    let (user, org, app) = (random::id(), random::id(), random::id());
    command(consensus, fill::first_user(user, org)).await?;
    let shop = NewApp {
        id: app,
        org,
        owner: user,
        name: "shop".to_owned(),
        description: String::new(),
        icon_url: String::new(),
        services: Vec::new(),
    };
    command(consensus, Command::CreateApp(shop)).await?;
    for number in 0..services {
        let service = NewService { id: random::id(), name: format!("web-{number}"), spec: spec() };
        let (id, build, of) = (random::id(), random::id(), service.id);
        command(consensus, Command::CreateService { app, service }).await?;
        let new = NewDeployment { id, build, service: of, cause: Cause::Deploy, git_ref: None };
        command(consensus, Command::Deploy(vec![new])).await?;
    }
    Ok(())
}

fn row(what: &str, ours: String, measured: f64, most: f64) {
    Row { what, ours, peer: String::new(), measured, wanted: 0.0..=most }.print();
}

#[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
async fn measure(members: u64) -> anyhow::Result<()> {
    let place = Place { folder: tempfile::tempdir()?, cluster: random::id(), reach: Reach::default() };
    let began = Instant::now();
    let first = Member::start(&place, NodeId::FOUNDER).await?;
    first.consensus.initialize("n1:9090").await?;
    register(&first.consensus, NodeId::FOUNDER, 1).await?;
    let voters = token(&first.consensus, NodeRole::VoterEligible, VOTERS).await?;
    let workers = token(&first.consensus, NodeRole::Worker, members + 1).await?;
    let mut others = Vec::new();
    for number in 2..=VOTERS {
        let node = admit(&first.consensus, &voters, number).await?;
        let other = Member::start(&place, node).await?;
        register(&first.consensus, node, number).await?;
        others.push(other);
    }
    until("three vote", || first.consensus.status().voters.len() as u64 == VOTERS).await?;
    for number in VOTERS + 1..=members {
        let node = admit(&first.consensus, &workers, number).await?;
        place.reach.now().made_up.insert(node);
        register(&first.consensus, node, number).await?;
    }
    until("all are members of the group", || first.consensus.status().learners.len() as u64 == members - VOTERS)
        .await?;
    println!("{members} members after {:.1?}", began.elapsed());
    let made_up: Vec<NodeId> = place.reach.now().made_up.iter().copied().collect();
    for member in std::iter::once(&first).chain(&others) {
        let bustle = bustle(member.consensus.receiver(), made_up.clone());
        // Ends with the member's threads.
        drop(member.threads.handle().spawn(bustle));
    }
    let began = Instant::now();
    let services = members / MEMBERS_EACH;
    deploy(&first.consensus, services).await?;
    let instances = usize::try_from(services * u64::from(REPLICAS))?;
    run_what_is_assigned(&first.consensus, instances).await?;
    println!("{instances} instances run after {:.1?} more", began.elapsed());

    // Until what is noted about that has been noted.
    sleep(Duration::from_secs(30)).await;
    let (index, taken) = (first.consensus.latest().index, processor_time(NodeId::FOUNDER)?);
    sleep(CALM).await;
    let entries = (first.consensus.latest().index - index) as f64 * 3_600.0 / CALM.as_secs_f64();
    let share = 100.0 * (processor_time(NodeId::FOUNDER)? - taken).as_secs_f64() / CALM.as_secs_f64();
    row(&format!("{members} members, nothing happens: entries in the log"), format!("{entries:.0}/h"), entries, 0.0);
    row(&format!("{members} members, nothing happens: CPU of the leader"), format!("{share:.1} %"), share, 100.0);

    let began = Instant::now();
    first.store.machine().get_snapshot_builder().await.build_snapshot().await?;
    let took = began.elapsed().as_secs_f64();
    row(&format!("{instances} instances: snapshot"), format!("{took:.2} s"), took, 2.0);

    let began = Instant::now();
    let node = admit(&first.consensus, &workers, members + 1).await?;
    let newcomer = Member::start(&place, node).await?;
    register(&first.consensus, node, members + 1).await?;
    let index = first.consensus.latest().index;
    until("the newcomer has what the others have", || newcomer.has(index)).await?;
    let took = began.elapsed().as_secs_f64();
    row(&format!("{members} members: one more joins and has everything"), format!("{took:.2} s"), took, 5.0);

    let began = Instant::now();
    place.reach.now().real.remove(&NodeId::FOUNDER);
    drop(first);
    let write = || {
        let domain = BTreeMap::from([(SettingKey::ServerDomain, "example.org".to_owned())]);
        command(&others[0].consensus, Command::SetSettings(domain))
    };
    while timeout(DEADLINE, write()).await?.is_err() {
        ensure!(began.elapsed() < DEADLINE, "nobody leads");
    }
    let took = began.elapsed().as_secs_f64();
    row(&format!("{members} members: the leader ends, until the next write"), format!("{took:.2} s"), took, 2.0);
    Ok(())
}
