//! The repository's Dockerfile, built by this node's engine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;

use crate::decide::{dockerfile, leftovers};
use crate::engine::{self, BuildNetwork, BuildRequest, Engine};
use crate::model::{BuildCode, BuildConfig};
use crate::task::blocking;

use super::job::{Failure, Job, Made, names_in, shown_root};
use super::tree::{self, Tree};

/// Most processes and threads of one build: enough for any compiler, few enough that a fork bomb stays its own.
pub(super) const PIDS_MAX: u32 = 4_096;
/// What programs print that cannot have one more process, in the words of the C libraries.
const NO_MORE_PROCESSES: &str = "Resource temporarily unavailable";
/// The largest Dockerfile that is read.
const DOCKERFILE_BYTES_MAX: u64 = dockerfile::MAX_BYTES as u64;

/// The path of the Dockerfile in its folder.
pub(super) fn named(config: &BuildConfig) -> &str {
    config.dockerfile.as_deref().unwrap_or("Dockerfile")
}

/// Reads and checks the Dockerfile before an engine sees it. Blocks.
///
/// # Errors
/// Why it cannot be built.
pub(super) fn check(files: &Path, config: &BuildConfig, allow_loopback: bool) -> Result<dockerfile::Scan, Failure> {
    let (root, path) = (config.root_directory.as_deref().unwrap_or_default(), named(config));
    let bad_config = |error: tree::Error| {
        Failure::new(
            BuildCode::InvalidConfig,
            error.to_string(),
            "correct --root or --dockerfile (build_config.root_directory, build_config.dockerfile)",
        )
    };
    let folder = tree::folder_inside(files, root).map_err(bad_config)?;
    let text = tree::read_inside(&folder, path, DOCKERFILE_BYTES_MAX).map_err(bad_config)?;
    let text = text.ok_or_else(|| {
        Failure::new(
            BuildCode::DockerfileNotFound,
            format!("there is no {path} in {}; it has {}", shown_root(root), names_in(&folder)),
            "add one, or say where it is with --dockerfile and --root (build_config.dockerfile, build_config.root_directory)",
        )
    })?;
    let options = dockerfile::Options { build_args: config.environment_vars.clone(), allow_loopback };
    dockerfile::scan(&String::from_utf8_lossy(&text), &options).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::new(
            BuildCode::InvalidConfig,
            format!("{path} cannot be built: {}", problems.join("; ")),
            "correct it and deploy again",
        )
    })
}

impl Job {
    /// Checks the Dockerfile, has the engine build it, and stores what came out.
    pub(super) async fn build_dockerfile(&self, files: &Path, lines: &mpsc::Sender<String>) -> Result<Made, Failure> {
        let (source, config) = (files.to_owned(), self.deployment.spec.build.config.clone());
        let allow_loopback = self.options.allow_loopback;
        let scan = blocking(move || check(&source, &config, allow_loopback)).await?;
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
        let request = self.request(files, &image).await?;
        engine.build(request, lines.clone()).await.map_err(|error| self.engine_failure(&error))?;
        let (image, id) = self.publish(&*engine, &image, lines).await?;
        Ok(Made { image, id, exposed_ports: scan.exposed_ports })
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
        named(&self.deployment.spec.build.config)
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
            no_cache: self.is_anew(),
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
