//! What a node's agent should do to make its part of the state true.
//!
//! Comes in: the instances that the state assigns to the node, the containers that the engine shows, and what the agent
//! is busy with. Goes out: actions. Nothing is declared dead because the engine did not answer: then there is no list
//! of containers, and whoever calls this has nothing to pass.
//!
//! The state must be at least as new as every container: an agent first waits until its node has applied what was
//! committed when it started, else a container whose instance it has not heard of yet would be taken for an orphan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{Exit, Instance, InstanceId, InstanceState, NodeId};
use crate::state::State;

use super::alone::runs_alone;

/// Time between asking a process to end and ending it.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// A container of this node and cluster, as the engine shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The engine's id.
    pub id: String,
    /// Its instance, by label; none when the label cannot be read.
    pub instance: Option<InstanceId>,
    /// The attempt it was made for, by label.
    pub generation: Option<u32>,
    /// What it does.
    pub state: ContainerState,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// It was made and never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited(Exit),
}

/// What the agent is doing about an instance already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// It fetches the image or starts the container.
    Starting,
    /// It watches the running container and will report its end.
    Watching,
    /// It stops the container or removes it.
    Stopping,
}

/// One thing to do. Each leads to a report to the state or to a container that is gone, so that it is not asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make and start a container for this instance.
    Run(InstanceId),
    /// Watch this running container, as after a restart of the node's process.
    Adopt {
        /// For which instance.
        instance: InstanceId,
        /// The container.
        container: String,
    },
    /// Ask the process to end, end it after the grace, then report the instance as stopped.
    Stop {
        /// Which instance.
        instance: InstanceId,
        /// Its container; none while its start is under way, which is to be broken off.
        container: Option<String>,
        /// How long it may take.
        grace: Duration,
        /// Why, as the leader said.
        reason: String,
    },
    /// End the process first and tell the cluster afterwards, since the cluster does not answer.
    Isolate {
        /// Which instance.
        instance: InstanceId,
        /// Its container; none while its start is under way.
        container: Option<String>,
        /// Why.
        reason: String,
    },
    /// Report that a stopped instance has no process any more.
    ReportStopped {
        /// Which.
        instance: InstanceId,
        /// How its process ended, when that is known.
        exit: Option<Exit>,
    },
    /// Report that a process ended by itself while nobody watched.
    ReportExited {
        /// Which.
        instance: InstanceId,
        /// The container, for its last log lines.
        container: String,
        /// How it ended.
        exit: Exit,
    },
    /// Report that the container of a running instance was removed by somebody else.
    ReportGone(InstanceId),
    /// Remove the container of an instance that has ended, running or not.
    CleanUp {
        /// Which instance.
        instance: InstanceId,
        /// Its container.
        container: String,
    },
    /// Remove a container that belongs to no instance of this node.
    RemoveOrphan {
        /// The container.
        container: String,
        /// Why it is nobody's.
        reason: String,
    },
}

/// What to do now, and when to look again although nothing changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// In the order of instances, orphans last.
    pub actions: Vec<Action>,
    /// After which time the next instance may start.
    pub wake_in: Option<Duration>,
}

/// Compares what the state wants of a node with what its engine shows. A node that is isolated ends what must not run
/// twice, and starts nothing of that kind. `known` says for how long the node has known of an instance, not at all when it is
/// missing: the times in the state are by the leader's clock, which need not be that of this machine.
pub fn reconcile(
    state: &State,
    node: NodeId,
    containers: &[Container],
    tasks: &BTreeMap<InstanceId, Task>,
    isolated: bool,
    known: &BTreeMap<InstanceId, Duration>,
) -> Actions {
    let mut decided = Actions::default();
    let mut orphans = Vec::new();
    let mut own: BTreeMap<InstanceId, &Container> = BTreeMap::new();
    for container in containers {
        match owner(state, node, container) {
            Err(reason) => {
                let busy = container.instance.is_some_and(|id| tasks.contains_key(&id));
                if !busy {
                    orphans.push(Action::RemoveOrphan { container: container.id.clone(), reason });
                }
            }
            Ok(instance) => match own.get(&instance.id) {
                // Two for one: the running one stays.
                Some(other) if preference(other) >= preference(container) => orphans.push(second(container)),
                Some(other) => {
                    orphans.push(second(other));
                    own.insert(instance.id, container);
                }
                None => drop(own.insert(instance.id, container)),
            },
        }
    }
    let mut seen = BTreeSet::new();
    let live = state.live_instances().filter(|instance| instance.placement.node == node);
    let ended = own.keys().filter_map(|id| state.instance(*id));
    for instance in live.chain(ended) {
        if seen.insert(instance.id) {
            let container = own.get(&instance.id).copied();
            if isolated && !instance.status.state.is_terminal() && runs_alone(state, instance) {
                decided.actions.extend(isolate(state, instance, container, tasks.contains_key(&instance.id)));
                continue;
            }
            let known = known.get(&instance.id).copied().unwrap_or_default();
            decide_one(instance, container, tasks.get(&instance.id).copied(), known, &mut decided);
        }
    }
    decided.actions.append(&mut orphans);
    decided
}

/// Whose container it is, or why nobody's.
fn owner<'a>(state: &'a State, node: NodeId, container: &Container) -> Result<&'a Instance, String> {
    let id = container.instance.ok_or("its label names no instance")?;
    let instance = state.instance(id).ok_or("its instance is forgotten or was deleted")?;
    if instance.placement.node != node {
        return Err(format!("its instance is on node {}", instance.placement.node));
    }
    if container.generation.is_some_and(|generation| generation != instance.attempt) {
        return Err("it was made for another attempt".to_owned());
    }
    Ok(instance)
}

fn preference(container: &Container) -> u8 {
    match container.state {
        ContainerState::Running => 2,
        ContainerState::Exited(_) => 1,
        ContainerState::Created => 0,
    }
}

fn second(container: &Container) -> Action {
    Action::RemoveOrphan { container: container.id.clone(), reason: "its instance has another container".to_owned() }
}

fn decide_one(
    instance: &Instance,
    container: Option<&Container>,
    task: Option<Task>,
    known: Duration,
    decided: &mut Actions,
) {
    let action = if instance.status.state.is_terminal() {
        match (container, task) {
            // Given up by the leader while this node was away: whoever works on it has to learn that.
            (_, Some(Task::Starting | Task::Watching)) if instance.status.state == InstanceState::Lost => {
                stop(instance.id, instance.status.reason.as_deref().unwrap_or("it was given up"), container, task)
            }
            (Some(container), None) => Some(Action::CleanUp { instance: instance.id, container: container.id.clone() }),
            _ => None,
        }
    } else if let Some(reason) = &instance.stop_requested {
        stop(instance.id, reason, container, task)
    } else if task.is_some() {
        None
    } else {
        start(instance, container, known, decided)
    };
    decided.actions.extend(action);
}

fn isolate(state: &State, instance: &Instance, container: Option<&Container>, busy: bool) -> Option<Action> {
    let runs = container.is_some_and(|container| container.state == ContainerState::Running);
    let because = state.deployment(instance.deployment).map_or("", |deployment| deployment.spec.alone_because());
    (runs || busy).then(|| Action::Isolate {
        instance: instance.id,
        container: container.map(|container| container.id.clone()),
        reason: format!("its node was cut off from the cluster, and {because}"),
    })
}

fn stop(id: InstanceId, reason: &str, container: Option<&Container>, task: Option<Task>) -> Option<Action> {
    if task == Some(Task::Stopping) {
        return None;
    }
    let ended = match container.map(|container| container.state) {
        Some(ContainerState::Exited(exit)) => Some(Some(exit)),
        None => Some(None),
        Some(ContainerState::Created | ContainerState::Running) => None,
    };
    match (ended, task) {
        (Some(exit), None) => Some(Action::ReportStopped { instance: id, exit }),
        // The one that watches sees the end itself, and reports it.
        (Some(Some(_)), Some(Task::Watching)) => None,
        _ => Some(Action::Stop {
            instance: id,
            container: container.map(|container| container.id.clone()),
            grace: STOP_GRACE,
            reason: reason.to_owned(),
        }),
    }
}

fn start(instance: &Instance, container: Option<&Container>, known: Duration, decided: &mut Actions) -> Option<Action> {
    let id = instance.id;
    let Some(container) = container else {
        // A container is for one life: when the process was seen, a new one would be a restart, which is the leader's.
        if instance.status.state >= InstanceState::Running {
            return Some(Action::ReportGone(id));
        }
        let rest = instance.pause().saturating_sub(known);
        if !rest.is_zero() {
            decided.wake_in = Some(decided.wake_in.map_or(rest, |other| other.min(rest)));
            return None;
        }
        return Some(Action::Run(id));
    };
    let container_id = container.id.clone();
    Some(match container.state {
        ContainerState::Running => Action::Adopt { instance: id, container: container_id },
        ContainerState::Exited(exit) => Action::ReportExited { instance: id, container: container_id, exit },
        ContainerState::Created => {
            let reason = "its start was broken off; it is made anew".to_owned();
            Action::RemoveOrphan { container: container_id, reason }
        }
    })
}

#[cfg(test)]
mod tests;
