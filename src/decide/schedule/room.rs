//! What is free on each node, kept in an order in which the best nodes come first.
//!
//! Built once per round from the state and updated with each placement, so that a placement costs the logarithm of
//! the number of nodes and not the number of nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Cpu, DeploymentId, Memory, Node, NodeId, Placement, Resources};

use super::Want;
use super::refusal::{Filter, Refusal};
use crate::decide::Situation;

/// Nodes of one zone and of all zones that are compared for one placement at most. Clusters with fewer nodes get the
/// best one; larger ones the best of those with the most room.
const COMPARED_PER_ZONE: usize = 32;
const COMPARED_MAX: usize = 64;
/// Head-room is compared in millionths of a node.
const WHOLE: u128 = 1_000_000;

/// Nodes with what is reserved on them.
#[derive(Clone, Debug)]
pub struct Room {
    nodes: Vec<Host>,
    by_id: BTreeMap<NodeId, usize>,
    zones: Vec<String>,
    /// Per zone: the nodes that take work, most head-room first.
    by_headroom: Vec<BTreeSet<(Reverse<u64>, usize)>>,
    on_node: BTreeMap<(DeploymentId, usize), u32>,
    in_zone: BTreeMap<(DeploymentId, usize), u32>,
}

#[derive(Clone, Debug)]
struct Host {
    node: Arc<Node>,
    zone: usize,
    used: Resources,
    /// Why it takes no work at all.
    blocked: Option<(Filter, String)>,
}

/// How good a place is for one more instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::decide) struct Standing {
    /// Whether the node has the architecture and the labels that are asked for.
    pub(in crate::decide) suits: bool,
    /// Replicas of the same deployment there.
    pub(in crate::decide) replicas: u32,
    /// And in its zone.
    pub(in crate::decide) in_zone: u32,
    /// What would be left of the node, in millionths.
    pub(in crate::decide) headroom: u64,
}

/// Fewer failures of this replica here, fewer replicas here, fewer in the zone, more head-room, lower id.
type Score = (u32, u32, u32, Reverse<u64>, usize);

impl Room {
    /// What the live instances of a state leave free.
    pub fn of(situation: Situation<'_>) -> Self {
        let mut room = Self {
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            zones: Vec::new(),
            by_headroom: Vec::new(),
            on_node: BTreeMap::new(),
            in_zone: BTreeMap::new(),
        };
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        for node in situation.state.nodes() {
            let zone = node.zone();
            let zone = *zones.entry(zone).or_insert_with(|| {
                room.zones.push(zone.to_owned());
                room.zones.len() - 1
            });
            let blocked = blocked(node, !situation.answers(node.id));
            let used = Resources { cpu: Cpu::default(), memory: Memory::default() };
            room.by_id.insert(node.id, room.nodes.len());
            room.nodes.push(Host { node: Arc::clone(node), zone, used, blocked });
        }
        for instance in situation.state.live_instances() {
            let Some(deployment) = situation.state.deployment(instance.deployment) else { continue };
            room.count(instance.placement.node, deployment.id, deployment.spec.resources);
        }
        room.by_headroom = vec![BTreeSet::new(); room.zones.len()];
        for (index, host) in room.nodes.iter().enumerate().filter(|(_, host)| host.blocked.is_none()) {
            room.by_headroom[host.zone].insert((Reverse(host.headroom()), index));
        }
        room
    }

    /// Places nothing on a node from now on, as if it were not there.
    pub fn block(&mut self, node: NodeId) {
        let Some(&index) = self.by_id.get(&node) else { return };
        let host = &mut self.nodes[index];
        host.blocked = Some((Filter::There, format!("node {} would be gone", host.node.name)));
        let headroom = host.headroom();
        let zone = host.zone;
        self.by_headroom[zone].remove(&(Reverse(headroom), index));
    }

    /// Ends [`Room::block`]: what the node takes is as the situation says again.
    pub fn unblock(&mut self, node: NodeId, situation: Situation<'_>) {
        let Some(&index) = self.by_id.get(&node) else { return };
        let host = &mut self.nodes[index];
        host.blocked = blocked(&host.node, !situation.answers(node));
        if host.blocked.is_none() {
            let entry = (Reverse(host.headroom()), index);
            self.by_headroom[self.nodes[index].zone].insert(entry);
        }
    }

    /// Finds the best node and reserves what is asked there.
    pub fn place(&mut self, want: &Want<'_>) -> Result<Placement, Refusal> {
        let Some(index) = self.best(want) else { return Err(self.refusal(want)) };
        let reasons = self.reasons(index, want);
        let node = self.nodes[index].node.id;
        self.reserve(node, want.deployment, want.resources);
        Ok(Placement { node, reasons })
    }

    /// The best node, without reserving anything.
    pub(in crate::decide) fn find(&self, want: &Want<'_>) -> Option<NodeId> {
        self.best(want).map(|index| self.nodes[index].node.id)
    }

    /// Whether a node takes an instance now.
    pub(in crate::decide) fn fits(&self, node: NodeId, want: &Want<'_>) -> bool {
        self.by_id.get(&node).is_some_and(|index| self.refuses(*index, want).is_none())
    }

    /// How good a node is for one more instance, whether it has room or not.
    pub(in crate::decide) fn standing(&self, node: NodeId, want: &Want<'_>) -> Option<Standing> {
        let &index = self.by_id.get(&node)?;
        let host = &self.nodes[index];
        let arch_ok = want.arch.is_none_or(|arch| arch == host.node.arch);
        Some(Standing {
            suits: arch_ok && want.constraints.iter().all(|constraint| host.node.has_label(constraint)),
            replicas: self.replicas_on(want.deployment, index),
            in_zone: self.replicas_in_zone(want.deployment, host.zone),
            headroom: host.headroom_with(want.resources),
        })
    }

    /// Why an instance is put on a node.
    pub(in crate::decide) fn reasons_for(&self, node: NodeId, want: &Want<'_>) -> Vec<String> {
        self.by_id.get(&node).map(|index| self.reasons(*index, want)).unwrap_or_default()
    }

    /// Places `count` instances or none.
    pub fn place_all(&mut self, want: &Want<'_>, count: u32) -> Result<Vec<Placement>, Refusal> {
        let mut placements = Vec::new();
        for _ in 0..count {
            match self.place(want) {
                Ok(placement) => placements.push(placement),
                Err(refusal) => {
                    for placement in placements {
                        self.release(placement.node, want.deployment, want.resources);
                    }
                    return Err(refusal);
                }
            }
        }
        Ok(placements)
    }

    /// Takes room on a node whether it is there or not.
    pub fn reserve(&mut self, node: NodeId, deployment: DeploymentId, resources: Resources) {
        let Some(&index) = self.by_id.get(&node) else { return };
        self.reorder(index, |room| room.count(node, deployment, resources));
    }

    /// Gives back what an instance had.
    pub fn release(&mut self, node: NodeId, deployment: DeploymentId, resources: Resources) {
        let Some(&index) = self.by_id.get(&node) else { return };
        self.reorder(index, |room| {
            let host = &mut room.nodes[index];
            host.used.cpu.millis = host.used.cpu.millis.saturating_sub(resources.cpu.millis);
            host.used.memory.bytes = host.used.memory.bytes.saturating_sub(resources.memory.bytes);
            let zone = host.zone;
            let counts = [room.on_node.get_mut(&(deployment, index)), room.in_zone.get_mut(&(deployment, zone))];
            for count in counts.into_iter().flatten() {
                *count = count.saturating_sub(1);
            }
        });
    }

    fn count(&mut self, node: NodeId, deployment: DeploymentId, resources: Resources) {
        let Some(&index) = self.by_id.get(&node) else { return };
        let host = &mut self.nodes[index];
        host.used.cpu.millis = host.used.cpu.millis.saturating_add(resources.cpu.millis);
        host.used.memory.bytes = host.used.memory.bytes.saturating_add(resources.memory.bytes);
        *self.on_node.entry((deployment, index)).or_default() += 1;
        *self.in_zone.entry((deployment, host.zone)).or_default() += 1;
    }

    fn reorder(&mut self, index: usize, change: impl FnOnce(&mut Self)) {
        let host = &self.nodes[index];
        let (zone, ordered) = (host.zone, host.blocked.is_none());
        let before = host.headroom();
        change(self);
        if ordered {
            let after = self.nodes[index].headroom();
            self.by_headroom[zone].remove(&(Reverse(before), index));
            self.by_headroom[zone].insert((Reverse(after), index));
        }
    }

    fn best(&self, want: &Want<'_>) -> Option<usize> {
        if let Some(home) = want.home {
            let index = *self.by_id.get(&home)?;
            return self.refuses(index, want).is_none().then_some(index);
        }
        let mut zones: Vec<(u32, Option<Reverse<u64>>, usize)> = (0..self.zones.len())
            .filter_map(|zone| {
                let (most, _) = self.by_headroom[zone].first()?;
                Some((self.replicas_in_zone(want.deployment, zone), Some(*most), zone))
            })
            .collect();
        zones.sort_unstable();
        let mut best: Option<Score> = None;
        let mut compared = 0;
        for (in_zone, _, zone) in zones {
            let mut here = 0;
            for &(headroom, index) in &self.by_headroom[zone] {
                if self.refuses(index, want).is_some() {
                    continue;
                }
                let failed = want.failures.get(&self.nodes[index].node.id).copied().unwrap_or(0);
                let on_node = self.replicas_on(want.deployment, index);
                let score = (failed, on_node, in_zone, headroom, index);
                best = Some(best.map_or(score, |other| other.min(score)));
                here += 1;
                // The nodes that follow in this zone have less room, so none beats one without a failure and a replica.
                if (failed, on_node) == (0, 0) || here == COMPARED_PER_ZONE {
                    break;
                }
            }
            compared += here;
            if compared >= COMPARED_MAX {
                break;
            }
        }
        best.map(|(.., index)| index)
    }

    fn replicas_on(&self, deployment: DeploymentId, index: usize) -> u32 {
        self.on_node.get(&(deployment, index)).copied().unwrap_or(0)
    }

    fn replicas_in_zone(&self, deployment: DeploymentId, zone: usize) -> u32 {
        self.in_zone.get(&(deployment, zone)).copied().unwrap_or(0)
    }

    /// The first filter that the node fails on.
    fn refuses(&self, index: usize, want: &Want<'_>) -> Option<Filter> {
        let host = &self.nodes[index];
        if let Some((filter, _)) = &host.blocked {
            return Some(*filter);
        }
        if want.arch.is_some_and(|arch| arch != host.node.arch) {
            return Some(Filter::Architecture);
        }
        if want.constraints.iter().any(|constraint| !host.node.has_label(constraint)) {
            return Some(Filter::Constraints);
        }
        if want.home.is_some_and(|home| home != host.node.id) {
            return Some(Filter::Volumes);
        }
        let free = host.free();
        let fits = want.resources.cpu <= free.cpu && want.resources.memory <= free.memory;
        (!fits).then_some(Filter::Capacity)
    }

    fn refusal(&self, want: &Want<'_>) -> Refusal {
        let nodes = (0..self.nodes.len())
            .filter_map(|index| {
                let filter = self.refuses(index, want)?;
                Some((filter, self.refusal_of(index, filter, want)))
            })
            .collect();
        Refusal { nodes }
    }

    fn refusal_of(&self, index: usize, filter: Filter, want: &Want<'_>) -> String {
        let host = &self.nodes[index];
        let name = &host.node.name;
        match filter {
            Filter::There | Filter::Alive | Filter::Cordoned | Filter::Engine => {
                host.blocked.as_ref().map(|(_, reason)| reason.clone()).unwrap_or_default()
            }
            Filter::Architecture => {
                format!("node {name} is {}, the image is for {}", host.node.arch, want.arch.unwrap_or("another"))
            }
            Filter::Constraints => {
                let missing: Vec<&str> = want
                    .constraints
                    .iter()
                    .filter(|constraint| !host.node.has_label(constraint))
                    .map(String::as_str)
                    .collect();
                format!("node {name} has no label {}", missing.join(" and "))
            }
            Filter::Volumes => format!("node {name} has not the volumes of {}", want.name),
            Filter::Capacity => host.lacks(want.resources),
        }
    }

    fn reasons(&self, index: usize, want: &Want<'_>) -> Vec<String> {
        let host = &self.nodes[index];
        let free = host.free();
        let total = host.node.resources;
        let mut reasons = vec![format!(
            "node {} has {} of {} cores and {} of {} memory free; {} cores and {} are asked",
            host.node.name,
            free.cpu,
            total.cpu,
            size(free.memory),
            size(total.memory),
            want.resources.cpu,
            size(want.resources.memory),
        )];
        if self.nodes.len() == 1 {
            reasons.push("it is the only node".to_owned());
            return reasons;
        }
        if want.home.is_some() {
            reasons.push(format!("it holds the volumes of {}", want.name));
            return reasons;
        }
        reasons.push(match self.replicas_on(want.deployment, index) {
            0 => format!("it runs no other replica of this version of {}", want.name),
            count if want.failures.is_empty() => {
                format!(
                    "it runs {count} other replicas of this version of {}; no node with room was found that runs fewer",
                    want.name
                )
            }
            count => format!("it runs {count} other replicas of this version of {}", want.name),
        });
        for (node, count) in want.failures {
            let name =
                self.by_id.get(node).map_or_else(|| node.to_string(), |index| self.nodes[*index].node.name.clone());
            reasons.push(format!("this replica failed on node {name} and has not worked since, {count} times"));
        }
        if self.zones.len() > 1 && !self.zones[host.zone].is_empty() {
            let count = self.replicas_in_zone(want.deployment, host.zone);
            reasons.push(format!("its zone {} has {count} of them", self.zones[host.zone]));
        }
        if !want.constraints.is_empty() {
            reasons.push(format!("it has the labels asked for: {}", want.constraints.join(", ")));
        }
        reasons
    }
}

impl Host {
    fn free(&self) -> Resources {
        let total = self.node.resources;
        Resources {
            cpu: Cpu { millis: total.cpu.millis.saturating_sub(self.used.cpu.millis) },
            memory: Memory { bytes: total.memory.bytes.saturating_sub(self.used.memory.bytes) },
        }
    }

    /// The scarcer of the two free shares, so that neither CPU nor memory is used up alone.
    fn headroom(&self) -> u64 {
        self.headroom_with(Resources { cpu: Cpu::default(), memory: Memory::default() })
    }

    /// The same once this is taken as well.
    fn headroom_with(&self, more: Resources) -> u64 {
        let mut free = self.free();
        free.cpu.millis = free.cpu.millis.saturating_sub(more.cpu.millis);
        free.memory.bytes = free.memory.bytes.saturating_sub(more.memory.bytes);
        let total = self.node.resources;
        let share = |free: u64, total: u64| u128::from(free) * WHOLE / u128::from(total.max(1));
        let least = share(free.cpu.millis, total.cpu.millis).min(share(free.memory.bytes, total.memory.bytes));
        u64::try_from(least).unwrap_or(u64::MAX)
    }

    fn lacks(&self, asked: Resources) -> String {
        let free = self.free();
        let total = self.node.resources;
        let mut parts = Vec::new();
        if asked.cpu > free.cpu {
            parts.push(format!("{} of {} cores free, {} asked", free.cpu, total.cpu, asked.cpu));
        }
        if asked.memory > free.memory {
            let (free, total) = (size(free.memory), size(total.memory));
            parts.push(format!("{free} of {total} memory free, {} asked", size(asked.memory)));
        }
        format!("node {} has {}", self.node.name, parts.join(" and "))
    }
}

fn blocked(node: &Node, down: bool) -> Option<(Filter, String)> {
    if down {
        return Some((Filter::Alive, format!("node {} does not answer", node.name)));
    }
    if node.drain.is_some() {
        return Some((Filter::Cordoned, format!("node {} is drained", node.name)));
    }
    if node.cordoned {
        return Some((Filter::Cordoned, format!("node {} is cordoned", node.name)));
    }
    match &node.engine {
        Err(reason) => Some((Filter::Engine, format!("node {} has no container engine: {reason}", node.name))),
        Ok(_) => None,
    }
}

/// Memory for people: whole mebibytes, rounded down, as gibibytes with one digit when it is more.
fn size(memory: Memory) -> String {
    let mebibytes = memory.bytes >> 20;
    if mebibytes < 1_024 {
        return format!("{mebibytes}Mi");
    }
    let tenths = mebibytes * 10 / 1_024;
    if tenths.is_multiple_of(10) { format!("{}Gi", tenths / 10) } else { format!("{}.{}Gi", tenths / 10, tenths % 10) }
}
