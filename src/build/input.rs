//! What a build is made from, and the image of whoever built the same before.
//!
//! The state decides who builds: what is made from the same parts is built once, and others wait for it or take its image. A builder that
//! cannot ask builds: a build that ran twice costs time only.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use super::auto::{How, Seen};
use super::job::Job;
use super::record::put_on_record;
use super::tree::{self, Limits, Tree};
use super::{dockerfile, ignore::Ignore};
use crate::decide::reuse::{MAKER, Reuse, reuse};
use crate::model::{Artifact, BuildId, BuildInput, BuildParts, BuildSpec, BuildStatus, BuiltImage, Detail, Repository};
use crate::state::{Command, State};
use crate::task::blocking;

/// Which generation of narvana's ways to build this is, of all strategies: one more whenever what becomes of the same source is meant to be
/// another image, and neither its generated flake nor anything else of its input says so.
const MADE_AS: u32 = 1;

impl Job {
    /// The image of the same, if somebody has built it or does so now, for whom is waited. `waits` is true meanwhile.
    pub(super) async fn built_before(
        &self,
        seen: &Seen,
        files: &Path,
        lines: &mpsc::Sender<String>,
        waits: &watch::Sender<bool>,
    ) -> Option<Artifact> {
        let parts = self.parts_of(seen, files).await?;
        // The log is best effort, and its reader outlives this work.
        let say = async |line: String| drop(lines.send(line).await);
        let mut missing = None;
        loop {
            let input = self.note_input(&parts, missing).await?;
            let state = self.parts.consensus.latest().state;
            let Some(other) = input.same_as else {
                if let Some(Reuse::Built(why)) = reuse(&state, &self.build) {
                    say(format!("It is built: {why}.")).await;
                }
                return None;
            };
            let service = state.build(other).and_then(|other| state.path_of(other.service)).unwrap_or_default();
            if state.build(other).is_some_and(|other| !other.status.is_terminal()) {
                say(format!("Build {other} of {service} makes the same: waiting for it.")).await;
            }
            // Only what a build does itself counts for its time.
            waits.send_replace(true);
            let artifact = self.artifact_of(other).await;
            waits.send_replace(false);
            let Some(artifact) = artifact else { continue };
            let state = self.parts.consensus.latest().state;
            let image: BuiltImage = artifact.image.parse().ok()?;
            if self.parts.holdings.is_somewhere(image.manifest, &state).await {
                say(format!("Build {other} of {service} made the same: its image is taken.")).await;
                // What is kept for a service is kept under its own name, whoever made it.
                let own = BuiltImage { repository: Repository(self.build.service), ..image };
                if let Some(recipe) = state.recipe(other) {
                    self.note_recipe(recipe.digest, recipe.bytes).await;
                }
                return Some(Artifact { image: own.to_string(), ..artifact });
            }
            missing = Some(other);
        }
    }

    /// What this is made from; nothing when it cannot be read, which whoever builds it says better.
    async fn parts_of(&self, seen: &Seen, files: &Path) -> Option<BuildParts> {
        let spec = &self.deployment.spec;
        let mut parts = said(&spec.build, seen);
        let mut say = |name: &str, text: &str| parts.insert(name.to_owned(), digest(text));
        let mut maker = format!("{MADE_AS}\0");
        say("processor", self.options.arch);
        say("strategy", seen.strategy().as_str());
        let (files, root) = (files.to_owned(), self.root().to_owned());
        let dockerfile = dockerfile::named(&spec.build.config).to_owned();
        let source = match &seen.how {
            How::Dockerfile => {
                say("dockerfile", &dockerfile);
                blocking(move || Tree::context(&files, &root, &dockerfile, &Limits::default())?.digest()).await
            }
            // It is given no more than its folder.
            How::Flake => blocking(move || whole(&tree::folder_inside(&files, &root)?)).await,
            How::Generated(recipe) => {
                say("root_directory", &root);
                say("nixpkgs", &self.nixpkgs);
                maker.push_str(&recipe.fingerprint());
                blocking(move || whole(&files)).await
            }
        };
        if let How::Flake | How::Generated(_) = &seen.how {
            // An image says what runs unless its service does.
            say("command", if spec.command.is_empty() { "of the image" } else { "of the service" });
        }
        say(MAKER, &maker);
        say("source", &source.ok()?);
        Some(parts)
    }

    /// Puts on record what this is made from. Says what the state made of that; nothing when it is not on record, as where a member is older.
    async fn note_input(&self, parts: &BuildParts, missing: Option<BuildId>) -> Option<Arc<BuildInput>> {
        let (build, lease) = (self.build.id, self.options.lease);
        let command = Command::NoteInput { build, parts: parts.clone(), missing, lease };
        if !put_on_record(&self.parts.consensus, lease, &command).await {
            tracing::debug!(%build, "what is built is not on record");
            return None;
        }
        self.parts.consensus.latest().state.input(build).filter(|input| input.parts == *parts).cloned()
    }

    /// What another build made, as soon as it has ended.
    async fn artifact_of(&self, other: BuildId) -> Option<Artifact> {
        let mut views = self.parts.consensus.watch();
        let has_ended = |state: &State| state.build(other).is_none_or(|build| build.status.is_terminal());
        // There are no more views when the node stops, and this work stops with it.
        let ended = views.wait_for(|view| has_ended(&view.state)).await.ok()?.state.build(other).cloned()?;
        ended.artifact.clone().filter(|_| ended.status == BuildStatus::Succeeded)
    }
}

/// What is said of a build that its strategy uses.
fn said(spec: &BuildSpec, seen: &Seen) -> BuildParts {
    let text = |detail: &Detail| match detail {
        Detail::Text(text) => text.clone(),
        Detail::List(words) => words.join("\0"),
    };
    let mut said: BuildParts =
        seen.used(spec).map(|(name, detail)| (format!("build_config.{name}"), digest(&text(detail)))).collect();
    let variables = &spec.config.environment_vars;
    if !variables.is_empty() && !matches!(seen.how, How::Flake) {
        let text: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        said.insert("build_config.environment_vars".to_owned(), digest(&text.join("\0")));
    }
    said
}

fn whole(folder: &Path) -> Result<String, tree::Error> {
    Tree::scan(folder, &Ignore::default(), &[], &Limits::default())?.digest()
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
