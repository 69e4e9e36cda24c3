//! A small world for tests: a state that only `apply` changes, nodes that obey, and a clock that is told the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::plan::{Options, Plan, Situation, plan};
use crate::model::{
    Admission, App, AppId, Artifact, BuildConfig, BuildSpec, BuildStrategy, BuildType, Cause, Cpu, Deployment,
    DeploymentId, Desired, EnvVars, Exit, Health, Incarnation, Instance, InstanceId, InstanceState, InstanceStatus,
    Memory, Node, NodeId, NodeResources, NodeRole, Org, OrgId, PasswordHash, Port, PortBinding, Protocol, Resources,
    Service, ServiceId, ServiceSpec, Session, SessionId, Source, Timestamp, UserId, Volume,
};
use crate::state::{
    Actor, BuildResult, Command, LogEntry, NewApp, NewDeployment, NewService, NewUser, NodeFacts, Outcome, Record,
    Rejection, State, apply, violations,
};

/// Rounds after which a world that is not quiet never will be.
const ROUNDS_MAX: usize = 200;

pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Timestamp,
    pub(super) options: Options,
    pub(super) fenced: BTreeSet<NodeId>,
    pub(super) app: AppId,
    index: u64,
    last_id: u128,
}

pub(super) fn small_spec() -> ServiceSpec {
    ServiceSpec {
        source: Source::Image { image: "localhost/web:1".to_owned() },
        build: BuildSpec {
            strategy: BuildStrategy::Dockerfile,
            build_type: BuildType::Oci,
            config: BuildConfig::default(),
        },
        resources: Resources { cpu: Cpu::from_millis(500), memory: Memory::from_mebibytes(256) },
        replicas: 1,
        ports: vec![Port { container_port: 8080, protocol: Protocol::Tcp }],
        health_check: None,
        env: EnvVars::new(),
        depends_on: BTreeSet::new(),
        volumes: Vec::new(),
        constraints: Vec::new(),
        command: Vec::new(),
        exclusive: false,
    }
}

/// Gives a service a volume.
pub(super) fn has_data(spec: &mut ServiceSpec) {
    spec.volumes = vec![Volume { name: "data".to_owned(), path: "/data".to_owned(), size: None }];
}

impl World {
    /// Nodes n1, n2 … with 4 cores and 4 GiB each, an app named shop, and nothing in it.
    pub(super) fn with_nodes(nodes: u64) -> Self {
        let mut world = Self {
            state: State::default(),
            now: Timestamp(1_750_000_000_000),
            options: Options::default(),
            fenced: BTreeSet::new(),
            app: AppId(Uuid::nil()),
            index: 0,
            last_id: 0,
        };
        for node in 1..=nodes {
            world.restart_node(node);
        }
        let (user, org, session, app): (UserId, OrgId, SessionId, AppId) =
            (world.id(), world.id(), world.id(), world.id());
        let (created_at, expires_at) = (world.now, world.now.plus(Duration::from_secs(86_400)));
        world.command(Command::RegisterFirstUser {
            user: NewUser { id: user, email: "ada@example.org".to_owned(), password: PasswordHash(String::new()) },
            org,
            org_name: "Ada".to_owned(),
            session: Session { id: session, user, created_at, expires_at },
        });
        world.command(Command::CreateApp(NewApp {
            id: app,
            org,
            owner: user,
            name: "shop".to_owned(),
            description: String::new(),
            icon_url: String::new(),
            services: Vec::new(),
        }));
        world.app = app;
        world
    }

    pub(super) fn id<T: From<Uuid>>(&mut self) -> T {
        self.last_id += 1;
        T::from(Uuid::from_u128(self.last_id))
    }

    pub(super) fn situation(&self) -> Situation<'_> {
        Situation { state: &self.state, now: self.now, fenced: &self.fenced, options: &self.options }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    /// Applies a command; the state must stay sound, and a refusal must change nothing.
    pub(super) fn try_command(&mut self, command: Command) -> Result<Outcome, Rejection> {
        self.index += 1;
        let name = command.name();
        let entry = LogEntry { proposed_at: self.now, actor: Actor::System, request: None, command };
        let applied = apply(&self.state, self.index, &entry);
        assert_eq!(violations(&applied.state), Vec::<String>::new(), "after {name}");
        self.state = applied.state;
        applied.result
    }

    #[track_caller]
    pub(super) fn command(&mut self, command: Command) -> Outcome {
        let name = command.name();
        self.try_command(command).unwrap_or_else(|rejection| panic!("{name} was rejected: {rejection}"))
    }

    pub(super) fn restart_node(&mut self, number: u64) {
        let incarnation: Incarnation = self.id();
        if self.state.admission(NodeId(number)).is_none() {
            self.replace(
                Admission {
                    node: NodeId(number),
                    name: format!("n{number}"),
                    address: format!("10.0.0.{number}:9090"),
                    role: NodeRole::VoterEligible,
                    token: None,
                    admitted_at: self.now,
                    removed_at: None,
                    fenced_at: None,
                }
                .into(),
            );
        }
        self.command(Command::RegisterNode(NodeFacts {
            id: NodeId(number),
            name: format!("n{number}"),
            address: "127.0.0.1".to_owned(),
            api_port: 8080,
            grpc_port: 9090,
            ingress_http_port: 80,
            arch: "amd64".to_owned(),
            version: "0.1.0".to_owned(),
            cluster_version_max: 2,
            engine: Ok("podman 4.3.1".to_owned()),
            resources: NodeResources {
                cpu: Cpu::from_millis(4_000),
                memory: Memory::from_mebibytes(4_096),
                disk: Memory::from_mebibytes(10_240),
            },
            labels: BTreeMap::new(),
            incarnation,
        }));
    }

    pub(super) fn absent(&mut self, number: u64) {
        self.command(Command::NoteAbsence { node: NodeId(number), absent: true });
    }

    pub(super) fn drain(&mut self, number: u64, stop_exclusive: bool, stop_volumes: bool) {
        self.command(Command::DrainNode { node: NodeId(number), stop_exclusive, stop_volumes });
    }

    pub(super) fn uncordon(&mut self, number: u64) {
        self.command(Command::CordonNode { node: NodeId(number), cordoned: false });
    }

    /// It answers again, and has what it had.
    pub(super) fn returns(&mut self, number: u64) {
        self.command(Command::NoteAbsence { node: NodeId(number), absent: false });
        self.fenced.remove(&NodeId(number));
    }

    pub(super) fn change_node(&mut self, number: u64, change: impl FnOnce(&mut Node)) {
        let mut node = Node::clone(self.state.node(NodeId(number)).expect("a node"));
        change(&mut node);
        self.replace(node.into());
    }

    /// Puts a row as no command would.
    pub(super) fn replace(&mut self, record: Record) {
        let others: Vec<Record> = self.state.records().filter(|other| other.key() != record.key()).collect();
        self.state = State::from_records(others.into_iter().chain([record]));
    }

    pub(super) fn service(&mut self, name: &str, change: impl FnOnce(&mut ServiceSpec)) -> ServiceId {
        let mut spec = small_spec();
        change(&mut spec);
        let id: ServiceId = self.id();
        let service = NewService { id, name: name.to_owned(), spec };
        self.command(Command::CreateService { app: self.app, service });
        id
    }

    pub(super) fn service_row(&self, name: &str) -> Arc<Service> {
        Arc::clone(self.state.service_by_name(self.app, name).expect("a service"))
    }

    pub(super) fn change_spec(&mut self, name: &str, change: impl FnOnce(&mut ServiceSpec)) {
        let row = self.service_row(name);
        let mut spec = row.spec.clone();
        change(&mut spec);
        self.command(Command::UpdateService { service: row.id, expected_generation: row.generation, spec });
    }

    pub(super) fn deploy(&mut self, name: &str) -> DeploymentId {
        let service = self.service_row(name).id;
        let (id, build) = (self.id(), self.id());
        self.command(Command::Deploy(vec![NewDeployment { id, build, service, cause: Cause::Deploy, git_ref: None }]));
        id
    }

    /// Makes another organisation with an app, and goes on in that.
    pub(super) fn enter_another_org(&mut self) {
        let row = self.state.app(self.app).expect("an app").clone();
        let own = self.state.org(row.org).expect("an organisation").clone();
        let (org, app): (OrgId, AppId) = (self.id(), self.id());
        let slug = "another".to_owned();
        self.replace(Org { id: org, slug, ..Org::clone(&own) }.into());
        self.replace(App { id: app, org, ..App::clone(&row) }.into());
        self.app = app;
    }

    pub(super) fn deploy_anew(&mut self, name: &str) -> DeploymentId {
        let service = self.service_row(name).id;
        let (id, build) = (self.id(), self.id());
        let new = NewDeployment { id, build, service, cause: Cause::Deploy, git_ref: None };
        self.command(Command::DeployAnew(vec![new]));
        id
    }

    pub(super) fn want(&mut self, name: &str, desired: Desired) {
        let service = self.service_row(name).id;
        self.command(Command::SetDesired { service, desired });
    }

    pub(super) fn scale(&mut self, name: &str, replicas: u32) {
        let service = self.service_row(name).id;
        self.command(Command::Scale { service, replicas });
    }

    pub(super) fn deployment(&self, id: DeploymentId) -> &Arc<Deployment> {
        self.state.deployment(id).expect("a deployment")
    }

    pub(super) fn reason(&self, id: DeploymentId) -> &str {
        self.deployment(id).reason.as_deref().unwrap_or_default()
    }

    /// Those that should run, by replica.
    pub(super) fn live_instances(&self, deployment: DeploymentId) -> Vec<Arc<Instance>> {
        let mut live: Vec<Arc<Instance>> = self
            .state
            .instances_of(deployment)
            .filter(|instance| !instance.status.state.is_terminal() && instance.stop_requested.is_none())
            .cloned()
            .collect();
        live.sort_by_key(|instance| instance.slot);
        live
    }

    pub(super) fn decide(&mut self) -> Plan {
        let mut last = self.last_id;
        let mut ids = || {
            last += 1;
            Uuid::from_u128(last)
        };
        let decided = plan(self.situation(), &mut ids);
        self.last_id = last;
        decided
    }

    /// One round of the leader: every command of a plan made for this very state is accepted.
    #[track_caller]
    pub(super) fn round(&mut self) -> Plan {
        let decided = self.decide();
        for command in &decided.commands {
            self.command(command.clone());
        }
        decided
    }

    /// Rounds until the leader has nothing to propose.
    #[track_caller]
    pub(super) fn settle_rounds(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.round().commands.is_empty() {
                return;
            }
        }
        panic!("the leader never comes to rest: {:?}", self.decide().commands);
    }

    /// The leader decides and every node obeys until nothing is left to do; the clock jumps to what is waited for.
    #[track_caller]
    pub(super) fn run_until_quiet(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.settle_rounds();
            let deadline = self.now.plus(self.options.settle);
            if !self.obey() {
                match self.decide().wake_at.filter(|at| *at <= deadline) {
                    Some(at) => self.now = self.now.max(at),
                    None => return,
                }
            }
        }
        panic!("the world never comes to rest");
    }

    /// Every node does at once what is asked of it. True when there was something.
    pub(super) fn obey(&mut self) -> bool {
        let live: Vec<Arc<Instance>> = self.state.live_instances().cloned().collect();
        let mut busy = false;
        for instance in live {
            if instance.stop_requested.is_some() {
                self.report(instance.id, |status| status.state = InstanceState::Stopped);
                busy = true;
            } else if instance.status.state < InstanceState::Running {
                self.now = self.now.max(instance.start_after);
                self.comes_up(instance.id);
                busy = true;
            }
        }
        busy
    }

    pub(super) fn comes_up(&mut self, instance: InstanceId) {
        let row = self.state.instance(instance).expect("an instance").clone();
        let ports = self.deployment(row.deployment).spec.ports.clone();
        let now = self.now;
        self.report(instance, |status| {
            status.state = InstanceState::Running;
            status.health = Health::Healthy;
            status.started_at = Some(now);
            status.healthy_at = Some(now);
            status.ports = (40_000..)
                .zip(ports)
                .map(|(host_port, port)| PortBinding {
                    container_port: port.container_port,
                    protocol: port.protocol,
                    host_port: host_port + u16::try_from(row.slot).expect("few replicas"),
                })
                .collect();
        });
    }

    pub(super) fn fails(&mut self, instance: InstanceId, code: i64) {
        let now = self.now;
        self.report(instance, |status| {
            status.state = InstanceState::Failed;
            status.health = Health::Unknown;
            status.exit = Some(Exit { code, out_of_memory: false });
            status.reason = Some(format!("it ended with exit code {code}"));
            status.log_tail = vec!["boom".to_owned()];
            status.finished_at = Some(now);
        });
    }

    #[track_caller]
    pub(super) fn report(&mut self, instance: InstanceId, change: impl FnOnce(&mut InstanceStatus)) {
        let row = self.state.instance(instance).expect("an instance").clone();
        let mut status = row.status.clone();
        change(&mut status);
        self.command(Command::ReportInstance { instance, node: row.placement.node, status });
    }

    pub(super) fn finish_build(&mut self, deployment: DeploymentId) {
        self.take_image(deployment, deployment);
    }

    /// Ends a build with the image of another deployment.
    pub(super) fn take_image(&mut self, deployment: DeploymentId, of: DeploymentId) {
        let id = self.deployment(deployment).build.expect("has a build");
        let lease = self.state.build(id).and_then(|build| build.lease).expect("leased");
        let artifact = Artifact {
            image: format!("localhost/narvana/{of}"),
            image_id: None,
            revision: None,
            exposed_ports: Vec::new(),
        };
        self.command(Command::FinishBuild { build: id, lease, result: BuildResult::Succeeded(artifact) });
    }
}
