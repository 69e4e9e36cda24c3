//! Services: what an app is made of, and what makes a specification valid.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::word::word_enum;
use super::{
    AppId, BuildSpec, Cpu, DeploymentId, HealthCheck, Invalid, Memory, ServiceId, Source, SourceId, Timestamp,
    check_env, check_service_name,
};

/// Most replicas of one service.
const REPLICAS_MAX: u32 = 1_000;
/// Most ports, volumes, constraints and command words of one service.
const LIST_MAX: usize = 64;
/// Longest command word, path or constraint, in bytes.
const WORD_BYTES_MAX: usize = 4_096;
/// Names and values of all environment variables of one service. They can be added one by one, every deployment holds a
/// copy, and a specification with them must still fit one entry of the log.
const ENV_BYTES_MAX: usize = 512 * 1024;

/// The part of a container's own loopback network at whose addresses it finds services of its app that run on other nodes:
/// the network and the bits of its prefix. Programs listen on all of 127.0.0.1 themselves, and hardly ever here.
pub const RELAY_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 64, 0, 0), 10);

/// Environment variables by name.
pub type EnvVars = BTreeMap<String, String>;

/// A part of an app that is deployed on its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Identity.
    pub id: ServiceId,
    /// The app it belongs to.
    pub app: AppId,
    /// Unique in its app; a DNS label.
    pub name: String,
    /// First label of its host name below the server domain, unique in the cluster: `<service>-<app>`, with a suffix
    /// when another service has that already.
    pub host_label: String,
    /// What is wanted; takes effect with the next deployment, but for `replicas`, which take effect at once.
    pub spec: ServiceSpec,
    /// Whether it should run at all.
    pub desired: Desired,
    /// The source that the next deployment uses, when the source is an upload.
    pub source: Option<SourceId>,
    /// Number of the last deployment made; 0 before the first.
    pub last_version: u64,
    /// The deployment that serves.
    pub serving: Option<DeploymentId>,
    /// Raised by each change.
    pub generation: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// Whether a service should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    /// It should.
    Running,
    /// A user stopped it.
    Stopped,
}

/// What a user wants of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Where it comes from.
    pub source: Source,
    /// How its artifact is made.
    pub build: BuildSpec,
    /// What each replica may use.
    pub resources: Resources,
    /// How many instances.
    pub replicas: u32,
    /// What it listens on; the first one is where the ingress sends requests.
    pub ports: Vec<Port>,
    /// How to tell that it works.
    pub health_check: Option<HealthCheck>,
    /// Environment variables.
    pub env: EnvVars,
    /// Services of the same app that must run before it starts.
    pub depends_on: BTreeSet<String>,
    /// Storage that outlives its instances.
    pub volumes: Vec<Volume>,
    /// Node labels that a node must have, `key=value`.
    pub constraints: Vec<String>,
    /// Command instead of the image's own; empty for that.
    pub command: Vec<String>,
    /// That it must never run twice at the same time, on any two nodes.
    pub exclusive: bool,
}

word_enum! {
    /// Transport of a port.
    Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

/// What each replica may use at most, and what is reserved for it on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Cores.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
}

/// One port a service listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The port inside its containers.
    pub container_port: u16,
    /// Its transport.
    pub protocol: Protocol,
}

/// Storage of a service that outlives its instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Unique in its service; a DNS label.
    pub name: String,
    /// Where it is seen in the container.
    pub path: String,
    /// How much it is meant to hold. A note for people: nothing reserves or enforces it.
    pub size: Option<Memory>,
}

impl ServiceSpec {
    /// Whether there must never be two instances of it at the same time, wherever: it is stopped before it is replaced, and
    /// a node that is cut off stops it before a replacement may start elsewhere.
    pub fn runs_alone(&self) -> bool {
        self.exclusive || !self.volumes.is_empty()
    }

    /// Why that is so, in words that can follow a colon.
    pub fn alone_because(&self) -> &'static str {
        if self.volumes.is_empty() { "it is exclusive" } else { "its volumes are for one at a time" }
    }

    /// Every rule of a specification that needs nothing but itself.
    pub fn check(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        self.source.check(&mut invalid);
        self.build.check(&self.source, &mut invalid);
        if self.replicas > REPLICAS_MAX {
            invalid.add("replicas", format!("must be at most {REPLICAS_MAX}, got {}", self.replicas));
        }
        if self.resources.cpu.millis == 0 {
            invalid.add("resources.cpu", "must be more than 0");
        }
        if self.resources.memory.bytes < 4 << 20 {
            invalid.add("resources.memory", "must be at least 4Mi");
        }
        self.check_ports(&mut invalid);
        if let Some(check) = &self.health_check {
            check.check(&self.ports, &mut invalid);
        }
        for (key, value) in &self.env {
            invalid.check(format!("env_vars.{key}"), check_env(key, value));
        }
        let env_bytes: usize = self.env.iter().map(|(key, value)| key.len() + value.len()).sum();
        if env_bytes > ENV_BYTES_MAX {
            invalid.add("env_vars", format!("must have at most {} KiB together", ENV_BYTES_MAX >> 10));
        }
        self.check_volumes(&mut invalid);
        if self.exclusive && self.replicas > 1 {
            invalid.add("replicas", "an exclusive service has one replica, since it must never run twice");
        }
        for (position, constraint) in self.constraints.iter().enumerate() {
            let parts_ok = constraint.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty());
            if !parts_ok || constraint.len() > WORD_BYTES_MAX {
                invalid.add(format!("constraints[{position}]"), "must be a node label as key=value");
            }
        }
        check_words("command", &self.command, &mut invalid);
        if self.constraints.len() > LIST_MAX {
            invalid.add("constraints", format!("must have at most {LIST_MAX} entries"));
        }
        invalid.into_result()
    }

    fn check_ports(&self, invalid: &mut Invalid) {
        if self.ports.len() > LIST_MAX {
            invalid.add("ports", format!("must have at most {LIST_MAX} entries"));
        }
        for (position, port) in self.ports.iter().enumerate() {
            if port.container_port == 0 {
                invalid.add(format!("ports[{position}].container_port"), "must be from 1 to 65535");
            }
            if self.ports[..position].contains(port) {
                invalid.add(format!("ports[{position}]"), "is listed twice");
            }
        }
    }

    fn check_volumes(&self, invalid: &mut Invalid) {
        if self.volumes.len() > LIST_MAX {
            invalid.add("volumes", format!("must have at most {LIST_MAX} entries"));
        }
        for (position, volume) in self.volumes.iter().enumerate() {
            invalid.check(format!("volumes[{position}].name"), check_service_name(&volume.name));
            let inner = volume.path.strip_prefix('/').unwrap_or_default();
            if !is_inner_path(inner) || volume.path.contains(':') {
                invalid
                    .add(format!("volumes[{position}].path"), "must be an absolute path other than '/', without '..'");
            }
            let earlier = &self.volumes[..position];
            if earlier.iter().any(|other| other.name == volume.name || other.path == volume.path) {
                invalid.add(format!("volumes[{position}]"), "has the name or path of another one");
            }
        }
        if !self.volumes.is_empty() && self.replicas > 1 {
            invalid.add("replicas", "a service with volumes has one replica, since its volumes are on one node");
        }
    }
}

/// Words of an argument vector.
pub(super) fn check_words(field: &str, words: &[String], invalid: &mut Invalid) {
    let word_ok = |word: &String| word.len() <= WORD_BYTES_MAX && !word.contains('\0');
    if words.len() > LIST_MAX || !words.iter().all(word_ok) {
        invalid.add(
            field,
            format!("must have at most {LIST_MAX} words of at most {WORD_BYTES_MAX} bytes, without NUL bytes"),
        );
    }
}

/// A relative path that stays inside whatever it is joined to.
pub(super) fn is_inner_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= WORD_BYTES_MAX
        && !path.chars().any(|c| c.is_control() || c == '\\')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BuildConfig, BuildStrategy, BuildType, Probe};

    fn spec() -> ServiceSpec {
        ServiceSpec {
            source: Source::Upload,
            build: BuildSpec {
                strategy: BuildStrategy::Dockerfile,
                build_type: BuildType::Oci,
                config: BuildConfig::default(),
            },
            resources: Resources { cpu: Cpu::from_millis(500), memory: Memory::from_mebibytes(512) },
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

    #[track_caller]
    fn refused(field: &str, change: impl FnOnce(&mut ServiceSpec)) {
        let mut spec = spec();
        change(&mut spec);
        let invalid = spec.check().expect_err("must be refused");
        assert!(invalid.fields.contains_key(field), "{field} in {invalid}");
    }

    #[test]
    fn a_plain_specification_is_valid() {
        assert_eq!(spec().check(), Ok(()));
    }

    #[test]
    fn each_rule_names_its_field() {
        refused("replicas", |s| s.replicas = 1_001);
        refused("resources.cpu", |s| s.resources.cpu.millis = 0);
        refused("resources.memory", |s| s.resources.memory.bytes = 1);
        refused("ports[0].container_port", |s| s.ports[0].container_port = 0);
        refused("ports[1]", |s| s.ports.push(s.ports[0]));
        refused("env_vars.A B", |s| drop(s.env.insert("A B".into(), String::new())));
        refused("build_type", |s| s.build.build_type = BuildType::PureNix);
        refused("build_config.dockerfile", |s| s.build.config.dockerfile = Some("../../Dockerfile".into()));
        refused("build_config.root_directory", |s| s.build.config.root_directory = Some("/abs".into()));
        refused("build_config.build_timeout", |s| s.build.config.build_timeout_seconds = Some(0));
        refused("constraints[0]", |s| s.constraints.push("ssd".into()));
        refused("git_repo", |s| s.source = Source::Git { repo: "x".into(), reference: String::new() });
        refused("image", |s| s.source = Source::Image { image: "-v/:/h".into() });
        refused("command", |s| s.command.push("a\0b".into()));
        let volume = Volume { name: "data".into(), path: "/data".into(), size: None };
        refused("volumes[0].path", |s| s.volumes.push(Volume { path: "/a/../b".into(), ..volume.clone() }));
        refused("volumes[1]", |s| s.volumes = vec![volume.clone(), volume.clone()]);
        refused("replicas", |s| {
            s.volumes = vec![volume.clone()];
            s.replicas = 2;
        });
        refused("replicas", |s| {
            s.exclusive = true;
            s.replicas = 2;
        });
    }

    #[test]
    fn health_checks() {
        let check = |probe| HealthCheck { probe, interval_seconds: 5, timeout_seconds: 2, retries: 3 };
        refused("health_check.path", |s| {
            s.health_check = Some(check(Probe::Http { path: "health".into(), port: None }));
        });
        refused("health_check.port", |s| s.health_check = Some(check(Probe::Tcp { port: Some(1) })));
        refused("health_check.command", |s| s.health_check = Some(check(Probe::Command { command: vec![] })));
        refused("health_check.port", |s| {
            s.ports.clear();
            s.health_check = Some(check(Probe::Tcp { port: None }));
        });
        refused("health_check.retries", |s| {
            s.health_check = Some(HealthCheck { retries: 0, ..check(Probe::Tcp { port: None }) });
        });
    }
}
