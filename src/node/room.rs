//! Watches the space that is left: keeps the reserve, says in the log when changes stop and go on, and lets another node lead while
//! this one could take none.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::consensus::Consensus;
use crate::space::{Space, Use};
use crate::task::blocking;

/// Time between two looks. In that time nobody fills the part of the disk that records may still use.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When the disks of all are full, leadership goes round no faster than this.
const LEAD_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Looks until told to stop.
pub(crate) async fn watch(space: Space, consensus: Consensus, quit: CancellationToken) -> Result<(), Infallible> {
    let mut was_full = false;
    let mut stepped_aside: Option<Instant> = None;
    loop {
        let look = space.clone();
        let full = blocking(move || {
            tend(&look);
            look.check(Use::Changes).err()
        })
        .await;
        match &full {
            Some(full) if !was_full => tracing::warn!("changes are refused until there is space: {full}"),
            None if was_full => tracing::info!("there is space again; changes are taken"),
            _ => {}
        }
        was_full = full.is_some();
        // Whoever leads refuses for the whole cluster.
        if was_full
            && consensus.leading_term().is_some()
            && stepped_aside.is_none_or(|at| at.elapsed() > LEAD_AGAIN_AFTER)
        {
            stepped_aside = Some(Instant::now());
            consensus.step_aside().await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = quit.cancelled() => return Ok(()),
        }
    }
}

/// Keeps the reserve. Without one a full disk is only harder to get out of.
pub(super) fn tend(space: &Space) {
    if let Err(error) = space.tend_reserve() {
        tracing::debug!(%error, "there is no reserve of disk space");
    }
}
