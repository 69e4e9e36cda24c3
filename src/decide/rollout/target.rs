//! A new deployment on its way to serving.

use std::collections::BTreeMap;

use crate::model::{Deployment, DeploymentStatus, Health, Instance, InstanceState, Timestamp};
use crate::state::Command;

use super::Rollout;
use super::failure::{given_up, stalled};
use super::slots::{Slot, first_instance, slots_of, wanted_replicas};
use crate::decide::schedule::Want;

impl Rollout<'_, '_> {
    /// Moves the target on. True when the version that serves must not be kept whole meanwhile: this round replaces it,
    /// or the two cannot run at the same time.
    pub(super) fn advance(&mut self, target: &Deployment, serving: Option<&Deployment>) -> bool {
        match target.status {
            DeploymentStatus::Pending => {
                if let Some(reason) = self.plan.waiting.get(&target.id).cloned() {
                    self.say(target, Some(reason));
                }
                false
            }
            DeploymentStatus::Building => {
                self.say(target, None);
                false
            }
            DeploymentStatus::Built => self.begin(target),
            _ => self.bring_up(target, serving),
        }
    }

    /// Gives a built deployment its instances: all of them or none.
    fn begin(&mut self, target: &Deployment) -> bool {
        let (reason, has_the_floor) = match self.dependency_missing(target) {
            Some(reason) => (reason, false),
            None => {
                match self.removed_node_may_run_it(target).map_or_else(|| self.make_room(target), |it| Err((it, false)))
                {
                    Ok(()) => match self.assign_all(target) {
                        Ok(()) => return self.has_the_floor(target),
                        Err(reason) => (reason, false),
                    },
                    Err(waiting) => waiting,
                }
            }
        };
        let deadline = self.built_at(target).plus(self.situation.options.room_deadline);
        if self.situation.now >= deadline {
            let reason = format!(
                "it could not be started within {}: {reason}",
                crate::model::format_duration(self.situation.options.room_deadline)
            );
            self.move_to(target, DeploymentStatus::Failed, Some(reason), Vec::new());
            return false;
        }
        self.plan.wake(deadline);
        self.say(target, Some(reason));
        has_the_floor
    }

    fn built_at(&self, target: &Deployment) -> Timestamp {
        let build = target.build.and_then(|id| self.situation.state.build(id));
        build.and_then(|build| build.finished_at).unwrap_or(target.created_at)
    }

    /// The first dependency that does not run. One that is no service of the app any more holds nobody up.
    fn dependency_missing(&self, target: &Deployment) -> Option<String> {
        let state = self.situation.state;
        for name in &target.spec.depends_on {
            let Some(needed) = state.service_by_name(target.app, name) else { continue };
            let serving = needed.serving.and_then(|id| state.deployment(id));
            if serving.is_some_and(|deployment| deployment.status == DeploymentStatus::Running) {
                continue;
            }
            return Some(match state.deployments_of(needed.id).next() {
                None => format!("waits for {name}, which it depends on and which was never deployed; deploy {name}"),
                Some(newest) => {
                    format!("waits for {name}, which it depends on: version {} is {}", newest.version, newest.status)
                }
            });
        }
        None
    }

    /// Whether the version before must be down while this one is up: when either of them runs alone. What an older version
    /// did with volumes does not concern one without.
    fn has_the_floor(&self, target: &Deployment) -> bool {
        let mut others = self.situation.state.deployments_of(target.service);
        target.spec.runs_alone() || others.any(|other| !other.status.is_terminal() && other.spec.exclusive)
    }

    /// When two versions must not run at once: stops the older ones, once it is sure that the new one can
    /// be placed. `Ok` when nothing is in the way; else what it waits for, and whether older ones are to stay down.
    fn make_room(&mut self, target: &Deployment) -> Result<(), (String, bool)> {
        let older = self.other_live_instances(target);
        if !self.has_the_floor(target) || wanted_replicas(self.service, target) == 0 || older.is_empty() {
            return Ok(());
        }
        self.would_fit_without(target, &older).map_err(|reason| (reason, false))?;
        let because = match target.spec.runs_alone() {
            true => target.spec.alone_because(),
            false => "the version before is exclusive",
        };
        let running: Vec<_> =
            older.iter().filter(|other| other.stop_requested.is_none()).map(|other| other.id).collect();
        if !running.is_empty() {
            let reason = format!("makes way for version {}: {because}", target.version);
            self.plan.commands.push(Command::StopInstances { instances: running, reason });
        }
        Err((format!("waits for the instances of the version before to stop: {because}"), true))
    }

    fn other_live_instances(&self, target: &Deployment) -> Vec<Instance> {
        let state = self.situation.state;
        state
            .deployments_of(target.service)
            .filter(|deployment| deployment.id != target.id)
            .flat_map(|deployment| state.instances_of(deployment.id))
            .filter(|instance| !instance.status.state.is_terminal())
            .map(|instance| Instance::clone(instance))
            .collect()
    }

    /// Whether there would be room for all of the target if these instances were gone.
    fn would_fit_without(&mut self, target: &Deployment, older: &[Instance]) -> Result<(), String> {
        let state = self.situation.state;
        let want = Want::of(state, target);
        let replicas = wanted_replicas(self.service, target);
        let held: Vec<_> = older
            .iter()
            .filter_map(|instance| {
                let resources = state.deployment(instance.deployment)?.spec.resources;
                Some((instance.placement.node, instance.deployment, resources))
            })
            .collect();
        let room = self.room();
        for (node, deployment, resources) in &held {
            room.release(*node, *deployment, *resources);
        }
        let placed = room.place_all(&want, replicas);
        for placement in placed.iter().flatten() {
            room.release(placement.node, target.id, want.resources);
        }
        for (node, deployment, resources) in &held {
            room.reserve(*node, *deployment, *resources);
        }
        placed.map(|_| ()).map_err(|refusal| refusal.to_string())
    }

    fn assign_all(&mut self, target: &Deployment) -> Result<(), String> {
        let want = Want::of(self.situation.state, target);
        let replicas = wanted_replicas(self.service, target);
        let placements = match self.room().place_all(&want, replicas) {
            Ok(placements) => placements,
            Err(refusal) => {
                let older = self.other_live_instances(target);
                let alone = !older.is_empty() && self.would_fit_without(target, &older).is_ok();
                let hint = if alone { "; there would be room if the version that runs were stopped first" } else { "" };
                return Err(format!("{refusal}{hint}"));
            }
        };
        let now = self.situation.now;
        let instances = (0..).zip(placements).map(|(slot, placement)| first_instance(self.ids, slot, placement, now));
        let instances = instances.collect();
        self.plan.commands.push(Command::AssignInstances { deployment: target.id, instances });
        Ok(())
    }

    /// Sees a deployment with instances through: to serving, or to failed. Answers as [`Self::advance`] does.
    fn bring_up(&mut self, target: &Deployment, serving: Option<&Deployment>) -> bool {
        let replicas = wanted_replicas(self.service, target);
        let slots = slots_of(self.situation.state, target.id);
        let attempts = self.situation.options.rollout_attempts;
        let failed = slots.range(..replicas).find(|(_, slot)| slot.failures >= attempts);
        if let Some((number, slot)) = failed {
            let (reason, log_tail) = given_up(*number, slot, target, serving);
            self.move_to(target, DeploymentStatus::Failed, Some(reason), log_tail);
            return false;
        }
        let current: Vec<&Instance> = slots.range(..replicas).filter_map(|(_, slot)| slot.current).collect();
        let all_work = current.len() == replicas as usize && current.iter().all(|instance| works(instance));
        if all_work && self.may_take_over(target, serving, &current) {
            self.plan.commands.push(Command::Promote(target.id));
            return true;
        }
        let begun = slots.values().flat_map(|slot| slot.newest).any(|i| i.status.state > InstanceState::Assigned);
        if target.status == DeploymentStatus::Scheduled && begun {
            self.move_to(target, DeploymentStatus::Starting, None, Vec::new());
            return self.has_the_floor(target);
        }
        let progress =
            slots.values().filter_map(|slot| slot.newest).map(|newest| last_progress(newest, self.situation.now)).max();
        let progress = progress.max(target.started_at).unwrap_or(target.created_at);
        let deadline = progress.plus(self.situation.options.progress_deadline);
        let accident = self.waits_for_a_node(&slots, replicas);
        if !accident && self.situation.now >= deadline {
            let (reason, log_tail) = stalled(&slots, replicas, target, serving, self.situation.options);
            self.move_to(target, DeploymentStatus::Failed, Some(reason), log_tail);
            return false;
        }
        if !accident {
            self.plan.wake(deadline);
        }
        // One that began with no replicas and got some since has to make room only now.
        let (waiting, has_the_floor) = match self.make_room(target) {
            Ok(()) => (self.keep_replicas(target, &slots), self.has_the_floor(target)),
            Err((waiting, has_the_floor)) => (Some(waiting), has_the_floor),
        };
        self.say(target, waiting);
        has_the_floor
    }

    /// Whether a replica is missing because its node does not answer, which is not the deployment's fault.
    fn waits_for_a_node(&self, slots: &BTreeMap<u32, Slot<'_>>, replicas: u32) -> bool {
        slots.range(..replicas).any(|(_, slot)| match slot.current {
            Some(current) => !self.situation.answers(current.placement.node),
            None => slot.newest.is_some_and(|last| last.status.state == InstanceState::Lost),
        })
    }

    /// Without a health check, running is all there is to see: it must last a little before it replaces what works.
    fn may_take_over(&mut self, target: &Deployment, serving: Option<&Deployment>, current: &[&Instance]) -> bool {
        if serving.is_none() {
            return true;
        }
        self.has_settled(target, current)
    }

    /// Whether instances that work have shown it for long enough: a health check that passes is enough.
    pub(super) fn has_settled(&mut self, deployment: &Deployment, instances: &[&Instance]) -> bool {
        if deployment.spec.health_check.is_some() {
            return true;
        }
        // By the clock of its node, else by that of who led then. Both may be a little ahead of this one. When they are far
        // ahead, or this one was set back, nobody knows for how long it has run, and waiting until the clock is there again may
        // take hours.
        let soon = self.situation.now.plus(self.situation.options.settle);
        let began = |instance: &&Instance| {
            let noted = [instance.status.started_at, Some(instance.created_at)];
            noted.into_iter().flatten().find(|at| *at <= soon)
        };
        let Some(last) = instances.iter().filter_map(began).max() else { return true };
        let settled = last.plus(self.situation.options.settle);
        if self.situation.now < settled {
            self.plan.wake(settled);
        }
        self.situation.now >= settled
    }
}

/// Whether it runs and gets requests.
pub(in crate::decide) fn works(instance: &Instance) -> bool {
    instance.status.state == InstanceState::Running && instance.status.health == Health::Healthy
}

/// Not after now: the clock of its node may be ahead.
fn last_progress(instance: &Instance, now: Timestamp) -> Timestamp {
    let seen = [instance.status.started_at, instance.status.healthy_at];
    let assigned = instance.created_at.max(instance.start_after);
    seen.into_iter().flatten().filter(|at| *at <= now).fold(assigned, Timestamp::max)
}
