//! One build, from its lease to its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::logs::LogKey;
use crate::model::{Artifact, Build, BuildCode, BuildFailure, BuiltImage, Deployment, UploadedSource, format_duration};
use crate::space::Use;
use crate::state::BuildResult;

use super::auto::{How, Seen};
use super::log::BuildLog;
use super::{Options, Parts, STRATEGIES, git, source};

/// Lines on their way from a program to the log. A program that prints faster than the disk writes has to wait.
const LINES_BOUND: usize = 256;
/// How often a build looks whether it leaves the state its space.
pub(super) const SPACE_LOOK_EVERY: Duration = Duration::from_millis(250);

/// Longest message of a failure.
const MESSAGE_CHARS_MAX: usize = 4_000;

/// Everything one build needs.
pub(super) struct Job {
    pub(super) options: Arc<Options>,
    pub(super) parts: Parts,
    pub(super) build: Arc<Build>,
    pub(super) deployment: Arc<Deployment>,
    pub(super) source: Option<Arc<UploadedSource>>,
    /// What the tools of a generated flake are taken from, whatever is set meanwhile.
    pub(super) nixpkgs: String,
    /// Cancelled when the user wants it to end.
    pub(super) cancel: CancellationToken,
}

/// What a build made, in this node's store.
pub(super) struct Made {
    pub(super) image: BuiltImage,
    /// What engines know it by.
    pub(super) id: String,
    /// Ports that it says it listens on.
    pub(super) exposed_ports: Vec<u16>,
}

/// It took longer than it may.
struct Elapsed;

/// Why a build failed: what happened and what to do about it.
pub(super) struct Failure {
    pub(super) code: BuildCode,
    pub(super) message: String,
    pub(super) next_step: String,
}

impl Failure {
    pub(super) fn new(code: BuildCode, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        // It goes into the log of the cluster, and programs of strangers have a say in it.
        let cut = |text: String| match text.char_indices().nth(MESSAGE_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        Self { code, message: cut(message.into()), next_step: cut(next_step.into()) }
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
        let (waits, mut waiting) = watch::channel(false);
        let mut work = std::pin::pin!(self.work(lines, &stop, waits));
        let mut deadline = std::pin::pin!(tokio::time::sleep(timeout));
        let mut waits_since = None;
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
                // The time that it waits for another build is not its own.
                Ok(()) = waiting.changed() => match *waiting.borrow_and_update() {
                    true => waits_since = Some(Instant::now()),
                    false => if let Some(since) = waits_since.take() {
                        let later = deadline.deadline() + Instant::now().duration_since(since);
                        deadline.as_mut().reset(later);
                    },
                },
                result = &mut work => break Some(Ok(result)),
                () = &mut deadline, if waits_since.is_none() => break Some(Err(Elapsed)),
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
            Some(Err(Elapsed)) => {
                let tail = log.tail();
                let message = format!("it took longer than {}", format_duration(timeout));
                self.note_own(&mut log, &format!("Failed: {message}.")).await;
                failed(
                    Failure::new(
                        BuildCode::BuildTimeout,
                        message,
                        "make it faster, or raise build_config.build_timeout (a file with it: `narvana service update --file`)",
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

    /// Folder of the source that is built.
    pub(super) fn root(&self) -> &str {
        self.deployment.spec.build.config.root_directory.as_deref().unwrap_or("")
    }

    /// Whether it runs whatever was built before.
    pub(super) fn is_anew(&self) -> bool {
        self.parts.consensus.latest().state.input(self.build.id).is_some_and(|input| input.no_cache)
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

    async fn work(
        &self,
        lines: mpsc::Sender<String>,
        stop: &CancellationToken,
        waits: watch::Sender<bool>,
    ) -> Result<Artifact, Failure> {
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
        let options = git::Options { allow_loopback: self.options.allow_loopback, ..git::Options::default() };
        let source = (&self.deployment.spec.source, self.source.as_deref());
        let revision = source::fetch(source, &self.parts.artifacts, &options, &files, &lines, stop).await?;
        let strategy = self.deployment.spec.build.strategy;
        // Refused before it comes here, but by a newer program.
        if !STRATEGIES.contains(&strategy) {
            let message = format!("narvana on this node does not build by {strategy} yet");
            return Err(Failure::new(BuildCode::Infrastructure, message, "upgrade it, then deploy again"));
        }
        let seen = self.how(&files, &lines).await?;
        if let Some(artifact) = self.built_before(&seen, &files, &lines, &waits).await {
            return Ok(Artifact { revision: Some(revision), ..artifact });
        }
        let Seen { how, found } = seen;
        let Made { image, id, exposed_ports } = match how {
            How::Flake => self.build_flake(&files, &lines).await?,
            How::Dockerfile => self.build_dockerfile(&files, &lines).await?,
            How::Generated(recipe) => self.generated(*recipe, found.as_ref(), &files, &lines).await?,
        };
        Ok(Artifact { image: image.to_string(), image_id: Some(id), revision: Some(revision), exposed_ports })
    }
}

pub(super) fn shown_root(root: &str) -> String {
    if root.is_empty() { "the root of the source".to_owned() } else { format!("folder {root:?} of the source") }
}

/// Some names of what is in a folder, for the message that something else is not.
pub(super) fn names_in(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    shown_names(entries.map(|entry| entry.file_name().to_string_lossy().escape_debug().to_string()).collect())
}

/// Some of these names.
pub(super) fn shown_names(mut names: Vec<String>) -> String {
    const SHOWN: usize = 10;
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
