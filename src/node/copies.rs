//! Fetches what this node has to keep a copy of (`artifact::copies`), so that what was built or uploaded outlives the node
//! that it came to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::artifact::garbage::Roots;
use crate::artifact::{Digest, Images, copies};
use crate::clock;
use crate::consensus::Consensus;
use crate::model::NodeId;

/// Longest time between two looks at what there should be: somebody may be away for long.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pause between two looks, however much changes.
const PAUSE: Duration = Duration::from_secs(1);
/// What could not be fetched is tried again after this time: mostly nobody who has it answers.
const MISSING_PAUSE: Duration = Duration::from_secs(60);
/// What is here is looked at again after this time: it may have been found damaged, and removed.
const HERE_PAUSE: Duration = Duration::from_secs(10 * 60);
/// Copies that are fetched at once: one peer that hangs must not hold up the others.
const FETCHES: usize = 4;

/// Keeps copies until told to stop.
pub(super) async fn keep(
    node: NodeId,
    consensus: Consensus,
    images: Images,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    let mut views = consensus.watch();
    let work = async {
        let mut due: BTreeMap<Digest, Instant> = BTreeMap::new();
        loop {
            let state = views.borrow_and_update().state.clone();
            let keepers = copies::keepers(&state, clock::now());
            let mut roots = Roots::of(&state);
            let here = |digest: &Digest| copies::keeps(node, &keepers, digest);
            roots.sources.retain(here);
            roots.manifests.retain(here);
            due.retain(|digest, again| {
                let kept = roots.sources.contains(digest) || roots.manifests.contains(digest);
                kept && *again > Instant::now()
            });
            let mut fetches = Vec::new();
            for digest in roots.manifests.iter().chain(&roots.sources).filter(|digest| !due.contains_key(digest)) {
                fetches.push(look_after(&images, *digest, roots.manifests.contains(digest)));
            }
            let looked_after: Vec<_> = stream::iter(fetches).buffer_unordered(FETCHES).collect().await;
            due.extend(looked_after);
            tokio::time::sleep(PAUSE).await;
            // A change, or the time, or the end of this node's group, which the next look finds as it was.
            let _waited = tokio::time::timeout(LOOK_EVERY, views.changed()).await;
        }
    };
    // Wherever it is: the next start goes on.
    quit.run_until_cancelled(work).await;
    Ok(())
}

/// Sees to it that a copy is here; says when to look again.
async fn look_after(images: &Images, digest: Digest, is_image: bool) -> (Digest, Instant) {
    let pause = match fetch(images, digest, is_image).await {
        Ok(()) => HERE_PAUSE,
        Err(error) => {
            tracing::debug!(%digest, %error, "cannot keep a copy yet");
            MISSING_PAUSE
        }
    };
    (digest, Instant::now() + pause)
}

async fn fetch(images: &Images, digest: Digest, is_image: bool) -> anyhow::Result<()> {
    if is_image {
        let (nobody, _) = mpsc::channel(1);
        images.complete(digest, &nobody).await?;
    } else if !images.store().contains(digest).await {
        images.open(digest).await?;
    }
    Ok(())
}
