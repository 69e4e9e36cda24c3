//! From what a deployment names as its source to a folder with its files.

use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::artifact::{Digest, Fetcher, OpenError};
use crate::model::{BuildCode, Source, UploadedSource};

use super::job::Failure;
use super::{archive, git, tree};

/// How long a source is waited for that no node has which answers: as long as a node is restarted.
const HOLDER_WAIT: Duration = Duration::from_secs(60);
/// Pause between two attempts.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Puts the source's files into an empty folder and returns what exactly they are: a commit, or a digest.
pub(super) async fn fetch(
    (source, uploaded): (&Source, Option<&UploadedSource>),
    artifacts: &Fetcher,
    options: &git::Options,
    into: &Path,
    progress: &mpsc::Sender<String>,
    stop: &CancellationToken,
) -> Result<String, Failure> {
    match (source, uploaded) {
        (Source::Git { repo, reference }, _) => {
            let reference = Some(reference.as_str()).filter(|reference| !reference.is_empty());
            let url = crate::model::git_clone_url(repo);
            let fetched = git::fetch(options, &url, reference, into, progress, stop).await;
            fetched.map(|fetched| fetched.commit).map_err(|error| git_failure(&error))
        }
        (Source::Upload, Some(uploaded)) => unpack(uploaded, artifacts, into, progress, stop).await,
        (Source::Upload, None) => Err(Failure::new(
            BuildCode::RepositoryAccessFailed,
            "the uploaded source is no longer there",
            "upload it again with `narvana deploy PATH`",
        )),
        (other, _) => Err(Failure::new(
            BuildCode::InvalidConfig,
            format!("a source of type {} cannot be built by this version", other.type_name()),
            "use git, upload or image",
        )),
    }
}

fn git_failure(error: &git::Error) -> Failure {
    let (code, next_step) = match error {
        git::Error::Program { .. } | git::Error::Disk { .. } => {
            (BuildCode::Infrastructure, "ask the operator of this node")
        }
        git::Error::TimedOut { .. } => (BuildCode::BuildTimeout, "deploy again"),
        _ => (
            BuildCode::RepositoryAccessFailed,
            "correct the service's --git and --ref (git_repo and git_ref), or the repository, and deploy again",
        ),
    };
    Failure::new(code, error.to_string(), next_step)
}

async fn unpack(
    uploaded: &UploadedSource,
    artifacts: &Fetcher,
    into: &Path,
    progress: &mpsc::Sender<String>,
    stop: &CancellationToken,
) -> Result<String, Failure> {
    let lost = |cause: String| {
        Failure::new(
            BuildCode::Infrastructure,
            format!("the uploaded source cannot be read: {cause}"),
            "start the nodes that are away and deploy again, or upload it again",
        )
    };
    let digest: Digest = uploaded.sha256.parse().map_err(|_| lost("its digest is malformed".to_owned()))?;
    if !artifacts.store().contains(digest).await {
        let kibibytes = uploaded.bytes.div_ceil(1 << 10);
        // The log is best effort, and its reader outlives this work.
        let _ = progress.send(format!("Fetching the uploaded source ({kibibytes} KiB) from another node.")).await;
    }
    let deadline = Instant::now() + HOLDER_WAIT;
    let blob = loop {
        match artifacts.open(digest).await {
            // The node that has it may be starting again.
            Err(OpenError::Missing(_)) if Instant::now() < deadline => tokio::time::sleep(ASK_AGAIN_AFTER).await,
            opened => break opened.map_err(|error| lost(error.to_string()))?,
        }
    };
    let (into, stop) = (into.to_owned(), stop.clone());
    let file = blob.into_file();
    let unpacked =
        tokio::task::spawn_blocking(move || archive::unpack(file, &into, &tree::Limits::default(), &stop)).await;
    match unpacked {
        Ok(Ok(_)) => Ok(uploaded.sha256.clone()),
        Ok(Err(error @ archive::Error::Io { .. })) => Err(lost(error.to_string())),
        Ok(Err(error)) => {
            Err(Failure::new(BuildCode::InvalidConfig, error.to_string(), "correct the archive and upload it again"))
        }
        Err(panic) => Err(lost(panic.to_string())),
    }
}
