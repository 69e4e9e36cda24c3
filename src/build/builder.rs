//! The builder's loop: one task for each build that is leased to this run of this node.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::consensus::{Consensus, ProposeError};
use crate::model::{Build, BuildCode, BuildId, BuildStatus, SettingKey};
use crate::state::{Actor, BUILD_ATTEMPTS_MAX, BuildResult, Command, LogEntry, State};
use crate::task::OnError;
use crate::{clock, random};

use super::job::Job;
use super::{Options, Parts, nix};

/// Pause before a leader that did not answer is told again how a build ended.
const REPORT_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The builder of this node.
pub struct Builder {
    options: Arc<Options>,
    parts: Parts,
    /// Builds that have a task, and how to end each.
    running: HashMap<BuildId, CancellationToken>,
}

impl Builder {
    /// A builder that has not run yet. Removes what an earlier run left in the work folder.
    pub fn new(options: Options, parts: Parts) -> std::io::Result<Self> {
        match std::fs::remove_dir_all(&options.work_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&options.work_dir)?,
        }
        nix::remove_left_behind(&options);
        Ok(Self { options: Arc::new(options), parts, running: HashMap::new() })
    }

    /// Runs until the supervisor stops. Builds that are under way then are dropped: their lease ends with this run, so
    /// that the leader declares them lost and has them run once more.
    pub async fn run(mut self) -> Result<(), Infallible> {
        let quit = self.parts.supervisor.stopping();
        let mut views = self.parts.consensus.watch();
        loop {
            let state = views.borrow_and_update().state.clone();
            self.look(&state);
            tokio::select! {
                () = quit.cancelled() => return Ok(()),
                changed = views.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    fn look(&mut self, state: &State) {
        // A build stays in the map until the state says that it has ended, so that it is never run twice.
        // One that somebody else has ended, or given to another node, is of no use to anybody.
        self.running.retain(|id, cancel| {
            let runs = state.build(*id).is_some_and(|build| build.status == BuildStatus::Running);
            if !runs {
                cancel.cancel();
            }
            runs
        });
        let mine = state
            .live_builds()
            .filter(|build| build.status == BuildStatus::Running && build.lease == Some(self.options.lease));
        let mine: Vec<Arc<Build>> = mine.cloned().collect();
        for build in mine {
            match self.running.get(&build.id) {
                Some(cancel) if build.cancel_requested => cancel.cancel(),
                Some(_) => {}
                None => self.spawn(state, &build),
            }
        }
    }

    fn spawn(&mut self, state: &State, build: &Arc<Build>) {
        let Some(deployment) = state.deployment(build.deployment).cloned() else { return };
        let source = deployment.source.and_then(|id| state.source(id)).cloned();
        let cancel = CancellationToken::new();
        if build.cancel_requested {
            cancel.cancel();
        }
        let quit = self.parts.supervisor.stopping();
        // As the service says, or the cluster, or this node.
        let of_cluster = Some(state.setting(SettingKey::Nixpkgs)).filter(|reference| !reference.is_empty());
        let nixpkgs = deployment.spec.build.config.text("nixpkgs").or(of_cluster);
        let nixpkgs = nixpkgs.unwrap_or(&self.options.nix.nixpkgs).to_owned();
        let job = Job {
            options: Arc::clone(&self.options),
            parts: self.parts.clone(),
            build: Arc::clone(build),
            deployment,
            source,
            nixpkgs,
            cancel: cancel.clone(),
        };
        let consensus = self.parts.consensus.clone();
        let (id, attempt, lease) = (build.id, build.attempt, self.options.lease);
        self.parts.supervisor.spawn("build", OnError::Log, async move {
            let result = tokio::select! {
                result = job.run() => result,
                () = quit.cancelled() => return Ok(()),
            };
            tokio::select! {
                reported = report(&consensus, (id, attempt), lease, result) => reported,
                () = quit.cancelled() => Ok(()),
            }
        });
        self.running.insert(id, cancel);
    }
}

fn is_leased(state: &State, build: BuildId, lease: crate::model::Lease) -> bool {
    state.build(build).is_some_and(|it| it.status == BuildStatus::Running && it.lease == Some(lease))
}

/// Says how a build ended until that is on record, or refused because somebody else had the last word.
async fn report(
    consensus: &Consensus,
    (build, attempt): (BuildId, u32),
    lease: crate::model::Lease,
    result: BuildResult,
) -> Result<(), ProposeError> {
    let retry = random::id();
    // The code depends on how far this node has come, which changes while it is said again.
    let command = || match result.clone() {
        // The source is not to blame, and another node may do better.
        BuildResult::Failed(failure) if failure.code == BuildCode::Infrastructure && attempt < BUILD_ATTEMPTS_MAX => {
            let reason = format!("node {} could not build it: {}; {}", lease.node, failure.message, failure.next_step);
            Command::LoseBuild { build, reason, retry }
        }
        BuildResult::Failed(mut failure) => {
            failure.code = failure.code.at(consensus.latest().state.cluster_version());
            Command::FinishBuild { build, lease, result: BuildResult::Failed(failure) }
        }
        result => Command::FinishBuild { build, lease, result },
    };
    loop {
        let entry =
            LogEntry { proposed_at: clock::now(), actor: Actor::Node(lease.node), request: None, command: command() };
        match consensus.propose(entry).await {
            Ok(_) | Err(ProposeError::NotYetHere { .. }) => return Ok(()),
            Err(ProposeError::Rejected(_)) if !is_leased(&consensus.latest().state, build, lease) => return Ok(()),
            Err(error) => {
                tracing::debug!(%build, %error, "the end of a build was not acknowledged, saying it again");
                tokio::time::sleep(REPORT_AGAIN_AFTER).await;
            }
        }
    }
}
