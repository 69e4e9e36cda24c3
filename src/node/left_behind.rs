//! Tells the members of an earlier epoch that the cluster began anew without them.
//!
//! Whoever of them calls a member is refused and ends by that (`removal`). But one that needs nobody, such as the only voter
//! of the cluster that was, calls nobody. So the leader calls them, where they were last.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::consensus::{Consensus, Peer, TransportError};
use crate::model::Epoch;
use crate::rpc::Peers;

/// Pause between two rounds while somebody may be at work on the machines.
const PAUSE: Duration = Duration::from_secs(2);
/// For how long after the start of this program that is.
const AT_WORK: Duration = Duration::from_secs(15 * 60);
/// Pause from then on: a machine that comes back after days is told within this time.
const PAUSE_LATER: Duration = Duration::from_secs(60);

/// Tells them while this node leads, until told to stop.
pub(super) async fn tell(consensus: Consensus, peers: Peers, quit: CancellationToken) -> Result<(), Infallible> {
    quit.run_until_cancelled(rounds(&consensus, &peers)).await;
    Ok(())
}

async fn rounds(consensus: &Consensus, peers: &Peers) {
    let mut views = consensus.watch();
    // Most clusters never begin anew.
    while consensus.latest().state.epoch().is_none() {
        if views.changed().await.is_err() {
            return;
        }
    }
    let begun = Instant::now();
    loop {
        if consensus.leading_term().is_some()
            && let Some(epoch) = consensus.latest().state.epoch().cloned()
        {
            // Together: most of them are gone, and each of those takes as long as a connection that nobody answers.
            join_all(epoch.left_behind.iter().map(|(node, address)| {
                let peer = Peer { node: *node, address: address.clone() };
                tell_one(peers, peer, &epoch)
            }))
            .await;
        }
        tokio::time::sleep(if begun.elapsed() < AT_WORK { PAUSE } else { PAUSE_LATER }).await;
    }
}

async fn tell_one(peers: &Peers, peer: Peer, epoch: &Epoch) {
    match peers.leave_behind(&peer, epoch).await {
        Ok(()) => tracing::warn!(?peer, "a node that was left behind was told and ends"),
        // It answers, and does not think so: its cluster goes on too, or began anew as well.
        Err(error @ TransportError::Refused { .. }) => {
            tracing::warn!(%error, "a node that was left behind goes on in a cluster of its own: stop it");
        }
        // Mostly it is gone.
        Err(error) => tracing::debug!(%error, "a node that was left behind cannot be told"),
    }
}
