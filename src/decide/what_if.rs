//! What would happen to a node's instances without it, on a copy of what is: for people who ask before they act.

use std::collections::BTreeSet;

use crate::model::{InstanceId, NodeId, Placement};

use super::Situation;
use super::schedule::{Room, Want};

/// Where an instance would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub instance: InstanceId,
    /// Its new place with reasons, or why there is none.
    pub to: Result<Placement, String>,
}

/// Where the instances of a node would go if it were not there, oldest first.
pub fn without(situation: Situation<'_>, node: NodeId) -> Vec<Move> {
    let mut down: BTreeSet<NodeId> = situation.down.clone();
    down.insert(node);
    let mut room = Room::of(Situation { down: &down, ..situation });
    let on_it = situation.state.live_instances();
    let on_it = on_it.filter(|instance| instance.placement.node == node && instance.stop_requested.is_none());
    let mut moves = Vec::new();
    for instance in on_it {
        let Some(deployment) = situation.state.deployment(instance.deployment) else { continue };
        let to = room.place(&Want::of(situation.state, deployment)).map_err(|refusal| refusal.to_string());
        moves.push(Move { instance: instance.id, to });
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fixture::World;
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
        world.change_node(2, |node| node.cordoned = true);
        let asked = without(world.situation(), NodeId(1));
        assert!(asked[0].to.as_ref().is_err_and(|why| why.contains("cordoned")), "{asked:?}");
        assert_eq!(without(world.situation(), NodeId(7)), []);
    }
}
