//! Fetches what this node has to keep a copy of (`artifact::copies`), so that what was built or uploaded outlives the node
//! that it came to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
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
        let mut fetches = FuturesUnordered::new();
        let mut under_way = BTreeSet::new();
        // Those that were nowhere come after all others.
        let mut missed: BTreeSet<Digest> = BTreeSet::new();
        loop {
            let state = views.borrow_and_update().state.clone();
            let keepers = copies::keepers(&state, clock::now());
            let mut roots = Roots::of(&state);
            let here = |digest: &Digest| copies::keeps(node, &keepers, digest);
            roots.sources.retain(here);
            roots.manifests.retain(here);
            roots.recipes.retain(here);
            let kept = |digest: &Digest| {
                [&roots.sources, &roots.manifests, &roots.recipes].iter().any(|all| all.contains(digest))
            };
            due.retain(|digest, again| kept(digest) && *again > Instant::now());
            missed.retain(kept);
            // Sources are small, and nobody can make them again.
            let sources = roots.sources.iter().map(|digest| (*digest, false));
            let wanted = sources.chain(roots.manifests.iter().map(|digest| (*digest, true)));
            // Nothing waits for these.
            let wanted = wanted.chain(roots.recipes.iter().map(|digest| (*digest, false)));
            let mut queue: Vec<_> =
                wanted.filter(|(digest, _)| !due.contains_key(digest) && !under_way.contains(digest)).collect();
            queue.sort_by_key(|(digest, _)| missed.contains(digest));
            let mut queue = VecDeque::from(queue);
            let mut changed = false;
            let mut look_again = pin!(tokio::time::sleep(LOOK_EVERY));
            loop {
                while under_way.len() < FETCHES
                    && let Some((digest, is_image)) = queue.pop_front()
                {
                    under_way.insert(digest);
                    fetches.push(look_after(&images, digest, is_image));
                }
                tokio::select! {
                    Some((digest, found)) = fetches.next() => {
                        under_way.remove(&digest);
                        due.insert(digest, Instant::now() + if found { HERE_PAUSE } else { MISSING_PAUSE });
                        if found { missed.remove(&digest) } else { missed.insert(digest) };
                    }
                    _ = views.changed(), if !changed => {
                        changed = true;
                        look_again.as_mut().reset(tokio::time::Instant::now() + PAUSE);
                    }
                    () = &mut look_again => break,
                }
            }
        }
    };
    // Wherever it is: the next start goes on.
    quit.run_until_cancelled(work).await;
    Ok(())
}

/// Sees to it that a copy is here; says whether it is.
async fn look_after(images: &Images, digest: Digest, is_image: bool) -> (Digest, bool) {
    let fetched = fetch(images, digest, is_image).await;
    if let Err(error) = &fetched {
        tracing::debug!(%digest, %error, "cannot keep a copy yet");
    }
    (digest, fetched.is_ok())
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
