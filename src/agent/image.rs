//! Images on their way to this node's engine: from a registry, or, when narvana built them, from wherever they are.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::artifact::ImageError;
use crate::artifact::oci::RegistryHandle;
use crate::clock;
use crate::engine::{self, Engine, Image, LocalLogin};
use crate::logs::{LogKey, LogLine, LogStore, LogStream, LogTime};
use crate::model::{BuiltImage, InstanceId};

/// Lines of progress kept for a slow log; more wait.
const LINES_BOUND: usize = 64;

/// Why the engine does not have the image.
pub(super) enum Trouble {
    /// The node does not have it, nor who it asked.
    Image(ImageError),
    /// The engine did not take it.
    Engine(engine::Error),
}

/// Sees to it that the node's store has the whole image, and that the engine has it from there. What is fetched is said
/// in the instance's log.
pub(super) async fn bring(
    engine: &Arc<dyn Engine>,
    registry: &RegistryHandle,
    built: &BuiltImage,
    (logs, instance): (&LogStore, InstanceId),
) -> Result<Image, Trouble> {
    let (progress, lines) = mpsc::channel(LINES_BOUND);
    let fetch = async move { registry.images().complete(built.manifest, &progress).await };
    let (fetched, ()) = tokio::join!(fetch, write(logs, instance, lines));
    fetched.map_err(Trouble::Image)?;
    let login = LocalLogin { user: registry.user().to_owned(), password: registry.password().clone() };
    let reference = registry.reference(built);
    unheard(async |progress| engine.pull_from_loopback(&reference, &login, progress).await)
        .await
        .map_err(Trouble::Engine)
}

/// An image that somebody else keeps, by its name.
pub(super) async fn pull(engine: &Arc<dyn Engine>, image: &str) -> Result<Image, engine::Error> {
    unheard(async |progress| engine.pull(image, progress).await).await
}

/// Work that says how far it is, to nobody.
async fn unheard<T>(work: impl AsyncFnOnce(mpsc::Sender<String>) -> T) -> T {
    let (progress, mut said) = mpsc::channel(LINES_BOUND);
    let drain = async { while said.recv().await.is_some() {} };
    tokio::join!(work(progress), drain).0
}

/// The log is opened when there is something to say. An image is worth more than what is said of it.
async fn write(logs: &LogStore, instance: InstanceId, mut lines: mpsc::Receiver<String>) {
    let mut writer = None;
    while let Some(line) = lines.recv().await {
        if writer.is_none() {
            writer = logs.writer(LogKey::Instance(instance)).await.ok();
        }
        if let Some(writer) = &writer {
            let line = LogLine::new(LogTime::from(clock::now()), LogStream::System, line);
            if let Err(error) = writer.append(line).await {
                tracing::debug!(%instance, %error, "a line of an instance's log is lost");
            }
        }
    }
    if let Some(writer) = writer
        && let Err(error) = writer.stop().await
    {
        tracing::debug!(%instance, %error, "cannot close an instance's log");
    }
}
