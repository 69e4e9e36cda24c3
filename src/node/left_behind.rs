//! Tells the members of an earlier epoch that the cluster began anew without them.
//!
//! Whoever of them calls a member is refused and ends by that (`removal`). But one that needs nobody, such as the only voter
//! of the cluster that was, calls nobody. So every member calls them, where they were last, and each knows which of them go
//! on all the same (`rpc::Rivals`).

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::consensus::{Consensus, Peer};
use crate::model::Epoch;
use crate::rpc::{Peers, Rivals, Told};

/// Pause between two rounds while somebody may be at work on the machines.
const PAUSE: Duration = Duration::from_secs(2);
/// For how long after the start of this program that is.
const AT_WORK: Duration = Duration::from_secs(15 * 60);
/// Pause from then on: a machine that comes back after days is told within this time.
const PAUSE_LATER: Duration = Duration::from_secs(60);

/// Tells them until told to stop.
pub(super) async fn tell(
    consensus: Consensus,
    peers: Peers,
    rivals: Rivals,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    quit.run_until_cancelled(rounds(&consensus, &peers, &rivals)).await;
    Ok(())
}

async fn rounds(consensus: &Consensus, peers: &Peers, rivals: &Rivals) {
    let mut views = consensus.watch();
    // Most clusters never begin anew.
    while consensus.latest().state.epoch().is_none() {
        if views.changed().await.is_err() {
            return;
        }
    }
    let begun = Instant::now();
    loop {
        let state = consensus.latest().state;
        if let Some(epoch) = state.epoch().cloned() {
            // Together: most of them are gone, and each of those takes as long as a connection that nobody answers.
            join_all(epoch.left_behind.iter().map(|(node, address)| {
                let peer = Peer { node: *node, address: address.clone() };
                tell_one(peers, rivals, peer, state.name_of(*node), &epoch)
            }))
            .await;
        }
        tokio::time::sleep(if begun.elapsed() < AT_WORK { PAUSE } else { PAUSE_LATER }).await;
    }
}

async fn tell_one(peers: &Peers, rivals: &Rivals, peer: Peer, name: String, epoch: &Epoch) {
    let why = match peers.leave_behind(&peer, epoch).await {
        Told::Ends => {
            tracing::warn!(?peer, "a node that was left behind was told and ends");
            return rivals.forget(peer.node);
        }
        // Mostly it is gone.
        Told::Nobody(reason) => {
            tracing::debug!(reason, "a node that was left behind cannot be told");
            return rivals.forget(peer.node);
        }
        // Its cluster goes on too, or began anew as well.
        Told::Refuses(reason) => format!("it answers that {reason}: stop it, or this cluster"),
        Told::Distrusts(distrust) => format!(
            "{distrust} an authority that this cluster does not know, as after a `narvana ca rotate` that the backup is \
             older than: stop it there, or this cluster, unless that machine serves another cluster now"
        ),
    };
    rivals.note(
        peer.node,
        &peer.address,
        format!("node {name}, which was left behind, goes on and cannot be told to end; {why}"),
    );
}
