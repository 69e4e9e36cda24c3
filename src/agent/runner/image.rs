//! How an instance gets its image: what was built comes from whichever node has it, what is named from its registry.
//!
//! A tag can mean another image on the next node, or a day later. So who looks one up first puts its digest on record, and
//! all instances of that deployment run that one, wherever they start.

use super::super::ground::Ground;
use super::super::image;
use super::{Halt, Runner, Step};
use crate::engine::Image;
use crate::model::{Artifact, BuiltImage, InstanceState, Source, image_by_digest, is_image_by_tag, is_latest_image};
use crate::state::Command;

impl Runner {
    /// The id of the image on this node, fetched when it is not there.
    pub(super) async fn image(&mut self, ground: &Ground) -> Step<String> {
        if let Some(id) = ground.image(self.image_here()).await? {
            return Ok(id);
        }
        self.status.state = self.status.state.max(InstanceState::Pulling);
        match self.deployment.spec.source.clone() {
            Source::Image { image } => self.named_image(&image).await,
            _ => self.built_image().await,
        }
    }

    /// What is to run, with what was put on record since the instance was assigned.
    fn artifact(&self) -> Step<Artifact> {
        let view = self.parts.consensus.latest();
        let deployment = view.state.deployment(self.deployment.id).unwrap_or(&self.deployment);
        deployment.artifact.clone().ok_or_else(|| Halt::Fail("its deployment has no artifact".to_owned()))
    }

    /// The id of the image, if the engine has what is on record.
    async fn image_here(&self) -> Step<Option<String>> {
        let artifact = self.artifact()?;
        // Only the registry knows what is the newest.
        if is_latest_image(&artifact.image) {
            return Ok(None);
        }
        // The name says nothing of what was built: only the id is sure to be of this build.
        let by_name = !self.deployment.spec.source.needs_build() || artifact.image_id.is_none();
        for reference in artifact.image_id.iter().chain(by_name.then_some(&artifact.image)) {
            if let Some(image) = self.insist(|| self.engine.image(reference)).await?
                && self.is_the_one(&artifact, &image).await?
            {
                return Ok(Some(image.id));
            }
        }
        Ok(None)
    }

    /// Whether an image is what all instances of the deployment run: the first that a tag leads to becomes that.
    async fn is_the_one(&self, artifact: &Artifact, image: &Image) -> Step<bool> {
        let (true, Some(digest)) = (is_image_by_tag(&artifact.image), image.digest) else { return Ok(true) };
        let pin = Command::PinImage {
            deployment: self.deployment.id,
            node: self.options.node,
            digest: *digest.as_bytes(),
            image_id: image.id.clone(),
        };
        // Until every node knows the command, each goes by the tag, as they did before there was one.
        if self.parts.consensus.latest().state.permits(&pin).is_err() {
            return Ok(true);
        }
        let Err(rejection) = self.propose(pin).await? else { return Ok(true) };
        tracing::debug!(instance = %self.instance.id, %rejection, "another image is on record");
        loop {
            match self.parts.consensus.linearizable().await {
                // It was refused because the instance or its deployment has ended.
                Ok(_) if is_image_by_tag(&self.artifact()?.image) => return Err(Halt::Quit),
                Ok(_) => return Ok(self.artifact()?.image == image_by_digest(&artifact.image, &digest)),
                Err(_) => self.pause().await?,
            }
        }
    }

    /// The id of an image that somebody else keeps, pulled.
    async fn named_image(&mut self, name: &str) -> Step<String> {
        self.report().await?;
        loop {
            let artifact = self.artifact()?;
            let image = self.pulled(&artifact, name).await?;
            if self.is_the_one(&artifact, &image).await? {
                return Ok(image.id);
            }
            if let Some(id) = self.image_here().await? {
                return Ok(id);
            }
        }
    }

    async fn pulled(&self, artifact: &Artifact, name: &str) -> Step<Image> {
        let refused = match self.pull(&artifact.image).await? {
            Ok(image) => return Ok(image),
            Err(error) => error,
        };
        if is_latest_image(&artifact.image)
            && let Some(image) = self.insist(|| self.engine.image(&artifact.image)).await?
        {
            tracing::warn!(instance = %self.instance.id, error = %refused, "the registry is not asked for a newer image");
            return Ok(image);
        }
        // What an engine built and pushed has another digest there than in the registry, and the same id.
        if let Some(id) = &artifact.image_id
            && let Ok(image) = self.pull(name).await?
            && image.id == *id
        {
            return Ok(image);
        }
        let what_now = match artifact.image == *name {
            true => String::new(),
            false => format!(
                "; version {} runs what {name} was when it started: deploy the service again to run what it is now",
                self.deployment.version
            ),
        };
        Err(Halt::Fail(format!("{refused}{what_now}")))
    }

    /// Pulls an image. That can take minutes and leaves nothing behind that would have to be known, so it may be interrupted.
    async fn pull(&self, image: &str) -> Step<Result<Image, crate::engine::Error>> {
        self.interruptible(self.attempt(|| image::pull(&self.engine, image))).await
    }

    /// The id of an image that was built, brought to the engine.
    async fn built_image(&mut self) -> Step<String> {
        let image = self.artifact()?.image;
        let built: BuiltImage = image.parse().map_err(|_| {
            // Built by a version that left images with the engine alone.
            Halt::Fail(format!("image {image} is not on this node's engine any more; deploy the service again"))
        })?;
        self.status.reason = Some("its image is brought to this node's engine".to_owned());
        self.report().await?;
        let (engine, registry) = (&self.engine, &self.parts.registry);
        let bring = self.attempt(|| async {
            match image::bring(engine, registry, &built, (&self.parts.logs, self.instance.id)).await {
                Ok(image) => Ok(Ok(image.id)),
                Err(image::Trouble::Engine(error)) => Err(error),
                Err(image::Trouble::Image(error)) => Ok(Err(error)),
            }
        });
        let brought = self.interruptible(bring).await?;
        self.status.reason = None;
        match brought {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(error)) => Err(Halt::Fail(format!("cannot get image {built}: {error}; deploy the service again"))),
            Err(error) => Err(Halt::Fail(error.to_string())),
        }
    }
}
