//! What users and nodes ask for while a state is made.

use narvana::clock;
use narvana::consensus::Consensus;
use narvana::model::{
    BuildConfig, BuildSpec, BuildStrategy, BuildType, EnvVars, Health, Instance, InstanceState, OrgId, PasswordHash,
    Resources, ServiceSpec, Session, Source, UserId,
};
use narvana::random;
use narvana::state::{Command, LogEntry, NewUser};
use tokio::task::JoinSet;

/// Commands that are proposed at the same time.
const AT_ONCE: usize = 256;

/// Proposes them, many at the same time.
pub(crate) async fn propose_all(
    consensus: &Consensus,
    entries: impl IntoIterator<Item = LogEntry>,
) -> anyhow::Result<()> {
    let mut entries = entries.into_iter();
    let mut proposals = JoinSet::new();
    loop {
        while proposals.len() < AT_ONCE
            && let Some(entry) = entries.next()
        {
            let consensus = consensus.clone();
            proposals.spawn(async move { consensus.propose(entry).await });
        }
        match proposals.join_next().await {
            None => return Ok(()),
            Some(proposed) => drop(proposed??),
        }
    }
}

/// The first user, with an organisation.
pub(crate) fn first_user(user: UserId, org: OrgId) -> Command {
    let (created_at, expires_at) = (clock::now(), clock::now().plus(std::time::Duration::from_secs(86_400)));
    Command::RegisterFirstUser {
        user: NewUser { id: user, email: "ada@example.org".to_owned(), password: PasswordHash(String::new()) },
        org,
        org_name: "Ada".to_owned(),
        session: Session { id: random::id(), user, created_at, expires_at },
    }
}

/// Its node says that an instance runs.
pub(crate) fn runs(instance: &Instance) -> Command {
    let mut status = instance.status.clone();
    (status.state, status.health) = (InstanceState::Running, Health::Healthy);
    status.container = Some("c".repeat(64));
    (status.started_at, status.healthy_at) = (Some(clock::now()), Some(clock::now()));
    Command::ReportInstance { instance: instance.id, node: instance.placement.node, status }
}

/// A service with one replica and no port, of an image that is not built here.
pub(crate) fn service(resources: Resources) -> ServiceSpec {
    ServiceSpec {
        source: Source::Image { image: "registry.example.org/team/web:1".to_owned() },
        build: BuildSpec {
            strategy: BuildStrategy::Dockerfile,
            build_type: BuildType::Oci,
            config: BuildConfig::default(),
        },
        resources,
        replicas: 1,
        ports: Vec::new(),
        health_check: None,
        env: EnvVars::new(),
        depends_on: std::collections::BTreeSet::new(),
        volumes: Vec::new(),
        constraints: Vec::new(),
        command: Vec::new(),
        exclusive: false,
    }
}
