//! The loop on a real group of one, with a node that obeys at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::consensus::{MemberError, NoTransport};
use crate::decide::members::Step;
use crate::model::{
    BuildConfig, BuildSpec, BuildStrategy, BuildType, Cause, Cpu, DeploymentId, DeploymentStatus, EnvVars, Health,
    InstanceState, InstanceStatus, Memory, NEWEST_CLUSTER_VERSION, NodeResources, OrgId, PasswordHash, Resources,
    ServiceId, ServiceSpec, Session, Source, UserId,
};
use crate::state::{NewApp, NewDeployment, NewService, NewUser, NodeFacts, State};
use crate::store::{self, KEY_FILE, SealKey, Store};
use crate::task::{OnError, Supervisor};

struct Node {
    _folder: TempDir,
    consensus: Consensus,
    supervisor: Supervisor,
    app: crate::model::AppId,
}

/// A member that knows of no group yet.
async fn member(fatal: &CancellationToken) -> (TempDir, Consensus) {
    let folder = tempfile::tempdir().expect("folder");
    let store = Store::open(store::Options {
        folder: folder.path().to_owned(),
        cluster: random::id(),
        node: NodeId::FOUNDER,
        key: SealKey::create(&folder.path().join(KEY_FILE)).expect("key"),
        fatal: fatal.clone(),
    })
    .expect("opens");
    let options = crate::consensus::Options::default();
    let group = Supervisor::new("consensus", fatal.clone());
    let consensus = Consensus::start(NodeId::FOUNDER, options, store, Arc::new(NoTransport), group).await;
    (folder, consensus.expect("starts"))
}

impl Node {
    async fn start() -> Self {
        let fatal = CancellationToken::new();
        let (folder, consensus) = member(&fatal).await;
        let supervisor = Supervisor::new("control", fatal);
        let control = Control::new(Options::default(), consensus.clone());
        supervisor.spawn("control", OnError::StopNode, control.run(supervisor.stopping()));
        consensus.initialize("127.0.0.1:9090").await.expect("initialises");
        let node = Self { _folder: folder, consensus, supervisor, app: random::id() };
        node.fill().await;
        node
    }

    async fn fill(&self) {
        let (user, org): (UserId, OrgId) = (random::id(), random::id());
        self.command(Command::RegisterNode(NodeFacts {
            id: NodeId::FOUNDER,
            name: "one".to_owned(),
            address: "127.0.0.1".to_owned(),
            api_port: 8080,
            grpc_port: 9090,
            ingress_http_port: 0,
            arch: "amd64".to_owned(),
            version: "0.1.0".to_owned(),
            cluster_version_max: NEWEST_CLUSTER_VERSION,
            engine: Ok("fake".to_owned()),
            resources: NodeResources {
                cpu: Cpu::from_millis(4_000),
                memory: Memory::from_mebibytes(4_096),
                disk: Memory::from_mebibytes(4_096),
            },
            labels: BTreeMap::new(),
            incarnation: random::id(),
        }))
        .await;
        let (created_at, expires_at) = (clock::now(), clock::now().plus(Duration::from_secs(60)));
        self.command(Command::RegisterFirstUser {
            user: NewUser { id: user, email: "ada@example.org".to_owned(), password: PasswordHash(String::new()) },
            org,
            org_name: "Ada".to_owned(),
            session: Session { id: random::id(), user, created_at, expires_at },
        })
        .await;
        self.command(Command::CreateApp(NewApp {
            id: self.app,
            org,
            owner: user,
            name: "shop".to_owned(),
            description: String::new(),
            icon_url: String::new(),
            services: Vec::new(),
        }))
        .await;
    }

    async fn command(&self, command: Command) {
        let entry = LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command };
        self.consensus.propose(entry).await.expect("accepted");
    }

    async fn deploy(&self, name: &str, depends_on: &[&str]) -> DeploymentId {
        let (service, id): (ServiceId, DeploymentId) = (random::id(), random::id());
        let spec = ServiceSpec {
            source: Source::Image { image: "localhost/web:1".to_owned() },
            build: BuildSpec {
                strategy: BuildStrategy::Dockerfile,
                build_type: BuildType::Oci,
                config: BuildConfig::default(),
            },
            resources: Resources { cpu: Cpu::from_millis(100), memory: Memory::from_mebibytes(64) },
            replicas: 2,
            ports: Vec::new(),
            health_check: None,
            env: EnvVars::new(),
            depends_on: depends_on.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(),
            volumes: Vec::new(),
            constraints: Vec::new(),
            command: Vec::new(),
            exclusive: false,
        };
        let new = NewService { id: service, name: name.to_owned(), spec };
        self.command(Command::CreateService { app: self.app, service: new }).await;
        let cause = Cause::Deploy;
        self.command(Command::Deploy(vec![NewDeployment { id, build: random::id(), service, cause, git_ref: None }]))
            .await;
        id
    }

    /// Obeys what is assigned until the state is as wanted.
    async fn obey_until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let mut views = self.consensus.watch();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let view = views.borrow_and_update().clone();
            if wanted(&view.state) {
                return;
            }
            assert!(Instant::now() < deadline, "still not: {what}");
            for instance in view.state.live_instances() {
                let state = match &instance.stop_requested {
                    Some(_) => InstanceState::Stopped,
                    None => InstanceState::Running,
                };
                if instance.status.state != state {
                    let now = Some(clock::now());
                    let status = InstanceStatus {
                        state,
                        health: Health::Healthy,
                        started_at: now,
                        ..InstanceStatus::assigned()
                    };
                    let (instance, node) = (instance.id, NodeId::FOUNDER);
                    self.command(Command::ReportInstance { instance, node, status }).await;
                }
            }
            changed_or(&mut views, Duration::from_millis(50)).await;
        }
    }
}

fn is_running(state: &State, id: DeploymentId) -> bool {
    state.deployment(id).is_some_and(|deployment| deployment.status == DeploymentStatus::Running)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_brings_deployments_up_in_order_and_then_rests() {
    let node = Node::start().await;
    let db = node.deploy("db", &[]).await;
    let web = node.deploy("web", &["db"]).await;
    node.obey_until("both run", |state| is_running(state, db) && is_running(state, web)).await;

    // Once there is nothing to do, nothing is proposed.
    let mut views = node.consensus.watch();
    let quiet = async {
        loop {
            views.borrow_and_update();
            if tokio::time::timeout(Duration::from_millis(600), views.changed()).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), quiet).await.expect("comes to rest");

    let service = node.consensus.latest().state.deployment(web).expect("exists").service;
    node.command(Command::SetDesired { service, desired: crate::model::Desired::Stopped }).await;
    node.obey_until("web is stopped", |state| {
        state.deployment(web).is_some_and(|deployment| deployment.status == DeploymentStatus::Stopped)
    })
    .await;
    node.supervisor.stop(Duration::from_secs(5)).await;
    node.consensus.shutdown().await.expect("stops");
}

/// A leader that hands over counts as one for a moment, and refuses everything at once. Asked again without a pause it takes a
/// core; `simulation` found that.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_refused_is_not_tried_again_at_once() {
    let (_folder, consensus) = member(&CancellationToken::new()).await;
    let refused = consensus.hand_over(NodeId(2)).await.expect_err("it does not lead");
    assert!(matches!(refused, MemberError::NoLeader { .. }), "{refused:?}");
    let began = std::time::Instant::now();
    members::take(&consensus, 1, &Step::HandOver(NodeId(2)), &mut consensus.watch()).await;
    assert!(began.elapsed() >= members::FAILED_PAUSE, "{:?}", began.elapsed());
    consensus.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_the_loop_stops_deciding() {
    let node = Node::start().await;
    node.supervisor.stop(Duration::from_secs(5)).await;
    let deployment = node.deploy("web", &[]).await;
    let state = node.consensus.latest().state;
    assert_eq!(state.deployment(deployment).expect("exists").status, DeploymentStatus::Built);
    assert_eq!(state.instances().count(), 0);
    node.consensus.shutdown().await.expect("stops");
}
