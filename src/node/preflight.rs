//! What a node looks at before it joins: everything that would make it a bad member, found while nothing has happened yet.

use std::net::{IpAddr, TcpListener};

use crate::config::{IngressPort, NodeConfig};
use crate::engine;
use crate::rpc::Door;

use super::address::Address;
use super::checkup::{Check, Checkup, Verdict, clock, container_engine, disk_space, disk_speed, member};

/// Looks at everything. `door` is the member that will let this node in.
pub(super) async fn look(config: &NodeConfig, address: &Address, door: &Door, engine: engine::Options) -> Checkup {
    Checkup(vec![
        member(door),
        clock(door.clock_ahead_ms),
        reachable(address, door),
        ports(config, (address.bind(), address.port)),
        disk_speed(&config.data_dir).await,
        disk_space("free space", &config.data_dir),
        container_engine(engine).await,
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
        Some(format!("port {port}: {error}; choose another with {flag}"))
    });
    let taken: Vec<String> = taken.collect();
    let names: Vec<String> = wanted.iter().map(|(_, port, _)| port.to_string()).collect();
    let found = if names.is_empty() { "any".to_owned() } else { names.join(", ") };
    let verdict = if taken.is_empty() { Verdict::Good } else { Verdict::Bad(taken.join("; ")) };
    Check { what: "ports", found, verdict }
}
