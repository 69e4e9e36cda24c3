//! What an operator can set for a node, and where each value comes from: a flag, else its environment variable, else
//! the configuration file, else a default. Only `cli` and `node` know this; every other part gets small options of its
//! own.

mod unused;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::model::{
    Cpu, Memory, NEWEST_CLUSTER_VERSION, OLDEST_CLUSTER_VERSION, Secret, check_node_name, format_duration,
    parse_duration,
};

pub use unused::unused_variables;

/// Largest configuration file that is read, in bytes; a real one has a few hundred.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Shortest key for session tokens that an operator may give, in bytes (RFC 7518 section 3.2, for HS256).
const JWT_SECRET_BYTES_MIN: usize = 32;

/// The nixpkgs of generated flakes when nobody says otherwise: the newest release that is known to have all that they name.
const NIXPKGS: &str = "github:NixOS/nixpkgs/nixos-25.11";
/// Shortest silence that says something: heartbeats come ten times a second, and each may take as long.
const HEALTH_THRESHOLD_MIN: Duration = Duration::from_secs(2);

/// Flags, variables and file entries of a node, each of which may be missing.
#[derive(Args, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSettings {
    /// Folder that holds everything the node keeps [default: /var/lib/narvana as root, else ~/.local/share/narvana]
    #[arg(long, env = "NARVANA_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Name of this node for people [default: the host name]
    #[arg(long, env = "NARVANA_NODE_NAME")]
    pub name: Option<String>,
    /// Address at which users and other nodes reach this node [default: the one it had before, the one it
    /// joins from, or 127.0.0.1]
    #[arg(long, env = "NARVANA_ADVERTISE", value_name = "ADDRESS")]
    pub advertise: Option<String>,
    /// Address the API listens on [default: 0.0.0.0]
    #[arg(long, env = "API_HOST")]
    pub api_host: Option<IpAddr>,
    /// Port of the API; 0 picks a free one [default: 8080]
    #[arg(long, env = "API_PORT")]
    pub api_port: Option<u16>,
    /// Port between nodes [default: 9090]
    #[arg(long, env = "GRPC_PORT")]
    pub grpc_port: Option<u16>,
    /// Address the ingress listens on [default: 0.0.0.0]
    #[arg(long, env = "INGRESS_HOST")]
    pub ingress_host: Option<IpAddr>,
    /// Port of the HTTP ingress: a number, `off`, or `auto` for a free one [default: 80]
    #[arg(long, env = "INGRESS_HTTP_PORT", value_name = "PORT")]
    pub ingress_http_port: Option<IngressPort>,
    /// Port of the HTTPS ingress; this version has none, so only 0 is accepted
    #[arg(long, env = "INGRESS_HTTPS_PORT", value_name = "PORT")]
    pub ingress_https_port: Option<u16>,
    /// Container engine: podman, docker, or the address of a socket [default: whatever is found]
    #[arg(long, env = "NARVANA_ENGINE")]
    pub engine: Option<String>,
    /// Socket of Podman, when no engine is named
    #[arg(long, env = "PODMAN_SOCKET", hide = true)]
    pub podman_socket: Option<String>,
    /// Address of Docker, when no engine is named
    #[arg(long, env = "DOCKER_HOST", hide = true)]
    pub docker_host: Option<String>,
    /// Not used: narvana needs no database
    #[arg(long, env = "DATABASE_URL", hide = true, hide_env_values = true)]
    pub database_url: Option<String>,
    /// The user's folder for sockets
    #[arg(long, env = "XDG_RUNTIME_DIR", hide = true)]
    pub runtime_dir: Option<PathBuf>,
    /// Label of this node, for placement constraints; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE")]
    #[serde(rename = "labels")]
    pub labels: Vec<String>,
    /// Accept plain HTTP on the API port from other machines too
    #[arg(long, env = "NARVANA_ALLOW_PLAIN_HTTP", value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_plain_http: bool,
    /// Accept git repositories on loopback and link-local addresses
    #[arg(long, env = "NARVANA_ALLOW_LOOPBACK_SOURCES", value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_loopback_sources: bool,
    /// Key that signs session tokens, at least 32 bytes [default: made by init and kept in the state]
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// How long a log-in lasts [default: 24h]
    #[arg(long, env = "JWT_EXPIRY", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration_text")]
    pub jwt_expiry: Option<Duration>,
    /// Folder for sources being built [default: build/ in the data folder]
    #[arg(long, env = "WORKER_WORKDIR", value_name = "DIR")]
    pub worker_workdir: Option<PathBuf>,
    /// Builds that run at once on each node; that of the leader counts [default: 2]
    #[arg(long, env = "WORKER_MAX_CONCURRENCY")]
    pub worker_max_concurrency: Option<u32>,
    /// Longest time a build may take when its service does not say [default: 30m]
    #[arg(long, env = "BUILD_TIMEOUT", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration_text")]
    pub build_timeout: Option<Duration>,
    /// Cores that one build may use [default: all but a tenth of the machine's]
    #[arg(long, env = "BUILD_CPU")]
    #[serde(deserialize_with = "parsed_text")]
    pub build_cpu: Option<Cpu>,
    /// Memory that one build may use [default: half of the machine's]
    #[arg(long, env = "BUILD_MEMORY")]
    #[serde(deserialize_with = "parsed_text")]
    pub build_memory: Option<Memory>,
    /// Build flakes here, in a fence: whoever may deploy is trusted with this machine's networks and its Nix store
    #[arg(long, env = "NARVANA_TRUST_FLAKES", value_parser = clap::builder::FalseyValueParser::new())]
    pub trust_flakes: bool,
    /// Caches that Nix fetches from, separated by spaces; none when empty [default: as Nix is configured]
    #[arg(long, env = "NARVANA_NIX_SUBSTITUTERS", value_name = "URLS")]
    pub nix_substituters: Option<String>,
    /// The nixpkgs that generated flakes take their tools from, as a reference to a flake that build logs show [default: github:NixOS/nixpkgs/nixos-25.11]
    #[arg(long, env = "NARVANA_NIXPKGS", value_name = "FLAKE")]
    pub nixpkgs: Option<String>,
    /// How long a deployment may wait for room or for its dependencies [default: 30m]
    #[arg(long, env = "SCHEDULER_DEPLOYMENT_TIMEOUT", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration_text")]
    pub scheduler_deployment_timeout: Option<Duration>,
    /// Failed starts of one replica after which a deployment has failed [default: 2]
    #[arg(long, env = "SCHEDULER_MAX_RETRIES")]
    pub scheduler_max_retries: Option<u32>,
    /// How long a node may be silent before its work goes elsewhere; at least 2s [default: 6s]
    #[arg(long, env = "SCHEDULER_HEALTH_THRESHOLD", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration_text")]
    pub scheduler_health_threshold: Option<Duration>,
    /// How long stopping the node may take [default: 30s]
    #[arg(long, env = "SHUTDOWN_TIMEOUT", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration_text")]
    pub shutdown_timeout: Option<Duration>,
}

/// Where the ingress listens. `0` turns it off, as the interface says; `auto` picks a free port, so that several nodes
/// fit on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PortText")]
pub enum IngressPort {
    /// No ingress.
    Off,
    /// A free port.
    Auto,
    /// This one.
    Fixed(u16),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PortText {
    Number(u16),
    Text(String),
}

impl TryFrom<PortText> for IngressPort {
    type Error = String;
    fn try_from(text: PortText) -> Result<Self, String> {
        match text {
            PortText::Number(number) => number.to_string().parse(),
            PortText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for IngressPort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" | "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Fixed).map_err(|_| format!("must be a port, `off` or `auto`, got {text:?}")),
        }
    }
}

/// Whether something names an engine, or where one listens.
fn is_engine(text: &str) -> bool {
    matches!(text, "podman" | "docker")
        || ["/", "unix://", "tcp://", "http://", "https://"].iter().any(|beginning| text.starts_with(beginning))
}

fn duration_text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| parse_duration(&text).map_err(serde::de::Error::custom)).transpose()
}

fn parsed_text<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// What a node runs with: every value settled.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Folder that holds everything the node keeps.
    pub data_dir: PathBuf,
    /// Name for people.
    pub name: String,
    /// Address at which it is reached, without port, if the operator named one.
    pub advertise: Option<String>,
    /// Where the API listens.
    pub api: (IpAddr, u16),
    /// Port between nodes; 0 for the one it had before, or any.
    pub grpc_port: u16,
    /// Address the ingress listens on.
    pub ingress_host: IpAddr,
    /// Port the ingress listens on.
    pub ingress_http_port: IngressPort,
    /// Named engine.
    pub engine: Option<String>,
    /// Podman's socket.
    pub podman_socket: Option<String>,
    /// Docker's address.
    pub docker_host: Option<String>,
    /// Where the user's own Podman listens: `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Plain HTTP from other machines.
    pub allow_plain_http: bool,
    /// Sources on loopback.
    pub allow_loopback_sources: bool,
    /// The operator's own key for tokens.
    pub jwt_secret: Option<Secret>,
    /// How long a log-in lasts.
    pub jwt_expiry: Duration,
    /// Folder for sources being built.
    pub build_dir: PathBuf,
    /// Builds at once.
    pub builds_max: u32,
    /// Longest build.
    pub build_timeout: Duration,
    /// Cores of one build; decided from the machine when absent.
    pub build_cpu: Option<Cpu>,
    /// Memory of one build; decided from the machine when absent.
    pub build_memory: Option<Memory>,
    /// Flakes are built here.
    pub trust_flakes: bool,
    /// Caches that Nix fetches from; those of its own configuration when absent.
    pub nix_substituters: Option<String>,
    /// The nixpkgs of generated flakes.
    pub nixpkgs: String,
    /// Longest wait of a deployment.
    pub deployment_timeout: Duration,
    /// Failed starts of one replica that fail a deployment.
    pub rollout_attempts: u32,
    /// How long a node may be silent before its work goes elsewhere.
    pub health_threshold: Duration,
    /// Longest stop.
    pub shutdown_timeout: Duration,
}

/// A value that cannot be used, by the name of its flag.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A value is not acceptable.
    #[error("--{flag}: {reason}")]
    Value {
        /// Which flag.
        flag: &'static str,
        /// Why.
        reason: String,
    },
}

impl NodeSettings {
    /// Reads a TOML file with the same names as the flags, with `_` for `-`.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let bad = |reason: String| Error::File { path: path.to_owned(), reason };
        let file = std::fs::File::open(path).map_err(|error| bad(error.to_string()))?;
        let mut text = String::new();
        // One byte more tells a file that is too long from one that just fits.
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| bad(error.to_string()))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(bad(format!("it is larger than {FILE_BYTES_MAX} bytes; is it the right file?")));
        }
        toml::from_str(&text).map_err(|error| bad(error.to_string()))
    }

    /// Settles every value: `self` first, then `file`, then the default.
    pub fn settle(self, file: Self, host_name: &str, default_data_dir: PathBuf) -> Result<NodeConfig, Error> {
        let data_dir = self.data_dir.or(file.data_dir).unwrap_or(default_data_dir);
        if self.ingress_https_port.or(file.ingress_https_port).is_some_and(|port| port != 0) {
            return Err(Error::Value {
                flag: "ingress-https-port",
                reason: "this version has no HTTPS ingress; leave it out or set it to 0".to_owned(),
            });
        }
        let name = self.name.or(file.name);
        let (name, whose) = match name {
            Some(name) => (name, ""),
            None => (host_name.to_owned(), "give one, since the name of this machine is none for a node: it "),
        };
        check_node_name(&name).map_err(|problem| Error::Value { flag: "name", reason: format!("{whose}{problem}") })?;
        let jwt_secret = self.jwt_secret.or(file.jwt_secret);
        if jwt_secret.as_ref().is_some_and(|secret| secret.len() < JWT_SECRET_BYTES_MIN) {
            return Err(Error::Value {
                flag: "jwt-secret",
                reason: format!("must have at least {JWT_SECRET_BYTES_MIN} bytes"),
            });
        }
        let builds_max = self.worker_max_concurrency.or(file.worker_max_concurrency).unwrap_or(2);
        if builds_max == 0 {
            let reason = "must be at least 1: a cluster that builds nothing is one without builders".to_owned();
            return Err(Error::Value { flag: "worker-max-concurrency", reason });
        }
        let nixpkgs = self.nixpkgs.or(file.nixpkgs).unwrap_or_else(|| NIXPKGS.to_owned());
        if nixpkgs.contains('@') || nixpkgs.contains("token") {
            let reason = "must hold no name or token, since build logs show it".to_owned();
            return Err(Error::Value { flag: "nixpkgs", reason });
        }
        let engine = self.engine.or(file.engine);
        if let Some(engine) = engine.as_deref().filter(|engine| !is_engine(engine)) {
            let reason = format!(
                "must be podman, docker, or the address of a socket (unix://…, tcp://…, a path), got {engine:?}"
            );
            return Err(Error::Value { flag: "engine", reason });
        }
        let health_threshold = self.scheduler_health_threshold.or(file.scheduler_health_threshold);
        let health_threshold = health_threshold.unwrap_or(Duration::from_secs(6));
        if health_threshold < HEALTH_THRESHOLD_MIN {
            let reason = "must be at least 2s: members are heard several times in that time".to_owned();
            return Err(Error::Value { flag: "scheduler-health-threshold", reason });
        }
        let rollout_attempts = self.scheduler_max_retries.or(file.scheduler_max_retries).unwrap_or(2).max(1);
        Ok(NodeConfig {
            name,
            advertise: self.advertise.or(file.advertise).map(advertise).transpose()?,
            api: (
                self.api_host.or(file.api_host).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                self.api_port.or(file.api_port).unwrap_or(8080),
            ),
            grpc_port: self.grpc_port.or(file.grpc_port).unwrap_or(9090),
            ingress_host: self.ingress_host.or(file.ingress_host).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            ingress_http_port: self.ingress_http_port.or(file.ingress_http_port).unwrap_or(IngressPort::Fixed(80)),
            engine,
            podman_socket: self.podman_socket.or(file.podman_socket),
            docker_host: self.docker_host.or(file.docker_host),
            runtime_dir: self.runtime_dir.or(file.runtime_dir),
            labels: labels(self.labels.iter().chain(&file.labels))?,
            allow_plain_http: self.allow_plain_http || file.allow_plain_http,
            allow_loopback_sources: self.allow_loopback_sources || file.allow_loopback_sources,
            jwt_secret: jwt_secret.map(Secret::new),
            jwt_expiry: self.jwt_expiry.or(file.jwt_expiry).unwrap_or(Duration::from_secs(24 * 3_600)),
            build_dir: self.worker_workdir.or(file.worker_workdir).unwrap_or_else(|| data_dir.join("build")),
            builds_max,
            build_timeout: self.build_timeout.or(file.build_timeout).unwrap_or(Duration::from_secs(30 * 60)),
            build_cpu: self.build_cpu.or(file.build_cpu),
            build_memory: self.build_memory.or(file.build_memory),
            trust_flakes: self.trust_flakes || file.trust_flakes,
            nix_substituters: self.nix_substituters.or(file.nix_substituters),
            nixpkgs,
            deployment_timeout: self
                .scheduler_deployment_timeout
                .or(file.scheduler_deployment_timeout)
                .unwrap_or(Duration::from_secs(30 * 60)),
            rollout_attempts,
            health_threshold,
            shutdown_timeout: self.shutdown_timeout.or(file.shutdown_timeout).unwrap_or(Duration::from_secs(30)),
            data_dir,
        })
    }
}

/// A host name or an address at which somebody can be reached, without scheme and port.
fn advertise(text: String) -> Result<String, Error> {
    let refused = |reason| Err(Error::Value { flag: "advertise", reason });
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() || address.is_multicast() => {
            refused(format!("nobody is reached at {address}; name an address or a host name of this machine"))
        }
        Ok(_) => Ok(text),
        Err(_) if matches!(url::Host::parse(&text), Ok(url::Host::Domain(_))) => Ok(text),
        Err(_) => refused(format!("must be a host name or an IP address, without scheme and port, got {text:?}")),
    }
}

fn labels<'a>(texts: impl Iterator<Item = &'a String>) -> Result<BTreeMap<String, String>, Error> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let Some((key, value)) = text.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty())
        else {
            return Err(Error::Value { flag: "label", reason: format!("must be key=value, got {text:?}") });
        };
        // Flags come first and win over the file.
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    Ok(labels)
}

impl NodeConfig {
    /// What was settled, for the log. Holds no secret.
    pub fn summary(&self) -> String {
        format!(
            "data folder {}, API {}:{}, builds at once {}, build limit {}",
            self.data_dir.display(),
            self.api.0,
            self.api.1,
            self.builds_max,
            format_duration(self.build_timeout)
        )
    }
}

/// The versions of a cluster that this program supports. A debug build can be made to stand for an older program: it then
/// decodes, writes and says of itself what that one would.
pub fn cluster_versions() -> RangeInclusive<u32> {
    static NEWEST: OnceLock<u32> = OnceLock::new();
    let newest = *NEWEST.get_or_init(|| {
        let older = test_setting("NARVANA_CLUSTER_VERSION_MAX").and_then(|text| text.parse().ok());
        older.unwrap_or(NEWEST_CLUSTER_VERSION).clamp(OLDEST_CLUSTER_VERSION, NEWEST_CLUSTER_VERSION)
    });
    OLDEST_CLUSTER_VERSION..=newest
}

/// A variable that only debug builds look at, for tests against the program as a process.
pub fn test_setting(name: &str) -> Option<String> {
    if cfg!(debug_assertions) { std::env::var_os(name)?.into_string().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(settings: NodeSettings, file: &str) -> Result<NodeConfig, Error> {
        let file: NodeSettings = toml::from_str(file).expect("a valid file");
        settings.settle(file, "host", PathBuf::from("/var/lib/narvana"))
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let flags = NodeSettings { api_port: Some(1), labels: vec!["disk=ssd".into()], ..NodeSettings::default() };
        let config = settle(flags, "api_port = 2\ngrpc_port = 3\nlabels = [\"disk=hdd\", \"zone=a\"]\nbuild_timeout = \"5m\"\nbuild_memory = \"1Gi\"")
            .expect("valid");
        assert_eq!((config.api.1, config.grpc_port), (1, 3));
        assert_eq!(config.labels["disk"], "ssd");
        assert_eq!(config.labels["zone"], "a");
        assert_eq!(config.build_timeout, Duration::from_secs(300));
        assert_eq!(config.build_memory, Some(Memory::from_mebibytes(1_024)));
        assert_eq!(config.name, "host");
        assert_eq!(config.build_dir, PathBuf::from("/var/lib/narvana/build"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (settings, flag) in [
            (NodeSettings { ingress_https_port: Some(443), ..NodeSettings::default() }, "--ingress-https-port"),
            (NodeSettings { jwt_secret: Some("short".into()), ..NodeSettings::default() }, "--jwt-secret"),
            (NodeSettings { labels: vec!["x".into()], ..NodeSettings::default() }, "--label"),
            (NodeSettings { advertise: Some("::".into()), ..NodeSettings::default() }, "--advertise"),
            (
                NodeSettings {
                    scheduler_health_threshold: Some(Duration::from_millis(1_900)),
                    ..NodeSettings::default()
                },
                "--scheduler-health-threshold",
            ),
            (NodeSettings { advertise: Some("n1:9090".into()), ..NodeSettings::default() }, "--advertise"),
            (NodeSettings { name: Some("Bad Name".into()), ..NodeSettings::default() }, "--name: must be 1 to 64"),
        ] {
            let error = settle(settings, "").expect_err("refused");
            assert!(error.to_string().starts_with(flag), "{error}");
        }
        let nameless = NodeSettings::default().settle(NodeSettings::default(), "(none)", PathBuf::from("/"));
        assert!(nameless.expect_err("refused").to_string().contains("give one"), "a machine may have an odd name");
        assert!(toml::from_str::<NodeSettings>("api_prot = 1").is_err(), "unknown names are refused");
    }

    #[test]
    fn addresses_to_be_reached_at() {
        for good in ["127.0.0.1", "fd00::1", "n1", "n1.example.org"] {
            assert_eq!(advertise(good.to_owned()).expect("taken"), good);
        }
        for bad in ["", "0.0.0.0", "::", "224.0.0.1", "http://n1", "n1:9090", "a b", "[::1]", "0", "0x7f.1", "a\nb"] {
            assert!(advertise(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ingress_ports() {
        assert_eq!("0".parse(), Ok(IngressPort::Off));
        assert_eq!("auto".parse(), Ok(IngressPort::Auto));
        assert_eq!("8081".parse(), Ok(IngressPort::Fixed(8081)));
        assert!("x".parse::<IngressPort>().is_err());
    }
}
