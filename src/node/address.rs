//! Where other nodes reach this one.
//!
//! What the operator names counts. What is left open stays as it was, since the others know it: the address is kept in
//! the data folder from start to start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use anyhow::Context;

use crate::cluster::DataDir;
use crate::config::NodeConfig;
use crate::model::peer_address;

/// File with host and port.
const FILE: &str = "address";
/// A node that nobody else was told of.
const ALONE: &str = "127.0.0.1";

/// Host and port between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Host name or address.
    pub(super) host: String,
    /// Port; 0 as long as any will do.
    pub(super) port: u16,
    /// Whether another port will do.
    pub(super) any_port: bool,
}

impl Address {
    /// From what the operator says, then what was kept, then `otherwise` for the host.
    pub(super) fn of(config: &NodeConfig, dir: &DataDir, otherwise: Option<IpAddr>) -> anyhow::Result<Self> {
        let kept = kept(dir)?;
        let (host, port) = kept.as_deref().and_then(parts).unzip();
        let any_port = config.grpc_port == 0;
        Ok(Self {
            host: config
                .advertise
                .clone()
                .or(host)
                .or_else(|| otherwise.map(|address| address.to_string()))
                .unwrap_or_else(|| ALONE.to_owned()),
            port: if any_port { port.unwrap_or(0) } else { config.grpc_port },
            any_port,
        })
    }

    /// Finds out a port that is free now, where any will do and none is known.
    pub(super) fn settle(mut self) -> anyhow::Result<Self> {
        if self.port == 0 {
            let free = TcpListener::bind((self.bind(), 0)).context("cannot find a free port for other nodes")?;
            self.port = free.local_addr()?.port();
        }
        Ok(self)
    }

    /// Keeps it for the next start.
    pub(super) fn keep(&self, dir: &DataDir) -> anyhow::Result<()> {
        let text = self.to_string();
        if dir.read(FILE)?.as_deref() != Some(text.as_bytes()) {
            dir.write(FILE, text.as_bytes())?;
        }
        Ok(())
    }

    /// Where to listen. A node whose address for others is this machine's own is reached from this machine only.
    pub(super) fn bind(&self) -> IpAddr {
        match self.host.parse::<IpAddr>() {
            Ok(own) if own.is_loopback() => own,
            _ if self.host == "localhost" => Ipv4Addr::LOCALHOST.into(),
            Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&peer_address(&self.host, self.port))
    }
}

/// Host and port of the last start.
pub(super) fn kept(dir: &DataDir) -> anyhow::Result<Option<String>> {
    Ok(dir.read(FILE)?.and_then(|text| String::from_utf8(text).ok()))
}

fn parts(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str) -> Address {
        Address { host: host.to_owned(), port: 9090, any_port: false }
    }

    #[test]
    fn a_node_that_others_cannot_reach_listens_for_nobody_else() {
        for (host, bind) in [
            ("127.0.0.1", "127.0.0.1"),
            ("localhost", "127.0.0.1"),
            ("::1", "::1"),
            ("192.0.2.7", "0.0.0.0"),
            ("2001:db8::7", "::"),
            ("node-one.example.org", "0.0.0.0"),
        ] {
            assert_eq!(address(host).bind().to_string(), bind, "{host}");
        }
    }

    #[test]
    fn what_is_written_can_be_connected_to_and_is_read_again() {
        for (host, text) in [
            ("2001:db8::7", "[2001:db8::7]:9090"),
            ("192.0.2.7", "192.0.2.7:9090"),
            ("node-one.example.org", "node-one.example.org:9090"),
        ] {
            assert_eq!(address(host).to_string(), text);
            assert_eq!(parts(text), Some((host.to_owned(), 9090)));
        }
    }
}
