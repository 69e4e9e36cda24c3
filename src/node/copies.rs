//! Fetches what this node has to keep a copy of (`artifact::copies`), so that what was built or uploaded outlives the node
//! that it came to.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::artifact::garbage::Roots;
use crate::artifact::{Digest, Images, copies};
use crate::clock;
use crate::consensus::Consensus;
use crate::model::NodeId;

/// Longest time between two looks at what there should be: somebody may be away for long, or what was missing is back.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pause between two looks, however much changes.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps copies until told to stop.
pub(super) async fn keep(
    node: NodeId,
    consensus: Consensus,
    images: Images,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    let mut views = consensus.watch();
    let work = async {
        let mut have = BTreeSet::new();
        loop {
            let state = views.borrow_and_update().state.clone();
            let keepers = copies::keepers(&state, clock::now());
            let mut roots = Roots::of(&state);
            let here = |digest: &Digest| copies::keeps(node, &keepers, digest);
            roots.sources.retain(here);
            roots.manifests.retain(here);
            // What was fetched once is looked at again only when it was forgotten meanwhile: whoever needs a copy that was
            // damaged since fetches it anew.
            have.retain(|digest| roots.sources.contains(digest) || roots.manifests.contains(digest));
            for digest in roots.manifests.iter().chain(&roots.sources) {
                if have.contains(digest) {
                    continue;
                }
                match fetch(&images, *digest, roots.manifests.contains(digest)).await {
                    Ok(()) => drop(have.insert(*digest)),
                    Err(error) => tracing::debug!(%digest, %error, "cannot keep a copy yet"),
                }
            }
            tokio::time::sleep(PAUSE).await;
            // A change, or the time, or the end of this node's group, which the next look finds as it was.
            let _waited = tokio::time::timeout(LOOK_EVERY, views.changed()).await;
        }
    };
    // Wherever it is: the next start goes on.
    quit.run_until_cancelled(work).await;
    Ok(())
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
