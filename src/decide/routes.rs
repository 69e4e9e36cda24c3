//! Which host leads to which instances.

use std::net::{Ipv4Addr, SocketAddr};

use crate::model::{Deployment, Health, Instance, InstanceId, InstanceState, NodeId, Protocol, Service, SettingKey};
use crate::state::State;

use super::route_table::{Backend, Place, Route, RouteTable};

/// The routes of one node's ingress. A service that listens on nothing has none; one that has no healthy instance now
/// has one without backends.
///
/// Instances of all nodes are in it, but for those of nodes that are noted as absent.
pub fn routes(state: &State, node: NodeId) -> RouteTable {
    let domain = state.setting(SettingKey::ServerDomain);
    let mut table = RouteTable::default();
    for service in state.services() {
        let serving = service.serving.and_then(|id| state.deployment(id));
        if port_of(service, serving.map(|deployment| &**deployment)).is_none() {
            continue;
        }
        let host = format!("{}.{domain}", service.host_label).to_ascii_lowercase();
        let port = serving.and_then(|serving| Some((serving, port_of(service, Some(serving))?)));
        let backends = port.map(|(serving, port)| backends(state, serving, port, node)).unwrap_or_default();
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

/// Who serves this port of a deployment's containers, as seen from one node.
pub(super) fn backends(state: &State, serving: &Deployment, port: u16, node: NodeId) -> Vec<Backend> {
    state
        .instances_of(serving.id)
        .filter(|instance| instance.stop_requested.is_none() && instance.status.health == Health::Healthy)
        .filter_map(|instance| Some((instance, binding(instance, port)?)))
        .filter_map(|(instance, address)| {
            let place = match instance.placement.node {
                own if own == node => Place::Here(address),
                other if state.absence(other).is_some() => return None,
                other => Place::There { node: other, port },
            };
            Some(Backend { instance: instance.id, place })
        })
        .collect()
}

/// Where a running instance listens on its node for what is sent to this port of its container.
fn binding(instance: &Instance, port: u16) -> Option<SocketAddr> {
    if instance.status.state != InstanceState::Running {
        return None;
    }
    let mut bindings = instance.status.ports.iter();
    let binding = bindings.find(|b| b.container_port == port && b.protocol == Protocol::Tcp)?;
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, binding.host_port)))
}

/// Where on this node another node's request to an instance goes: to a port that an instance which runs here has made
/// known, and to nothing else of this machine. The error says why it goes nowhere; it is final, since an instance that
/// ends stays ended.
pub fn entrance(state: &State, node: NodeId, instance: InstanceId, port: u16) -> Result<SocketAddr, String> {
    let Some(instance) = state.instance(instance) else { return Err(format!("there is no instance {instance}")) };
    let id = instance.id;
    if instance.placement.node != node {
        return Err(format!("instance {id} runs on node {}, not on node {node}", instance.placement.node));
    }
    if let Some(reason) = &instance.stop_requested {
        return Err(format!("instance {id} is about to stop: {reason}"));
    }
    binding(instance, port)
        .ok_or_else(|| format!("instance {id} is {} and does not listen on port {port}", instance.status.state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::World;
    use crate::model::{Absence, Port};

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
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, other.status.ports[0].host_port));
        assert_eq!(backends[0].place, Place::Here(address));

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
    fn instances_of_other_nodes_are_reached_through_them_unless_they_are_absent() {
        let mut world = World::with_nodes(2);
        world.service("web", |spec| spec.replicas = 2);
        world.deploy("web");
        world.run_until_quiet();
        let away = |world: &World, node: u64| {
            let table = routes(&world.state, NodeId(node));
            let places = table.routes["web-shop.localhost"].backends.iter().map(|backend| backend.place);
            places.map(Place::node).collect::<Vec<_>>()
        };
        let mut seen = away(&world, 1);
        seen.sort_unstable();
        assert_eq!(seen, [None, Some(NodeId(2))]);
        world.replace(Absence { node: NodeId(2), since: world.now }.into());
        assert_eq!(away(&world, 1), [None]);
        // Whoever hears of its own absence still reaches what runs there.
        let mut seen = away(&world, 2);
        seen.sort_unstable();
        assert_eq!(seen, [None, Some(NodeId(1))]);
    }

    #[test]
    fn others_get_in_at_ports_of_running_instances_only() {
        let mut world = World::with_nodes(2);
        world.service("web", |spec| spec.replicas = 1);
        let deployment = world.deploy("web");
        world.run_until_quiet();
        let instance = world.live_instances(deployment)[0].clone();
        let (own, port) = (instance.placement.node, instance.status.ports[0].container_port);
        let other = NodeId(3 - own.0);
        let refusal = |world: &World, node, id, port| entrance(&world.state, node, id, port).expect_err("refused");
        let address = entrance(&world.state, own, instance.id, port).expect("runs here");
        assert_eq!(address, SocketAddr::from((Ipv4Addr::LOCALHOST, instance.status.ports[0].host_port)));
        assert!(refusal(&world, other, instance.id, port).contains(&format!("runs on node {own}")));
        let host_port = instance.status.ports[0].host_port;
        for closed in [22, 9_090, host_port].into_iter().filter(|closed| *closed != port) {
            assert!(refusal(&world, own, instance.id, closed).contains("does not listen"), "{closed}");
        }
        assert!(refusal(&world, own, InstanceId(uuid::Uuid::nil()), port).contains("no instance"));
        world.command(crate::state::Command::StopInstances { instances: vec![instance.id], reason: "test".to_owned() });
        assert!(refusal(&world, own, instance.id, port).contains("about to stop: test"));
    }
}
