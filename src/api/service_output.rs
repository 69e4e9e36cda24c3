//! What is shown of a service.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Scoped;
use crate::decide::discovery::full_name;
use crate::model::{Desired, HealthCheck, Probe, Protocol, Service, ServiceSpec, Source};

use super::build_config::BuildConfigBody;
use super::gate::Gate;
use super::service_input::{DatabaseBody, HealthCheckBody, PortBody, ResourcesBody, VolumeBody};

/// A service.
#[derive(Serialize, ToSchema)]
#[schema(as = Service)]
pub(super) struct ServiceView {
    id: String,
    app_id: String,
    name: String,
    /// `new`, `deploying`, `running`, `stopped` or `failed`, from its newest deployment.
    status: &'static str,
    /// `running`, or `stopped` when a user stopped it.
    desired: &'static str,
    /// Where it is reached, when it has a TCP port and this node has an ingress.
    url: Option<String>,
    /// The name by which containers of its app reach it at its TCP ports, on any node. Its own name alone does, too.
    internal_host: Option<String>,
    #[serde(flatten)]
    spec: SpecView,
    /// Number of its newest deployment; 0 before the first.
    version: u64,
    latest_deployment_id: Option<String>,
    /// The deployment that gets the requests.
    serving_deployment_id: Option<String>,
    /// The uploaded source that the next deployment uses.
    source_id: Option<String>,
    /// Raised by each change.
    generation: u64,
    created_at: String,
    updated_at: String,
}

/// What is wanted of a service.
#[derive(Serialize, ToSchema)]
#[schema(as = ServiceSpec)]
pub(super) struct SpecView {
    source_type: &'static str,
    git_repo: Option<String>,
    git_ref: Option<String>,
    flake_uri: Option<String>,
    image: Option<String>,
    database: Option<DatabaseBody>,
    build_strategy: &'static str,
    build_type: &'static str,
    build_config: BuildConfigBody,
    resources: ResourcesBody,
    replicas: u32,
    ports: Vec<PortBody>,
    health_check: Option<HealthCheckBody>,
    env_vars: BTreeMap<String, String>,
    depends_on: BTreeSet<String>,
    volumes: Vec<VolumeBody>,
    constraints: Vec<String>,
    command: Vec<String>,
    /// That it must never run twice at the same time.
    exclusive: bool,
}

pub(super) fn view(service: &Scoped<Service>, gate: &Gate, server_domain: &str) -> ServiceView {
    let latest = service.deployments().next();
    let status = match &latest {
        None => "new",
        Some(_) if service.serving().is_some() && service.desired == Desired::Running => "running",
        Some(latest) if latest.status.is_rolling_out() => "deploying",
        Some(latest) => match latest.status.as_str() {
            "running" => "running",
            "failed" => "failed",
            _ => "stopped",
        },
    };
    ServiceView {
        id: service.id.to_string(),
        app_id: service.app.to_string(),
        name: service.name.clone(),
        status,
        desired: match service.desired {
            Desired::Running => "running",
            Desired::Stopped => "stopped",
        },
        url: url(&service.host_label, &service.spec, gate, server_domain),
        internal_host: service.app().ok().map(|app| full_name(&service.name, &app.name)),
        spec: spec(&service.spec),
        version: service.last_version,
        latest_deployment_id: latest.map(|deployment| deployment.id.to_string()),
        serving_deployment_id: service.serving.map(|id| id.to_string()),
        source_id: service.source.map(|id| id.to_string()),
        generation: service.generation,
        created_at: service.created_at.to_string(),
        updated_at: service.updated_at.to_string(),
    }
}

/// Where a service is reached through this node's ingress.
pub(super) fn url(host_label: &str, spec: &ServiceSpec, gate: &Gate, server_domain: &str) -> Option<String> {
    let has_port = spec.ports.iter().any(|port| port.protocol == Protocol::Tcp);
    let port = gate.options().ingress_port.filter(|_| has_port)?;
    let port = if port == 80 { String::new() } else { format!(":{port}") };
    Some(format!("http://{host_label}.{server_domain}{port}"))
}

pub(super) fn spec(spec: &ServiceSpec) -> SpecView {
    let mut view = SpecView {
        source_type: spec.source.type_name(),
        git_repo: None,
        git_ref: None,
        flake_uri: None,
        image: None,
        database: None,
        build_strategy: spec.build.strategy.as_str(),
        build_type: spec.build.build_type.as_str(),
        build_config: BuildConfigBody::from(&spec.build.config),
        resources: ResourcesBody {
            cpu: Some(spec.resources.cpu.to_string()),
            memory: Some(spec.resources.memory.to_string()),
        },
        replicas: spec.replicas,
        ports: spec.ports.iter().map(|port| self::port(port.container_port, port.protocol)).collect(),
        health_check: spec.health_check.as_ref().map(health_check),
        env_vars: spec.env.clone(),
        depends_on: spec.depends_on.clone(),
        volumes: Vec::new(),
        constraints: spec.constraints.clone(),
        command: spec.command.clone(),
        exclusive: spec.exclusive,
    };
    for volume in &spec.volumes {
        let size = volume.size.map(|size| size.to_string());
        view.volumes.push(VolumeBody { name: volume.name.clone(), path: volume.path.clone(), size });
    }
    match &spec.source {
        Source::Git { repo, reference } => {
            view.git_repo = Some(repo.clone());
            view.git_ref = Some(reference.clone()).filter(|reference| !reference.is_empty());
        }
        Source::Upload => {}
        Source::Flake { uri } => view.flake_uri = Some(uri.clone()),
        Source::Image { image } => view.image = Some(image.clone()),
        Source::Database { kind, version } => {
            view.database = Some(DatabaseBody { kind: kind.clone(), version: version.clone() });
        }
    }
    view
}

fn port(container_port: u16, protocol: Protocol) -> PortBody {
    PortBody { container_port, protocol: Some(protocol.as_str().to_owned()) }
}

fn health_check(check: &HealthCheck) -> HealthCheckBody {
    let mut body = HealthCheckBody {
        interval_seconds: Some(check.interval_seconds),
        timeout_seconds: Some(check.timeout_seconds),
        retries: Some(check.retries),
        ..HealthCheckBody::default()
    };
    match &check.probe {
        Probe::Http { path, port } => {
            body.kind = Some("http".to_owned());
            body.path = Some(path.clone());
            body.port = *port;
        }
        Probe::Tcp { port } => {
            body.kind = Some("tcp".to_owned());
            body.port = *port;
        }
        Probe::Command { command } => {
            body.kind = Some("command".to_owned());
            body.command = Some(command.clone());
        }
    }
    body
}
