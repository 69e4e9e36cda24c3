//! What a node looks at before it joins: everything that would make it a bad member, found while nothing has happened yet.

use std::net::{IpAddr, TcpListener};

use crate::config::{IngressPort, NodeConfig};
use crate::engine;
use crate::rpc::Door;

use super::address::Address;
use super::checkup::{Check, Checkup, FREE_DATA, Verdict, clock, container_engine, disk_space, disk_speed, member};
use super::holders::Process;

/// Looks at everything. `door` is the member that will let this node in.
pub(super) async fn look(config: &NodeConfig, address: &Address, door: &Door, engine: engine::Options) -> Checkup {
    let (disk, engine) = tokio::join!(disk_speed(&config.data_dir), container_engine(engine));
    Checkup(vec![
        member(door),
        clock(door.clock_ahead_ms),
        reachable(address, door),
        ports(config, (address.bind(), address.port)),
        disk,
        disk_space("free space", &config.data_dir, FREE_DATA),
        engine,
    ])
}

/// Others connect to this node too.
fn reachable(address: &Address, door: &Door) -> Check {
    let own = address.host.parse::<IpAddr>().is_ok_and(|own| own.is_loopback()) || address.host == "localhost";
    let verdict = match own && !door.from.is_loopback() {
        true => {
            Verdict::Bad("other machines cannot reach that; name this machine's address with --advertise".to_owned())
        }
        false => Verdict::Good,
    };
    Check { what: "address for others", found: address.to_string(), verdict }
}

pub(super) fn ports(config: &NodeConfig, peers: (IpAddr, u16)) -> Check {
    let ingress = match config.ingress_http_port {
        IngressPort::Fixed(port) => Some((config.ingress_host, port, "--ingress-http-port")),
        IngressPort::Off | IngressPort::Auto => None,
    };
    let wanted = [Some((config.api.0, config.api.1, "--api-port")), Some((peers.0, peers.1, "--grpc-port")), ingress];
    let wanted: Vec<_> = wanted.into_iter().flatten().filter(|(_, port, _)| *port != 0).collect();
    let taken = wanted.iter().filter_map(|(host, port, flag)| {
        let error = TcpListener::bind((*host, *port)).err()?;
        Some(taken_port(*port, &error.to_string(), Process::listening_on(*port).as_ref(), flag))
    });
    let taken: Vec<String> = taken.collect();
    let names: Vec<String> = wanted.iter().map(|(_, port, _)| port.to_string()).collect();
    let found = if names.is_empty() { "any".to_owned() } else { names.join(", ") };
    let verdict = if taken.is_empty() { Verdict::Good } else { Verdict::Bad(taken.join("; ")) };
    Check { what: "ports", found, verdict }
}

/// Why a port cannot be had; who has it is told to root, and to whoever runs that process.
fn taken_port(port: u16, error: &str, holder: Option<&Process>, flag: &str) -> String {
    let who = holder.map_or_else(String::new, |process| format!(", {process} has it"));
    format!("port {port}: {error}{who}; choose another with {flag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_port_is_named() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let said = taken_port(port, "in use", Process::listening_on(port).as_ref(), "--api-port");
        assert!(said.starts_with(&format!("port {port}: in use, process {} (", std::process::id())), "{said}");
        assert_eq!(taken_port(80, "refused", None, "--api-port"), "port 80: refused; choose another with --api-port");
    }
}
