//! From what a user says of a service to its specification.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::build::STRATEGIES;
use crate::model::{
    BuildConfig, BuildSpec, BuildStrategy, BuildType, HealthCheck, Invalid, Memory, Port, Probe, Problem, Protocol,
    Resources, ServiceSpec, SettingKey, Source, Volume, quoted,
};

use super::Error;
use super::build_config::BuildConfigBody;
use super::source_host::check_host;

/// Kinds of source that this version takes.
pub(super) const AVAILABLE_SOURCES: [&str; 3] = ["git", "upload", "image"];
/// Where a service listens that says nothing of it.
const DEFAULT_PORT: Port = Port { container_port: 8080, protocol: Protocol::Tcp };

/// A service. When one is made, `name` and a source are required and everything else has a default; in a change every
/// field is optional, lists and maps replace what was there, and `health_check: null` removes the check.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceRequest {
    /// A DNS label, unique in its app. A service is not renamed.
    name: Option<String>,
    /// `git`, `upload`, `image`, `flake` or `database`; inferred from the one source that is given.
    source_type: Option<String>,
    /// `github.com/owner/repo` or `https://host/path`.
    git_repo: Option<String>,
    /// Branch, tag or commit; the repository's default branch when absent.
    git_ref: Option<String>,
    /// A flake reference.
    flake_uri: Option<String>,
    /// Such as `docker.io/library/nginx:1.27`.
    image: Option<String>,
    database: Option<DatabaseBody>,
    /// `dockerfile`, which is also the default for git and upload, `flake`, `auto-go`, `auto-node`, `auto-python`, `auto-rust`, or `auto` for what is found in the source.
    build_strategy: Option<String>,
    /// `oci`.
    build_type: Option<String>,
    build_config: Option<BuildConfigBody>,
    resources: Option<ResourcesBody>,
    /// How many instances; 1 when absent.
    replicas: Option<u32>,
    /// What it listens on; the first one gets the requests. 8080/tcp when absent.
    ports: Option<Vec<PortBody>>,
    /// How to tell that it works. Without one, an instance that runs counts as healthy.
    #[serde(default, deserialize_with = "some")]
    #[schema(value_type = Option<HealthCheckBody>)]
    health_check: Option<Option<HealthCheckBody>>,
    env_vars: Option<BTreeMap<String, String>>,
    /// Services of the same app that must run first.
    depends_on: Option<BTreeSet<String>>,
    volumes: Option<Vec<VolumeBody>>,
    /// Labels a node must have, as `key=value`.
    constraints: Option<Vec<String>>,
    /// Command instead of the image's own.
    command: Option<Vec<String>>,
    /// That it must never run twice at the same time: one replica, and an old instance has ended before a new one starts,
    /// also when its node is cut off. False when absent.
    exclusive: Option<bool>,
}

/// A kind of database and its version.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Database)]
pub(super) struct DatabaseBody {
    /// Such as `postgres`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Such as `17`.
    pub(super) version: String,
}

/// What each replica may use.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Resources)]
pub(super) struct ResourcesBody {
    /// Cores, such as `0.5`.
    pub(super) cpu: Option<String>,
    /// With a unit, such as `512Mi`.
    pub(super) memory: Option<String>,
}

/// One port.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Port)]
pub(super) struct PortBody {
    pub(super) container_port: u16,
    /// `tcp` (when absent) or `udp`.
    #[serde(default)]
    pub(super) protocol: Option<String>,
}

/// How to tell that an instance works.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HealthCheck)]
pub(super) struct HealthCheckBody {
    /// `http`, `tcp` or `command`; inferred from `path` and `command` when absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<String>,
    /// For `http`; `/` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    /// For `http` and `tcp`; the service's first port when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
    /// For `command`: its words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<Vec<String>>,
    /// 5 when absent.
    pub(super) interval_seconds: Option<u32>,
    /// 3 when absent.
    pub(super) timeout_seconds: Option<u32>,
    /// 3 when absent.
    pub(super) retries: Option<u32>,
}

/// Storage that outlives the instances.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Volume)]
pub(super) struct VolumeBody {
    /// A DNS label, unique in its service.
    pub(super) name: String,
    /// Where it is seen in the container.
    pub(super) path: String,
    /// How much it is meant to hold, with a unit, such as `1Gi`. A note for people: it is recorded and shown, but the
    /// scheduler does not reserve it and no engine enforces it; the volume can fill its node's disk.
    pub(super) size: Option<String>,
}

/// Tells `null` from absent.
fn some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl ServiceRequest {
    /// The name, which a new service must have.
    pub(super) fn required_name(&self) -> Result<String, Error> {
        self.name.clone().ok_or_else(|| Error::field("name", "is required"))
    }

    /// Refuses another name than the one the service has.
    pub(super) fn check_same_name(&self, name: &str) -> Result<(), Error> {
        match &self.name {
            Some(other) if other != name => {
                Err(Error::field("name", format!("a service is not renamed; it is {name}")))
            }
            _ => Ok(()),
        }
    }
}

/// The specification of a new service.
pub(super) fn new_spec(request: ServiceRequest, caller: &Caller, allow_loopback: bool) -> Result<ServiceSpec, Error> {
    let mut invalid = Invalid::default();
    let source = new_source(&request, &mut invalid);
    // Settings are checked when they are set.
    let resources = Resources {
        cpu: caller.setting(SettingKey::DefaultResourceCpu).parse().unwrap_or_default(),
        memory: caller.setting(SettingKey::DefaultResourceMemory).parse().unwrap_or_default(),
    };
    let blank = ServiceSpec {
        source: source.unwrap_or(Source::Upload),
        build: BuildSpec {
            strategy: BuildStrategy::Dockerfile,
            build_type: BuildType::Oci,
            config: BuildConfig::default(),
        },
        resources,
        replicas: 1,
        ports: vec![DEFAULT_PORT],
        health_check: None,
        env: BTreeMap::new(),
        depends_on: BTreeSet::new(),
        volumes: Vec::new(),
        constraints: Vec::new(),
        command: Vec::new(),
        exclusive: false,
    };
    overlay(blank, request, invalid, allow_loopback)
}

/// The specification that a service has after a change.
pub(super) fn changed_spec(
    spec: ServiceSpec,
    request: ServiceRequest,
    allow_loopback: bool,
) -> Result<ServiceSpec, Error> {
    let mut invalid = Invalid::default();
    let source = changed_source(&spec.source, &request, &mut invalid);
    overlay(ServiceSpec { source, ..spec }, request, invalid, allow_loopback)
}

fn given(request: &ServiceRequest) -> Vec<(&'static str, &'static str)> {
    [
        ("git_repo", "git", request.git_repo.is_some()),
        ("flake_uri", "flake", request.flake_uri.is_some()),
        ("image", "image", request.image.is_some()),
        ("database", "database", request.database.is_some()),
    ]
    .into_iter()
    .filter_map(|(field, kind, given)| given.then_some((field, kind)))
    .collect()
}

/// The kind of source that is asked for; `None` when nothing is said of it.
fn wanted_kind<'a>(request: &'a ServiceRequest, invalid: &mut Invalid) -> Option<&'a str> {
    const KINDS: [&str; 5] = ["git", "upload", "flake", "image", "database"];
    let given = given(request);
    if given.len() > 1 {
        let names: Vec<&str> = given.iter().map(|(field, _)| *field).collect();
        invalid.add("source_type", format!("give one source, not several: {}", names.join(", ")));
        return None;
    }
    let inferred = given.first().map(|(_, kind)| *kind);
    match (request.source_type.as_deref(), inferred) {
        (Some(kind), _) if !KINDS.contains(&kind) => {
            invalid.add("source_type", format!("must be one of {}, got {}", KINDS.join(", "), quoted(kind)));
            None
        }
        (Some(kind), Some(inferred)) if kind != inferred => {
            let field = given.first().map_or("", |(field, _)| *field);
            invalid.add("source_type", format!("is {kind}, but {field} is given"));
            None
        }
        (Some(kind), _) => Some(kind),
        (None, inferred) => inferred,
    }
}

fn new_source(request: &ServiceRequest, invalid: &mut Invalid) -> Option<Source> {
    let Some(kind) = wanted_kind(request, invalid) else {
        invalid
            .add("source_type", "give a source: git_repo (--git), image (--image), or source_type upload (--upload)");
        return None;
    };
    source_of(kind, request, invalid)
}

fn source_of(kind: &str, request: &ServiceRequest, invalid: &mut Invalid) -> Option<Source> {
    if kind != "git" && request.git_ref.is_some() {
        invalid.add("git_ref", format!("is for the source type git, not {kind}"));
    }
    let mut missing = |field: &str| {
        invalid.add(field, format!("is required for the source type {kind}"));
        None
    };
    match kind {
        "git" => match &request.git_repo {
            Some(repo) => {
                Some(Source::Git { repo: repo.clone(), reference: request.git_ref.clone().unwrap_or_default() })
            }
            None => missing("git_repo"),
        },
        "flake" => match &request.flake_uri {
            Some(uri) => Some(Source::Flake { uri: uri.clone() }),
            None => missing("flake_uri"),
        },
        "image" => match &request.image {
            Some(image) => Some(Source::Image { image: image.clone() }),
            None => missing("image"),
        },
        "database" => match &request.database {
            Some(body) => Some(Source::Database { kind: body.kind.clone(), version: body.version.clone() }),
            None => missing("database"),
        },
        _ => Some(Source::Upload),
    }
}

fn changed_source(old: &Source, request: &ServiceRequest, invalid: &mut Invalid) -> Source {
    let mut request = request.clone();
    let kind = wanted_kind(&request, invalid).unwrap_or_else(|| old.type_name()).to_owned();
    if kind != old.type_name() {
        return source_of(&kind, &request, invalid).unwrap_or_else(|| old.clone());
    }
    // The same kind as before: what is not given stays.
    match old {
        Source::Git { repo, reference } if request.git_repo.is_none() => {
            request.git_repo = Some(repo.clone());
            request.git_ref = request.git_ref.or_else(|| Some(reference.clone()));
        }
        _ if given(&request).is_empty() && request.git_ref.is_none() => return old.clone(),
        _ => {}
    }
    source_of(&kind, &request, invalid).unwrap_or_else(|| old.clone())
}

/// A specification that is built otherwise.
pub(super) fn built_otherwise(
    spec: ServiceSpec,
    build_strategy: Option<String>,
    build_config: Option<BuildConfigBody>,
    allow_loopback: bool,
) -> Result<ServiceSpec, Error> {
    let request = ServiceRequest { build_strategy, build_config, ..ServiceRequest::default() };
    overlay(spec, request, Invalid::default(), allow_loopback)
}

fn overlay(
    mut spec: ServiceSpec,
    request: ServiceRequest,
    mut invalid: Invalid,
    allow_loopback: bool,
) -> Result<ServiceSpec, Error> {
    let bad = &mut invalid;
    parse_into(&mut spec.build.strategy, "build_strategy", request.build_strategy.as_deref(), bad);
    parse_into(&mut spec.build.build_type, "build_type", request.build_type.as_deref(), bad);
    if let Some(config) = request.build_config {
        spec.build.config = config.into();
    }
    if let Some(resources) = request.resources {
        parse_into(&mut spec.resources.cpu, "resources.cpu", resources.cpu.as_deref(), bad);
        parse_into(&mut spec.resources.memory, "resources.memory", resources.memory.as_deref(), bad);
    }
    spec.replicas = request.replicas.unwrap_or(spec.replicas);
    if let Some(ports) = request.ports {
        spec.ports = ports.iter().enumerate().map(|(position, port)| self::port(position, port, bad)).collect();
    }
    if let Some(check) = request.health_check {
        spec.health_check = check.and_then(|check| health_check(check, bad));
    }
    if let Some(volumes) = request.volumes {
        spec.volumes = volumes.into_iter().enumerate().map(|(position, body)| volume(position, body, bad)).collect();
    }
    spec.env = request.env_vars.unwrap_or(spec.env);
    spec.depends_on = request.depends_on.unwrap_or(spec.depends_on);
    spec.constraints = request.constraints.unwrap_or(spec.constraints);
    spec.command = request.command.unwrap_or(spec.command);
    spec.exclusive = request.exclusive.unwrap_or(spec.exclusive);
    if let Err(more) = spec.check() {
        more.fields.into_iter().for_each(|(field, reason)| bad.add(field, reason));
    }
    refuse_unavailable(&spec, allow_loopback, bad);
    invalid.into_result()?;
    Ok(spec)
}

/// What the model allows and this version does not do yet, by name: better now than in the middle of a build.
fn refuse_unavailable(spec: &ServiceSpec, allow_loopback: bool, invalid: &mut Invalid) {
    let kind = spec.source.type_name();
    if !AVAILABLE_SOURCES.contains(&kind) {
        let available = AVAILABLE_SOURCES.join(", ");
        invalid.add("source_type", format!("{kind} is not available in this version; available: {available}"));
        return;
    }
    let strategy = spec.build.strategy;
    if spec.source.needs_build() && !STRATEGIES.contains(&strategy) {
        let available: Vec<&str> = STRATEGIES.iter().map(|strategy| strategy.as_str()).collect();
        let reason = format!("{strategy} is not available in this version; available: {}", available.join(", "));
        invalid.add("build_strategy", reason);
    }
    if spec.source.needs_build() && spec.build.build_type != BuildType::Oci {
        let (asked, available) = (spec.build.build_type, BuildType::Oci);
        invalid.add("build_type", format!("{asked} is not available in this version; available: {available}"));
    }
    if let Source::Git { repo, .. } = &spec.source {
        invalid.check("git_repo", check_host(repo, allow_loopback));
    }
}

fn parse_into<T: FromStr<Err = Problem>>(slot: &mut T, field: &str, text: Option<&str>, invalid: &mut Invalid) {
    match text.map(str::parse) {
        Some(Ok(value)) => *slot = value,
        Some(Err(problem)) => invalid.add(field, problem.0),
        None => {}
    }
}

fn port(position: usize, body: &PortBody, invalid: &mut Invalid) -> Port {
    let mut protocol = Protocol::Tcp;
    parse_into(&mut protocol, &format!("ports[{position}].protocol"), body.protocol.as_deref(), invalid);
    Port { container_port: body.container_port, protocol }
}

fn volume(position: usize, body: VolumeBody, invalid: &mut Invalid) -> Volume {
    let mut size = Memory::default();
    parse_into(&mut size, &format!("volumes[{position}].size"), body.size.as_deref(), invalid);
    Volume { name: body.name, path: body.path, size: body.size.map(|_| size) }
}

fn health_check(body: HealthCheckBody, invalid: &mut Invalid) -> Option<HealthCheck> {
    let inferred = match (&body.path, &body.command) {
        (_, Some(_)) => "command",
        (Some(_), None) => "http",
        (None, None) if body.kind.is_none() => {
            invalid.add("health_check.type", "must be http, tcp or command");
            return None;
        }
        (None, None) => "",
    };
    let kind = body.kind.as_deref().unwrap_or(inferred).to_owned();
    let mut stray = |field: &str, given: bool| {
        if given {
            invalid.add(format!("health_check.{field}"), format!("is not for the type {kind}"));
        }
    };
    let probe = match kind.as_str() {
        "http" => {
            stray("command", body.command.is_some());
            Probe::Http { path: body.path.unwrap_or_else(|| "/".to_owned()), port: body.port }
        }
        "tcp" => {
            stray("command", body.command.is_some());
            stray("path", body.path.is_some());
            Probe::Tcp { port: body.port }
        }
        "command" => {
            stray("path", body.path.is_some());
            stray("port", body.port.is_some());
            Probe::Command { command: body.command.unwrap_or_default() }
        }
        other => {
            invalid.add("health_check.type", format!("must be http, tcp or command, got {}", quoted(other)));
            return None;
        }
    };
    Some(HealthCheck {
        probe,
        interval_seconds: body.interval_seconds.unwrap_or(5),
        timeout_seconds: body.timeout_seconds.unwrap_or(3),
        retries: body.retries.unwrap_or(3),
    })
}
