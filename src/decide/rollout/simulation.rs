//! The leader against nodes that fail at random, and users that change their minds: whatever happens, the state stays
//! sound and everything comes to rest where it should.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::decide::fixture::World;
use crate::model::{
    DeploymentId, DeploymentStatus, Desired, Health, HealthCheck, InstanceId, InstanceState, NodeId, Probe, Volume,
};

/// How a deployment's processes behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Works,
    CrashesAtOnce,
    CannotStart,
    NeverHealthy,
}

/// What happens between two rounds.
#[derive(Clone, Debug)]
enum Event {
    Deploy(Behaviour),
    Scale(u32),
    Stop,
    /// A node does something for one instance.
    Node(usize),
    /// A working instance dies.
    Crash(usize),
    Pass(u64),
    /// A node is cut off from the leader: what it runs goes on, and it hears and says nothing.
    CutOff(usize),
    /// The leader finds that.
    FindAbsent,
    /// The node finds that, and ends what runs alone; only then may the leader count on it.
    Isolate,
    /// The leader has waited until that must have happened.
    Fence,
    /// Everybody hears everybody again; the leader has yet to find that too.
    Heal,
    FindBack,
    /// A node is to be emptied, whatever has to be stopped for that, or only what need not be.
    Drain(usize, bool),
    Uncordon,
    /// The leader proposes a plan that is as old as the event before.
    StaleRound,
    Round,
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        3 => Just(Behaviour::Works),
        1 => Just(Behaviour::CrashesAtOnce),
        1 => Just(Behaviour::CannotStart),
        1 => Just(Behaviour::NeverHealthy),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => behaviour().prop_map(Event::Deploy),
        1 => (0_u32..4).prop_map(Event::Scale),
        1 => Just(Event::Stop),
        8 => (0_usize..8).prop_map(Event::Node),
        2 => (0_usize..8).prop_map(Event::Crash),
        2 => (1_u64..5).prop_map(Event::Pass),
        1 => Just(Event::StaleRound),
        2 => (0_usize..2).prop_map(Event::CutOff),
        2 => Just(Event::FindAbsent),
        2 => Just(Event::Isolate),
        2 => Just(Event::Fence),
        1 => Just(Event::Heal),
        1 => Just(Event::FindBack),
        1 => (0_usize..2, any::<bool>()).prop_map(|(node, stop)| Event::Drain(node, stop)),
        1 => Just(Event::Uncordon),
        8 => Just(Event::Round),
    ]
}

/// What the service must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// It has data, which is on one node.
    WithVolumes,
    Exclusive,
}

struct Simulation {
    world: World,
    behaviours: Vec<(DeploymentId, Behaviour)>,
    /// Deployments that lost a working instance to an accident.
    unlucky: BTreeSet<DeploymentId>,
    kind: Kind,
    /// What really runs, and where: not always what the state says.
    containers: BTreeMap<InstanceId, NodeId>,
    cut_off: Option<NodeId>,
    /// That the node that is cut off has ended what runs alone.
    isolated: bool,
}

impl Simulation {
    fn new(kind: Kind, check: bool) -> Self {
        let mut world = World::with_nodes(2);
        world.service("web", |spec| {
            spec.exclusive = kind == Kind::Exclusive;
            if kind == Kind::WithVolumes {
                spec.volumes = vec![Volume { name: "data".to_owned(), path: "/data".to_owned(), size: None }];
            }
            let probe = Probe::Tcp { port: None };
            spec.health_check =
                check.then_some(HealthCheck { probe, interval_seconds: 1, timeout_seconds: 1, retries: 3 });
        });
        Self {
            world,
            behaviours: Vec::new(),
            unlucky: BTreeSet::new(),
            kind,
            containers: BTreeMap::new(),
            cut_off: None,
            isolated: false,
        }
    }

    fn behaviour(&self, deployment: DeploymentId) -> Behaviour {
        self.behaviours.iter().find(|(id, _)| *id == deployment).map_or(Behaviour::Works, |(_, what)| *what)
    }

    fn run(&mut self, event: &Event) {
        match event {
            Event::Deploy(behaviour) => {
                let id = self.world.deploy("web");
                self.behaviours.push((id, *behaviour));
            }
            Event::Scale(replicas) => {
                let replicas = if self.kind != Kind::Plain { (*replicas).min(1) } else { *replicas };
                self.world.scale("web", replicas);
            }
            Event::Stop => {
                let any = self.world.state.live_deployments().next().is_some();
                if any {
                    self.world.want("web", Desired::Stopped);
                }
            }
            Event::Node(choice) => drop(self.step(*choice)),
            Event::Crash(choice) => self.crash(*choice),
            Event::Pass(seconds) => self.world.pass(*seconds),
            Event::CutOff(choice) => {
                self.cut_off.get_or_insert(NodeId(*choice as u64 + 1));
            }
            Event::FindAbsent => {
                if let Some(node) = self.cut_off {
                    self.world.absent(node.0);
                }
            }
            Event::Isolate => self.isolate(),
            Event::Fence => {
                if let Some(node) = self.cut_off.filter(|node| self.isolated && self.is_absent(*node)) {
                    self.world.fenced.insert(node);
                }
            }
            Event::Heal => self.heal(),
            Event::FindBack => self.find_back(),
            Event::Drain(node, stop) => self.world.drain(*node as u64 + 1, *stop, *stop),
            Event::Uncordon => self.uncordon(),
            Event::StaleRound => {
                let plan = self.world.decide();
                self.step(0);
                self.world.scale("web", 1);
                for command in plan.commands {
                    // Refused or not, the state must stay sound, which the world checks.
                    let _ = self.world.try_command(command);
                }
            }
            Event::Round => drop(self.world.round()),
        }
        self.check();
    }

    fn is_absent(&self, node: NodeId) -> bool {
        self.world.state.absence(node).is_some()
    }

    fn isolate(&mut self) {
        let Some(node) = self.cut_off else { return };
        self.isolated = true;
        if self.kind != Kind::Plain {
            self.containers.retain(|_, on| *on != node);
        }
    }

    /// The node says what it ended meanwhile, and ends what is not its own any more.
    fn heal(&mut self) {
        let Some(node) = self.cut_off.take() else { return };
        // Whoever is heard has not been silent for long.
        self.world.fenced.remove(&node);
        let ended = self.world.state.live_instances().filter(|instance| {
            instance.placement.node == node
                && instance.status.state == InstanceState::Running
                && !self.containers.contains_key(&instance.id)
        });
        for id in ended.map(|instance| instance.id).collect::<Vec<_>>() {
            self.world.report(id, |status| status.state = InstanceState::Stopped);
        }
        self.isolated = false;
    }

    fn find_back(&mut self) {
        for node in [NodeId(1), NodeId(2)] {
            if self.cut_off != Some(node) && self.is_absent(node) {
                self.world.returns(node.0);
            }
        }
    }

    fn uncordon(&mut self) {
        self.world.uncordon(1);
        self.world.uncordon(2);
    }

    /// Nodes that hear the state run what it says.
    fn follow(&mut self) {
        let state = &self.world.state;
        let cut_off = self.cut_off;
        self.containers.retain(|id, on| {
            let runs = state.instance(*id).is_some_and(|instance| !instance.status.state.is_terminal());
            Some(*on) == cut_off || runs
        });
        for instance in state.live_instances().filter(|instance| Some(instance.placement.node) != cut_off) {
            if instance.status.state == InstanceState::Running {
                self.containers.insert(instance.id, instance.placement.node);
            }
        }
    }

    /// One instance moves one step. False when none can.
    fn step(&mut self, choice: usize) -> bool {
        let now = self.world.now;
        let movable: Vec<_> = self
            .world
            .state
            .live_instances()
            .filter(|instance| Some(instance.placement.node) != self.cut_off)
            .filter(|instance| {
                instance.stop_requested.is_some()
                    || (instance.status.state < InstanceState::Running && instance.start_after <= now)
                    || (instance.status.state == InstanceState::Running
                        && self.behaviour(instance.deployment) != Behaviour::Works)
            })
            .cloned()
            .collect();
        let Some(instance) = movable.get(choice % movable.len().max(1)) else { return false };
        let behaviour = self.behaviour(instance.deployment);
        let (id, state) = (instance.id, instance.status.state);
        if instance.stop_requested.is_some() {
            self.world.report(id, |status| status.state = InstanceState::Stopped);
        } else if behaviour == Behaviour::CannotStart || state == InstanceState::Running {
            self.world.fails(id, 1);
        } else if state == InstanceState::Assigned {
            self.world.report(id, |status| status.state = InstanceState::Pulling);
        } else if behaviour == Behaviour::NeverHealthy {
            self.world.report(id, |status| {
                status.state = InstanceState::Running;
                status.health = Health::Unhealthy;
                status.started_at = Some(now);
            });
        } else if behaviour == Behaviour::CrashesAtOnce {
            // With a health check it never passes one; without, it merely runs for a moment.
            let has_check = self.world.deployment(instance.deployment).spec.health_check.is_some();
            self.world.report(id, |status| {
                status.state = InstanceState::Running;
                status.health = if has_check { Health::Starting } else { Health::Healthy };
                status.started_at = Some(now);
            });
        } else {
            self.world.comes_up(id);
        }
        true
    }

    fn crash(&mut self, choice: usize) {
        let running: Vec<_> = self
            .world
            .state
            .live_instances()
            .filter(|instance| instance.status.state == InstanceState::Running)
            .filter(|instance| Some(instance.placement.node) != self.cut_off)
            .map(|instance| (instance.id, instance.deployment))
            .collect();
        if let Some((id, deployment)) = running.get(choice % running.len().max(1)) {
            self.world.fails(*id, 137);
            self.unlucky.insert(*deployment);
        }
    }

    /// True at every moment, not only at the end.
    fn check(&mut self) {
        self.follow();
        if self.kind == Kind::Plain {
            return;
        }
        assert!(self.containers.len() <= 1, "{:?} run at the same time", self.containers);
        let live = self.world.state.live_instances().count();
        assert!(live <= 1, "{live} instances run at the same time");
    }

    /// Everybody does what there is to do, until there is nothing left but bad versions crashing.
    fn come_to_rest(&mut self) {
        self.heal();
        self.find_back();
        self.uncordon();
        for _ in 0..2_000 {
            // One that crashes for ever although it took over, because nothing served, is the user's to replace:
            // from here on whatever serves works.
            let serving = self.world.service_row("web").serving;
            self.behaviours.retain(|(id, _)| Some(*id) != serving);
            let proposed = !self.world.round().commands.is_empty();
            self.check();
            let moved = self.step(0);
            if proposed || moved {
                continue;
            }
            // Only time is left: back-offs, settling, deadlines.
            let starts = self.world.state.live_instances().map(|instance| instance.start_after).max();
            let next = [starts.filter(|at| *at > self.world.now), self.world.decide().wake_at];
            match next.into_iter().flatten().min() {
                Some(at) if at > self.world.now => self.world.now = at,
                _ => return,
            }
        }
        panic!("never comes to rest: {:?}", self.world.decide());
    }

    fn check_the_end(&self) {
        let service = self.world.service_row("web");
        let serving = service.serving;
        let live: Vec<_> = self.world.state.live_instances().collect();
        let newest = self.world.state.deployments_of(service.id).next();
        if service.desired == Desired::Stopped || newest.is_none() {
            assert!(live.is_empty() && serving.is_none(), "a stopped service runs nothing");
            return;
        }
        let newest = newest.expect("checked");
        assert!(
            matches!(newest.status, DeploymentStatus::Running | DeploymentStatus::Failed),
            "version {} is {} at the end: {:?}",
            newest.version,
            newest.status,
            newest.reason
        );
        if newest.status == DeploymentStatus::Failed {
            assert!(newest.reason.is_some(), "a failure has a reason");
            let deserved = self.behaviour(newest.id) != Behaviour::Works || self.unlucky.contains(&newest.id);
            assert!(deserved, "a version that works failed: {:?}", newest.reason);
        }
        assert!(live.iter().all(|instance| Some(instance.deployment) == serving), "only what serves has instances");
        if serving.is_some() {
            assert_eq!(live.len(), service.spec.replicas as usize, "exactly the wanted replicas");
        }
        for deployment in self.world.state.deployments_of(service.id) {
            let at_rest = deployment.status.is_terminal() || Some(deployment.id) == serving;
            assert!(at_rest, "version {} is still {}", deployment.version, deployment.status);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn everything_comes_to_rest_where_it_should(
        kind in prop_oneof![Just(Kind::Plain), Just(Kind::WithVolumes), Just(Kind::Exclusive)],
        check in any::<bool>(),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut simulation = Simulation::new(kind, check);
        for event in &events {
            simulation.run(event);
        }
        simulation.come_to_rest();
        simulation.check_the_end();
    }
}
