//! What a state of 10,000 apps costs: bytes, memory, start, snapshot.
//!
//! The state is made as users and nodes would make it: every app has one service with one deployment that the leader's
//! own decisions brought to `running`. What is measured runs in a process of its own, so that its memory is that of a node
//! which has just started.
//!
//! Run with `cargo bench --bench state`; a first argument is how many apps.

mod row;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use narvana::consensus::{Consensus, NoTransport, Options};
use narvana::decide::{self, Situation};
use narvana::model::{
    BuildConfig, BuildSpec, BuildStrategy, BuildType, Cause, ClusterId, Cpu, EnvVars, Health, InstanceState, Memory,
    NodeId, NodeResources, PasswordHash, Port, Protocol, Resources, ServiceSpec, Session, SettingKey, Source,
};
use narvana::state::{Actor, Command, LogEntry, NewApp, NewDeployment, NewService, NewUser, NodeFacts};
use narvana::store::{self, KEY_FILE, SealKey, Store};
use narvana::task::Supervisor;
use narvana::{clock, config, random};
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;
use row::Row;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const APPS: usize = 10_000;

/// Commands that are proposed at the same time while the state is made.
const AT_ONCE: usize = 256;

/// Writers during the snapshot.
const WRITERS: usize = 16;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    match &arguments[..] {
        [word, folder, cluster] if word == "measure" => measure(Path::new(folder), cluster.parse()?).await,
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
    }
    Ok(())
}

fn open(folder: &Path, cluster: ClusterId, fatal: CancellationToken) -> anyhow::Result<Store> {
    let key = SealKey::load(&folder.join(KEY_FILE))?;
    Ok(Store::open(store::Options { folder: folder.to_owned(), cluster, node: NodeId::FOUNDER, key, fatal })?)
}

async fn start(folder: &Path, cluster: ClusterId) -> anyhow::Result<(Consensus, Store)> {
    let fatal = CancellationToken::new();
    let store = open(folder, cluster, fatal.clone())?;
    let supervisor = Supervisor::new("consensus", fatal);
    let consensus =
        Consensus::start(NodeId::FOUNDER, Options::default(), store.clone(), Arc::new(NoTransport), supervisor).await?;
    Ok((consensus, store))
}

async fn make(folder: &Path, cluster: ClusterId, apps: usize) -> anyhow::Result<()> {
    let (consensus, _) = start(folder, cluster).await?;
    consensus.initialize("127.0.0.1:9090").await?;
    let (user, org) = (random::id(), random::id());
    let (created_at, expires_at) = (clock::now(), clock::now().plus(Duration::from_secs(86_400)));
    let founding = Command::RegisterFirstUser {
        user: NewUser { id: user, email: "ada@example.org".to_owned(), password: PasswordHash(String::new()) },
        org,
        org_name: "Ada".to_owned(),
        session: Session { id: random::id(), user, created_at, expires_at },
    };
    propose_all(&consensus, vec![founding, Command::RegisterNode(node())]).await?;
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
    waiting
        .map(|instance| {
            let mut status = instance.status.clone();
            status.state = InstanceState::Running;
            status.health = Health::Healthy;
            status.container = Some("c".repeat(64));
            (status.started_at, status.healthy_at) = (Some(clock::now()), Some(clock::now()));
            Command::ReportInstance { instance: instance.id, node: instance.placement.node, status }
        })
        .collect()
}

async fn propose_all(consensus: &Consensus, commands: Vec<Command>) -> anyhow::Result<()> {
    let mut commands = commands.into_iter();
    let mut proposals = JoinSet::new();
    loop {
        while proposals.len() < AT_ONCE
            && let Some(command) = commands.next()
        {
            let consensus = consensus.clone();
            proposals.spawn(async move { consensus.propose(entry(command)).await });
        }
        match proposals.join_next().await {
            None => return Ok(()),
            Some(proposed) => drop(proposed??),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
async fn measure(folder: &Path, cluster: ClusterId) -> anyhow::Result<()> {
    let on_disk = |file| fs::metadata(folder.join(file)).map(|file| file.len());
    println!("  on disk: state {} KiB, log {} KiB", on_disk("state.redb")? / 1024, on_disk("raft.redb")? / 1024);
    let began = Instant::now();
    let (consensus, store) = start(folder, cluster).await?;
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
    ServiceSpec {
        source: Source::Image { image: "registry.example.org/team/web:1".to_owned() },
        build: BuildSpec {
            strategy: BuildStrategy::Dockerfile,
            build_type: BuildType::Oci,
            config: BuildConfig::default(),
        },
        resources: Resources { cpu: Cpu::from_millis(500), memory: Memory::from_mebibytes(256) },
        replicas: 1,
        ports: vec![Port { container_port: 8080, protocol: Protocol::Tcp }],
        health_check: None,
        env: (0..10)
            .map(|number| (format!("SETTING_{number}"), "a value of usual length".to_owned()))
            .collect::<EnvVars>(),
        depends_on: BTreeSet::new(),
        volumes: Vec::new(),
        constraints: Vec::new(),
        command: Vec::new(),
        exclusive: false,
    }
}
