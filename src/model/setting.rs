//! Settings of the cluster, by the names of the original.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Cpu, Memory, OLDEST_CLUSTER_VERSION, Problem, check_domain, check_nixpkgs, parse_duration, quoted};

/// One setting that differs from its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Which.
    pub key: SettingKey,
    /// Its value as text, checked by [`SettingKey::check`].
    pub value: String,
}

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SettingKey {
    /// Domain under which every service gets a host name.
    ServerDomain,
    /// Address users point their DNS at.
    PublicIp,
    /// CPU of a service that asks for none.
    DefaultResourceCpu,
    /// Memory of a service that asks for none.
    DefaultResourceMemory,
    /// Most services in one app.
    MaxServicesPerApp,
    /// How long finished deployments are kept.
    CleanupDeploymentRetention,
    /// How many deployments of a service are kept whatever their age.
    CleanupMinDeploymentsKept,
    /// How large the replicated state may become before changes that make it grow are refused.
    MaxStateSize,
    /// The nixpkgs of generated flakes; that of the node that builds when empty.
    Nixpkgs,
}

/// Below this not even an idle cluster's own records fit.
const STATE_SIZE_MIN: Memory = Memory::from_mebibytes(1);
/// Every node holds the state in memory, in several times this size.
const STATE_SIZE_MAX: Memory = Memory::from_mebibytes(16 * 1024);

impl SettingKey {
    /// All keys, in the order they are listed.
    pub const ALL: [Self; 9] = [
        Self::ServerDomain,
        Self::PublicIp,
        Self::DefaultResourceCpu,
        Self::DefaultResourceMemory,
        Self::MaxServicesPerApp,
        Self::CleanupDeploymentRetention,
        Self::CleanupMinDeploymentsKept,
        Self::MaxStateSize,
        Self::Nixpkgs,
    ];

    /// The version of the cluster that it came with.
    pub fn since(self) -> u32 {
        if self == Self::Nixpkgs { 6 } else { OLDEST_CLUSTER_VERSION }
    }

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServerDomain => "server_domain",
            Self::PublicIp => "public_ip",
            Self::DefaultResourceCpu => "default_resource_cpu",
            Self::DefaultResourceMemory => "default_resource_memory",
            Self::MaxServicesPerApp => "max_services_per_app",
            Self::CleanupDeploymentRetention => "cleanup_deployment_retention",
            Self::CleanupMinDeploymentsKept => "cleanup_min_deployments_kept",
            Self::MaxStateSize => "max_state_size",
            Self::Nixpkgs => "nixpkgs",
        }
    }

    /// The value while nobody has set one.
    pub fn default_value(self) -> &'static str {
        match self {
            Self::ServerDomain => "localhost",
            Self::PublicIp | Self::Nixpkgs => "",
            Self::DefaultResourceCpu => "0.5",
            Self::DefaultResourceMemory => "512Mi",
            Self::MaxServicesPerApp => "50",
            Self::CleanupDeploymentRetention => "30d",
            Self::CleanupMinDeploymentsKept => "5",
            Self::MaxStateSize => "128Mi",
        }
    }

    /// Whether a text is a value for this key.
    pub fn check(self, value: &str) -> Result<(), Problem> {
        match self {
            Self::ServerDomain if value == "localhost" => Ok(()),
            Self::ServerDomain => check_domain(value),
            Self::PublicIp | Self::Nixpkgs if value.is_empty() => Ok(()),
            Self::Nixpkgs => check_nixpkgs(value),
            Self::PublicIp => value
                .parse::<std::net::IpAddr>()
                .map(|_| ())
                .map_err(|_| Problem::new(format!("must be an IP address, got {}", quoted(value)))),
            Self::DefaultResourceCpu => value.parse::<Cpu>().map(|_| ()),
            Self::DefaultResourceMemory => value.parse::<Memory>().map(|_| ()),
            Self::MaxStateSize => match value.parse::<Memory>()? {
                size if (STATE_SIZE_MIN..=STATE_SIZE_MAX).contains(&size) => Ok(()),
                _ => Err(Problem::new(format!("must be from {STATE_SIZE_MIN} to {STATE_SIZE_MAX}, got {value:?}"))),
            },
            Self::CleanupDeploymentRetention => match parse_duration(value)? {
                std::time::Duration::ZERO => Err(Problem::new("must be longer than zero")),
                _ => Ok(()),
            },
            Self::MaxServicesPerApp | Self::CleanupMinDeploymentsKept => match value.parse::<u32>() {
                Ok(1..=10_000) => Ok(()),
                _ => Err(Problem::new(format!("must be a number from 1 to 10000, got {}", quoted(value)))),
            },
        }
    }
}

impl fmt::Display for SettingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SettingKey {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        Self::ALL.into_iter().find(|key| key.as_str() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.into_iter().map(Self::as_str).collect();
            Problem::new(format!("is not a setting; settings are {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_names_round_trip() {
        for key in SettingKey::ALL {
            assert_eq!(key.check(key.default_value()), Ok(()), "{key}");
            assert_eq!(key.as_str().parse(), Ok(key));
        }
        assert!("nope".parse::<SettingKey>().is_err());
    }

    #[test]
    fn bad_values_are_refused() {
        for (key, value) in [
            (SettingKey::ServerDomain, "not a domain"),
            (SettingKey::PublicIp, "example.org"),
            (SettingKey::DefaultResourceCpu, "lots"),
            (SettingKey::MaxServicesPerApp, "0"),
            (SettingKey::CleanupDeploymentRetention, "0s"),
            (SettingKey::CleanupMinDeploymentsKept, "-1"),
            (SettingKey::MaxStateSize, "256"),
            (SettingKey::MaxStateSize, "1023Ki"),
            (SettingKey::MaxStateSize, "17Gi"),
        ] {
            assert!(key.check(value).is_err(), "{key} = {value:?}");
        }
    }
}
