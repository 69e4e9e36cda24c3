//! What is true of every state that `apply` can reach. Tests and the simulator check it after each step.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{DeploymentStatus, Instance, Source, image_name};

use super::State;

/// Every rule that the state breaks, in words; empty when it is sound.
pub fn violations(state: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    check_owners(state, &mut wrong);
    check_services(state, &mut wrong);
    check_deployments(state, &mut wrong);
    check_instances(state, &mut wrong);
    check_nodes(state, &mut wrong);
    let rebuilt = State::from_records(state.records());
    if rebuilt != *state {
        wrong.push("the indexes differ from those of a state made of the same rows".to_owned());
    }
    wrong
}

fn check_owners(state: &State, wrong: &mut Vec<String>) {
    for app in state.apps() {
        if state.org(app.org).is_none() {
            wrong.push(format!("app {} belongs to no organisation", app.id));
        }
    }
    for session in state.sessions().filter(|session| state.user(session.user).is_none()) {
        wrong.push(format!("session {} belongs to no user", session.id));
    }
    for build in state.builds().filter(|build| state.deployment(build.deployment).is_none()) {
        wrong.push(format!("build {} belongs to no deployment", build.id));
    }
    for recipe in state.recipes().filter(|recipe| state.build(recipe.build).is_none()) {
        wrong.push(format!("the recipe of build {} belongs to none", recipe.build));
    }
    for input in state.inputs() {
        if state.build(input.build).is_none() {
            wrong.push(format!("the input of build {} belongs to none", input.build));
        }
        let org_of = |build| state.build(build).and_then(|build| state.app(build.app)).map(|app| app.org);
        let Some(other) = input.same_as else { continue };
        let is_of_others = state.build(other).is_some() && org_of(other) != org_of(input.build);
        if input.no_cache || other == input.build || is_of_others {
            wrong.push(format!("build {} takes what it must not take", input.build));
        }
    }
}

fn check_services(state: &State, wrong: &mut Vec<String>) {
    let mut labels = BTreeSet::new();
    for service in state.services() {
        if state.app(service.app).is_none() {
            wrong.push(format!("service {} belongs to no app", service.id));
        }
        if !labels.insert(&service.host_label) {
            wrong.push(format!("two services have the host label {}", service.host_label));
        }
        let Some(serving) = service.serving else { continue };
        match state.deployment(serving) {
            Some(deployment)
                if matches!(deployment.status, DeploymentStatus::Running | DeploymentStatus::Stopping)
                    && deployment.service == service.id => {}
            _ => wrong.push(format!("service {} is served by a deployment that does not serve", service.id)),
        }
    }
}

fn check_deployments(state: &State, wrong: &mut Vec<String>) {
    let mut versions = BTreeSet::new();
    let mut running = BTreeSet::new();
    for deployment in state.deployments() {
        let Some(service) = state.service(deployment.service) else {
            wrong.push(format!("deployment {} belongs to no service", deployment.id));
            continue;
        };
        if !versions.insert((deployment.service, deployment.version)) || deployment.version > service.last_version {
            wrong.push(format!("version {} of service {} is not its own", deployment.version, service.id));
        }
        if deployment.status == DeploymentStatus::Running {
            if !running.insert(deployment.service) {
                wrong.push(format!("service {} has two running deployments", service.id));
            }
            if service.serving != Some(deployment.id) {
                wrong.push(format!("deployment {} runs but does not serve", deployment.id));
            }
        }
        if let (Source::Image { image }, Some(artifact)) = (&deployment.spec.source, &deployment.artifact)
            && image_name(image) != image_name(&artifact.image)
        {
            wrong.push(format!("deployment {} runs {}, not {image}", deployment.id, artifact.image));
        }
        let needs_artifact = (DeploymentStatus::Built..=DeploymentStatus::Running).contains(&deployment.status);
        if needs_artifact && deployment.artifact.is_none() {
            wrong.push(format!("deployment {} is {} without an artifact", deployment.id, deployment.status));
        }
    }
}

fn check_nodes(state: &State, wrong: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for member in state.members() {
        if member.token.is_some() && !names.insert(&member.name) {
            wrong.push(format!("two nodes that joined are named {}", member.name));
        }
    }
    for admission in state.admissions().filter(|other| other.fenced_at.is_some() && other.removed_at.is_none()) {
        wrong.push(format!("node {} is refused and was not removed", admission.node));
    }
    let is_member = |node| state.admission(node).is_some_and(|admission| admission.removed_at.is_none());
    for node in state.nodes().filter(|node| !is_member(node.id)) {
        wrong.push(format!("node {} is described and no member", node.id));
    }
    for absence in state.absences().filter(|absence| !is_member(absence.node)) {
        wrong.push(format!("node {} is absent and no member", absence.node));
    }
    for instance in state.live_instances().filter(|instance| !is_member(instance.placement.node)) {
        wrong.push(format!("instance {} lives on a node that is no member", instance.id));
    }
}

fn check_instances(state: &State, wrong: &mut Vec<String>) {
    let mut slots: BTreeMap<_, Vec<&Instance>> = BTreeMap::new();
    for instance in state.instances() {
        if state.deployment(instance.deployment).is_none() {
            wrong.push(format!("instance {} belongs to no deployment", instance.id));
        }
        // The record of where it was outlives the node's membership.
        if state.admission(instance.placement.node).is_none() {
            wrong.push(format!("instance {} is on no node", instance.id));
        }
        if !instance.status.state.is_terminal() && instance.stop_requested.is_none() {
            slots.entry((instance.deployment, instance.slot)).or_default().push(instance);
        }
    }
    for ((deployment, slot), instances) in slots {
        let is_move = |one: &Instance, other: &Instance| one.relocation.as_ref().is_some_and(|it| it.from == other.id);
        let sound = match instances[..] {
            [_] => true,
            [one, other] => is_move(one, other) || is_move(other, one),
            _ => false,
        };
        if !sound {
            wrong.push(format!("replica {slot} of deployment {deployment} has {} live instances", instances.len()));
        }
    }
    for node in state.nodes().filter(|node| node.drain.is_some() && !node.cordoned) {
        wrong.push(format!("node {} is drained and takes work", node.id));
    }
}
