//! One value of every kind that is stored, for the golden bytes that pin the encoding and for tests of the store.
//!
//! The values are fixed: changing one here changes what is pinned. A new variant gets a new sample at the end.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::model::{
    Absence, Admission, App, AppId, Artifact, Build, BuildCode, BuildConfig, BuildFailure, BuildId, BuildInput,
    BuildParts, BuildRecipe, BuildSpec, BuildStatus, BuildStrategy, BuildType, Cause, Cluster, ClusterId, Cpu,
    Deployment, DeploymentId, DeploymentStatus, Desired, Detail, Details, Drain, EnvVars, Epoch, Exit, Health,
    HealthCheck, Incarnation, Instance, InstanceId, InstanceState, InstanceStatus, JoinToken, Lease, Membership,
    Memory, Node, NodeId, NodeResources, NodeRole, Org, OrgId, Origin, PasswordHash, Placement, Port, PortBinding,
    Probe, Protocol, Relocation, RequestId, Resources, Role, RotationStep, Secret, Service, ServiceId, ServiceSpec,
    Session, SessionId, Setting, SettingKey, Source, SourceId, Timestamp, UploadedSource, User, UserId, Volume,
};

use super::{
    Actor, BuildResult, Command, EnvExpectation, LogEntry, NewApp, NewDeployment, NewInstance, NewService, NewUser,
    NodeFacts, Outcome, Record, Request, RequestRecord,
};

const AT: Timestamp = Timestamp(1_750_000_000_000);

fn id<T: From<Uuid>>(number: u128) -> T {
    T::from(Uuid::from_u128(number))
}

fn spec() -> ServiceSpec {
    ServiceSpec {
        source: Source::Git { repo: "github.com/o/r".to_owned(), reference: "main".to_owned() },
        build: BuildSpec {
            strategy: BuildStrategy::Dockerfile,
            build_type: BuildType::Oci,
            config: BuildConfig {
                build_timeout_seconds: Some(600),
                root_directory: Some("web".to_owned()),
                dockerfile: None,
                environment_vars: EnvVars::from([("A".to_owned(), "1".to_owned())]),
                details: Details::new(),
            },
        },
        resources: Resources { cpu: Cpu::from_millis(250), memory: Memory::from_mebibytes(128) },
        replicas: 1,
        ports: vec![Port { container_port: 8080, protocol: Protocol::Tcp }],
        health_check: Some(HealthCheck {
            probe: Probe::Http { path: "/health".to_owned(), port: Some(8080) },
            interval_seconds: 5,
            timeout_seconds: 3,
            retries: 3,
        }),
        env: EnvVars::from([("KEY".to_owned(), "value".to_owned())]),
        depends_on: BTreeSet::from(["db".to_owned()]),
        volumes: vec![Volume {
            name: "data".to_owned(),
            path: "/data".to_owned(),
            size: Some(Memory::from_mebibytes(64)),
        }],
        constraints: vec!["disk=ssd".to_owned()],
        command: vec!["serve".to_owned(), "--all".to_owned()],
        exclusive: false,
    }
}

fn session() -> Session {
    Session { id: id(4), user: id(3), created_at: AT, expires_at: Timestamp(AT.0 + 86_400_000) }
}

fn cluster() -> Cluster {
    Cluster {
        id: ClusterId(Uuid::from_u128(1)),
        token_key: Secret::new([7; 32]),
        ca_certificate: "-----BEGIN CERTIFICATE-----".to_owned(),
        ca_key: Secret::new([8; 32]),
        cluster_version: 1,
        created_at: AT,
        rotation: None,
        rebalance: 0,
    }
}

fn artifact() -> Artifact {
    Artifact {
        image: "localhost/narvana/web:1".to_owned(),
        image_id: Some("sha256:ab".to_owned()),
        revision: Some("c0ffee".to_owned()),
        exposed_ports: vec![8080],
    }
}

fn failure() -> BuildFailure {
    BuildFailure {
        code: BuildCode::BuildFailed,
        message: "step 2 ended with exit code 1".to_owned(),
        next_step: "read the build log".to_owned(),
        log_tail: vec!["make: *** no rule".to_owned()],
    }
}

fn lease() -> Lease {
    Lease { node: NodeId::FOUNDER, incarnation: Incarnation(Uuid::from_u128(12)) }
}

fn status() -> InstanceStatus {
    InstanceStatus {
        state: InstanceState::Failed,
        health: Health::Unhealthy,
        container: Some("abc".to_owned()),
        ports: vec![PortBinding { container_port: 8080, protocol: Protocol::Tcp, host_port: 40_001 }],
        reason: Some("it used more memory than it may".to_owned()),
        exit: Some(Exit { code: 137, out_of_memory: true }),
        log_tail: vec!["out of memory".to_owned()],
        started_at: Some(AT),
        healthy_at: Some(AT),
        finished_at: Some(AT),
    }
}

fn placement() -> Placement {
    Placement { node: NodeId::FOUNDER, reasons: vec!["the only node with room".to_owned()] }
}

fn relocation() -> Relocation {
    Relocation { from: id(110), reason: "node one is drained".to_owned() }
}

fn facts() -> NodeFacts {
    NodeFacts {
        id: NodeId::FOUNDER,
        name: "one".to_owned(),
        address: "127.0.0.1".to_owned(),
        api_port: 8080,
        grpc_port: 9090,
        ingress_http_port: 80,
        arch: "amd64".to_owned(),
        version: "0.1.0".to_owned(),
        cluster_version_max: 2,
        engine: Ok("podman 4.3.1".to_owned()),
        resources: NodeResources {
            cpu: Cpu::from_millis(2_000),
            memory: Memory::from_mebibytes(2_048),
            disk: Memory::from_mebibytes(10_240),
        },
        labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
        incarnation: Incarnation(Uuid::from_u128(12)),
    }
}

fn source() -> UploadedSource {
    UploadedSource { id: id(8), service: id(6), sha256: "ab".repeat(32), bytes: 1_024, created_at: AT }
}

fn recipe() -> BuildRecipe {
    BuildRecipe { build: id(10), digest: [12; 32], bytes: 2_048 }
}

fn parts() -> BuildParts {
    BuildParts::from([("source".to_owned(), [13; 32]), ("strategy".to_owned(), [14; 32])])
}

/// With what came with cluster version 4.
fn detailed() -> ServiceSpec {
    let mut spec = ServiceSpec { depends_on: BTreeSet::new(), ..spec() };
    spec.build.config.details = Details::from([
        ("build_tags".to_owned(), Detail::List(vec!["sqlite".to_owned()])),
        ("entry_point".to_owned(), Detail::Text("cmd/web".to_owned())),
    ]);
    spec
}

fn new_service() -> NewService {
    NewService { id: id(6), name: "web".to_owned(), spec: spec() }
}

fn join_token() -> JoinToken {
    JoinToken {
        id: id(14),
        digest: [10; 32],
        role: NodeRole::Worker,
        uses_left: 2,
        expires_at: Timestamp(AT.0 + 3_600_000),
        revoked: false,
        created_by: id(3),
        created_at: AT,
    }
}

fn request() -> Request {
    Request { id: RequestId(Uuid::from_u128(13)), fingerprint: [9; 32] }
}

/// One log entry for every command.
pub fn sample_entries() -> Vec<LogEntry> {
    let app: AppId = id(5);
    let service: ServiceId = id(6);
    let deployment: DeploymentId = id(9);
    let build: BuildId = id(10);
    let instance: InstanceId = id(11);
    let org: OrgId = id(2);
    let user: UserId = id(3);
    let commands = vec![
        Command::InitCluster(cluster()),
        Command::RegisterNode(facts()),
        Command::RegisterFirstUser {
            user: NewUser {
                id: user,
                email: "ada@example.org".to_owned(),
                password: PasswordHash("$argon2id$".into()),
            },
            org,
            org_name: "My Organization".to_owned(),
            session: session(),
        },
        Command::OpenSession(session()),
        Command::CloseSession(id(4)),
        Command::CreateApp(NewApp {
            id: app,
            org,
            owner: user,
            name: "shop".to_owned(),
            description: "a shop".to_owned(),
            icon_url: String::new(),
            services: vec![new_service()],
        }),
        Command::UpdateApp {
            app,
            expected_version: 1,
            name: Some("store".to_owned()),
            description: None,
            icon_url: Some(String::new()),
        },
        Command::DeleteApp(app),
        Command::CreateService { app, service: new_service() },
        Command::UpdateService { service, expected_generation: 1, spec: spec() },
        Command::DeleteService(service),
        Command::SetEnv {
            service,
            entries: EnvVars::from([("A".to_owned(), "b".to_owned())]),
            expectation: EnvExpectation::Absent,
        },
        Command::UnsetEnv { service, keys: BTreeSet::from(["A".to_owned()]) },
        Command::AttachSource(source()),
        Command::Deploy(vec![NewDeployment {
            id: deployment,
            build,
            service,
            cause: Cause::Rollback(id(90)),
            git_ref: Some("v2".to_owned()),
        }]),
        Command::SetDesired { service, desired: Desired::Stopped },
        Command::Scale { service, replicas: 3 },
        Command::CancelBuild(build),
        Command::SetSettings(BTreeMap::from([(SettingKey::ServerDomain, "example.org".to_owned())])),
        Command::LeaseBuild { build, lease: lease() },
        Command::LoseBuild { build, reason: "its node was restarted".to_owned(), retry: id(100) },
        Command::FinishBuild { build, lease: lease(), result: BuildResult::Succeeded(artifact()) },
        Command::AdvanceDeployment {
            deployment,
            from: DeploymentStatus::Starting,
            to: DeploymentStatus::Failed,
            reason: Some("it did not become healthy".to_owned()),
            log_tail: vec!["boom".to_owned()],
        },
        Command::AssignInstances {
            deployment,
            instances: vec![NewInstance {
                id: instance,
                slot: 0,
                attempt: 1,
                placement: placement(),
                start_after: AT,
                relocation: Some(relocation()),
            }],
        },
        Command::StopInstances { instances: vec![instance], reason: "replaced by version 2".to_owned() },
        Command::ReportInstance { instance, node: NodeId::FOUNDER, status: status() },
        Command::Promote(deployment),
        Command::Sweep {
            instances: vec![instance],
            deployments: vec![deployment],
            sources: vec![SourceId(Uuid::from_u128(8))],
            sessions: vec![SessionId(Uuid::from_u128(4))],
        },
        Command::FinishBuild { build, lease: lease(), result: BuildResult::Failed(failure()) },
        Command::FinishBuild { build, lease: lease(), result: BuildResult::Cancelled },
        Command::CreateJoinToken(JoinToken { id: id(16), ..join_token() }),
        Command::RevokeJoinToken(id(16)),
        Command::AdmitNode {
            token: id(14),
            digest: [10; 32],
            name: "two".to_owned(),
            address: "10.0.0.2:9090".to_owned(),
            cluster_version_max: 2,
        },
        Command::CordonNode { node: NodeId::FOUNDER, cordoned: true },
        Command::NoteAbsence { node: NodeId::FOUNDER, absent: true },
        Command::LoseInstances { instances: vec![instance], reason: "node one does not answer".to_owned() },
        Command::RemoveNode(NodeId::FOUNDER),
        Command::FenceNode(NodeId::FOUNDER),
        Command::ReaddressNode { node: NodeId::FOUNDER, address: "10.0.0.3:9090".to_owned() },
        Command::RotateAuthority { certificate: "-----BEGIN CERTIFICATE-----".to_owned(), key: Secret::new([9; 32]) },
        Command::NoteAuthority { node: NodeId::FOUNDER, step: RotationStep::Show, begun_at: AT },
        Command::DrainNode { node: NodeId::FOUNDER, stop_exclusive: true, stop_volumes: false },
        Command::LabelNode {
            node: NodeId::FOUNDER,
            changes: BTreeMap::from([("disk".to_owned(), Some("hdd".to_owned())), ("zone".to_owned(), None)]),
        },
        Command::Rebalance { budget: 5 },
        Command::RaiseClusterVersion { to: 2 },
        Command::ResetSetting(SettingKey::ServerDomain),
        Command::PinImage { deployment, node: NodeId::FOUNDER, digest: [11; 32], image_id: "sha256:ab".to_owned() },
        Command::CreateService { app, service: NewService { id: id(17), name: "api".to_owned(), spec: detailed() } },
        Command::UpdateService { service, expected_generation: 1, spec: detailed() },
        Command::FinishBuild {
            build,
            lease: lease(),
            result: BuildResult::Failed(BuildFailure { code: BuildCode::DependencyMissing, ..failure() }),
        },
        Command::KeepRecipe { recipe: recipe(), lease: lease() },
        Command::NoteInput { build, parts: parts(), missing: Some(id(16)), lease: lease() },
        Command::SetSettings(BTreeMap::from([(SettingKey::Nixpkgs, "github:NixOS/nixpkgs/nixos-25.11".to_owned())])),
        Command::DeployAnew(vec![NewDeployment {
            id: id(19),
            build: id(20),
            service,
            cause: Cause::Deploy,
            git_ref: None,
        }]),
    ];
    let actors = [Actor::System, Actor::Node(NodeId::FOUNDER), Actor::User(user), Actor::Anonymous];
    commands
        .into_iter()
        .enumerate()
        .map(|(position, command)| LogEntry {
            proposed_at: AT,
            actor: actors[position % actors.len()],
            request: (position % 2 == 0).then(request),
            command,
        })
        .collect()
}

/// One row of every kind.
pub fn sample_records() -> Vec<Record> {
    let facts = facts();
    vec![
        cluster().into(),
        Org {
            id: id(2),
            name: "My Organization".to_owned(),
            slug: "my-organization".to_owned(),
            description: String::new(),
            created_at: AT,
            updated_at: AT,
        }
        .into(),
        Membership { org: id(2), user: id(3), role: Role::Owner, created_at: AT }.into(),
        User {
            id: id(3),
            email: "ada@example.org".to_owned(),
            password: PasswordHash("$argon2id$".to_owned()),
            name: "Ada".to_owned(),
            is_admin: true,
            created_at: AT,
        }
        .into(),
        session().into(),
        App {
            id: id(5),
            org: id(2),
            owner: id(3),
            name: "shop".to_owned(),
            description: "a shop".to_owned(),
            icon_url: String::new(),
            version: 1,
            created_at: AT,
            updated_at: AT,
        }
        .into(),
        Service {
            id: id(6),
            app: id(5),
            name: "web".to_owned(),
            host_label: "web-shop".to_owned(),
            spec: spec(),
            desired: Desired::Running,
            source: Some(id(8)),
            last_version: 1,
            serving: Some(id(9)),
            generation: 1,
            created_at: AT,
            updated_at: AT,
        }
        .into(),
        source().into(),
        Deployment {
            id: id(9),
            app: id(5),
            service: id(6),
            service_name: "web".to_owned(),
            version: 1,
            spec: spec(),
            source: Some(id(8)),
            cause: Cause::Deploy,
            build: Some(id(10)),
            artifact: Some(artifact()),
            status: DeploymentStatus::Running,
            reason: None,
            log_tail: Vec::new(),
            created_at: AT,
            started_at: Some(AT),
            finished_at: None,
        }
        .into(),
        Build {
            id: id(10),
            deployment: id(9),
            app: id(5),
            service: id(6),
            status: BuildStatus::Succeeded,
            lease: Some(lease()),
            attempt: 1,
            cancel_requested: false,
            artifact: Some(artifact()),
            failure: Some(failure()),
            created_at: AT,
            started_at: Some(AT),
            finished_at: Some(AT),
        }
        .into(),
        Instance {
            id: id(11),
            deployment: id(9),
            service: id(6),
            app: id(5),
            slot: 0,
            attempt: 0,
            placement: placement(),
            start_after: AT,
            relocation: Some(relocation()),
            stop_requested: Some("replaced".to_owned()),
            status: status(),
            created_at: AT,
        }
        .into(),
        Node {
            id: facts.id,
            name: facts.name,
            address: facts.address,
            api_port: facts.api_port,
            grpc_port: facts.grpc_port,
            ingress_http_port: facts.ingress_http_port,
            arch: facts.arch,
            version: facts.version,
            cluster_version_max: facts.cluster_version_max,
            engine: facts.engine,
            resources: facts.resources,
            labels: facts.labels,
            label_changes: BTreeMap::from([("zone".to_owned(), None)]),
            cordoned: true,
            drain: Some(Drain { since: AT, stop_exclusive: true, stop_volumes: false }),
            incarnation: facts.incarnation,
            joined_at: AT,
            started_at: AT,
        }
        .into(),
        Setting { key: SettingKey::ServerDomain, value: "example.org".to_owned() }.into(),
        RequestRecord { request: request(), at: AT, index: 7, outcome: Outcome::Deployments(vec![id(9)]) }.into(),
        join_token().into(),
        Admission {
            node: NodeId::FOUNDER,
            name: "one".to_owned(),
            address: "127.0.0.1:9090".to_owned(),
            role: NodeRole::VoterEligible,
            token: Some(id(14)),
            admitted_at: AT,
            removed_at: None,
            fenced_at: None,
        }
        .into(),
        Absence { node: NodeId::FOUNDER, since: AT }.into(),
        Epoch {
            number: 1,
            origin: Origin::Restored,
            begun_at: AT,
            left_behind: BTreeMap::from([(NodeId(300), "[::1]:9090".to_owned())]),
        }
        .into(),
        Service {
            id: id(18),
            app: id(5),
            name: "detailed".to_owned(),
            host_label: "detailed-shop".to_owned(),
            spec: detailed(),
            desired: Desired::Running,
            source: None,
            last_version: 0,
            serving: None,
            generation: 1,
            created_at: AT,
            updated_at: AT,
        }
        .into(),
        recipe().into(),
        BuildInput {
            parts: parts(),
            same_as: Some(id(16)),
            missing: Some(id(21)),
            made_at: 300,
            ..BuildInput::of(id(10))
        }
        .into(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::state::{State, apply, violations};

    #[test]
    fn every_command_has_a_sample() {
        let names: BTreeSet<&str> = sample_entries().iter().map(|entry| entry.command.name()).collect();
        assert_eq!(names.len(), 48, "add a sample for a new command, then raise this number");
    }

    #[test]
    fn the_sample_rows_make_a_sound_state() {
        let state = State::from_records(sample_records());
        assert_eq!(violations(&state), Vec::<String>::new());
        assert_eq!(State::from_records(state.records()), state);
    }

    #[test]
    fn applying_any_sample_to_anything_keeps_the_state_sound() {
        let mut states = vec![State::default(), State::from_records(sample_records())];
        for (index, entry) in sample_entries().iter().enumerate() {
            for state in &mut states {
                let applied = apply(state, index as u64, entry);
                assert_eq!(violations(&applied.state), Vec::<String>::new(), "after {}", entry.command.name());
                *state = applied.state;
            }
        }
    }
}
