//! The end of a run: nothing goes wrong any more, and everything has to be as it should be again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::machine::End;
use super::wait::until;
use super::world::World;
use crate::agent::INSTANCE_LABEL;
use crate::engine::ContainerState;
use crate::engine::fake::Fault;
use crate::model::{DeploymentStatus, Desired, Health, InstanceState, NodeId};
use crate::state::{Command, State};

/// Longest wait, when nothing is wrong any more, for the cluster to decide again.
const DECIDES_MAX: Duration = Duration::from_secs(15);
/// And for everything that is wanted to run. What must not run twice may have to wait for somebody who was cut off.
const SETTLED_MAX: Duration = Duration::from_secs(150);
/// It has to stay so for a while.
const SETTLED_FOR: Duration = Duration::from_secs(5);
/// How often that is looked at.
const SETTLED_EVERY: Duration = Duration::from_millis(250);

impl World {
    /// Nothing is wrong any more: the cluster has to decide again, and to run what is wanted.
    pub(super) async fn recover(&mut self) {
        self.trace.note(&["recover"]);
        self.heal();
        for machine in 0..self.machines.len() {
            self.resume(machine);
            self.machines[machine].engine.set_fault(Fault::None);
            self.machines[machine].disk.empty();
            if let Err(error) = self.start(machine).await {
                return self.ledger.accuse(error);
            }
        }
        // What was asked for before that is decided by then, or never.
        if let Err(error) = self.settle(Command::CordonNode { node: NodeId::FOUNDER, cordoned: false }).await {
            return self.ledger.accuse(error);
        }
        let told = until(DECIDES_MAX, async || {
            let state = self.ledger.newest();
            let is_removed = |node| state.admission(node).is_some_and(|own| own.removed_at.is_some());
            self.machines.iter().all(|machine| match machine.end() {
                Some(End::Lost) => true,
                end => is_removed(machine.node) == (end == Some(End::Removed)),
            })
        });
        if !told.await {
            let ends: Vec<_> =
                self.machines.iter().map(|machine| (machine.number, machine.node, machine.end())).collect();
            return self.ledger.accuse(format!("not those nodes have ended that were removed: {ends:?}"));
        }
        let well: Vec<usize> = self.at_work();
        for machine in &well {
            let mut refusal = None;
            let decides = until(DECIDES_MAX, async || {
                let command = Command::CordonNode { node: self.machines[*machine].node, cordoned: false };
                refusal = self.ask(*machine, command).await.err();
                refusal.is_none()
            });
            if !decides.await {
                let status = self.machines[*machine].consensus().map(|(_, consensus)| consensus.status());
                return self.ledger.accuse(format!("machine {machine} does not decide again: {refusal:?}, {status:?}"));
            }
        }
        // What has data on a machine that is lost waits for it.
        if self.machines.iter().all(|machine| machine.end() != Some(End::Lost)) {
            let deadline = Instant::now() + SETTLED_MAX;
            let mut since = None;
            while since.is_none_or(|since: Instant| since.elapsed() < SETTLED_FOR) {
                let unsettled = self.unsettled();
                match unsettled {
                    None => drop(since.get_or_insert_with(Instant::now)),
                    Some(reason) if Instant::now() > deadline => {
                        return self.ledger.accuse(format!("{reason}, {SETTLED_MAX:?} after the last fault"));
                    }
                    Some(_) => since = None,
                }
                sleep(SETTLED_EVERY).await;
            }
        }
        self.compare_all().await;
    }

    /// What is not yet as it should be.
    fn unsettled(&self) -> Option<String> {
        let state = self.ledger.newest();
        if let Some(deployment) = state.deployments().find(|deployment| !is_settled(deployment.status)) {
            let instances =
                state.instances_of(deployment.id).map(|it| (it.placement.node, &it.status, &it.stop_requested));
            return Some(format!(
                "deployment {} is {} ({:?}): {:?}",
                deployment.id,
                deployment.status,
                deployment.reason,
                instances.collect::<Vec<_>>()
            ));
        }
        for service in state.services() {
            let serving = service.serving.and_then(|serving| state.deployment(serving));
            let wanted = match serving {
                Some(_) if service.desired == Desired::Running => service.spec.replicas,
                _ => 0,
            };
            let works =
                |state: InstanceState, health: Health| state == InstanceState::Running && health != Health::Unhealthy;
            let live = state.live_instances().filter(|instance| instance.service == service.id);
            let (ours, old): (Vec<_>, Vec<_>) = live.partition(|it| Some(it.deployment) == service.serving);
            if let Some(old) = old.first() {
                return Some(format!("instance {} is of a deployment that does not serve", old.id));
            }
            let running = ours.iter().filter(|it| works(it.status.state, it.status.health)).count();
            if running != ours.len() || u32::try_from(running) != Ok(wanted) {
                let (id, all) = (service.id, ours.len());
                return Some(format!("service {id} has {running} running instances of {all}, and not {wanted}"));
            }
        }
        let wanted: Vec<String> = state.live_instances().map(|it| it.id.to_string()).collect();
        let engines = self.machines.iter().flat_map(|machine| machine.engine.containers());
        let running = engines.filter(|container| container.state == ContainerState::Running);
        let found: Vec<String> = running.filter_map(|it| it.labels.get(INSTANCE_LABEL).cloned()).collect();
        if let Some(orphan) = found.iter().find(|id| !wanted.contains(id)) {
            return Some(format!("a container of instance {orphan} is nobody's"));
        }
        wanted.iter().find(|id| !found.contains(id)).map(|id| format!("instance {id} has no container"))
    }

    /// All members have the same in the end.
    async fn compare_all(&self) {
        let same = until(Duration::from_secs(10), async || {
            let views: Vec<(u64, State)> = self
                .machines
                .iter()
                .filter(|machine| machine.end().is_none())
                .filter_map(|machine| machine.consensus())
                .map(|(_, consensus)| consensus.latest())
                .map(|view| (view.index, view.state))
                .collect();
            views.windows(2).all(|two| two[0] == two[1])
        });
        if !same.await {
            self.ledger.accuse("the members do not come to the same state".to_owned());
        }
    }
}

/// Whether nothing is to be done for it any more.
fn is_settled(status: DeploymentStatus) -> bool {
    matches!(status, DeploymentStatus::Running | DeploymentStatus::Stopped | DeploymentStatus::Failed)
}
