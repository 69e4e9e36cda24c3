//! How long placing takes, and that it hardly grows with the number of nodes. `benches/schedule.rs` prints the figures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use narvana::decide::schedule::{NO_FAILURES, Room, Want};
use narvana::decide::what_if::Losses;
use narvana::decide::{Options, Situation};
use narvana::model::{
    Cpu, Deployment, DeploymentId, Health, Instance, InstanceId, InstanceState, InstanceStatus, Memory, Node, NodeId,
    Placement, Resources, Service, ServiceId, ServiceSpec, Timestamp,
};
use narvana::state::{Record, State, sample_records};
use uuid::Uuid;

const NOW: Timestamp = Timestamp(1_750_000_000_000);
const INSTANCES_EACH: u128 = 50;
const PLACEMENTS: u32 = 4_000;
/// What runs on the cluster, some of which gets more replicas.
const DEPLOYMENTS: u128 = 500;

/// A cluster whose nodes are half full.
fn cluster(nodes: u64, instances: u128) -> State {
    let mut node: Option<Node> = None;
    let mut instance: Option<Instance> = None;
    let mut deployment: Option<Deployment> = None;
    let mut records = Vec::new();
    for record in sample_records() {
        match record {
            Record::Node(row) => node = Some(Node::clone(&row)),
            Record::Instance(row) => instance = Some(Instance::clone(&row)),
            Record::Deployment(row) => deployment = Some(Deployment::clone(&row)),
            other => records.push(other),
        }
    }
    let (node, instance) = (node.expect("a sample"), instance.expect("a sample"));
    let mut deployment = deployment.expect("a sample");
    deployment.spec.resources = small();
    let of = |number: u128| (DeploymentId(Uuid::from_u128(number)), ServiceId(Uuid::from_u128(number)));
    records.extend((0..DEPLOYMENTS).map(|number| {
        let (id, service) = of(number);
        Deployment { id, service, ..deployment.clone() }.into()
    }));
    let each = u64::try_from(instances).expect("fits") / nodes;
    for number in 1..=nodes {
        let name = format!("n{number}");
        let mut node = Node { id: NodeId(number), name, cordoned: false, drain: None, ..node.clone() };
        node.labels = BTreeMap::from([("zone".to_owned(), format!("z{}", number % 5))]);
        node.resources.cpu = Cpu::from_millis(200 * each.max(10));
        node.resources.memory = Memory::from_mebibytes(128 * each.max(10));
        records.push(node.into());
    }
    for number in 0..instances {
        let node = NodeId(u64::try_from(number).expect("fits") % nodes + 1);
        let mut status = InstanceStatus::assigned();
        status.state = InstanceState::Running;
        let (deployment, service) = of(number % DEPLOYMENTS);
        records.push(
            Instance {
                id: InstanceId(Uuid::from_u128(1_000 + number)),
                deployment,
                service,
                placement: Placement { node, reasons: Vec::new() },
                status,
                stop_requested: None,
                ..instance.clone()
            }
            .into(),
        );
    }
    State::from_records(records)
}

fn small() -> Resources {
    Resources { cpu: Cpu::from_millis(100), memory: Memory::from_mebibytes(64) }
}

/// Time for one placement in a cluster with 50 instances on each node. The best of three, since the machine does other
/// things too.
pub(crate) fn placement_on(nodes: u64) -> Duration {
    let state = cluster(nodes, INSTANCES_EACH * u128::from(nodes));
    (0..3).map(|_| measure(&state)).min().expect("three")
}

fn measure(state: &State) -> Duration {
    let (fenced, options) = (BTreeSet::new(), Options::default());
    let mut room = Room::of(Situation { state, now: NOW, fenced: &fenced, options: &options });
    let begun = Instant::now();
    for number in 0..PLACEMENTS {
        let want = Want {
            deployment: DeploymentId(Uuid::from_u128(u128::from(number % 200))),
            name: "web",
            resources: small(),
            arch: Some("amd64"),
            constraints: &[],
            home: None,
            failures: &NO_FAILURES,
        };
        room.place(&want).expect("there is room");
    }
    begun.elapsed() / PLACEMENTS
}

#[test]
fn placing_is_quick_and_hardly_depends_on_the_number_of_nodes() {
    let (thousand, hundred) = (placement_on(1_000), placement_on(100));
    let per_second = 1.0 / thousand.as_secs_f64();
    assert!(per_second >= 5_000.0, "{per_second:.0} placements/s on 1,000 nodes");
    let ratio = thousand.as_secs_f64() / hundred.as_secs_f64();
    assert!(ratio <= 3.0, "ten times the nodes cost {ratio:.2} times as much for each placement");
}

/// So many services with an instance each, over ten nodes.
fn services(count: u128) -> State {
    let mut records: Vec<Record> = cluster(10, 0).records().collect();
    let deployment = records.iter().find_map(|record| match record {
        Record::Deployment(row) => Some(Deployment::clone(row)),
        _ => None,
    });
    let mut deployment = deployment.expect("a sample");
    deployment.spec = ServiceSpec { volumes: Vec::new(), constraints: Vec::new(), ..deployment.spec };
    deployment.spec.resources = Resources { cpu: Cpu::from_millis(1), memory: Memory::from_mebibytes(1) };
    let samples = sample_records();
    let service = samples.iter().find_map(|record| match record {
        Record::Service(row) => Some(Service::clone(row)),
        _ => None,
    });
    let instance = samples.iter().find_map(|record| match record {
        Record::Instance(row) => Some(Instance::clone(row)),
        _ => None,
    });
    let (service, instance) = (service.expect("a sample"), instance.expect("a sample"));
    for number in 0..count {
        let id = Uuid::from_u128(1_000_000 + number);
        let (service_id, deployment_id) = (ServiceId(id), DeploymentId(id));
        let (name, host_label) = (format!("s{number}"), format!("s{number}-shop"));
        let serving = Some(deployment_id);
        records.push(Service { id: service_id, name, host_label, serving, ..service.clone() }.into());
        records.push(Deployment { id: deployment_id, service: service_id, ..deployment.clone() }.into());
        let node = NodeId(u64::try_from(number).expect("fits") % 10 + 1);
        let mut status = InstanceStatus::assigned();
        (status.state, status.health) = (InstanceState::Running, Health::Healthy);
        records.push(
            Instance {
                id: InstanceId(id),
                deployment: deployment_id,
                service: service_id,
                placement: Placement { node, reasons: Vec::new() },
                relocation: None,
                stop_requested: None,
                status,
                ..instance.clone()
            }
            .into(),
        );
    }
    let mut nodes: Vec<Record> = Vec::new();
    for record in &records {
        if let Record::Node(row) = record {
            let mut node = Node::clone(row);
            node.resources.cpu = Cpu::from_millis(100_000);
            node.resources.memory = Memory::from_mebibytes(100_000);
            nodes.push(node.into());
        }
    }
    State::from_records(records.into_iter().chain(nodes))
}

/// Time to find what would go down with each of the ten nodes.
pub(crate) fn all_losses(count: u128) -> Duration {
    let state = services(count);
    let (fenced, options) = (BTreeSet::new(), Options::default());
    let measure = || {
        let begun = Instant::now();
        let mut losses = Losses::of(Situation { state: &state, now: NOW, fenced: &fenced, options: &options });
        let found: usize =
            (1..=10).map(|node| losses.without(NodeId(node)).iter().filter(|one| one.goes_down).count()).sum();
        assert_eq!(found as u128, count, "each is on one node only");
        begun.elapsed()
    };
    (0..3).map(|_| measure()).min().expect("three")
}

#[test]
fn what_would_go_down_with_any_node_is_found_in_one_look_at_each_instance() {
    let (many, few) = (all_losses(10_000), all_losses(2_000));
    println!("{many:?} for 10,000 services, {few:?} for 2,000");
    assert!(many < Duration::from_secs(3), "{many:?} for 10,000 services");
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    assert!(ratio <= 12.0, "five times the services take {ratio:.1} times as long");
}
