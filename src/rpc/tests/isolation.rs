//! A node that is cut off from its leader ends what has volumes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::group::until;
use super::members::Group;
use crate::agent::{self, Agent, Drain, EngineState, Guard};
use crate::artifact::oci::Registry;
use crate::artifact::{ArtifactStore, Fetcher, Nobody};
use crate::consensus::Consensus;
use crate::decide::isolation::{ISOLATED_AFTER, STOPPED_WITHIN};
use crate::engine::fake::FakeEngine;
use crate::engine::{Engine, Image};
use crate::logs::{self, LogStore};
use crate::model::{
    AppId, BuildConfig, BuildSpec, BuildStrategy, BuildType, Cause, Cpu, EnvVars, InstanceId, Memory, OrgId,
    PasswordHash, Resources, ServiceId, ServiceSpec, Session, Source, UserId, Volume,
};
use crate::state::{Command, NewApp, NewDeployment, NewService, NewUser};
use crate::task::{OnError, Supervisor};
use crate::{clock, random};

const IMAGE: &str = "localhost/web:1";

struct NoDrain;

#[async_trait]
impl Drain for NoDrain {
    async fn drained(&self, _: InstanceId, _: Duration) {}
}

/// The program of these nodes goes on.
#[async_trait]
impl Guard for NoDrain {
    async fn stand(&self) -> Result<(), String> {
        Ok(())
    }

    async fn assured(&self, _: Duration, _: bool) {}
}

/// An engine that was found; the agent ends with whoever finds engines.
type Found = watch::Sender<Option<Arc<dyn Engine>>>;

/// An agent of a member, over an engine in memory.
async fn agent(consensus: &Consensus, folder: &std::path::Path) -> (Arc<FakeEngine>, Supervisor, Found) {
    let fake = Arc::new(FakeEngine::new());
    fake.add_image(
        IMAGE,
        Image {
            id: format!("sha256:{}", "1".repeat(64)),
            bytes: 1,
            exposed_ports: Vec::new(),
            architecture: None,
            digest: None,
        },
    );
    let supervisor = Supervisor::new("agent", CancellationToken::new());
    let logs = LogStore::open(folder.join("logs"), logs::Options::default(), supervisor.clone()).await.expect("opens");
    let store = ArtifactStore::open(folder.join("artifacts")).await.expect("opens");
    let registry = Registry::bind(Fetcher::new(store, Arc::new(Nobody))).await.expect("a port");
    let engine: Arc<dyn Engine> = Arc::clone(&fake) as _;
    let found = watch::Sender::new(Some(engine));
    let parts = agent::Parts {
        consensus: consensus.clone(),
        engine: found.subscribe(),
        logs,
        registry: registry.handle(),
        drain: Arc::new(NoDrain),
        guard: Arc::new(NoDrain),
        hosts: agent::Hosts::new(folder.join("hosts")),
        supervisor: supervisor.clone(),
    };
    let grace = Duration::from_secs(10);
    let node = consensus.status().node;
    let options = agent::Options { cluster: random::id(), node, stop_grace: grace, drain_max: grace };
    let agent = Agent::new(options, parts, EngineState::new("it was just made"));
    supervisor.spawn("agent", OnError::Log, agent.run());
    (fake, supervisor, found)
}

fn spec(volumes: Vec<Volume>) -> ServiceSpec {
    ServiceSpec {
        source: Source::Image { image: IMAGE.to_owned() },
        build: BuildSpec {
            strategy: BuildStrategy::Dockerfile,
            build_type: BuildType::Oci,
            config: BuildConfig::default(),
        },
        resources: Resources { cpu: Cpu::from_millis(100), memory: Memory::from_mebibytes(64) },
        replicas: 1,
        ports: Vec::new(),
        health_check: None,
        env: EnvVars::new(),
        depends_on: BTreeSet::new(),
        volumes,
        constraints: vec!["position=1".to_owned()],
        command: Vec::new(),
        exclusive: false,
    }
}

/// Two services on the second node: one with a volume, one without.
async fn deploy(group: &Group) {
    let (user, org, app): (UserId, OrgId, AppId) = (random::id(), random::id(), random::id());
    let (created_at, expires_at) = (clock::now(), clock::now().plus(Duration::from_secs(600)));
    let first_user = Command::RegisterFirstUser {
        user: NewUser { id: user, email: "ada@example.org".to_owned(), password: PasswordHash(String::new()) },
        org,
        org_name: "Ada".to_owned(),
        session: Session { id: random::id(), user, created_at, expires_at },
    };
    group.command(first_user).await;
    let new = NewApp {
        id: app,
        org,
        owner: user,
        name: "shop".to_owned(),
        description: String::new(),
        icon_url: String::new(),
        services: Vec::new(),
    };
    group.command(Command::CreateApp(new)).await;
    let data = Volume { name: "data".to_owned(), path: "/data".to_owned(), size: None };
    for (name, volumes) in [("db", vec![data]), ("web", Vec::new())] {
        let id: ServiceId = random::id();
        let service = NewService { id, name: name.to_owned(), spec: spec(volumes) };
        group.command(Command::CreateService { app, service }).await;
        let (deployment, build) = (random::id(), random::id());
        let new = NewDeployment { id: deployment, build, service: id, cause: Cause::Deploy, git_ref: None };
        group.command(Command::Deploy(vec![new])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_leader_ends_what_has_volumes_in_time_and_nothing_else() {
    let folder = tempfile::tempdir().expect("folder");
    let group = Group::of(2).await;
    group.until_members(&group.nodes(&[0]), &group.nodes(&[1])).await;
    let (engine, supervisor, _found) = agent(&group.members[1].consensus, folder.path()).await;
    deploy(&group).await;
    until("both run", || engine.running() == 2).await;
    group.end(0).await;
    let cut_off = Instant::now();
    until("one runs", || engine.running() == 1).await;
    // The newest assurance may be as old as the time between two.
    assert!(cut_off.elapsed() >= ISOLATED_AFTER / 2, "{:?}", cut_off.elapsed());
    assert!(cut_off.elapsed() < ISOLATED_AFTER + STOPPED_WITHIN, "{:?}", cut_off.elapsed());
    supervisor.stop(Duration::from_secs(5)).await;
    group.end(1).await;
}
