//! How a source was built, kept with its build: what was found in it, and the files that were made for it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::job::Job;
use super::record::put_on_record;
use crate::artifact::{Digest, FetchError, Fetcher, OpenError};
use crate::model::BuildRecipe;
use crate::state::Command;
use crate::task::blocking;

/// Most that is kept of one build. What is fetched for the largest has some megabytes of names.
const BYTES_MAX: u64 = 16 << 20;
/// The form of what is kept. Members of other versions read it for as long as there are builds with it.
const VERSION: u32 = 1;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    version: u32,
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
    Away(Arc<FetchError>),
    /// This node's store failed.
    #[error("the store of this node failed: {0}")]
    Store(OpenError),
    /// What is there is none.
    #[error("what is kept of it cannot be read: {0}")]
    Broken(String),
}

impl Document {
    pub(super) fn new(detection: Value, files: BTreeMap<String, String>) -> Self {
        Self { version: VERSION, detection, files }
    }

    /// Reads one that is on record, from another node if it is not here.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub async fn read(artifacts: &Fetcher, recipe: &BuildRecipe) -> Result<Self, RecipeError> {
        let opened = artifacts.open(Digest::new(recipe.digest)).await;
        let blob = opened.map_err(|error| match error {
            OpenError::Missing(why) if !matches!(*why, FetchError::Store { .. }) => RecipeError::Away(why),
            error => RecipeError::Store(error),
        })?;
        let text = blocking(move || {
            let mut text = Vec::new();
            blob.into_file().take(BYTES_MAX).read_to_end(&mut text).map(|_| text)
        });
        let text = text.await.map_err(|error| RecipeError::Broken(error.to_string()))?;
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Self, RecipeError> {
        let read: Self = serde_json::from_slice(text).map_err(|error| RecipeError::Broken(error.to_string()))?;
        if read.version == VERSION {
            return Ok(read);
        }
        Err(RecipeError::Broken(format!("it has the form {}, and this version reads {VERSION}", read.version)))
    }
}

impl Job {
    /// Keeps how this build is done. It goes on without that: what it makes is worth more.
    pub(super) async fn keep_recipe(&self, document: &Document) {
        let text = serde_json::to_vec(document).expect("it has nothing that JSON has not");
        let text = stream::iter([Ok::<_, Infallible>(Bytes::from(text))]);
        let stored = match self.parts.artifacts.store().put(text, BYTES_MAX).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(build = %self.build.id, %error, "how it is built is not kept");
                return;
            }
        };
        self.note_recipe(*stored.digest.as_bytes(), stored.bytes).await;
    }

    /// Puts on record where it is kept how this build is done.
    pub(super) async fn note_recipe(&self, digest: [u8; 32], bytes: u64) {
        let (build, lease) = (self.build.id, self.options.lease);
        let recipe = BuildRecipe { build, digest, bytes };
        // What was stored is collected if it is not put on record.
        if !put_on_record(&self.parts.consensus, lease, &Command::KeepRecipe { recipe, lease }).await {
            tracing::debug!(build = %self.build.id, "how it is built is not on record");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Recipes that are kept are read by later versions.
    #[test]
    fn what_was_kept_is_read() {
        let kept = r#"{"version":1,"detection":{"strategy":"auto-go"},"files":{"flake.nix":"{ }"}}"#;
        let files = BTreeMap::from([("flake.nix".to_owned(), "{ }".to_owned())]);
        let document = Document::new(json!({"strategy": "auto-go"}), files);
        assert_eq!(serde_json::to_string(&document).expect("JSON"), kept);
        assert_eq!(Document::parse(kept.as_bytes()).expect("reads"), document);
        let newer = kept.replace(":1,", ":2,");
        let said = Document::parse(newer.as_bytes()).expect_err("it is of a later version").to_string();
        assert!(said.contains("the form 2"), "{said}");
    }
}
