//! Tunnels to an instance of another node, byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::super::*;
use super::group::{Cluster, Member, until, witness};
use crate::consensus::{self, Mark};
use crate::model::{
    BuildConfig, BuildSpec, BuildStrategy, BuildType, Cause, Cpu, DeploymentId, EnvVars, Health, InstanceId,
    InstanceState, InstanceStatus, Memory, NEWEST_CLUSTER_VERSION, NodeResources, PasswordHash, Placement, Port,
    PortBinding, Protocol, Resources, ServiceSpec, Session, Source,
};
use crate::network::{Carries, Reach, ReachError, Wire};
use crate::state::{Actor, Command, LogEntry, NewApp, NewDeployment, NewInstance, NewService, NewUser, NodeFacts};
use crate::task::{OnError, Supervisor};
use crate::{clock, random};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);
/// The port inside the container.
const PORT: u16 = 8080;

/// A member with an instance, and node 2, which is let in until it is removed.
struct Scene {
    member: Member,
    /// What node 2 shows.
    tls: watch::Receiver<Arc<Tls>>,
    instance: InstanceId,
    tunnels: Tunnels,
    removed: Arc<AtomicBool>,
    backend: Supervisor,
}

impl Scene {
    /// `talk` is what the instance does with each connection.
    async fn with<F, T>(talk: F) -> Self
    where
        F: Fn(TcpStream) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let cluster = Cluster::new();
        let removed = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&removed);
        let admit: Admit = Arc::new(move |node| match (node, gone.load(Ordering::SeqCst)) {
            (NodeId(2), true) => Err("node 2 was removed from this cluster".to_owned()),
            _ => Ok(NodeRole::Worker),
        });
        let member = cluster.member(1, consensus::Options::default(), admit).await;
        member.consensus.initialize(&member.peer.address).await.expect("initialises");
        let (port, backend) = listen(talk).await;
        let instance = run_instance(&member, port).await;
        let tls = cluster.tls(NodeId(2));
        let peers = Peers::for_traffic(tls.clone(), witness(Mark::default()));
        let tunnels = Tunnels::new(peers, member.consensus.watch());
        Self { member, tls, instance, tunnels, removed, backend }
    }

    async fn open(&self) -> Box<dyn Wire> {
        self.tunnels.reach(NodeId(1), self.instance, PORT, Carries::Requests).await.expect("the instance takes it")
    }

    async fn refusal(&self, node: u64, instance: InstanceId, port: u16) -> ReachError {
        match self.tunnels.reach(NodeId(node), instance, port, Carries::Requests).await {
            Err(error) => error,
            Ok(_) => panic!("it was let in"),
        }
    }

    async fn end(&self) {
        self.backend.stop(Duration::ZERO).await;
        self.member.end().await;
    }
}

async fn listen<F, T>(talk: F) -> (u16, Supervisor)
where
    F: Fn(TcpStream) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let supervisor = Supervisor::new("instance", CancellationToken::new());
    let tasks = supervisor.clone();
    supervisor.spawn("instance", OnError::Log, async move {
        let stopping = tasks.stopping();
        while let Some(Ok((stream, _))) = stopping.run_until_cancelled(listener.accept()).await {
            let talk = talk(stream);
            tasks.spawn("talk", OnError::Log, async {
                talk.await;
                Ok::<_, Infallible>(())
            });
        }
        Ok::<_, Infallible>(())
    });
    (port, supervisor)
}

async fn command(member: &Member, command: Command) {
    let entry = LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command };
    member.consensus.propose(entry).await.expect("accepted");
}

/// Puts everything on record that leads to a healthy instance which listens there.
async fn run_instance(member: &Member, host_port: u16) -> InstanceId {
    let address: std::net::SocketAddr = member.peer.address.parse().expect("an address");
    command(
        member,
        Command::RegisterNode(NodeFacts {
            id: member.peer.node,
            name: "n1".to_owned(),
            address: address.ip().to_string(),
            api_port: 8080,
            grpc_port: address.port(),
            ingress_http_port: 0,
            arch: "amd64".to_owned(),
            version: "0.1.0".to_owned(),
            cluster_version_max: NEWEST_CLUSTER_VERSION,
            engine: Ok("fake".to_owned()),
            resources: NodeResources::default(),
            labels: BTreeMap::new(),
            incarnation: random::id(),
        }),
    )
    .await;
    let (user, org, app, service) = (random::id(), random::id(), random::id(), random::id());
    let now = clock::now();
    let session = Session { id: random::id(), user, created_at: now, expires_at: now.plus(Duration::from_secs(600)) };
    let new_user = NewUser { id: user, email: "ada@example.org".to_owned(), password: PasswordHash(String::new()) };
    command(member, Command::RegisterFirstUser { user: new_user, org, org_name: "Ada".to_owned(), session }).await;
    let spec = ServiceSpec {
        source: Source::Image { image: "localhost/web:1".to_owned() },
        build: BuildSpec {
            strategy: BuildStrategy::Dockerfile,
            build_type: BuildType::Oci,
            config: BuildConfig::default(),
        },
        resources: Resources { cpu: Cpu::from_millis(100), memory: Memory::from_mebibytes(16) },
        replicas: 1,
        ports: vec![Port { container_port: PORT, protocol: Protocol::Tcp }],
        health_check: None,
        env: EnvVars::new(),
        depends_on: BTreeSet::new(),
        volumes: Vec::new(),
        constraints: Vec::new(),
        command: Vec::new(),
        exclusive: false,
    };
    command(
        member,
        Command::CreateApp(NewApp {
            id: app,
            org,
            owner: user,
            name: "shop".to_owned(),
            description: String::new(),
            icon_url: String::new(),
            services: vec![NewService { id: service, name: "web".to_owned(), spec }],
        }),
    )
    .await;
    let deployment: DeploymentId = random::id();
    let deploy = NewDeployment { id: deployment, build: random::id(), service, cause: Cause::Deploy, git_ref: None };
    command(member, Command::Deploy(vec![deploy])).await;
    let id = random::id();
    let placement = Placement { node: member.peer.node, reasons: Vec::new() };
    let instance = NewInstance { id, slot: 0, attempt: 0, placement, start_after: now, relocation: None };
    command(member, Command::AssignInstances { deployment, instances: vec![instance] }).await;
    let status = InstanceStatus {
        state: InstanceState::Running,
        health: Health::Healthy,
        ports: vec![PortBinding { container_port: PORT, protocol: Protocol::Tcp, host_port }],
        ..InstanceStatus::assigned()
    };
    command(member, Command::ReportInstance { instance: id, node: member.peer.node, status }).await;
    id
}

/// Reads to the end, then answers with the number of bytes that came.
async fn count(mut stream: TcpStream) {
    let mut all = Vec::new();
    if stream.read_to_end(&mut all).await.is_ok() {
        let _ = stream.write_all(all.len().to_string().as_bytes()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let scene = Scene::with(count).await;
    let mut wire = scene.open().await;
    let sent = vec![7; 10 << 20];
    wire.write_all(&sent).await.expect("taken");
    wire.shutdown().await.expect("taken");
    let mut answer = String::new();
    timeout(DEADLINE, wire.read_to_string(&mut answer)).await.expect("in time").expect("whole");
    assert_eq!(answer, sent.len().to_string());
    let deadline = Instant::now() + DEADLINE;
    assert!(scene.member.tunnels.drained(scene.instance, deadline).await, "it has ended by itself");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_not_sent_more_and_holds_up_nobody() {
    let scene = Scene::with(|mut stream| async move {
        // Greets, reads nothing that follows, and says what it has.
        let mut first = [0; 1];
        if stream.read_exact(&mut first).await.is_ok() && first == *b"w" {
            std::future::pending::<()>().await;
        }
        let _ = tokio::io::copy(&mut tokio::io::repeat(1).take(4 << 20), &mut stream).await;
    })
    .await;
    let mut stuck = Vec::new();
    for _ in 0..24 {
        let mut wire = scene.open().await;
        wire.write_all(b"w").await.expect("taken");
        let flood = vec![0; 64 << 20];
        assert!(timeout(Duration::from_millis(300), wire.write_all(&flood)).await.is_err(), "64 MiB are not held");
        stuck.push(wire);
    }
    // Neither those that do not read here.
    let mut unread = Vec::new();
    for _ in 0..24 {
        let mut wire = scene.open().await;
        wire.write_all(b"r").await.expect("taken");
        unread.push(wire);
    }
    let mut wire = scene.open().await;
    wire.write_all(b"r").await.expect("taken");
    let mut all = Vec::new();
    timeout(DEADLINE, wire.read_to_end(&mut all)).await.expect("goes on").expect("whole");
    assert_eq!(all.len(), 4 << 20);
    assert!(scene.member.tunnels.open(scene.instance) >= 48, "they are still open");
    drop((stuck, unread, wire));
    assert!(scene.member.tunnels.drained(scene.instance, Instant::now() + DEADLINE).await, "they are let go");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_no_end() {
    let (tell, mut told) = mpsc::channel::<io::Result<usize>>(1);
    let scene = Scene::with(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut first = [0; 5];
            let greeted = stream.read_exact(&mut first).await;
            if first == *b"reset" {
                let _ = stream.set_zero_linger();
                return;
            }
            // What is on its way when a wire breaks need not arrive; the break does.
            let seen = match greeted {
                Ok(_) => stream.read_to_end(&mut Vec::new()).await,
                Err(error) => Err(error),
            };
            let _ = tell.send(seen).await;
        }
    })
    .await;
    let mut wire = scene.open().await;
    wire.write_all(b"hello").await.expect("taken");
    until("it is there", || scene.member.tunnels.open(scene.instance) == 1).await;
    drop(wire);
    let seen = timeout(DEADLINE, told.recv()).await.expect("in time").expect("told");
    assert!(seen.is_err(), "the instance is not told that this was all: {seen:?}");

    let mut wire = scene.open().await;
    wire.write_all(b"reset").await.expect("taken");
    let seen = timeout(DEADLINE, wire.read_to_end(&mut Vec::new())).await.expect("in time");
    assert!(seen.is_err(), "{seen:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_a_port_of_a_running_instance_is_reached() {
    let scene = Scene::with(count).await;
    let is_gone = |error: &ReachError, words: &str| {
        assert!(matches!(error, ReachError::Gone(_)) && error.to_string().contains(words), "{error:?}");
    };
    is_gone(&scene.refusal(1, random::id(), PORT).await, "no instance");
    is_gone(&scene.refusal(1, scene.instance, 22).await, "does not listen on port 22");
    is_gone(&scene.refusal(9, scene.instance, PORT).await, "no member");
    // It is there and takes nothing.
    scene.backend.stop(Duration::ZERO).await;
    let error = scene.refusal(1, scene.instance, PORT).await;
    assert!(matches!(error, ReachError::Instance(_)), "{error:?}");
    // Once it is to stop, those that are open are waited for and no other one follows.
    let stop = Command::StopInstances { instances: vec![scene.instance], reason: "test".to_owned() };
    command(&scene.member, stop).await;
    is_gone(&scene.refusal(1, scene.instance, PORT).await, "about to stop");
    scene.removed.store(true, Ordering::SeqCst);
    let error = scene.refusal(1, scene.instance, PORT).await;
    assert!(matches!(error, ReachError::Node(_)) && error.to_string().contains("was removed"), "{error:?}");
    scene.end().await;
    let error = scene.refusal(1, scene.instance, PORT).await;
    assert!(matches!(error, ReachError::Node(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_tunnels_and_a_removal_ends_them() {
    let scene = Scene::with(count).await;
    let mut wire = scene.open().await;
    wire.write_all(b"hello").await.expect("taken");
    let soon = Instant::now() + Duration::from_millis(50);
    assert!(!scene.member.tunnels.drained(scene.instance, soon).await, "one is open");
    scene.removed.store(true, Ordering::SeqCst);
    let cut = timeout(Duration::from_secs(5), wire.read_to_end(&mut Vec::new())).await.expect("within five seconds");
    assert!(cut.is_err(), "{cut:?}");
    assert!(scene.member.tunnels.drained(scene.instance, Instant::now() + DEADLINE).await);
    scene.end().await;
}

/// Another service holds its connections for as long as it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_what_comes_from_another_service() {
    let scene = Scene::with(count).await;
    let reached = scene.tunnels.reach(NodeId(1), scene.instance, PORT, Carries::Service).await;
    let mut wire = reached.expect("the instance takes it");
    wire.write_all(b"hello").await.expect("taken");
    assert_eq!(scene.member.tunnels.open(scene.instance), 0);
    assert!(scene.member.tunnels.drained(scene.instance, Instant::now()).await);
    wire.shutdown().await.expect("ended");
    let mut counted = String::new();
    timeout(DEADLINE, wire.read_to_string(&mut counted)).await.expect("in time").expect("it went on meanwhile");
    assert_eq!(counted, "5");
    scene.end().await;
}

/// The other end need not obey: the node at this end knows who is a member.
#[tokio::test]
async fn a_connection_to_a_node_that_was_removed_is_cut_from_this_end_too() {
    let scene = Scene::with(count).await;
    let is_gone = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&is_gone);
    let own = witness(Mark::default());
    own.heed(Arc::new(move |node| match (node, gone.load(Ordering::SeqCst)) {
        (NodeId(1), true) => Err("node 1 was removed from this cluster".to_owned()),
        _ => Ok(NodeRole::Worker),
    }));
    let peers = Peers::for_traffic(scene.tls.clone(), own);
    let tunnels = Tunnels::new(peers, scene.member.consensus.watch());
    let mut wire =
        tunnels.reach(NodeId(1), scene.instance, PORT, Carries::Requests).await.expect("the instance takes it");
    wire.write_all(b"hello").await.expect("taken");
    is_gone.store(true, Ordering::SeqCst);
    let cut = timeout(Duration::from_secs(5), wire.read_to_end(&mut Vec::new())).await.expect("within five seconds");
    assert!(cut.is_err(), "{cut:?}");
    scene.end().await;
}
