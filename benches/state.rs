//! What a state of 10,000 apps costs: bytes, memory, start, snapshot.
//!
//! Sending goes through consensus as to a real member, up to the transport; what takes it there encodes each part as the wire
//! does and throws it away, since a member in the same process would be measured with it.
//!
//! The state is made as users and nodes would make it: every app has one service with one deployment that the leader's
//! own decisions brought to `running`. What is measured runs in a process of its own, so that its memory is that of a node
//! which has just started.
//!
//! Run with `cargo bench --bench state`; a first argument is how many apps.

#[path = "fill/mod.rs"]
mod fill;
mod row;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::ready;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use narvana::consensus::{Asked, Consensus, Mark, NoTransport, Options, Peer, Replies, Transport};
use narvana::decide::{self, Situation};
use narvana::model::{
    Cause, ClusterId, Cpu, EnvVars, InstanceState, Memory, NodeId, NodeResources, Port, Protocol, Resources,
    ServiceSpec, SettingKey,
};
use narvana::state::{Actor, Command, LogEntry, NewApp, NewDeployment, NewService, NodeFacts};
use narvana::store::{self, KEY_FILE, SealKey, Store};
use narvana::task::Supervisor;
use narvana::{clock, config, random};
use narvana_proto::v1::{self, append_reply, snapshot_part};
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;
use prost::Message;
use row::Row;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const APPS: usize = 10_000;

/// Writers during the snapshot.
const WRITERS: usize = 16;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    match &arguments[..] {
        [word, folder, cluster] if word == "measure" => measure(Path::new(folder), cluster.parse()?).await,
        [word, folder, cluster, sent] if word == "replace" => {
            replace(Path::new(folder), cluster.parse()?, Path::new(sent)).await
        }
        [] => compare(APPS).await,
        [apps] => compare(apps.parse().context("the first argument is how many apps")?).await,
        _ => anyhow::bail!("one argument at most: how many apps"),
    }
}

async fn compare(apps: usize) -> anyhow::Result<()> {
    for apps in [0, apps] {
        let folder = tempfile::tempdir()?;
        let cluster: ClusterId = random::id();
        SealKey::create(&folder.path().join(KEY_FILE))?;
        let began = Instant::now();
        make(folder.path(), cluster, apps).await?;
        println!("{apps} apps, made in {:.1} s", began.elapsed().as_secs_f64());
        let folder = folder.path().to_str().context("a temporary folder has a plain name")?;
        let done = Process::new(std::env::current_exe()?).args(["measure", folder, &cluster.to_string()]).status()?;
        ensure!(done.success(), "measuring failed");
        if apps > 0 {
            let sent = Path::new(folder).join("sent");
            send_another(cluster, apps, &sent).await?;
            let sent = sent.to_str().context("a temporary folder has a plain name")?;
            let me = std::env::current_exe()?;
            let done = Process::new(me).args(["replace", folder, &cluster.to_string(), sent]).status()?;
            ensure!(done.success(), "measuring failed");
        }
    }
    Ok(())
}

/// Writes the snapshot of a state of the same cluster and size in which every row is another one: its meta, then its chunks,
/// each after its length.
async fn send_another(cluster: ClusterId, apps: usize, to: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    SealKey::create(&folder.path().join(KEY_FILE))?;
    make(folder.path(), cluster, apps).await?;
    let store = open(folder.path(), cluster, CancellationToken::new())?;
    let snapshot = store.machine().get_snapshot_builder().await.build_snapshot().await?;
    let mut file = BufWriter::new(fs::File::create(to)?);
    let mut put = |bytes: &[u8]| {
        file.write_all(&(bytes.len() as u64).to_be_bytes())?;
        file.write_all(bytes)
    };
    put(&store::encode_meta(&snapshot.meta)?)?;
    snapshot.snapshot.chunks(|chunk| {
        put(chunk).map_err(|error| store::Error::Io { path: to.into(), doing: "write", source: error })
    })?;
    file.flush()?;
    Ok(store.close().await?)
}

/// A member installs it.
#[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
async fn replace(folder: &Path, cluster: ClusterId, sent: &Path) -> anyhow::Result<()> {
    let store = open(folder, cluster, CancellationToken::new())?;
    let view = store.machine().view().borrow().clone();
    let apps = view.state.apps().count();
    drop(view);
    let mut file = BufReader::new(fs::File::open(sent)?);
    let mut next = || {
        let mut length = [0; 8];
        if let Err(error) = file.read_exact(&mut length) {
            return if error.kind() == ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
        }
        let mut bytes = vec![0; usize::try_from(u64::from_be_bytes(length)).map_err(std::io::Error::other)?];
        file.read_exact(&mut bytes).map(|()| Some(bytes))
    };
    let meta = store::decode_meta(&next()?.context("it begins with its meta")?)?;
    fs::write("/proc/self/clear_refs", "5")?;
    let before = memory("VmRSS")?;
    let mut writer = store.machine().receive(&meta)?;
    while let Some(chunk) = next()? {
        writer.chunk(&chunk)?;
    }
    let received = memory("VmHWM")?;
    store.machine().install_snapshot(&meta, writer.finish()?).await?;
    let (peak, after) = (memory("VmHWM")?, memory("VmRSS")?);
    println!("  before {before} KiB, received {received} KiB, peak {peak} KiB, after {after} KiB");
    let what = "peak memory of installing it where every row differs, x steady";
    at_most(apps, what, format!("{} MB", peak / 1000), peak as f64 / before as f64, 1.3);
    Ok(store.close().await?)
}

/// Carries messages to a member that takes everything and has nothing.
#[derive(Default)]
struct Swallow {
    has_snapshot: Arc<AtomicBool>,
    bytes: Arc<AtomicUsize>,
}

impl Transport for Swallow {
    fn append<'a>(&'a self, _: &'a Peer, requests: BoxStream<'static, v1::AppendRequest>) -> Asked<'a, Replies> {
        let has_snapshot = Arc::clone(&self.has_snapshot);
        let replies = requests.map(move |request| {
            let result = match request.previous {
                Some(previous) if !has_snapshot.load(Ordering::Relaxed) => append_reply::Result::Conflict(previous),
                last => append_reply::Result::Matching(v1::Matching { last }),
            };
            Ok(v1::AppendReply { result: Some(result) })
        });
        ready(Ok(replies.boxed())).boxed()
    }

    fn vote<'a>(&'a self, peer: &'a Peer, request: v1::VoteRequest) -> Asked<'a, v1::VoteReply> {
        NoTransport.vote(peer, request)
    }

    fn snapshot<'a>(
        &'a self,
        _: &'a Peer,
        mut parts: BoxStream<'static, v1::SnapshotPart>,
    ) -> Asked<'a, v1::SnapshotReply> {
        async move {
            let mut ballot = None;
            while let Some(part) = parts.next().await {
                let frame = part.encode_to_vec();
                self.bytes.fetch_add(frame.len(), Ordering::Relaxed);
                if let Some(snapshot_part::Part::Head(head)) = part.part {
                    ballot = head.ballot;
                }
                // As a wire would now and then.
                tokio::task::yield_now().await;
            }
            self.has_snapshot.store(true, Ordering::Relaxed);
            Ok(v1::SnapshotReply { ballot })
        }
        .boxed()
    }

    fn transfer<'a>(&'a self, peer: &'a Peer, request: v1::TransferRequest) -> Asked<'a, v1::TransferReply> {
        NoTransport.transfer(peer, request)
    }

    fn propose<'a>(&'a self, peer: &'a Peer, request: v1::ProposeRequest) -> Asked<'a, v1::ProposeReply> {
        NoTransport.propose(peer, request)
    }

    fn read_index<'a>(&'a self, peer: &'a Peer) -> Asked<'a, v1::ReadIndexReply> {
        NoTransport.read_index(peer)
    }

    fn greet<'a>(&'a self, peer: &'a Peer, holds: Mark) -> Asked<'a, v1::RollCallReply> {
        NoTransport.greet(peer, holds)
    }
}

/// A member joins that has nothing, and is sent the snapshot.
#[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
async fn send(consensus: &Consensus, swallow: &Swallow, apps: usize) -> anyhow::Result<()> {
    fs::write("/proc/self/clear_refs", "5")?;
    let steady = memory("VmRSS")?;
    let began = Instant::now();
    consensus.add_learner(&Peer { node: NodeId(2), address: "127.0.0.1:1".to_owned() }).await?;
    while !swallow.has_snapshot.load(Ordering::Relaxed) {
        ensure!(began.elapsed() < Duration::from_secs(60), "no snapshot is sent");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let peak = memory("VmHWM")?;
    println!("  sent {} KiB in {:.1?}", swallow.bytes.load(Ordering::Relaxed) / 1024, began.elapsed());
    let ratio = peak as f64 / steady as f64;
    at_most(apps, "peak memory of sending it, x steady", format!("{} MB", peak / 1000), ratio, 1.3);
    Ok(())
}

fn open(folder: &Path, cluster: ClusterId, fatal: CancellationToken) -> anyhow::Result<Store> {
    let key = SealKey::load(&folder.join(KEY_FILE))?;
    Ok(Store::open(store::Options { folder: folder.to_owned(), cluster, node: NodeId::FOUNDER, key, fatal })?)
}

async fn start(folder: &Path, cluster: ClusterId, transport: Arc<dyn Transport>) -> anyhow::Result<(Consensus, Store)> {
    let fatal = CancellationToken::new();
    let store = open(folder, cluster, fatal.clone())?;
    let supervisor = Supervisor::new("consensus", fatal);
    let consensus = Consensus::start(NodeId::FOUNDER, Options::default(), store.clone(), transport, supervisor).await?;
    Ok((consensus, store))
}

async fn make(folder: &Path, cluster: ClusterId, apps: usize) -> anyhow::Result<()> {
    let (consensus, _) = start(folder, cluster, Arc::new(NoTransport)).await?;
    consensus.initialize("127.0.0.1:9090").await?;
    let (user, org) = (random::id(), random::id());
    propose_all(&consensus, vec![fill::first_user(user, org), Command::RegisterNode(node())]).await?;
    let app = |number| {
        let service = NewService { id: random::id(), name: "web".to_owned(), spec: spec() };
        Command::CreateApp(NewApp {
            id: random::id(),
            org,
            owner: user,
            name: format!("app-{number}"),
            description: "One of many".to_owned(),
            icon_url: String::new(),
            services: vec![service],
        })
    };
    propose_all(&consensus, (0..apps).map(app).collect()).await?;
    let services: Vec<_> = consensus.latest().state.services().map(|service| service.id).collect();
    let deploy = |service| {
        let new = NewDeployment { id: random::id(), build: random::id(), service, cause: Cause::Deploy, git_ref: None };
        Command::Deploy(vec![new])
    };
    propose_all(&consensus, services.into_iter().map(deploy).collect()).await?;
    loop {
        let mut commands = decisions(&consensus);
        commands.extend(reports(&consensus));
        if commands.is_empty() {
            break;
        }
        propose_all(&consensus, commands).await?;
    }
    Ok(consensus.shutdown().await?)
}

fn decisions(consensus: &Consensus) -> Vec<Command> {
    let (fenced, options) = (BTreeSet::new(), decide::Options::default());
    let view = consensus.latest();
    let situation = Situation { state: &view.state, now: clock::now(), fenced: &fenced, options: &options };
    decide::plan(situation, &mut random::id).commands
}

/// The node starts at once what it was given.
fn reports(consensus: &Consensus) -> Vec<Command> {
    let view = consensus.latest();
    let waiting = view.state.live_instances().filter(|instance| instance.status.state < InstanceState::Running);
    waiting.map(|instance| fill::runs(instance)).collect()
}

async fn propose_all(consensus: &Consensus, commands: Vec<Command>) -> anyhow::Result<()> {
    fill::propose_all(consensus, commands.into_iter().map(entry)).await
}

#[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
async fn measure(folder: &Path, cluster: ClusterId) -> anyhow::Result<()> {
    let on_disk = |file| fs::metadata(folder.join(file)).map(|file| file.len());
    println!("  on disk: state {} KiB, log {} KiB", on_disk("state.redb")? / 1024, on_disk("raft.redb")? / 1024);
    let began = Instant::now();
    let swallow = Arc::new(Swallow::default());
    let (consensus, store) = start(folder, cluster, Arc::<Swallow>::clone(&swallow)).await?;
    consensus.propose(small_write()).await?;
    let start = began.elapsed().as_secs_f64();
    let steady = memory("VmRSS")?;
    println!("  resident memory: {steady} KiB for {} rows", consensus.latest().state.records().count());
    let apps = consensus.latest().state.apps().count();
    at_most(apps, "start to the first write", format!("{start:.2} s"), start, 2.0);
    at_most(apps, "resident memory", format!("{} MB", steady / 1000), steady as f64 / 1000.0, 300.0);

    let alone = slowest_write(&consensus, Duration::from_secs(2), Arc::default()).await;
    // What is asked for is measured from here on.
    fs::write("/proc/self/clear_refs", "5")?;
    let steady = memory("VmRSS")?;
    let finished = Arc::new(AtomicBool::new(false));
    let writers = slowest_write(&consensus, Duration::from_secs(30), Arc::clone(&finished));
    let snapshot = async {
        let began = Instant::now();
        let mut builder = store.machine().get_snapshot_builder().await;
        let built = builder.build_snapshot().await;
        finished.store(true, Ordering::Relaxed);
        built.map(|_| began.elapsed())
    };
    let (during, snapshot) = tokio::join!(writers, snapshot);
    let peak = memory("VmHWM")?;
    let (snapshot, slowest) = (snapshot?.as_secs_f64(), during.as_secs_f64() * 1e3);
    println!("  slowest write without a snapshot: {alone:.1?}");
    at_most(apps, "snapshot, 16 writers", format!("{snapshot:.2} s"), snapshot, 1.0);
    at_most(apps, "slowest write during it", format!("{slowest:.0} ms"), slowest, 50.0);
    let ratio = peak as f64 / steady as f64;
    at_most(apps, "peak memory during it, x steady", format!("{} MB", peak / 1000), ratio, 1.3);
    if apps > 0 {
        send(&consensus, &swallow, apps).await?;
    }
    install(&store, cluster, apps).await?;
    Ok(consensus.shutdown().await?)
}

/// The snapshot on its way to another member: one that is new, then one that has the state already. Both stores are in this
/// process, so what the first one holds counts as steady.
#[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
async fn install(from: &Store, cluster: ClusterId, apps: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    SealKey::create(&folder.path().join(KEY_FILE))?;
    let member = open(folder.path(), cluster, CancellationToken::new())?;
    for who in ["a new member", "a member that has it"] {
        let snapshot = from.machine().get_current_snapshot().await?.context("it was made")?;
        fs::write("/proc/self/clear_refs", "5")?;
        let before = memory("VmRSS")?;
        let mut writer = member.machine().receive(&snapshot.meta)?;
        snapshot.snapshot.chunks(|chunk| writer.chunk(chunk))?;
        member.machine().install_snapshot(&snapshot.meta, writer.finish()?).await?;
        let (peak, steady) = (memory("VmHWM")?, before.max(memory("VmRSS")?));
        let what = format!("peak memory of installing it on {who}, x steady");
        at_most(apps, &what, format!("{} MB", peak / 1000), peak as f64 / steady as f64, 1.3);
    }
    Ok(())
}

/// A line of the table. What an empty state costs is only for comparison.
fn at_most(apps: usize, what: &str, ours: String, measured: f64, limit: f64) {
    if apps > 0 {
        let what = &format!("{apps} apps: {what}");
        Row { what, ours, peer: String::new(), measured, wanted: 0.0..=limit }.print();
    }
}

/// The longest that any write took, of writers that write until the time is up or they are told to stop.
async fn slowest_write(consensus: &Consensus, at_most: Duration, finished: Arc<AtomicBool>) -> Duration {
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (consensus, finished) = (consensus.clone(), Arc::clone(&finished));
        writers.spawn(async move {
            let mut slowest = Duration::ZERO;
            while began.elapsed() < at_most && !finished.load(Ordering::Relaxed) {
                let asked = Instant::now();
                consensus.propose(small_write()).await.expect("a group of one accepts");
                slowest = slowest.max(asked.elapsed());
            }
            slowest
        });
    }
    writers.join_all().await.into_iter().max().unwrap_or_default()
}

/// A line of this process' status, in KiB.
fn memory(line: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let value = value.and_then(|value| value.trim().strip_suffix(" kB"));
    Ok(value.with_context(|| format!("the kernel does not tell {line}"))?.parse()?)
}

fn entry(command: Command) -> LogEntry {
    LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command }
}

fn small_write() -> LogEntry {
    entry(Command::SetSettings(BTreeMap::from([(SettingKey::ServerDomain, "example.org".to_owned())])))
}

fn node() -> NodeFacts {
    NodeFacts {
        id: NodeId::FOUNDER,
        name: "n1".to_owned(),
        address: "127.0.0.1".to_owned(),
        api_port: 8080,
        grpc_port: 9090,
        ingress_http_port: 80,
        arch: "amd64".to_owned(),
        version: "0.1.0".to_owned(),
        engine: Ok("podman 4.3.1".to_owned()),
        resources: NodeResources {
            cpu: Cpu::from_millis(100_000_000),
            memory: Memory::from_mebibytes(100_000_000),
            disk: Memory::from_mebibytes(100_000_000),
        },
        labels: BTreeMap::new(),
        incarnation: random::id(),
        cluster_version_max: *config::cluster_versions().end(),
    }
}

fn spec() -> ServiceSpec {
    let resources = Resources { cpu: Cpu::from_millis(500), memory: Memory::from_mebibytes(256) };
    ServiceSpec {
        ports: vec![Port { container_port: 8080, protocol: Protocol::Tcp }],
        env: (0..10)
            .map(|number| (format!("SETTING_{number}"), "a value of usual length".to_owned()))
            .collect::<EnvVars>(),
        ..fill::service(resources)
    }
}
