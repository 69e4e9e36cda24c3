//! How the containers of an app on one node find the services of their app.
//!
//! A service of which something healthy runs on the same node is found by the engine's own names, on the app's network.
//! Any other one is found at an address of the container's own loopback, from where the node carries connections to
//! wherever it runs. Comes in: the state and the node. Goes out: [`Discovery`], which has both the text of `/etc/hosts`
//! and the targets behind its addresses. Deliberately absent: carrying anything (`network::relay`), and UDP, which only the
//! engine's names lead to.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::model::{AppId, Deployment, NodeId, Protocol, RELAY_NETWORK, Service};
use crate::state::State;

use super::route_table::{Backend, Place};
use super::routes::backends;

/// The services of one app, as seen from one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// By the address at which containers of the app reach them.
    services: BTreeMap<Ipv4Addr, Target>,
}

/// A service behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The service's name.
    pub name: String,
    /// The name that says of which app it is, too.
    pub full_name: String,
    /// Healthy instances, by the port of their containers. Those are the ports that the service names, and no others.
    pub ports: BTreeMap<u16, Vec<Backend>>,
}

impl Target {
    /// Whether the engine's own names lead to it: something healthy runs on this node.
    fn is_here(&self) -> bool {
        self.ports.values().flatten().any(|backend| matches!(backend.place, Place::Here(_)))
    }
}

impl Discovery {
    /// These services, by their addresses.
    pub fn of(services: BTreeMap<Ipv4Addr, Target>) -> Self {
        Self { services }
    }

    /// What is behind an address.
    pub fn at(&self, address: Ipv4Addr) -> Option<&Target> {
        self.services.get(&address)
    }

    /// Whether the node has to listen inside of the app's containers. It does also while everything is here: programs keep
    /// addresses that they looked up.
    pub fn needs_relay(&self) -> bool {
        !self.services.is_empty()
    }

    /// The text of `/etc/hosts` in a container of the app. Without `relayed`, when the node does not listen inside, the
    /// engine is asked for every name.
    ///
    /// A name is switched on and off by one byte of its line, so that the text may be written over while it is read.
    pub fn hosts(&self, relayed: bool) -> String {
        let mut text = String::from(
            "# Written by narvana. Services in lines that begin with # are found by the engine's own names.\n\
             127.0.0.1 localhost\n::1 localhost\n",
        );
        for (address, target) in &self.services {
            let line = format!("{address} {} {}", target.name, target.full_name);
            let _infallible =
                if relayed && !target.is_here() { writeln!(text, "{line}") } else { writeln!(text, "#{}", &line[1..]) };
        }
        text
    }
}

/// How the services of an app are found by its containers on this node.
pub fn discovery(state: &State, node: NodeId, app: AppId) -> Discovery {
    let mut found = Discovery::default();
    let Some(row) = state.app(app) else { return found };
    // The engine knows all there is in a cluster of one.
    if state.nodes().count() < 2 {
        return found;
    }
    // In the order of their ids, so that what is made later gives way when two want one address.
    let services: BTreeMap<_, _> = state.services_of(app).map(|service| (service.id, service)).collect();
    for service in services.into_values() {
        let serving = service.serving.and_then(|id| state.deployment(id));
        let ports = ports_of(service, serving.map(|deployment| &**deployment));
        // A container's name for itself leads to the container itself, whatever a service is called.
        if ports.is_empty() || service.name == "localhost" {
            continue;
        }
        let reached = |port| serving.map(|serving| backends(state, serving, port, node)).unwrap_or_default();
        let target = Target {
            name: service.name.clone(),
            full_name: full_name(&service.name, &row.name),
            ports: ports.into_iter().map(|port| (port, reached(port))).collect(),
        };
        found.services.insert(free_address(&found.services, service), target);
    }
    found
}

/// The name of a service that says of which app it is: `<service>.<app>.internal`.
pub fn full_name(service: &str, app: &str) -> String {
    format!("{service}.{app}.internal")
}

/// The ports at which a service is found: those of its specification, else those that its image names. None when it also
/// takes UDP, which would end at the address.
fn ports_of(service: &Service, serving: Option<&Deployment>) -> Vec<u16> {
    let ports = serving.map_or(&service.spec.ports, |deployment| &deployment.spec.ports);
    if ports.iter().any(|port| port.protocol == Protocol::Udp) {
        return Vec::new();
    }
    if ports.is_empty() {
        return serving.and_then(|it| it.artifact.as_ref()).map(|it| it.exposed_ports.clone()).unwrap_or_default();
    }
    ports.iter().map(|port| port.container_port).collect()
}

/// An address that stays the service's own while it lives, on every node: programs keep what they looked up.
fn free_address(taken: &BTreeMap<Ipv4Addr, Target>, service: &Service) -> Ipv4Addr {
    let (network, prefix) = RELAY_NETWORK;
    // Neither the first nor the last one of the network.
    let count = (1_u32 << (32 - prefix)) - 2;
    let wanted = u32::try_from(service.id.0.as_u128() % u128::from(count)).expect("less than `count`");
    let nth = |number: u32| Ipv4Addr::from_bits(network.to_bits() + 1 + number % count);
    let mut addresses = (0..count).map(|step| nth(wanted + step));
    addresses.find(|address| !taken.contains_key(address)).expect("an app has fewer services than there are addresses")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::World;
    use crate::model::{Absence, Health, InstanceId, Port, ServiceId};

    /// The names that lead through the node, and where to.
    fn relayed(world: &World, node: u64) -> Vec<(String, Option<NodeId>)> {
        let found = discovery(&world.state, NodeId(node), world.app);
        let targets = found.services.values().filter(|target| !target.is_here());
        let place = |target: &Target| target.ports[&8080].first().and_then(|backend| backend.place.node());
        let mut names: Vec<_> = targets.map(|target| (target.name.clone(), place(target))).collect();
        names.sort();
        names
    }

    /// An app whose services run on one node each; says where each is.
    fn spread(world: &mut World, names: [&str; 2]) -> [(NodeId, InstanceId); 2] {
        names.map(|name| {
            world.service(name, |_| ());
            let deployment = world.deploy(name);
            world.run_until_quiet();
            let instance = &world.live_instances(deployment)[0];
            (instance.placement.node, instance.id)
        })
    }

    #[test]
    fn what_runs_on_the_same_node_is_found_by_the_engine_and_the_rest_through_the_node() {
        let mut world = World::with_nodes(2);
        let [(web, _), (db, instance)] = spread(&mut world, ["web", "db"]);
        assert_ne!(web, db, "each has a node of its own");
        assert_eq!(relayed(&world, web.0), [("db".to_owned(), Some(db))]);
        assert_eq!(relayed(&world, db.0), [("web".to_owned(), Some(web))]);

        // One that cannot be used is waited for, wherever it is.
        world.report(instance, |status| status.health = Health::Unhealthy);
        assert_eq!(relayed(&world, db.0), [("db".to_owned(), None), ("web".to_owned(), Some(web))]);
        world.replace(Absence { node: web, since: world.now }.into());
        assert_eq!(relayed(&world, db.0), [("db".to_owned(), None), ("web".to_owned(), None)]);
    }

    #[test]
    fn names_are_switched_without_moving_the_others() {
        let mut world = World::with_nodes(2);
        let [(web, _), _] = spread(&mut world, ["web", "db"]);
        let found = discovery(&world.state, web, world.app);
        assert!(found.needs_relay());
        let (on, off) = (found.hosts(true), found.hosts(false));
        let line = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.ends_with(&format!(" {name} {name}.shop.internal")));
            line.expect("in the text").chars().next()
        };
        assert_eq!((line(&on, "db"), line(&on, "web")), (Some('1'), Some('#')));
        assert_eq!((line(&off, "db"), line(&off, "web")), (Some('#'), Some('#')));
        let differing = on.bytes().zip(off.bytes()).filter(|(one, other)| one != other);
        assert_eq!((on.len(), differing.count()), (off.len(), 1));
        assert!(on.contains("\n127.0.0.1 localhost\n"), "{on}");
    }

    #[test]
    fn only_ports_that_a_service_names_are_found_and_no_udp() {
        let mut world = World::with_nodes(2);
        let port = |container_port, protocol| Port { container_port, protocol };
        world.service("two", |spec| spec.ports = vec![port(80, Protocol::Tcp), port(81, Protocol::Tcp)]);
        world.service("none", |spec| spec.ports.clear());
        world.service("statsd", |spec| spec.ports = vec![port(80, Protocol::Tcp), port(8125, Protocol::Udp)]);
        world.service("localhost", |_| ());
        world.run_until_quiet();
        let found = discovery(&world.state, NodeId(1), world.app);
        let known: Vec<_> = found.services.values().map(|it| (it.name.as_str(), it.ports.keys().copied())).collect();
        let known: Vec<_> = known.into_iter().map(|(name, ports)| (name, ports.collect::<Vec<_>>())).collect();
        assert_eq!(known, [("two", vec![80, 81])]);
        assert_eq!(discovery(&world.state, NodeId(1), AppId(uuid::Uuid::nil())), Discovery::default());

        let mut alone = World::with_nodes(1);
        alone.service("web", |_| ());
        let found = discovery(&alone.state, NodeId(1), alone.app);
        assert!(!found.needs_relay() && !found.hosts(true).contains("web"), "a cluster of one has its engine's names");
    }

    #[test]
    fn services_keep_their_address_and_two_never_share_one() {
        let mut world = World::with_nodes(2);
        let (network, prefix) = RELAY_NETWORK;
        let first = world.service("first", |_| ());
        let address = |world: &World, name: &str| {
            let found = discovery(&world.state, NodeId(1), world.app);
            found.services.into_iter().find(|(_, target)| target.name == name).expect("there").0
        };
        let before = address(&world, "first");
        assert_eq!(before.to_bits() >> (32 - prefix), network.to_bits() >> (32 - prefix));
        world.service("second", |_| ());
        assert_eq!(address(&world, "first"), before);
        // The same remainder.
        let row = |id: u128| {
            let id = ServiceId(uuid::Uuid::from_u128(id));
            Service { id, ..(*world.service_row("first")).clone() }
        };
        let same = row(first.0.as_u128() + u128::from((1_u32 << (32 - prefix)) - 2));
        let taken = discovery(&world.state, NodeId(1), world.app).services;
        let given = free_address(&taken, &same);
        assert!(!taken.contains_key(&given) && given > before, "{given}");
        let last = free_address(&BTreeMap::new(), &row(u128::from((1_u32 << (32 - prefix)) - 3)));
        let next = free_address(
            &BTreeMap::from([(last, taken[&before].clone())]),
            &row(u128::from((1_u32 << (32 - prefix)) - 3)),
        );
        assert_eq!(next.to_bits(), network.to_bits() + 1, "after the last one comes the first");
    }
}
