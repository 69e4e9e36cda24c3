//! How an instance gets its image: what was built comes from whichever node has it, what is named from its registry.
//!
//! A tag can mean another image on the next node, or a day later. So who looks one up first pins its digest, and all instances of that
//! deployment run that one, wherever they start.

use super::super::ground::Ground;
use super::super::image;
use super::{Halt, Runner, Step};
use crate::engine::{self, Image};
use crate::model::{
    Artifact, BuiltImage, Cause, InstanceState, Source, image_by_digest, is_image_by_tag, is_latest_image,
    is_local_image,
};
use crate::state::Command;

impl Runner {
    /// The id of the image on this node, fetched when it is not there.
    pub(super) async fn image(&mut self, ground: &Ground) -> Step<String> {
        let asks = self.asks_for_the_newest(&self.artifact()?);
        if !asks && let Some(id) = self.interruptible(ground.image(self.image_here())).await? {
            return Ok(id);
        }
        self.status.state = self.status.state.max(InstanceState::Pulling);
        match self.deployment.spec.source.clone() {
            Source::Image { image } => self.named_image(&image, ground).await,
            _ => self.built_image().await,
        }
    }

    /// What is to run, as it is on record by now.
    fn artifact(&self) -> Step<Artifact> {
        let view = self.parts.consensus.latest();
        let deployment = view.state.deployment(self.deployment.id).unwrap_or(&self.deployment);
        deployment.artifact.clone().ok_or_else(|| Halt::Fail("its deployment has no artifact".to_owned()))
    }

    /// Whether only the registry knows what is to run: a new deployment of the newest there is, before its first instance has pinned one.
    fn asks_for_the_newest(&self, artifact: &Artifact) -> bool {
        let state = &self.parts.consensus.latest().state;
        is_latest_image(&artifact.image)
            && self.deployment.cause == Cause::Deploy
            && state.deployment(self.deployment.id).is_some_and(|deployment| deployment.status.is_rolling_out())
            && state.permits(&self.pin([0; 32], String::new())).is_ok()
    }

    fn pin(&self, digest: [u8; 32], image_id: String) -> Command {
        Command::PinImage { deployment: self.deployment.id, node: self.options.node, digest, image_id }
    }

    /// The id of the image, if the engine has what is to run.
    async fn image_here(&self) -> Step<Option<String>> {
        loop {
            let artifact = self.artifact()?;
            // The name says nothing of what was built: only the id is sure to be of this build.
            let by_name = !self.deployment.spec.source.needs_build() || artifact.image_id.is_none();
            let mut found = None;
            for reference in artifact.image_id.iter().chain(by_name.then_some(&artifact.image)) {
                if found.is_none() {
                    found = self.insist(|| self.engine.image(reference)).await?;
                }
            }
            let Some(image) = found else { return Ok(None) };
            if self.is_the_one(&artifact, &image).await? {
                return Ok(Some(image.id));
            }
            // Somebody else was first: what they pinned may be here too.
        }
    }

    /// Whether an image is what all instances of the deployment run: the first that a tag leads to becomes that. When it is not, the
    /// artifact on record is by digest.
    async fn is_the_one(&self, artifact: &Artifact, image: &Image) -> Step<bool> {
        if !is_image_by_tag(&artifact.image) {
            return Ok(true);
        }
        let Some(digest) = image.digest else {
            tracing::info!(
                instance = %self.instance.id,
                image = artifact.image,
                "the engine knows no digest of this image, so that other nodes look its tag up for themselves"
            );
            return Ok(true);
        };
        let pin = self.pin(*digest.as_bytes(), image.id.clone());
        // Until every node knows the command, each goes by the tag, as they did before there was one.
        if self.parts.consensus.latest().state.permits(&pin).is_err() {
            return Ok(true);
        }
        let Err(rejection) = Box::pin(self.propose(pin)).await? else { return Ok(true) };
        tracing::debug!(instance = %self.instance.id, %rejection, "another image is pinned");
        while Box::pin(self.parts.consensus.linearizable()).await.is_err() {
            self.pause().await?;
        }
        let pinned = self.artifact()?;
        if is_image_by_tag(&pinned.image) {
            // It was refused because the instance or its deployment has ended.
            return Err(Halt::Quit);
        }
        let same_id = pinned.image_id.as_ref() == Some(&image.id);
        Ok(same_id || pinned.image == image_by_digest(&artifact.image, &digest))
    }

    /// The id of an image that somebody else keeps, pulled. Of those that start together one does that at a time, and mostly the others
    /// find it there.
    async fn named_image(&mut self, name: &str, ground: &Ground) -> Step<String> {
        self.report().await?;
        let mut asked = self.interruptible(async { Ok(ground.turn().await) }).await?;
        loop {
            let artifact = self.artifact()?;
            let newest = !*asked && self.asks_for_the_newest(&artifact);
            if !newest && let Some(id) = self.interruptible(self.image_here()).await? {
                return Ok(id);
            }
            let image = if newest { self.newest(&artifact.image).await? } else { self.pulled(&artifact, name).await? };
            *asked = true;
            if self.interruptible(self.is_the_one(&artifact, &image)).await? {
                return Ok(image.id);
            }
        }
    }

    /// What the registry has as the newest. What the engine has is not run in its place: it would be pinned for all.
    async fn newest(&self, name: &str) -> Step<Image> {
        self.pull(name).await?.map_err(|error| {
            Halt::Fail(format!(
                "{error}; only its registry says what the newest is: to run what this node has, name it by another tag than \
                 latest, or by its digest"
            ))
        })
    }

    async fn pulled(&self, artifact: &Artifact, name: &str) -> Step<Image> {
        // What listens there is no registry, but this machine's own web server.
        if is_local_image(name) {
            let engine = self.engine.describe();
            return Err(Halt::Fail(format!(
                "{engine} on this node has no image {name}, and no registry has what is on localhost: load it there ({} load)",
                engine.kind.program()
            )));
        }
        let refused = match self.pull(&artifact.image).await? {
            Ok(image) => return Ok(image),
            Err(error) => error.to_string(),
        };
        let Some(id) = &artifact.image_id else { return Err(Halt::Fail(refused)) };
        match self.pull(name).await? {
            // What an engine built and pushed has another digest there than in the registry, and the same id.
            Ok(image) if image.id == *id => Ok(image),
            Ok(_) => Err(Halt::Fail(format!(
                "{refused}; version {} runs what {name} was when it started, and that is another image now: deploy the service again \
                 to run it",
                self.deployment.version
            ))),
            Err(_) => Err(Halt::Fail(refused)),
        }
    }

    /// Pulls an image. That can take minutes and leaves nothing behind that would have to be known, so it may be interrupted.
    async fn pull(&self, image: &str) -> Step<Result<Image, engine::Error>> {
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
