//! What runs alone, when the program of its node is gone: its guard ends it before anything takes its place.

use std::time::{Duration, Instant};

use narvana::engine::{ContainerState, Labels};
use serde_json::json;

use super::cluster::three;
use super::{id, running, small_service};
use crate::harness::{Harness, until};

/// The containers of that service that run, on whichever node.
async fn alive(harness: &Harness, service: &str) -> usize {
    let labels = Labels::from([("narvana.service".to_owned(), service.to_owned())]);
    let found = harness.engine().list(&labels).await.expect("the engine answers");
    found.iter().filter(|container| container.state == ContainerState::Running).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_alone_ends_without_the_program_of_its_node_and_then_starts_elsewhere() {
    let harness = Harness::podman().await;
    let mut nodes = three(harness.address());
    nodes[0].post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let bot = small_service("bot", &json!({"exclusive": true}));
    let service = id(&nodes[0].post("/v1/apps/shop/services", &bot).expect(201));
    let deployment = id(&nodes[0].deploy("shop", "bot"));
    assert_eq!(alive(&harness, &service).await, 1);
    let home = running(&nodes[0], &deployment)[0].clone();
    let place = nodes.iter().position(|node| node.name() == home).expect("one of them");

    // A short absence ends nothing.
    nodes[place].kill();
    nodes[place].run();
    until("it decides", || async {
        (nodes[place].post("/v1/apps", &json!({"name": format!("again-{place}")})).status != 503).then_some(())
    })
    .await;
    assert_eq!(alive(&harness, &service).await, 1, "the same container goes on");
    assert_eq!(running(&nodes[place], &deployment), [home.as_str()]);

    nodes[place].kill();
    let killed = Instant::now();
    until("its guard ends it", || async { (alive(&harness, &service).await == 0).then_some(()) }).await;
    assert!(killed.elapsed() > Duration::from_secs(5), "not at once: the program may come back");
    println!("ended {:?} after the program was killed", killed.elapsed());
    let other = &nodes[(place + 1) % 3];
    let mut most = 0;
    let deadline = Instant::now() + Duration::from_secs(90);
    while running(other, &deployment).iter().all(|name| *name == home) || alive(&harness, &service).await == 0 {
        most = most.max(alive(&harness, &service).await);
        assert!(Instant::now() < deadline, "nothing takes its place: {}", other.log());
        tokio::time::sleep(Duration::from_millis(200)).await; // poll
    }
    println!("runs elsewhere {:?} after", killed.elapsed());
    assert!(most <= 1 && alive(&harness, &service).await == 1, "never two of them");
}
