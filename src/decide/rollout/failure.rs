//! Why a new deployment failed, in words: cause, what to do, and what goes on serving.

use std::collections::BTreeMap;

use crate::decide::plan::Options;
use crate::model::{Deployment, Health, Instance, InstanceState, format_duration};

use super::slots::Slot;

/// Reason and last log lines for a replica that failed as often as it may.
pub(super) fn given_up(
    number: u32,
    slot: &Slot<'_>,
    target: &Deployment,
    serving: Option<&Deployment>,
) -> (String, Vec<String>) {
    let times = match slot.failures {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        many => format!("{many} times"),
    };
    let Some(last) = slot.last_failed else { return (format!("replica {number} failed {times}"), Vec::new()) };
    let because = cause_of(last);
    let advice = advice(last, target);
    let reason = format!("replica {number} failed {times}: {because}{advice}{}", what_serves(serving));
    (reason, last.status.log_tail.clone())
}

/// Reason and last log lines for a deployment that came no further for too long.
pub(super) fn stalled(
    slots: &BTreeMap<u32, Slot<'_>>,
    replicas: u32,
    target: &Deployment,
    serving: Option<&Deployment>,
    options: &Options,
) -> (String, Vec<String>) {
    let limit = format_duration(options.progress_deadline);
    let works = |instance: &Instance| {
        instance.status.state == InstanceState::Running && instance.status.health == Health::Healthy
    };
    for number in 0..replicas {
        let slot = slots.get(&number).copied().unwrap_or_default();
        if slot.current.is_some_and(works) {
            continue;
        }
        let Some(instance) = slot.current.or(slot.newest) else {
            let waits = target.reason.clone().unwrap_or_else(|| "it has no instance".to_owned());
            return (
                format!("replica {number} could not be started within {limit}: {waits}{}", what_serves(serving)),
                Vec::new(),
            );
        };
        let status = &instance.status;
        let seen = match (status.state, status.health) {
            (InstanceState::Running, health) => format!("it runs and its health is {}", health.as_str()),
            (state, _) => format!("it is still {state}"),
        };
        let detail = status.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let reason = format!("replica {number} made no progress for {limit}: {seen}{detail}{}", what_serves(serving));
        return (reason, status.log_tail.clone());
    }
    (format!("it did not take over within {limit}{}", what_serves(serving)), Vec::new())
}

/// What its node said, or what its exit says.
pub(in crate::decide) fn cause_of(instance: &Instance) -> String {
    let status = &instance.status;
    match (&status.reason, status.exit) {
        (Some(reason), _) => reason.clone(),
        (None, Some(exit)) if exit.out_of_memory => "it used more memory than it may".to_owned(),
        (None, Some(exit)) => format!("it ended with exit code {}", exit.code),
        (None, None) => format!("it is {} and its node gave no reason", status.state),
    }
}

fn advice(instance: &Instance, target: &Deployment) -> String {
    match instance.status.exit {
        Some(exit) if exit.out_of_memory => {
            format!("; give it more than {} in resources.memory and deploy again", target.spec.resources.memory)
        }
        Some(_) => "; its last log lines tell more: fix it and deploy again".to_owned(),
        None => String::new(),
    }
}

fn what_serves(serving: Option<&Deployment>) -> String {
    serving.map(|serving| format!("; version {} goes on serving", serving.version)).unwrap_or_default()
}
