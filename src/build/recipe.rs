//! How a source was built, kept with its build: what was found in it, and the files that were made for it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::job::Job;
use crate::artifact::{Digest, Fetcher, OpenError};
use crate::clock;
use crate::model::BuildRecipe;
use crate::state::{Actor, Command, LogEntry};
use crate::task::blocking;

/// Most that is kept of one build. What is fetched for the largest has some megabytes of names.
const BYTES_MAX: u64 = 16 << 20;
/// The version of a cluster whose members know of recipes.
const SINCE: u32 = 5;
/// How often a leader is told that does not answer, and with which pause.
const TELLS_MAX: u32 = 10;
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What was found in the source.
    pub detection: Value,
    /// The files that were made for it, by their names.
    pub files: BTreeMap<String, String>,
}

/// Why it cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Nobody who answers has it.
    #[error("no node that answers has it: start those that are away, and ask again ({0})")]
    Away(OpenError),
    /// What is there is none.
    #[error("what is kept of it cannot be read: {0}")]
    Broken(String),
}

impl Document {
    /// Reads one that is on record, from another node if it is not here.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub async fn read(artifacts: &Fetcher, recipe: &BuildRecipe) -> Result<Self, RecipeError> {
        let blob = artifacts.open(Digest::new(recipe.digest)).await.map_err(RecipeError::Away)?;
        let text = blocking(move || {
            let mut text = Vec::new();
            blob.into_file().take(BYTES_MAX).read_to_end(&mut text).map(|_| text)
        });
        let text = text.await.map_err(|error| RecipeError::Broken(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| RecipeError::Broken(error.to_string()))
    }
}

impl Job {
    /// Keeps how this build is done. It goes on without that: what it makes is worth more.
    pub(super) async fn keep_recipe(&self, document: &Document) {
        if self.parts.consensus.latest().state.cluster_version() < SINCE {
            return;
        }
        let text = serde_json::to_vec(document).expect("it has nothing that JSON has not");
        let text = stream::iter([Ok::<_, Infallible>(Bytes::from(text))]);
        let stored = match self.parts.artifacts.store().put(text, BYTES_MAX).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(build = %self.build.id, %error, "how it is built is not kept");
                return;
            }
        };
        let lease = self.options.lease;
        let recipe = BuildRecipe { build: self.build.id, digest: *stored.digest.as_bytes(), bytes: stored.bytes };
        for _ in 0..TELLS_MAX {
            let command = Command::KeepRecipe { recipe: recipe.clone(), lease };
            let entry = LogEntry { proposed_at: clock::now(), actor: Actor::Node(lease.node), request: None, command };
            match self.parts.consensus.propose(entry).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(build = %self.build.id, %error, "how it is built was not acknowledged"),
            }
            tokio::time::sleep(TELL_AGAIN_AFTER).await;
        }
    }
}
