//! Where a running node listens, for people, scripts and the command line: `endpoints.json`.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cluster::ENDPOINTS;
use crate::model::NodeId;

/// Written to `<data-dir>/endpoints.json` when the node is ready to serve, removed when it stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The node.
    pub node_id: u64,
    /// Its name; empty when an older program wrote this.
    #[serde(default)]
    pub name: String,
    /// The process.
    pub pid: u32,
    /// Base address of the API, as seen from this machine.
    pub api: String,
    /// Address for other nodes, as seen from this machine.
    pub grpc: String,
    /// Base address of the HTTP ingress, as seen from this machine; none when it is off.
    pub ingress_http: Option<String>,
}

impl Endpoints {
    /// Of the node that runs in a data folder, if one does.
    pub(super) fn of_running(folder: &Path) -> Option<Self> {
        let endpoints: Self = serde_json::from_slice(&std::fs::read(folder.join(ENDPOINTS)).ok()?).ok()?;
        Path::new(&format!("/proc/{}", endpoints.pid)).exists().then_some(endpoints)
    }

    /// Addresses as seen from this machine: one that listens everywhere is reached on loopback.
    pub(super) fn new(
        (node, name): (NodeId, &str),
        api: SocketAddr,
        grpc: SocketAddr,
        ingress: Option<SocketAddr>,
    ) -> Self {
        Self {
            node_id: node.0,
            name: name.to_owned(),
            pid: std::process::id(),
            api: base(api),
            grpc: from_here(grpc).to_string(),
            ingress_http: ingress.map(base),
        }
    }
}

fn base(address: SocketAddr) -> String {
    format!("http://{}", from_here(address))
}

fn from_here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_can_be_used_from_here() {
        let listens_everywhere = "0.0.0.0:8080".parse().expect("an address");
        let one_address = "127.0.0.2:80".parse().expect("an address");
        let endpoints =
            Endpoints::new((NodeId::FOUNDER, "n1"), listens_everywhere, listens_everywhere, Some(one_address));
        assert_eq!((endpoints.api.as_str(), endpoints.grpc.as_str()), ("http://127.0.0.1:8080", "127.0.0.1:8080"));
        assert_eq!(endpoints.ingress_http.as_deref(), Some("http://127.0.0.2:80"));
    }
}
