//! `apply`: one entry of the log to the next state. The only way the state changes.

mod app;
mod build;
mod cluster;
mod deployment;
mod epoch;
mod instance;
mod limit;
mod node;
mod service;
mod user;

use std::time::Duration;

use crate::model::{Digest, Timestamp};

use super::record::{Change, ChangeSet, Key, Record, RequestRecord};
use super::{Command, LogEntry, Outcome, Rejection, Request, State};

pub use build::BUILD_ATTEMPTS_MAX;
pub use epoch::{Beginning, Begun, begin_epoch};

/// How long the answer to a request is remembered.
const REQUEST_KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
/// How many answers are remembered at most: bounds their share of the state to some megabytes.
const REQUESTS_MAX: usize = 10_000;
/// Answers forgotten with one entry at most. More than one, so that the number shrinks; few, so that no entry is slow.
const REQUESTS_FORGOTTEN_AT_ONCE: usize = 4;

/// What came of an entry.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The next state.
    pub state: State,
    /// The rows in which it differs.
    pub changes: ChangeSet,
    /// The answer for the proposer. A rejected entry changes nothing.
    pub result: Result<Outcome, Rejection>,
}

/// Applies the entry at a log index.
pub fn apply(state: &State, index: u64, entry: &LogEntry) -> Applied {
    let mut draft = Draft { state: state.clone(), changes: Vec::new(), index, now: entry.proposed_at };
    let result = match repeated(state, entry.request) {
        Some(answer) => answer,
        None => draft.run_within_limit(entry, state.bytes()).inspect(|outcome| {
            if let Some(request) = entry.request {
                draft.remember(request, outcome.clone());
            }
        }),
    };
    match result {
        Ok(outcome) => Applied { state: draft.state, changes: ChangeSet(draft.changes), result: Ok(outcome) },
        Err(rejection) => Applied { state: state.clone(), changes: ChangeSet::default(), result: Err(rejection) },
    }
}

/// The answer that this request got before, if it did.
fn repeated(state: &State, request: Option<Request>) -> Option<Result<Outcome, Rejection>> {
    let request = request?;
    let record = state.request(request.id)?;
    if record.request.fingerprint == request.fingerprint {
        return Some(Ok(record.outcome.clone()));
    }
    Some(Err(Rejection::Conflict(
        "this idempotency key was used for a different request before; use a new one".to_owned(),
    )))
}

/// The next state in the making: what a command has changed so far. Dropped when the command is rejected, which is
/// what makes every command all or nothing.
struct Draft {
    state: State,
    changes: Vec<Change>,
    index: u64,
    now: Timestamp,
}

type Answer = Result<Outcome, Rejection>;

impl Draft {
    fn put(&mut self, record: impl Into<Record>) {
        self.change(Change::Put(record.into()));
    }

    fn delete(&mut self, key: Key) {
        self.change(Change::Delete(key));
    }

    fn change(&mut self, change: Change) {
        self.state.change(change.clone());
        self.changes.push(change);
    }

    /// Refuses an id that is taken: ids are random, so that is a mistake, and the row that has it must not be replaced.
    fn check_new(&self, key: Key) -> Result<(), Rejection> {
        match self.state.record(key) {
            None => Ok(()),
            Some(_) => Err(Rejection::Conflict(format!("the id of the new {} is taken; try again", key.kind()))),
        }
    }

    fn remember(&mut self, request: Request, outcome: Outcome) {
        for _ in 0..REQUESTS_FORGOTTEN_AT_ONCE {
            let Some((at, id)) = self.state.oldest_request() else { break };
            if self.state.request_count() < REQUESTS_MAX && self.now.since(at) < REQUEST_KEPT_FOR {
                break;
            }
            self.delete(Key::Request(id));
        }
        self.put(RequestRecord { request, at: self.now, index: self.index, outcome });
    }

    fn run(&mut self, entry: &LogEntry) -> Answer {
        match &entry.command {
            Command::InitCluster(cluster) => self.init_cluster(cluster),
            Command::RegisterNode(facts) => self.register_node(facts),
            Command::SetSettings(values) => self.set_settings(values),
            Command::RegisterFirstUser { user, org, org_name, session } => {
                self.register_first_user(user, *org, org_name, session)
            }
            Command::OpenSession(session) => self.open_session(session),
            Command::CloseSession(id) => self.close_session(*id),
            Command::CreateApp(app) => self.create_app(app),
            Command::UpdateApp { app, expected_version, name, description, icon_url } => {
                self.update_app(*app, *expected_version, name.as_deref(), description.as_deref(), icon_url.as_deref())
            }
            Command::DeleteApp(app) => self.delete_app(*app),
            Command::CreateService { app, service } => self.create_service(*app, service),
            Command::UpdateService { service, expected_generation, spec } => {
                self.update_service(*service, *expected_generation, spec)
            }
            Command::DeleteService(service) => self.delete_service(*service),
            Command::SetEnv { service, entries, expectation } => self.set_env(*service, entries, *expectation),
            Command::UnsetEnv { service, keys } => self.unset_env(*service, keys),
            Command::AttachSource(source) => self.attach_source(source),
            Command::SetDesired { service, desired } => self.set_desired(*service, *desired),
            Command::Scale { service, replicas } => self.scale(*service, *replicas),
            Command::Deploy(deployments) => self.deploy(deployments, false),
            Command::DeployAnew(deployments) => self.deploy(deployments, true),
            Command::AdvanceDeployment { deployment, from, to, reason, log_tail } => {
                self.advance_deployment(*deployment, *from, *to, reason.as_deref(), log_tail)
            }
            Command::Promote(deployment) => self.promote(*deployment),
            Command::CancelBuild(build) => self.cancel_build(*build),
            Command::LeaseBuild { build, lease } => self.lease_build(*build, *lease),
            Command::LoseBuild { build, reason, retry } => self.lose_build(*build, reason, *retry),
            Command::FinishBuild { build, lease, result } => self.finish_build(*build, *lease, result),
            Command::KeepRecipe { recipe, lease } => self.keep_recipe(recipe, *lease),
            Command::NoteInput { build, parts, missing, lease } => self.note_input(*build, parts, *missing, *lease),
            Command::AssignInstances { deployment, instances } => self.assign_instances(*deployment, instances),
            Command::StopInstances { instances, reason } => self.stop_instances(instances, reason),
            Command::ReportInstance { instance, node, status } => self.report_instance(*instance, *node, status),
            Command::Sweep { instances, deployments, sources, sessions } => {
                self.sweep(instances, deployments, sources, sessions)
            }
            Command::CreateJoinToken(token) => self.create_join_token(token),
            Command::RevokeJoinToken(token) => self.revoke_join_token(*token),
            Command::AdmitNode { token, digest, name, address, cluster_version_max } => {
                self.check_supports(*cluster_version_max)?;
                self.admit_node(*token, digest, name, address)
            }
            Command::RemoveNode(node) => self.remove_node(*node),
            Command::FenceNode(node) => self.fence_node(*node),
            Command::ReaddressNode { node, address } => self.readdress_node(*node, address),
            Command::CordonNode { node, cordoned } => self.cordon_node(*node, *cordoned),
            Command::NoteAbsence { node, absent } => self.note_absence(*node, *absent),
            Command::LoseInstances { instances, reason } => self.lose_instances(instances, reason),
            Command::RotateAuthority { certificate, key } => self.rotate_authority(certificate, key),
            Command::NoteAuthority { node, step, begun_at } => self.note_authority(*node, *step, *begun_at),
            Command::DrainNode { node, stop_exclusive, stop_volumes } => {
                self.drain_node(*node, *stop_exclusive, *stop_volumes)
            }
            Command::LabelNode { node, changes } => self.label_node(*node, changes),
            Command::Rebalance { budget } => self.rebalance(*budget),
            Command::RaiseClusterVersion { to } => self.raise_cluster_version(*to),
            Command::ResetSetting(key) => self.reset_setting(*key),
            Command::PinImage { deployment, node, digest, image_id } => {
                self.pin_image(*deployment, *node, Digest::new(*digest), image_id)
            }
        }
    }
}

fn not_found(what: &str, name: impl std::fmt::Display) -> Rejection {
    Rejection::NotFound(format!("{what} {name}"))
}
