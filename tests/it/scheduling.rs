//! How long placing takes, and that it does not grow with the number of nodes. Ratios are checked, figures printed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use narvana::decide::schedule::{Room, Want};
use narvana::decide::{Options, Situation};
use narvana::model::{
    Cpu, Deployment, Instance, InstanceId, InstanceState, InstanceStatus, Memory, Node, NodeId, Placement, Resources,
    ServiceId, Timestamp,
};
use narvana::state::{Record, State, sample_records};
use uuid::Uuid;

const NOW: Timestamp = Timestamp(1_750_000_000_000);
const INSTANCES: u128 = 50_000;
const PLACEMENTS: u32 = 4_000;

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
    records.push(deployment.into());
    let each = u64::try_from(instances).expect("fits") / nodes;
    for number in 1..=nodes {
        let mut node = Node { id: NodeId(number), name: format!("n{number}"), ..node.clone() };
        node.labels = BTreeMap::from([("zone".to_owned(), format!("z{}", number % 5))]);
        node.resources.cpu = Cpu::from_millis(200 * each.max(10));
        node.resources.memory = Memory::from_mebibytes(128 * each.max(10));
        records.push(node.into());
    }
    for number in 0..instances {
        let node = NodeId(u64::try_from(number).expect("fits") % nodes + 1);
        let mut status = InstanceStatus::assigned();
        status.state = InstanceState::Running;
        records.push(
            Instance {
                id: InstanceId(Uuid::from_u128(1_000 + number)),
                service: ServiceId(Uuid::from_u128(number % 500)),
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

/// Time to build the view, and time for one placement.
fn measure(nodes: u64, instances: u128) -> (Duration, Duration) {
    let state = cluster(nodes, instances);
    let (down, options) = (BTreeSet::new(), Options::default());
    let begun = Instant::now();
    let mut room = Room::of(Situation { state: &state, now: NOW, down: &down, options: &options });
    let built = begun.elapsed();
    let begun = Instant::now();
    for number in 0..PLACEMENTS {
        let want = Want {
            service: ServiceId(Uuid::from_u128(u128::from(number % 200))),
            name: "web",
            resources: small(),
            arch: Some("amd64"),
            constraints: &[],
            home: None,
        };
        room.place(&want).expect("there is room");
    }
    (built, begun.elapsed() / PLACEMENTS)
}

#[test]
fn placing_is_quick_and_hardly_depends_on_the_number_of_nodes() {
    // Best of three, since the machine does other things too.
    let best =
        |nodes, instances| (0..3).map(|_| measure(nodes, instances)).min_by_key(|(_, each)| *each).expect("three");
    let (built, thousand) = best(1_000, INSTANCES);
    let per_second = 1.0 / thousand.as_secs_f64();
    println!("1,000 nodes, {INSTANCES} instances: view in {built:?}, {thousand:?} each, {per_second:.0} placements/s");
    let (_, hundred) = best(100, 5_000);
    let ratio = thousand.as_secs_f64() / hundred.as_secs_f64();
    println!("100 nodes: {hundred:?} each; ten times the nodes cost {ratio:.2} times as much");
    assert!(per_second >= 5_000.0, "{per_second:.0} placements/s");
    assert!(ratio <= 3.0, "ten times the nodes cost {ratio:.2} times as much for each placement");
}
