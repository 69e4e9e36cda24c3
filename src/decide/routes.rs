//! Which host leads to which instances.

use std::net::{Ipv4Addr, SocketAddr};

use crate::model::{Deployment, Health, InstanceState, NodeId, Protocol, Service, SettingKey};
use crate::state::State;

use super::route_table::{Backend, Route, RouteTable};

/// The routes of one node's ingress. A service that listens on nothing has none; one that has no healthy instance now
/// has one without backends.
///
/// Only instances on the same node are reached so far.
pub fn routes(state: &State, node: NodeId) -> RouteTable {
    let domain = state.setting(SettingKey::ServerDomain);
    let mut table = RouteTable::default();
    for service in state.services() {
        let serving = service.serving.and_then(|id| state.deployment(id));
        if port_of(service, serving.map(|deployment| &**deployment)).is_none() {
            continue;
        }
        let host = format!("{}.{domain}", service.host_label).to_ascii_lowercase();
        let backends = serving.map(|serving| backends(state, service, serving, node)).unwrap_or_default();
        table.routes.insert(host, Route { backends });
    }
    table
}

/// The port that gets requests: the first one of the specification, else the first one that the image names.
fn port_of(service: &Service, serving: Option<&Deployment>) -> Option<u16> {
    let ports = serving.map_or(&service.spec.ports, |deployment| &deployment.spec.ports);
    if let Some(first) = ports.first() {
        return (first.protocol == Protocol::Tcp).then_some(first.container_port);
    }
    serving?.artifact.as_ref()?.exposed_ports.first().copied()
}

fn backends(state: &State, service: &Service, serving: &Deployment, node: NodeId) -> Vec<Backend> {
    let Some(port) = port_of(service, Some(serving)) else { return Vec::new() };
    state
        .instances_of(serving.id)
        .filter(|instance| instance.placement.node == node && instance.stop_requested.is_none())
        .filter(|instance| instance.status.state == InstanceState::Running)
        .filter(|instance| instance.status.health == Health::Healthy)
        .filter_map(|instance| {
            let mut bindings = instance.status.ports.iter();
            let binding = bindings.find(|b| b.container_port == port && b.protocol == Protocol::Tcp)?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, binding.host_port));
            Some(Backend { instance: instance.id, address })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::World;
    use crate::model::Port;

    fn hosts(world: &World) -> Vec<(String, usize)> {
        let table = routes(&world.state, NodeId(1));
        table.routes.iter().map(|(host, route)| (host.clone(), route.backends.len())).collect()
    }

    #[test]
    fn only_healthy_instances_of_the_serving_deployment_get_requests() {
        let mut world = World::with_nodes(1);
        world.service("web", |spec| spec.replicas = 2);
        assert_eq!(hosts(&world), [("web-shop.localhost".to_owned(), 0)], "known, but nothing serves yet");
        let first = world.deploy("web");
        world.run_until_quiet();
        assert_eq!(hosts(&world), [("web-shop.localhost".to_owned(), 2)]);

        let instance = world.live_instances(first)[0].id;
        world.report(instance, |status| status.health = Health::Unhealthy);
        let table = routes(&world.state, NodeId(1));
        let backends = &table.routes["web-shop.localhost"].backends;
        assert_eq!(backends.len(), 1);
        let other = world.state.instance(backends[0].instance).expect("exists").clone();
        assert_eq!(backends[0].address.port(), other.status.ports[0].host_port);
        assert!(backends[0].address.ip().is_loopback());

        world.command(crate::state::Command::StopInstances { instances: vec![other.id], reason: "test".to_owned() });
        assert_eq!(hosts(&world), [("web-shop.localhost".to_owned(), 0)]);
    }

    #[test]
    fn a_service_that_listens_on_nothing_or_on_udp_first_has_no_route() {
        let mut world = World::with_nodes(1);
        world.service("worker", |spec| spec.ports.clear());
        world.service("dns", |spec| spec.ports = vec![Port { container_port: 53, protocol: Protocol::Udp }]);
        for name in ["worker", "dns"] {
            world.deploy(name);
        }
        world.run_until_quiet();
        assert_eq!(hosts(&world), []);
    }

    #[test]
    fn instances_of_other_nodes_are_left_to_them() {
        let mut world = World::with_nodes(2);
        world.service("web", |spec| spec.replicas = 2);
        world.deploy("web");
        world.run_until_quiet();
        assert_eq!(hosts(&world), [("web-shop.localhost".to_owned(), 1)]);
    }
}
