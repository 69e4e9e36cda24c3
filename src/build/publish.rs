//! From an image in this node's engine to one that every node can have: the engine pushes it to the node's registry.

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::job::{Failure, Job};
use crate::engine::{Engine, LocalLogin};
use crate::model::{BuildCode, BuiltImage, Repository};

/// Lines of a push kept for a slow log.
const LINES_BOUND: usize = 64;

impl Job {
    /// Pushes the image of that local name. Returns the name that holds on every node, and the id that engines know it
    /// by.
    pub(super) async fn publish(
        &self,
        engine: &dyn Engine,
        image: &str,
        lines: &mpsc::Sender<String>,
    ) -> Result<(BuiltImage, String), Failure> {
        let registry = &self.parts.registry;
        let announced = registry.announce(Repository(self.build.service), self.build.id);
        let (name, tag) = announced.destination();
        let login = LocalLogin { user: registry.user().to_owned(), password: registry.password().clone() };
        let (began, received) = (Instant::now(), registry.received());
        // What an engine says of a push is of no use to whoever reads the log of a build, unless the push fails.
        let (progress, mut said) = mpsc::channel::<String>(LINES_BOUND);
        let listen = async { while said.recv().await.is_some() {} };
        let (pushed, ()) = tokio::join!(engine.push(image, (&name, &tag), &login, progress), listen);
        pushed.map_err(|error| failure(&error))?;
        let built =
            announced.pushed().ok_or_else(|| failure("its engine says that it is done, and nothing has come"))?;
        let (manifest, _) = registry.images().manifest(built.manifest).await.map_err(|error| failure(&error))?;
        let bytes: u64 = manifest.parts().iter().map(|part| part.bytes).sum();
        // Builds that end at the same time share the count: it is for people.
        let sent = registry.received().saturating_sub(received).min(bytes);
        let line = format!(
            "Stored {} layers of {} KiB, {} KiB of them new, in {:.1} s.",
            manifest.layers.len(),
            bytes.div_ceil(1 << 10),
            sent.div_ceil(1 << 10),
            began.elapsed().as_secs_f32()
        );
        // The log is best effort, and its reader outlives this work.
        let _ = lines.send(line).await;
        Ok((built, manifest.config.digest.with_algorithm()))
    }
}

fn failure(cause: impl std::fmt::Display) -> Failure {
    Failure::new(
        BuildCode::Infrastructure,
        format!("the image was built and could not be stored on this node: {cause}"),
        "look at the engine and the disk of this node, then deploy again",
    )
}
