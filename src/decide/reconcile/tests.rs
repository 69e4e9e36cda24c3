//! Each rule once, and that doing what is said always leads to where there is nothing more to say.

use proptest::prelude::*;

use super::*;
use crate::decide::fixture::World;
use crate::model::DeploymentId;
use crate::state::Command;

const HERE: NodeId = NodeId(1);
const EXIT: Exit = Exit { code: 2, out_of_memory: false };

fn world(replicas: u32) -> (World, DeploymentId) {
    let mut world = World::with_nodes(1);
    world.service("web", |spec| spec.replicas = replicas);
    let deployment = world.deploy("web");
    world.settle_rounds();
    (world, deployment)
}

fn container(id: &str, instance: InstanceId, state: ContainerState) -> Container {
    Container { id: id.to_owned(), instance: Some(instance), generation: Some(0), state }
}

/// A node that has known of everything since it was decided.
fn known(world: &World) -> BTreeMap<InstanceId, Duration> {
    world.state.live_instances().map(|instance| (instance.id, world.now.since(instance.created_at))).collect()
}

fn decide(world: &World, containers: &[Container], tasks: &[(InstanceId, Task)]) -> Vec<Action> {
    reconcile(&world.state, HERE, containers, &tasks.iter().copied().collect(), false, &known(world)).actions
}

#[test]
fn a_wanted_instance_without_container_is_run_unless_it_is_under_way() {
    let (world, deployment) = world(1);
    let id = world.live_instances(deployment)[0].id;
    assert_eq!(decide(&world, &[], &[]), [Action::Run(id)]);
    assert_eq!(decide(&world, &[], &[(id, Task::Starting)]), []);
}

#[test]
fn a_restart_waits_for_its_time() {
    let (mut world, deployment) = world(1);
    let first = world.live_instances(deployment)[0].id;
    world.comes_up(first);
    world.settle_rounds();
    world.fails(first, 1);
    world.settle_rounds();
    let second = world.live_instances(deployment)[0].clone();
    let decided = reconcile(&world.state, HERE, &[], &BTreeMap::new(), false, &known(&world));
    assert_eq!(decided, Actions { actions: Vec::new(), wake_in: Some(second.pause()) });
    // What the clock on this machine says does not matter.
    let pause = second.pause();
    let after = |time: Duration| BTreeMap::from([(second.id, time)]);
    let early = reconcile(&world.state, HERE, &[], &BTreeMap::new(), false, &after(pause / 2));
    assert_eq!(early, Actions { actions: Vec::new(), wake_in: Some(pause - pause / 2) });
    world.now = second.start_after;
    assert_eq!(decide(&world, &[], &[]), [Action::Run(second.id)]);
}

#[test]
fn a_running_container_is_adopted_once() {
    let (world, deployment) = world(1);
    let id = world.live_instances(deployment)[0].id;
    let running = [container("c", id, ContainerState::Running)];
    assert_eq!(decide(&world, &running, &[]), [Action::Adopt { instance: id, container: "c".to_owned() }]);
    assert_eq!(decide(&world, &running, &[(id, Task::Watching)]), []);
}

#[test]
fn what_ended_or_vanished_while_nobody_watched_is_reported_and_not_run_again() {
    let (mut world, deployment) = world(1);
    let id = world.live_instances(deployment)[0].id;
    world.comes_up(id);
    let exited = [container("c", id, ContainerState::Exited(EXIT))];
    let report = Action::ReportExited { instance: id, container: "c".to_owned(), exit: EXIT };
    assert_eq!(decide(&world, &exited, &[]), [report]);
    assert_eq!(decide(&world, &exited, &[(id, Task::Watching)]), [], "the one that watches reports it");
    assert_eq!(decide(&world, &[], &[]), [Action::ReportGone(id)]);
}

#[test]
fn a_start_that_was_broken_off_is_made_anew() {
    let (world, deployment) = world(1);
    let id = world.live_instances(deployment)[0].id;
    let created = [container("c", id, ContainerState::Created)];
    assert!(matches!(&decide(&world, &created, &[])[..], [Action::RemoveOrphan { container, .. }] if container == "c"));
    assert_eq!(decide(&world, &created, &[(id, Task::Starting)]), []);
}

#[test]
fn stopping_ends_the_process_then_reports_then_cleans_up() {
    let (mut world, deployment) = world(1);
    let id = world.live_instances(deployment)[0].id;
    world.command(Command::StopInstances { instances: vec![id], reason: "scaled".to_owned() });
    let stop = |container: Option<&str>| Action::Stop {
        instance: id,
        container: container.map(str::to_owned),
        grace: STOP_GRACE,
        reason: "scaled".to_owned(),
    };
    let running = [container("c", id, ContainerState::Running)];
    let exited = [container("c", id, ContainerState::Exited(EXIT))];
    assert_eq!(decide(&world, &running, &[]), [stop(Some("c"))]);
    assert_eq!(decide(&world, &running, &[(id, Task::Watching)]), [stop(Some("c"))]);
    assert_eq!(decide(&world, &running, &[(id, Task::Stopping)]), []);
    assert_eq!(decide(&world, &[], &[(id, Task::Starting)]), [stop(None)], "breaks the start off");
    assert_eq!(decide(&world, &exited, &[]), [Action::ReportStopped { instance: id, exit: Some(EXIT) }]);
    assert_eq!(decide(&world, &[], &[]), [Action::ReportStopped { instance: id, exit: None }]);
    world.report(id, |status| status.state = InstanceState::Stopped);
    let clean_up = Action::CleanUp { instance: id, container: "c".to_owned() };
    assert_eq!(decide(&world, &exited, &[]), [clean_up]);
    assert_eq!(decide(&world, &exited, &[(id, Task::Stopping)]), []);
    assert_eq!(decide(&world, &[], &[]), []);
}

#[test]
fn what_was_given_up_while_the_node_was_away_is_ended() {
    let (mut world, deployment) = world(1);
    let id = world.live_instances(deployment)[0].id;
    world.comes_up(id);
    world.command(Command::LoseInstances { instances: vec![id], reason: "node n1 does not answer".to_owned() });
    let running = [container("c", id, ContainerState::Running)];
    let stop = Action::Stop {
        instance: id,
        container: Some("c".to_owned()),
        grace: STOP_GRACE,
        reason: "node n1 does not answer".to_owned(),
    };
    assert_eq!(decide(&world, &running, &[(id, Task::Watching)]), [stop]);
    assert_eq!(decide(&world, &running, &[(id, Task::Stopping)]), []);
    assert_eq!(decide(&world, &running, &[]), [Action::CleanUp { instance: id, container: "c".to_owned() }]);
}

#[test]
fn containers_of_nobody_are_removed() {
    let (mut world, deployment) = world(1);
    let id = world.live_instances(deployment)[0].id;
    let stranger: InstanceId = world.id();
    let containers = [
        container("mine", id, ContainerState::Running),
        container("twin", id, ContainerState::Created),
        container("forgotten", stranger, ContainerState::Running),
        Container { generation: Some(9), ..container("other attempt", id, ContainerState::Running) },
        Container { instance: None, ..container("unreadable", id, ContainerState::Running) },
    ];
    let removed: Vec<String> = decide(&world, &containers, &[(id, Task::Watching)])
        .into_iter()
        .map(|action| match action {
            Action::RemoveOrphan { container, .. } => container,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(removed, ["twin", "forgotten", "unreadable"], "what a task works on is left to it");
    let elsewhere = reconcile(&world.state, NodeId(2), &containers[..1], &BTreeMap::new(), false, &known(&world));
    assert!(matches!(&elsewhere.actions[..], [Action::RemoveOrphan { .. }]));
}

/// A node that does what it is told.
struct Engine {
    world: World,
    containers: Vec<Container>,
    tasks: BTreeMap<InstanceId, Task>,
}

impl Engine {
    fn perform(&mut self, action: Action) {
        match action {
            Action::Run(id) => {
                let attempt = self.world.state.instance(id).expect("known").attempt;
                let mut made = container(&format!("c-{id}"), id, ContainerState::Running);
                made.generation = Some(attempt);
                self.containers.push(made);
                self.tasks.insert(id, Task::Watching);
                self.world.comes_up(id);
            }
            Action::Adopt { instance, .. } => {
                self.tasks.insert(instance, Task::Watching);
                self.world.comes_up(instance);
            }
            Action::Stop { instance, container, .. } | Action::Isolate { instance, container, .. } => {
                self.containers.retain(|other| Some(&other.id) != container.as_ref());
                self.tasks.remove(&instance);
                if self.world.state.instance(instance).is_some_and(|it| !it.status.state.is_terminal()) {
                    self.world.report(instance, |status| status.state = InstanceState::Stopped);
                }
            }
            Action::ReportStopped { instance, .. } => {
                self.world.report(instance, |status| status.state = InstanceState::Stopped);
            }
            Action::ReportExited { instance, .. } | Action::ReportGone(instance) => self.world.fails(instance, 1),
            Action::CleanUp { container, .. } | Action::RemoveOrphan { container, .. } => {
                self.containers.retain(|other| other.id != container);
            }
        }
    }
}

proptest! {
    #[test]
    fn doing_what_is_said_leads_to_rest_with_one_container_for_each_wanted_instance(
        starts in prop::collection::vec((0_u8..6, 0_u8..5, any::<bool>()), 1..8),
        strangers in 0_u8..3,
    ) {
        let (mut world, deployment) = world(u32::try_from(starts.len()).expect("few"));
        let instances = world.live_instances(deployment);
        let mut containers = Vec::new();
        for (instance, (status, shown, stop)) in instances.iter().zip(&starts) {
            match status {
                0 => world.report(instance.id, |status| status.state = InstanceState::Pulling),
                1 => world.report(instance.id, |status| status.state = InstanceState::Starting),
                2 | 3 => world.comes_up(instance.id),
                4 => world.fails(instance.id, 1),
                _ => {}
            }
            let state = match shown {
                0 => Some(ContainerState::Created),
                1 | 2 => Some(ContainerState::Running),
                3 => Some(ContainerState::Exited(EXIT)),
                _ => None,
            };
            containers.extend(state.map(|state| container(&format!("old-{}", instance.id), instance.id, state)));
            if *stop {
                let instances = vec![instance.id];
                world.command(Command::StopInstances { instances, reason: "test".to_owned() });
            }
        }
        for number in 0..strangers {
            let stranger: InstanceId = world.id();
            containers.push(container(&format!("stranger-{number}"), stranger, ContainerState::Running));
        }
        let mut engine = Engine { world, containers, tasks: BTreeMap::new() };
        let mut rounds = 0;
        loop {
            let (state, known) = (engine.world.state.clone(), known(&engine.world));
            let decided = reconcile(&state, HERE, &engine.containers, &engine.tasks, false, &known);
            let again = reconcile(&state, HERE, &engine.containers, &engine.tasks, false, &known);
            prop_assert_eq!(&decided, &again);
            if decided.actions.is_empty() {
                break;
            }
            for action in decided.actions {
                engine.perform(action);
            }
            rounds += 1;
            prop_assert!(rounds < 6, "it goes on and on");
        }
        let wanted: BTreeSet<InstanceId> =
            engine.world.state.live_instances().map(|instance| instance.id).collect();
        let shown: Vec<InstanceId> = engine.containers.iter().filter_map(|container| container.instance).collect();
        prop_assert_eq!(shown.len(), wanted.len(), "no container twice");
        prop_assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), wanted);
        prop_assert!(engine.containers.iter().all(|container| container.state == ContainerState::Running));
    }
}

#[test]
fn an_isolated_node_ends_what_has_volumes_and_starts_none_of_it() {
    let mut world = World::with_nodes(1);
    world.service("web", |_| {});
    world.service("db", |spec| {
        spec.volumes = vec![crate::model::Volume { name: "data".to_owned(), path: "/data".to_owned(), size: None }];
    });
    let (web, db) = (world.deploy("web"), world.deploy("db"));
    world.settle_rounds();
    let (web, db) = (world.live_instances(web)[0].id, world.live_instances(db)[0].id);
    let isolated = |world: &World, containers: &[Container], tasks: &[(InstanceId, Task)]| {
        reconcile(&world.state, HERE, containers, &tasks.iter().copied().collect(), true, &known(world)).actions
    };
    assert_eq!(isolated(&world, &[], &[]), [Action::Run(web)], "a second one of it does no harm");
    let busy = [(web, Task::Starting), (db, Task::Starting)];
    let ended = |container: Option<&str>| {
        let container = container.map(str::to_owned);
        let reason = "its node was cut off from the cluster, and its volumes are for one at a time".to_owned();
        [Action::Isolate { instance: db, container, reason }]
    };
    assert_eq!(isolated(&world, &[], &busy), ended(None));
    world.comes_up(db);
    world.comes_up(web);
    let running = [container("w", web, ContainerState::Running), container("d", db, ContainerState::Running)];
    for task in [Task::Watching, Task::Stopping] {
        assert_eq!(isolated(&world, &running, &[(web, Task::Watching), (db, task)]), ended(Some("d")));
    }
    let exited = [running[0].clone(), container("d", db, ContainerState::Exited(EXIT))];
    assert_eq!(isolated(&world, &exited, &[(web, Task::Watching)]), []);
}
