//! Watches the space that is left: keeps the reserve, and says in the log when changes stop and go on.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::space::{Space, Use};
use crate::task::blocking;

/// Time between two looks. In that time nobody fills the part of the disk that records may still use.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks until told to stop.
pub(super) async fn watch(space: Space, quit: CancellationToken) -> Result<(), Infallible> {
    let mut was_full = false;
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
