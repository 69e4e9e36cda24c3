//! Nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Cpu, Incarnation, Memory, NodeId, Timestamp};

/// A member of the cluster, as it described itself at its last start. Samples of load never come here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Identity.
    pub id: NodeId,
    /// Name for people; the host name unless chosen.
    pub name: String,
    /// Address that other nodes and users reach it at, without port.
    pub address: String,
    /// Port of the API.
    pub api_port: u16,
    /// Port between nodes.
    pub grpc_port: u16,
    /// Port of the plain HTTP ingress; 0 when off.
    pub ingress_http_port: u16,
    /// Processor architecture as container images name it: `amd64`, `arm64`.
    pub arch: String,
    /// Version of the program.
    pub version: String,
    /// The newest version of a cluster that this program supports.
    pub cluster_version_max: u32,
    /// The container engine that was found (`podman 4.3.1`), or why there is none.
    pub engine: Result<String, String>,
    /// What it has in all.
    pub resources: NodeResources,
    /// Free labels, for constraints: those that it was started with, under what was changed since.
    pub labels: BTreeMap<String, String>,
    /// What operators changed of its labels: the new value, or nothing for one that was taken away. Outlives its restarts.
    pub label_changes: BTreeMap<String, Option<String>>,
    /// Takes no new instances when set.
    pub cordoned: bool,
    /// That what runs there is to go elsewhere. Only ever set when `cordoned` is.
    pub drain: Option<Drain>,
    /// Which run of its process this is. Work leased to an older one is lost.
    pub incarnation: Incarnation,
    /// When it became a member.
    pub joined_at: Timestamp,
    /// When this run began.
    pub started_at: Timestamp,
}

/// That a node is to be emptied, and what may be stopped for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When that was asked for first.
    pub since: Timestamp,
    /// Exclusive services are stopped, and started elsewhere once they have ended.
    pub stop_exclusive: bool,
    /// Services with volumes are stopped, and wait for the node, since their data is there.
    pub stop_volumes: bool,
}

/// Node label that names a zone: what may fail together.
const ZONE_LABEL: &str = "zone";

impl Node {
    /// Host and port as other nodes connect to it.
    pub fn peer_address(&self) -> String {
        peer_address(&self.address, self.grpc_port)
    }

    /// Whether it has a label that a service asks for as `key=value`.
    pub fn has_label(&self, constraint: &str) -> bool {
        let wanted = constraint.split_once('=');
        wanted.is_some_and(|(key, value)| self.labels.get(key).is_some_and(|actual| actual == value))
    }

    /// The zone that its operator named; empty when none.
    pub fn zone(&self) -> &str {
        self.labels.get(ZONE_LABEL).map_or("", String::as_str)
    }
}

/// A host and a port in one, as a connection is made to them: an IPv6 address stands in brackets.
pub fn peer_address(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// What a machine has in all, before reservations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeResources {
    /// Cores.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Disk under the data folder.
    pub disk: Memory,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_for_others_can_be_connected_to() {
        assert_eq!(peer_address("2001:db8::7", 9090), "[2001:db8::7]:9090");
        assert_eq!(peer_address("192.0.2.7", 9090), "192.0.2.7:9090");
        assert_eq!(peer_address("node-one.example.org", 1), "node-one.example.org:1");
    }
}
