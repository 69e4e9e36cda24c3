//! One build, from its lease to its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::decide::{dockerfile, leftovers};
use crate::engine::{self, BuildNetwork, BuildRequest, Engine};
use crate::logs::LogKey;
use crate::model::{Artifact, Build, BuildCode, BuildFailure, Deployment, UploadedSource, format_duration};
use crate::space::Use;
use crate::state::BuildResult;

use super::log::BuildLog;
use super::tree::{self, Tree};
use super::{Options, Parts, source};

/// Lines on their way from a program to the log. A program that prints faster than the disk writes has to wait.
const LINES_BOUND: usize = 256;
/// How often a build looks whether it leaves the state its space.
pub(super) const SPACE_LOOK_EVERY: Duration = Duration::from_millis(250);
/// Most processes and threads of one build: enough for any compiler, few enough that a fork bomb stays its own.
const PIDS_MAX: u32 = 4_096;
/// What programs print that cannot have one more process, in the words of the C libraries.
const NO_MORE_PROCESSES: &str = "Resource temporarily unavailable";
/// The largest Dockerfile that is read.
const DOCKERFILE_BYTES_MAX: u64 = dockerfile::MAX_BYTES as u64;

/// Everything one build needs.
pub(super) struct Job {
    pub(super) options: Arc<Options>,
    pub(super) parts: Parts,
    pub(super) build: Arc<Build>,
    pub(super) deployment: Arc<Deployment>,
    pub(super) source: Option<Arc<UploadedSource>>,
    /// Cancelled when the user wants it to end.
    pub(super) cancel: CancellationToken,
}

/// Why a build failed: what happened and what to do about it.
pub(super) struct Failure {
    code: BuildCode,
    message: String,
    next_step: String,
}

impl Failure {
    pub(super) fn new(code: BuildCode, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code, message: message.into(), next_step: next_step.into() }
    }
}

impl Job {
    /// Runs the build to its end, whatever that is.
    pub(super) async fn run(&self) -> BuildResult {
        let writer = match self.parts.logs.writer(LogKey::Build(self.build.id)).await {
            Ok(writer) => writer,
            Err(error) => {
                let failure = Failure::new(
                    BuildCode::Infrastructure,
                    error.to_string(),
                    "free space on the node and deploy again",
                );
                return failed(failure, Vec::new());
            }
        };
        let mut log = BuildLog::new(writer);
        let timeout = self.timeout();
        let (lines, mut printed) = mpsc::channel::<String>(LINES_BOUND);
        let stop = CancellationToken::new();
        // Dropping the work ends it, its processes and containers included; `stop` ends what runs on a thread.
        let _stop_threads = stop.clone().drop_guard();
        let mut work = std::pin::pin!(tokio::time::timeout(timeout, self.work(lines, &stop)));
        let mut open = true;
        let mut looks = tokio::time::interval(SPACE_LOOK_EVERY);
        let result = loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => break None,
                line = printed.recv(), if open => match line {
                    Some(line) => self.note(&mut log, &line).await,
                    None => open = false,
                },
                _ = looks.tick() => if let Some(failure) = self.no_space() {
                    break Some(Ok(Err(failure)));
                },
                result = &mut work => break Some(result),
            }
        };
        while let Ok(line) = printed.try_recv() {
            self.note(&mut log, &line).await;
        }
        let result = match result {
            None => {
                self.note_own(&mut log, "Cancelled.").await;
                BuildResult::Cancelled
            }
            Some(Ok(Ok(artifact))) => {
                self.note_own(&mut log, &format!("Built {}.", artifact.image)).await;
                BuildResult::Succeeded(artifact)
            }
            Some(Ok(Err(failure))) => {
                let tail = log.tail();
                self.note_own(&mut log, &format!("Failed: {}. What to do: {}.", failure.message, failure.next_step))
                    .await;
                failed(failure, tail)
            }
            Some(Err(_elapsed)) => {
                let tail = log.tail();
                let message = format!("it took longer than {}", format_duration(timeout));
                self.note_own(&mut log, &format!("Failed: {message}.")).await;
                failed(
                    Failure::new(
                        BuildCode::BuildTimeout,
                        message,
                        "make it faster, or raise build_config.build_timeout",
                    ),
                    tail,
                )
            }
        };
        if let Err(error) = log.finish().await {
            tracing::warn!(build = %self.build.id, %error, "cannot close a build log");
        }
        result
    }

    /// What is left of the disk belongs to the state.
    fn no_space(&self) -> Option<Failure> {
        let full = self.parts.consensus.space().at(&self.options.work_dir).check(Use::Bulk).err()?;
        Some(Failure::new(BuildCode::Infrastructure, full.to_string(), "free space on the node and deploy again"))
    }

    fn timeout(&self) -> Duration {
        let own = self.deployment.spec.build.config.build_timeout_seconds;
        own.map_or(self.options.timeout, |seconds| Duration::from_secs(u64::from(seconds)))
    }

    // A build goes on without its log: what it makes is worth more than what it says.
    async fn note(&self, log: &mut BuildLog, line: &str) {
        if let Err(error) = log.line(line).await {
            tracing::debug!(build = %self.build.id, %error, "a line of a build log is lost");
        }
    }

    async fn note_own(&self, log: &mut BuildLog, line: &str) {
        if let Err(error) = log.say(line).await {
            tracing::debug!(build = %self.build.id, %error, "a line of a build log is lost");
        }
    }

    async fn work(&self, lines: mpsc::Sender<String>, stop: &CancellationToken) -> Result<Artifact, Failure> {
        let infrastructure = |what: &str, error: &dyn std::fmt::Display| {
            Failure::new(
                BuildCode::Infrastructure,
                format!("{what}: {error}"),
                "ask the operator of this node, then deploy again",
            )
        };
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", self.build.id))
            .tempdir_in(&self.options.work_dir)
            .map_err(|error| infrastructure("cannot make a folder for the source", &error))?;
        let files = folder.path().join("source");
        tokio::fs::create_dir(&files)
            .await
            .map_err(|error| infrastructure("cannot make a folder for the source", &error))?;
        let revision = source::fetch(
            &self.deployment,
            self.source.as_deref(),
            &self.parts.artifacts,
            self.options.allow_loopback,
            &files,
            &lines,
            stop,
        )
        .await?;
        let scan = self.scan(&files).await?;
        for warning in &scan.warnings {
            // The log is best effort, and its reader outlives this work.
            let _ = lines.send(format!("Dockerfile, {warning}")).await;
        }
        let engine = self.engine().await.ok_or_else(|| {
            Failure::new(
                BuildCode::Infrastructure,
                "this node has no container engine",
                "see `narvana node show` for the reason, then deploy again",
            )
        })?;
        let image = self.image();
        let request = self.request(&files, &image).await?;
        engine.build(request, lines.clone()).await.map_err(|error| self.engine_failure(&error))?;
        let (built, image_id) = self.publish(&*engine, &image, &lines).await?;
        Ok(Artifact {
            image: built.to_string(),
            image_id: Some(image_id),
            revision: Some(revision),
            exposed_ports: scan.exposed_ports,
        })
    }

    /// What this node's engine calls it: one name per deployment, which keeps it there as long as the deployment is on
    /// record.
    fn image(&self) -> String {
        format!("{}{}:v{}", leftovers::BUILT, self.deployment.service, self.deployment.version)
    }

    async fn engine(&self) -> Option<Arc<dyn Engine>> {
        self.parts.engine.borrow().clone()
    }

    fn dockerfile(&self) -> &str {
        self.deployment.spec.build.config.dockerfile.as_deref().unwrap_or("Dockerfile")
    }

    fn root(&self) -> &str {
        self.deployment.spec.build.config.root_directory.as_deref().unwrap_or("")
    }

    /// Reads and checks the Dockerfile before an engine sees it.
    async fn scan(&self, files: &Path) -> Result<dockerfile::Scan, Failure> {
        let (files, root, path) = (files.to_owned(), self.root().to_owned(), self.dockerfile().to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let folder = tree::folder_inside(&files, &root)?;
            let text = tree::read_inside(&folder, &path, DOCKERFILE_BYTES_MAX)?;
            Ok::<_, tree::Error>((text, names_in(&folder)))
        })
        .await;
        let bad_config = |message: String| {
            Failure::new(
                BuildCode::InvalidConfig,
                message,
                "correct build_config.root_directory or build_config.dockerfile",
            )
        };
        let (text, names) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(bad_config(error.to_string())),
            Err(panic) => return Err(bad_config(panic.to_string())),
        };
        let Some(text) = text else {
            return Err(Failure::new(
                BuildCode::DockerfileNotFound,
                format!("there is no {} in {}; it has {names}", self.dockerfile(), shown_root(self.root())),
                "add one, or say where it is with build_config.dockerfile and build_config.root_directory",
            ));
        };
        let options = dockerfile::Options {
            build_args: self.deployment.spec.build.config.environment_vars.clone(),
            allow_loopback: self.options.allow_loopback,
        };
        dockerfile::scan(&String::from_utf8_lossy(&text), &options).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::new(
                BuildCode::InvalidConfig,
                format!("{} cannot be built: {}", self.dockerfile(), problems.join("; ")),
                "correct it and deploy again",
            )
        })
    }

    async fn request(&self, files: &Path, image: &str) -> Result<BuildRequest, Failure> {
        let (files, root, path) = (files.to_owned(), self.root().to_owned(), self.dockerfile().to_owned());
        let context =
            tokio::task::spawn_blocking(move || Tree::context(&files, &root, &path, &tree::Limits::default())).await;
        let context = match context {
            Ok(Ok(context)) => context,
            Ok(Err(error)) => {
                return Err(Failure::new(
                    BuildCode::InvalidConfig,
                    error.to_string(),
                    "make the source smaller with .dockerignore",
                ));
            }
            Err(panic) => {
                return Err(Failure::new(BuildCode::Infrastructure, panic.to_string(), "deploy again"));
            }
        };
        let label = |name: &str, value: String| (format!("narvana.{name}"), value);
        Ok(BuildRequest {
            context: context.into_stream().boxed(),
            dockerfile: self.dockerfile().to_owned(),
            tag: image.to_owned(),
            labels: BTreeMap::from([
                label("cluster", self.options.cluster.to_string()),
                label("node", self.options.lease.node.to_string()),
                label("app", self.build.app.to_string()),
                label("service", self.build.service.to_string()),
                label("build", self.build.id.to_string()),
            ]),
            build_args: self.deployment.spec.build.config.environment_vars.clone(),
            cpu: self.options.cpu,
            memory: self.options.memory,
            pids_max: Some(PIDS_MAX),
            network: BuildNetwork::Bridge,
            no_cache: false,
        })
    }

    fn engine_failure(&self, error: &engine::Error) -> Failure {
        match error {
            // 128 + SIGKILL: nothing else in a build sends that than the kernel, when the memory limit is reached.
            engine::Error::BuildFailed { reason, .. } if reason.contains("137") => Failure::new(
                BuildCode::BuildOom,
                format!(
                    "a step was killed, most likely for using more than the {} it may: {reason}",
                    self.options.memory
                ),
                "make the build use less memory, or have the operator raise BUILD_MEMORY",
            ),
            engine::Error::BuildFailed { reason, last_lines }
                if last_lines.iter().any(|line| line.contains(NO_MORE_PROCESSES)) =>
            {
                Failure::new(
                    BuildCode::BuildFailed,
                    format!("{reason}; most likely it wanted more than the {PIDS_MAX} processes a build may have"),
                    "make the build start fewer at a time, and deploy again",
                )
            }
            engine::Error::BuildFailed { reason, .. } => Failure::new(
                BuildCode::BuildFailed,
                reason.clone(),
                "read the build log, correct the source and deploy again",
            ),
            engine::Error::Rejected { .. } | engine::Error::ImageNotFound { .. } | engine::Error::PullFailed { .. } => {
                Failure::new(BuildCode::BuildFailed, error.to_string(), "correct the Dockerfile and deploy again")
            }
            _ => Failure::new(
                BuildCode::Infrastructure,
                error.to_string(),
                "look at the engine of this node, then deploy again",
            ),
        }
    }
}

fn shown_root(root: &str) -> String {
    if root.is_empty() { "the root of the source".to_owned() } else { format!("folder {root:?} of the source") }
}

/// Some names of what is in a folder, for the message that something else is not.
fn names_in(folder: &Path) -> String {
    const SHOWN: usize = 10;
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().escape_debug().to_string())
        .collect();
    names.sort();
    match names.len() {
        0 => "nothing".to_owned(),
        count if count > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
        _ => names.join(", "),
    }
}

fn failed(failure: Failure, log_tail: Vec<String>) -> BuildResult {
    BuildResult::Failed(BuildFailure {
        code: failure.code,
        message: failure.message,
        next_step: failure.next_step,
        log_tail,
    })
}
