//! Keeps the log bounded in bytes, which openraft does in entries only, and an entry may have a mebibyte; and brings to the
//! disk how far it is committed, so that a node that starts while nobody else is there knows what it knew.

use std::convert::Infallible;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio_util::sync::CancellationToken;

use super::Raft;
use crate::store::LogStore;

/// How often the log is looked at. Even at the fastest rate of writes it grows by some tens of MiB in that time.
const EVERY: Duration = Duration::from_secs(1);

pub(super) struct Upkeep {
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) log_bytes: u64,
}

impl Upkeep {
    /// Runs until it is stopped. Ends early when openraft does.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = every.tick() => {}
            }
            // The store says itself why it cannot.
            if self.log.note_committed().await.is_err() {
                return Ok(());
            }
            let (_, bytes) = self.log.size();
            if bytes > self.log_bytes && self.compact().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Asks for a snapshot, and for a purge up to the one that exists: what the new one makes superfluous goes with
    /// the next round. Entries that openraft would keep for members that lag behind go too; those get the snapshot.
    async fn compact(&self) -> Result<(), openraft::errors::Fatal<crate::store::TypeConfig>> {
        let (snapshot, purged, applied) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.snapshot, metrics.purged, metrics.last_applied)
        };
        if let Some(snapshot) = snapshot
            && purged < Some(snapshot)
        {
            self.raft.trigger().purge_log(snapshot.index).await?;
        }
        if snapshot < applied { self.raft.trigger().snapshot().await } else { Ok(()) }
    }
}
