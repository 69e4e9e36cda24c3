//! Removes images of builds and networks of apps that the state no longer knows from this node's engine.
//!
//! What is nobody's is decided in `decide::leftovers`; here the engine is asked and obeyed. Only what carries the labels
//! of this cluster is looked at, and of networks only those of this node; images come from the node that built them.
//! An engine refuses to remove what a container uses.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::decide::leftovers::{Image, Leftovers, Network, leftovers};
use crate::engine::{self, Engine, StoredImage};

use super::container::{self, BUILD_LABEL};
use super::{Options, Parts};

/// Time between two looks when nothing asks for one: what is left over costs disk, never correctness.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Time until the next look when one failed: Podman refuses a list when an image goes while it is made.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Looks when an engine is found, whenever `look` asks for it, and now and then, until told to stop.
pub(super) async fn keep_clear(options: Options, parts: Parts, look: Arc<Notify>) -> Result<(), Infallible> {
    let quit = parts.supervisor.stopping();
    let work = async {
        let mut engines = parts.engine.clone();
        loop {
            let Ok(engine) = engines.wait_for(Option::is_some).await.map(|engine| engine.clone()) else { return };
            let Some(engine) = engine else { continue };
            let pause = match clear(&options, &parts, &*engine).await {
                Ok(()) => LOOK_EVERY,
                Err(error) => {
                    tracing::debug!(%error, "cannot look for leftovers; the next look may");
                    LOOK_AGAIN_AFTER
                }
            };
            tokio::select! {
                () = look.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    };
    quit.run_until_cancelled(work).await;
    Ok(())
}

async fn clear(options: &Options, parts: &Parts, engine: &dyn Engine) -> Result<(), engine::Error> {
    let labels = container::node_labels(options.cluster, options.node);
    let of_the_cluster = container::cluster_labels(options.cluster);
    let images: Vec<Image> = engine.list_images(&of_the_cluster).await?.into_iter().map(observe).collect();
    let networks = engine.list_networks(&labels).await?;
    let networks: Vec<Network> = networks
        .into_iter()
        .map(|network| Network { app: container::app_of_network(&network.name), name: network.name })
        .collect();
    // Read after the lists: what is listed was made for something that the state knew by then. The newest state, since
    // nodes that share an engine make images that this one may not have heard of. Without a quorum, nothing is over.
    let Ok(view) = parts.consensus.linearizable().await else { return Ok(()) };
    let state = view.state;
    let Leftovers { images, networks } = leftovers(&state, &images, &networks);
    for image in images {
        settle("image", &image, engine.remove_image(&image).await)?;
    }
    for network in networks {
        settle("network", &network, engine.remove_network(&network).await)?;
    }
    Ok(())
}

/// What is still in use is left to the next look; only an engine that does not answer ends this one.
fn settle(kind: &str, name: &str, removal: Result<(), engine::Error>) -> Result<(), engine::Error> {
    match removal {
        Ok(()) => tracing::info!(kind, name, "removed what nothing needs any more"),
        Err(error) if error.is_unreachable() => return Err(error),
        Err(error) => tracing::debug!(kind, name, %error, "cannot be removed yet"),
    }
    Ok(())
}

fn observe(image: StoredImage) -> Image {
    let build = image.labels.get(BUILD_LABEL).and_then(|build| build.parse().ok());
    Image { id: image.id, references: image.references, build }
}
