//! Removes log files and uploaded sources that the state no longer knows.
//!
//! Something new is on disk before the state knows it, so a thing goes only when two looks in a row find that nobody
//! knows it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::artifact::{ArtifactStore, Digest};
use crate::consensus::Consensus;
use crate::logs::{LogKey, LogStore};
use crate::state::State;

/// Time between two looks; longer than any upload takes to be put on record.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);

/// Looks until told to stop.
pub(super) async fn keep_tidy(
    consensus: Consensus,
    logs: LogStore,
    artifacts: ArtifactStore,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    let mut suspects = Unknown::default();
    loop {
        let unknown = unknown(&consensus.latest().state, &logs, &artifacts).await;
        remove(unknown.and(&suspects), &logs, &artifacts).await;
        suspects = unknown;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = quit.cancelled() => return Ok(()),
        }
    }
}

#[derive(Default)]
struct Unknown {
    logs: BTreeSet<LogKey>,
    artifacts: BTreeSet<Digest>,
}

impl Unknown {
    fn and(&self, other: &Self) -> Self {
        Self {
            logs: self.logs.intersection(&other.logs).copied().collect(),
            artifacts: self.artifacts.intersection(&other.artifacts).copied().collect(),
        }
    }
}

async fn unknown(state: &State, logs: &LogStore, artifacts: &ArtifactStore) -> Unknown {
    let is_known = |key: &LogKey| match *key {
        LogKey::Build(id) => state.build(id).is_some(),
        LogKey::Instance(id) => state.instance(id).is_some(),
    };
    let needed: BTreeSet<Digest> = state.sources().filter_map(|source| source.sha256.parse().ok()).collect();
    // What cannot be listed is not removed; the next look may succeed.
    let keys = logs.keys().await.unwrap_or_default();
    let stored = artifacts.list().await.unwrap_or_default();
    Unknown {
        logs: keys.into_iter().filter(|key| !is_known(key)).collect(),
        artifacts: stored.into_iter().map(|blob| blob.digest).filter(|digest| !needed.contains(digest)).collect(),
    }
}

async fn remove(gone: Unknown, logs: &LogStore, artifacts: &ArtifactStore) {
    for key in gone.logs {
        if let Err(error) = logs.remove(key).await {
            tracing::debug!(%error, "a log is in use; the next look removes it");
        }
    }
    for digest in gone.artifacts {
        if let Err(error) = artifacts.remove(digest).await {
            tracing::warn!(%error, "cannot remove an uploaded source");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{LogLine, LogStream, LogTime, Options};
    use crate::state::sample_records;
    use crate::task::Supervisor;

    #[tokio::test]
    async fn only_what_nobody_knows_goes_and_only_at_the_second_look() {
        let folder = tempfile::tempdir().expect("a folder");
        let supervisor = Supervisor::new("test", CancellationToken::new());
        let logs =
            LogStore::open(folder.path().join("logs"), Options::default(), supervisor.clone()).await.expect("opens");
        let artifacts = ArtifactStore::open(folder.path().join("artifacts")).await.expect("opens");
        let state = State::from_records(sample_records());
        let known = LogKey::Build(state.builds().next().expect("a build").id);
        let strange = LogKey::Build(crate::random::id());
        for key in [known, strange] {
            let writer = logs.writer(key).await.expect("a writer");
            writer.append(LogLine::new(LogTime(1), LogStream::System, "x")).await.expect("appends");
            writer.finish().await.expect("finishes");
        }
        let bytes = futures::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"x"))]);
        artifacts.put(bytes, 10).await.expect("stores");

        let first = unknown(&state, &logs, &artifacts).await;
        assert_eq!((first.logs.len(), first.artifacts.len()), (1, 1));
        remove(first.and(&Unknown::default()), &logs, &artifacts).await;
        assert!(logs.contains(strange).await, "one look is not enough");
        let second = unknown(&state, &logs, &artifacts).await;
        remove(second.and(&first), &logs, &artifacts).await;
        assert_eq!(logs.keys().await.expect("lists"), vec![known]);
        assert!(artifacts.list().await.expect("lists").is_empty());
    }
}
