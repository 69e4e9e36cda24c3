//! What would happen without a node, or with one more, on a copy of what is: for people who ask before they act, and for a
//! standing answer to "what goes down if this one dies".

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    DeploymentId, Desired, Health, Instance, InstanceId, InstanceState, Node, NodeId, Placement, ServiceId,
};
use crate::state::{Actor, Command, LogEntry, NewInstance, State, apply};

use super::Situation;
use super::explain::what_if;
use super::plan::Plan;
use super::rebalance::{self, Proposal};
use super::schedule::{Room, Want, newest_instance};

/// Where an instance would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub instance: InstanceId,
    /// Its new place with reasons, or why there is none.
    pub to: Result<Placement, String>,
    /// That its service serves nobody until then: all that serves of it is on this node.
    pub goes_down: bool,
    /// That it begins with empty volumes: what is in them stays on the machine of the node that is removed.
    pub leaves_volumes: bool,
}

/// The loss of any one node, for as many nodes as are asked for. Looks at all instances once, and at each once more for its
/// own node.
pub struct Losses<'a> {
    situation: Situation<'a>,
    room: Room,
    on: BTreeMap<NodeId, Vec<&'a Instance>>,
    /// Where what serves of a service is: on one node, or on several.
    serving: BTreeMap<ServiceId, Option<NodeId>>,
    /// Those that are about to move anyway, with the place of the one that follows.
    leaving: BTreeMap<InstanceId, &'a Placement>,
}

impl<'a> Losses<'a> {
    /// Takes stock.
    pub fn of(situation: Situation<'a>) -> Self {
        let state = situation.state;
        let mut losses = Self {
            situation,
            room: Room::of(situation),
            on: BTreeMap::new(),
            serving: BTreeMap::new(),
            leaving: BTreeMap::new(),
        };
        for instance in state.live_instances().filter(|instance| instance.stop_requested.is_none()) {
            let node = instance.placement.node;
            losses.on.entry(node).or_default().push(instance);
            if let Some(relocation) = &instance.relocation {
                losses.leaving.insert(relocation.from, &instance.placement);
            }
            let serves = instance.status.state == InstanceState::Running
                && instance.status.health == Health::Healthy
                && state.service(instance.service).is_some_and(|service| service.serving == Some(instance.deployment));
            if serves {
                let place = losses.serving.entry(instance.service).or_insert(Some(node));
                *place = place.filter(|other| *other == node);
            }
        }
        losses
    }

    /// Where the instances of a node would go if it were not there, oldest first.
    pub fn without(&mut self, node: NodeId) -> Vec<Move> {
        self.places(node, self.situation.state)
    }

    /// The same as decided on a state, which may be one that knows the node no more.
    fn places(&mut self, node: NodeId, state: &State) -> Vec<Move> {
        let on_it = self.on.get(&node).map_or(&[][..], Vec::as_slice);
        self.room.block(node);
        let (mut moves, mut taken) = (Vec::new(), Vec::new());
        for instance in on_it {
            let Some(deployment) = state.deployment(instance.deployment) else { continue };
            let to = match self.leaving.get(&instance.id) {
                Some(placement) => Ok((*placement).clone()),
                None => self
                    .room
                    .place(&Want::of(state, deployment))
                    .map_err(|refusal| refusal.to_string())
                    .inspect(|placement| taken.push((placement.node, deployment.id, deployment.spec.resources))),
            };
            let goes_down = self.serving.get(&instance.service) == Some(&Some(node));
            let leaves_volumes = state.node(node).is_none() && !deployment.spec.volumes.is_empty();
            moves.push(Move { instance: instance.id, to, goes_down, leaves_volumes });
        }
        for (node, deployment, resources) in taken {
            self.room.release(node, deployment, resources);
        }
        self.room.unblock(node, self.situation);
        moves
    }
}

/// Where the instances of a node would go if it were not there, oldest first.
pub fn without(situation: Situation<'_>, node: NodeId) -> Vec<Move> {
    Losses::of(situation).without(node)
}

/// Where the instances of a node go when it is removed: nothing waits for its volumes then, also what had ended there and waited
/// for it. What is stopped and has its volumes there is named too, for when it is started again.
pub fn removed(situation: Situation<'_>, node: NodeId) -> Vec<Move> {
    let state = situation.state;
    let command = Command::RemoveNode(node);
    let entry = LogEntry { proposed_at: situation.now, actor: Actor::System, request: None, command };
    let after = apply(state, 0, &entry).state;
    let mut moves = Losses::of(situation).places(node, &after);
    let mut room = Room::of(Situation { state: &after, ..situation });
    if state.node(node).is_none() {
        return moves;
    }
    for service in state.services() {
        let serving = service.serving.and_then(|id| state.deployment(id));
        if serving.map_or(&service.spec, |serving| &serving.spec).volumes.is_empty() {
            continue;
        }
        let Some(newest) = newest_instance(state, service.id) else { continue };
        if newest.placement.node != node || !newest.status.state.is_terminal() {
            continue;
        }
        let to = match serving.filter(|_| service.desired == Desired::Running && service.spec.replicas > 0) {
            Some(serving) => room.place(&Want::of(&after, serving)).map_err(|refusal| refusal.to_string()),
            None => Err("it does not run; it begins with empty volumes when it is started again".to_owned()),
        };
        moves.push(Move { instance: newest.id, to, goes_down: false, leaves_volumes: true });
    }
    moves
}

/// What one more node would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Replicas that have no place now and would get one, wherever.
    pub starts: Vec<(DeploymentId, u32, Placement)>,
    /// Instances that rebalancing would then move to the new node.
    pub moves: Vec<Proposal>,
}

/// What would change with this node as well, and with at most so many moves to it.
pub fn joined(situation: Situation<'_>, node: Node, budget: usize) -> Joined {
    let assigned = |plan: &Plan| -> Vec<(DeploymentId, NewInstance)> {
        let commands = plan.commands.iter().filter_map(|command| match command {
            Command::AssignInstances { deployment, instances } => Some((*deployment, instances.clone())),
            _ => None,
        });
        commands.flat_map(|(id, instances)| instances.into_iter().map(move |one| (id, one))).collect()
    };
    let now: BTreeSet<(DeploymentId, u32)> =
        assigned(&what_if(situation)).into_iter().map(|(deployment, one)| (deployment, one.slot)).collect();
    let id = node.id;
    let mut state = situation.state.with(node);
    let plan = what_if(Situation { state: &state, ..situation });
    let new = assigned(&plan).into_iter().filter(|(deployment, one)| !now.contains(&(*deployment, one.slot)));
    let starts = new.map(|(deployment, one)| (deployment, one.slot, one.placement)).collect();
    for command in plan.commands {
        // What starts takes room; nothing else of the plan matters here.
        if matches!(command, Command::AssignInstances { .. }) {
            let entry = LogEntry { proposed_at: situation.now, actor: Actor::System, request: None, command };
            state = apply(&state, 0, &entry).state;
        }
    }
    let mut moves = rebalance::propose(Situation { state: &state, ..situation }, budget);
    moves.retain(|proposal| proposal.to.node == id);
    Joined { starts, moves }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::{World, has_data};
    use crate::model::Memory;

    #[test]
    fn instances_go_where_there_is_room_or_say_why_not() {
        let mut world = World::with_nodes(2);
        world.service("web", |spec| {
            spec.replicas = 2;
            spec.resources.memory = Memory::from_mebibytes(1_500);
        });
        world.deploy("web");
        world.run_until_quiet();
        let asked = without(world.situation(), NodeId(1));
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].to.as_ref().map(|placement| placement.node), Ok(NodeId(2)));
        assert!(!asked[0].goes_down, "the other one serves");
        world.change_node(2, |node| node.cordoned = true);
        let asked = without(world.situation(), NodeId(1));
        assert!(asked[0].to.as_ref().is_err_and(|why| why.contains("cordoned")), "{asked:?}");
        assert_eq!(without(world.situation(), NodeId(7)), []);
    }

    #[test]
    fn one_more_node_takes_what_waits_and_some_of_the_rest() {
        let mut world = World::with_nodes(1);
        world.service("web", |spec| spec.replicas = 2);
        world.service("big", |spec| spec.resources.cpu.millis = 3_500);
        world.deploy("web");
        world.run_until_quiet();
        let big = world.deploy("big");
        world.run_until_quiet();
        let mut node = Node::clone(world.state.node(NodeId(1)).expect("a node"));
        node.id = NodeId(9);
        node.name = "new".to_owned();
        let found = joined(world.situation(), node.clone(), 10);
        assert!(matches!(&found.starts[..], [(id, 0, place)] if *id == big && place.node == NodeId(9)), "{found:?}");
        assert_eq!(found.moves.len(), 1, "one of the two replicas: {found:?}");
        node.resources.cpu.millis = 100;
        assert_eq!(joined(world.situation(), node, 10), Joined::default(), "it is too small for anything");
    }

    #[test]
    fn what_has_all_of_its_instances_on_one_node_goes_down_with_it() {
        let mut world = World::with_nodes(2);
        world.service("web", |_| {});
        world.service("db", has_data);
        world.service("pair", |spec| spec.replicas = 2);
        world.service("idle", |_| {});
        world.change_node(2, |node| node.cordoned = true);
        for name in ["web", "db", "pair"] {
            world.deploy(name);
        }
        world.run_until_quiet();
        world.change_node(2, |node| node.cordoned = false);
        let mut losses = Losses::of(world.situation());
        let found = losses.without(NodeId(1));
        let names: Vec<(String, bool, bool)> = found
            .iter()
            .map(|one| {
                let service = world.state.instance(one.instance).expect("exists").service;
                (world.state.service(service).expect("exists").name.clone(), one.goes_down, one.to.is_ok())
            })
            .collect();
        let expected = [("web", true, true), ("db", true, false), ("pair", true, true), ("pair", true, true)];
        assert_eq!(names, expected.map(|(name, down, back)| (name.to_owned(), down, back)));
        // Asking leaves nothing behind: the same answer again, and none for a node with nothing.
        assert_eq!(losses.without(NodeId(2)), []);
        assert_eq!(losses.without(NodeId(1)), found);
        // One of the pair is enough elsewhere.
        world.scale("pair", 3);
        world.run_until_quiet();
        assert!(Losses::of(world.situation()).without(NodeId(1)).iter().filter(|one| one.goes_down).count() == 2);
    }

    #[test]
    fn a_node_that_is_removed_holds_no_volumes_any_more() {
        let mut world = World::with_nodes(2);
        world.service("db", has_data);
        let deployment = world.deploy("db");
        world.run_until_quiet();
        let home = world.live_instances(deployment)[0].placement.node;
        let lost = without(world.situation(), home);
        assert!(lost[0].to.is_err() && !lost[0].leaves_volumes, "it waits for its node: {lost:?}");
        let foreseen = removed(world.situation(), home);
        assert!(foreseen[0].leaves_volumes, "{foreseen:?}");
        // And so it is.
        world.command(Command::RemoveNode(home));
        world.fenced.insert(home);
        world.run_until_quiet();
        let came = world.live_instances(deployment)[0].placement.node;
        assert_eq!(foreseen[0].to.as_ref().map(|placement| placement.node), Ok(came));
        assert_eq!(removed(world.situation(), home), [], "it is gone already");
    }

    #[test]
    fn what_waits_for_its_volumes_on_a_dead_or_drained_node_is_named_before_its_removal() {
        for drained in [true, false] {
            let mut world = World::with_nodes(2);
            world.service("db", has_data);
            let deployment = world.deploy("db");
            world.run_until_quiet();
            let home = world.live_instances(deployment)[0].placement.node;
            if drained {
                world.drain(home.0, true, true);
                world.run_until_quiet();
            } else {
                world.absent(home.0);
                world.fenced.insert(home);
                world.settle_rounds();
            }
            assert_eq!(world.live_instances(deployment), [], "drained: {drained}");
            assert_eq!(without(world.situation(), home), []);
            let foreseen = removed(world.situation(), home);
            assert!(matches!(&foreseen[..], [one] if one.leaves_volumes && one.to.is_ok()), "{drained}: {foreseen:?}");
        }
    }

    #[test]
    fn volumes_of_what_does_not_run_are_named_too() {
        for stop in [|world: &mut World| world.want("db", Desired::Stopped), |world: &mut World| world.scale("db", 0)] {
            let mut world = World::with_nodes(2);
            world.service("db", has_data);
            let deployment = world.deploy("db");
            world.run_until_quiet();
            let home = world.live_instances(deployment)[0].placement.node;
            stop(&mut world);
            world.run_until_quiet();
            assert_eq!(world.live_instances(deployment), []);
            let foreseen = removed(world.situation(), home);
            assert!(matches!(&foreseen[..], [one] if one.leaves_volumes && one.to.is_err()), "{foreseen:?}");
        }
    }
}
