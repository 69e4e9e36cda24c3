//! How a process that has just started becomes the one that speaks for its node
//! (`docs/decisions/0012-one-process-for-each-node.md`).

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::removal::Membership;
use crate::consensus::Consensus;
use crate::rpc::Witness;
use crate::task::{OnError, Supervisor};

/// Pause before others that do not accept this process yet are asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long a start waits for them. The process before this one is heard again or silent for long enough within two seconds.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Tells the others which process this is, before it acts. Returns when everybody who is there has accepted it, which from then on takes
/// part in Raft, or somebody has refused it for good: a copy of a node that runs ends by that, with nothing done. A process that is
/// still asked to wait when a start cannot wait any longer serves what it knows, and goes on asking.
pub(super) async fn begin(consensus: &Consensus, membership: &Membership, witness: &Witness, part: &Supervisor) {
    let (end, ended) = oneshot::channel();
    let (consensus, membership, witness) = (consensus.clone(), membership.clone(), witness.clone());
    let stop = part.stopping();
    part.spawn("introduction", OnError::StopNode, async move {
        if stop.run_until_cancelled(introduce(&consensus, &membership, &witness)).await.is_some() {
            // The start may have gone on.
            let _waits = end.send(());
        }
        Ok::<(), Infallible>(())
    });
    if timeout(WAIT_MAX, ended).await.is_err() {
        tracing::warn!(
            "other nodes do not accept this process yet, because they heard another one of this node's a moment ago; it takes no part \
             in decisions until they do"
        );
    }
}

async fn introduce(consensus: &Consensus, membership: &Membership, witness: &Witness) {
    loop {
        witness.was_asked_to_wait();
        consensus.introduce().await;
        if membership.ended().is_some() {
            return;
        }
        if !witness.was_asked_to_wait() {
            return witness.take_part();
        }
        sleep(AGAIN_AFTER).await;
    }
}
