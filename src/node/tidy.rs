//! Removes log files and artifacts that the state no longer knows.
//!
//! Something new is on disk before the state knows it, so a log goes only when two looks in a row find that nobody
//! knows it, and an artifact when several do (`artifact::garbage`).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::artifact::garbage::Roots;
use crate::artifact::{Collector, Images};
use crate::config::test_setting;
use crate::consensus::Consensus;
use crate::logs::{LogKey, LogStore};
use crate::state::State;

/// Time between two looks; longer than any upload takes to be put on record.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);

fn look_every() -> Duration {
    let seconds = test_setting("NARVANA_TIDY_SECONDS").and_then(|text| text.parse().ok());
    seconds.map_or(LOOK_EVERY, Duration::from_secs)
}

/// Looks until told to stop.
pub(super) async fn keep_tidy(
    consensus: Consensus,
    logs: LogStore,
    images: Images,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    let mut suspects = BTreeSet::new();
    let mut collector = Collector::new(images);
    let work = async {
        loop {
            let unknown = unknown(&consensus.latest().state, &logs).await;
            remove(unknown.intersection(&suspects), &logs).await;
            suspects = unknown;
            collect(&consensus, &mut collector).await;
            tokio::time::sleep(look_every()).await;
        }
    };
    // Wherever it is: what is left to remove, the next start removes.
    quit.run_until_cancelled(work).await;
    Ok(())
}

async fn unknown(state: &State, logs: &LogStore) -> BTreeSet<LogKey> {
    let is_known = |key: &LogKey| match *key {
        LogKey::Build(id) => state.build(id).is_some(),
        LogKey::Instance(id) => state.instance(id).is_some(),
    };
    // What cannot be listed is not removed; the next look may succeed.
    let keys = logs.keys().await.unwrap_or_default();
    keys.into_iter().filter(|key| !is_known(key)).collect()
}

async fn remove(gone: impl Iterator<Item = &LogKey>, logs: &LogStore) {
    for key in gone {
        if let Err(error) = logs.remove(*key).await {
            tracing::debug!(%error, "a log is in use; the next look removes it");
        }
    }
}

/// A build that has ended waits, while there is no quorum, until it can be put on record; what it made must still be
/// there then. So only a look that had a quorum counts.
async fn collect(consensus: &Consensus, collector: &mut Collector) {
    let Ok(view) = consensus.linearizable().await else { return };
    match collector.look(Roots::of(&view.state)).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "removed artifacts that nothing needs any more"),
        Err(error) => tracing::warn!(%error, "cannot look for artifacts that nothing needs any more"),
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
        let logs = LogStore::open(folder.path(), Options::default(), supervisor.clone()).await.expect("opens");
        let state = State::from_records(sample_records());
        let known = LogKey::Build(state.builds().next().expect("a build").id);
        let strange = LogKey::Build(crate::random::id());
        for key in [known, strange] {
            let writer = logs.writer(key).await.expect("a writer");
            writer.append(LogLine::new(LogTime(1), LogStream::System, "x")).await.expect("appends");
            writer.finish().await.expect("finishes");
        }
        let first = unknown(&state, &logs).await;
        assert_eq!(first, BTreeSet::from([strange]));
        remove(first.intersection(&BTreeSet::new()), &logs).await;
        assert!(logs.contains(strange).await, "one look is not enough");
        let second = unknown(&state, &logs).await;
        remove(second.intersection(&first), &logs).await;
        assert_eq!(logs.keys().await.expect("lists"), vec![known]);
    }
}
