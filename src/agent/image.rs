//! An image that narvana built, from wherever it is to this node's engine.

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
    let (progress, mut said) = mpsc::channel(LINES_BOUND);
    let reference = registry.reference(built);
    let pull = engine.pull_from_loopback(&reference, &login, progress);
    let drain = async { while said.recv().await.is_some() {} };
    tokio::join!(pull, drain).0.map_err(Trouble::Engine)
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
