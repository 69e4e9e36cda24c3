//! The node's own registry with real engines: what one pushes it gets back, and so does the other.

use std::sync::Arc;
use std::time::Duration;

use narvana::artifact::oci::{Registry, RegistryHandle};
use narvana::artifact::{ArtifactStore, Fetcher, Nobody};
use narvana::engine::fake::FakeEngine;
use narvana::engine::{Engine, Error, Image, LocalLogin};
use narvana::model::{BuildId, BuiltImage, Digest, Repository, Secret, ServiceId};
use narvana::random;
use narvana::task::Supervisor;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{exited, log};
use crate::harness::{BUSYBOX, EngineKind, Harness, context_with, until};

/// A registry over an empty store.
struct Site {
    registry: RegistryHandle,
    store: ArtifactStore,
    service: ServiceId,
    part: Supervisor,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ArtifactStore::open(folder.path()).await.expect("opens");
        let registry = Registry::bind(Fetcher::new(store.clone(), Arc::new(Nobody))).await.expect("a port");
        let part = Supervisor::new("registry", CancellationToken::new());
        let handle = registry.handle();
        registry.run(&part);
        Self { registry: handle, store, service: random::id(), part, _folder: folder }
    }

    fn login(&self) -> LocalLogin {
        LocalLogin { user: self.registry.user().to_owned(), password: self.registry.password().clone() }
    }

    /// Pushes as a build does.
    async fn push(&self, engine: &dyn Engine, image: &str) -> BuiltImage {
        let announced = self.registry.announce(Repository(self.service), random::id::<BuildId>());
        let (name, tag) = announced.destination();
        let (progress, _) = mpsc::channel(1);
        engine.push(image, (&name, &tag), &self.login(), progress).await.expect("pushed");
        let pushed = announced.pushed().expect("it arrived");
        assert_eq!(engine.image(&format!("{name}:{tag}")).await.expect("an answer"), None, "only a name for the way");
        pushed
    }

    async fn pull(&self, engine: &dyn Engine, image: &BuiltImage, login: &LocalLogin) -> Result<Image, Error> {
        let (progress, _) = mpsc::channel(1);
        engine.pull_from_loopback(&self.registry.reference(image), login, progress).await
    }

    /// The id that engines know the image by.
    async fn config(&self, image: &BuiltImage) -> String {
        let (manifest, _) = self.registry.images().manifest(image.manifest).await.expect("a manifest");
        manifest.config.digest.with_algorithm()
    }
}

/// An image of one layer on busybox, and its id.
async fn build(harness: &Harness, name: &str, page: &str) -> (String, String) {
    let tag = format!("localhost/narvana-test/{}:1", harness.name(name));
    let dockerfile = format!("FROM {BUSYBOX}\nCOPY page /page\n");
    let mut request = context_with(&tag, &dockerfile, &[("page", page.as_bytes(), 0o644)]);
    request.labels = harness.labels();
    let (log, mut lines) = mpsc::channel(64);
    let drain = async { while lines.recv().await.is_some() {} };
    let (built, ()) = tokio::join!(harness.engine().build(request, log), drain);
    (tag, built.expect("it is built"))
}

/// What a container of that image prints.
async fn page(harness: &Harness, image: &str) -> Vec<String> {
    let mut spec = harness.spec("reader", &["cat", "/page"]);
    spec.image = image.to_owned();
    let id = exited(harness, &spec).await.id;
    let lines = log(harness, &id, narvana::engine::LogsFrom::default()).await;
    harness.engine().remove(&id).await.expect("removed");
    lines
}

pub(super) async fn an_image_goes_and_comes_back(harness: Harness) {
    let (site, engine) = (Site::start().await, harness.engine());
    let (tag, id) = build(&harness, "first", "one").await;
    let first = site.push(engine, &tag).await;
    let sent = site.registry.received();
    assert_eq!(site.config(&first).await, id, "the engine pushes what it built");

    // Nothing is sent twice, and of a second image only what is new.
    assert_eq!(site.push(engine, &tag).await.manifest, first.manifest);
    assert_eq!(site.registry.received(), sent);
    let (other, _) = build(&harness, "second", "two").await;
    let second = site.push(engine, &other).await;
    let more = site.registry.received() - sent;
    assert!(more < 20_000 && more < sent / 10, "the lower layers were there: {more} of {sent} bytes");

    engine.remove_image(&tag).await.expect("removed");
    assert_eq!(engine.image(&id).await.expect("an answer"), None);
    let pulled = site.pull(engine, &first, &site.login()).await.expect("pulled");
    assert_eq!(pulled.id, id);
    assert_eq!(page(&harness, &id).await, ["one"]);

    // It is found by its labels, and goes by its id or by the name it came with.
    let found = until("it is listed", || async {
        // Podman answers with an error when an image goes while it makes the list.
        let listed = engine.list_images(&harness.labels()).await.ok()?;
        listed.into_iter().find(|image| image.id == id)
    })
    .await;
    engine.remove_image(found.references.first().unwrap_or(&id)).await.expect("removed");
    assert_eq!(engine.image(&id).await.expect("an answer"), None);

    let stranger = LocalLogin { user: "narvana".to_owned(), password: Secret::new("guess") };
    let refused = site.pull(engine, &first, &stranger).await;
    assert!(
        matches!(&refused, Err(Error::PullFailed { reason, .. }) if reason.contains("unauthorized")),
        "{refused:?}"
    );
    let announced = site.registry.announce(Repository(site.service), random::id());
    let (name, build) = announced.destination();
    let (progress, _) = mpsc::channel(1);
    let refused = engine.push(&other, (&name, &build), &stranger, progress).await;
    assert!(
        matches!(&refused, Err(Error::PushFailed { reason, .. }) if reason.contains("unauthorized")),
        "{refused:?}"
    );
    let nowhere = BuiltImage { manifest: Digest::new([0; 32]), ..first };
    let missing = site.pull(engine, &nowhere, &site.login()).await;
    let words = "is not on this node, and it is on no node that answers";
    assert!(matches!(&missing, Err(Error::PullFailed { reason, .. }) if reason.contains(words)), "{missing:?}");
    drop(announced);

    // Without the password, by the way any image is pulled.
    let (progress, _) = mpsc::channel(1);
    let refused = engine.pull(&site.registry.reference(&second), progress).await;
    assert!(matches!(&refused, Err(Error::PullFailed { .. })), "{refused:?}");
    engine.remove_image(&other).await.expect("removed");
    site.part.stop(Duration::from_secs(5)).await;
    assert!(site.store.list().await.expect("a list").len() >= 5);
}

/// What every engine does with a registry, the fake too: there and back by a name and a tag.
pub(super) async fn there_and_back(engine: &dyn Engine, image: &str, (name, tag): (&str, &str), login: &LocalLogin) {
    let id = engine.image(image).await.expect("an answer").expect("it is there").id;
    let (progress, _) = mpsc::channel(1);
    let missing = engine.push("localhost/narvana-test/missing:1", (name, tag), login, progress.clone()).await;
    assert!(matches!(&missing, Err(Error::NotFound { .. })), "{missing:?}");
    engine.push(image, (name, tag), login, progress.clone()).await.expect("pushed");
    let reference = format!("{name}:{tag}");
    assert_eq!(engine.image(&reference).await.expect("an answer"), None, "only a name for the way");
    engine.remove_image(image).await.expect("removed");
    let pulled = engine.pull_from_loopback(&reference, login, progress.clone()).await.expect("pulled");
    assert_eq!((pulled.id, engine.image(&reference).await.expect("an answer").is_some()), (id, true));
    engine.remove_image(&reference).await.expect("removed");
    let nothing = engine.pull_from_loopback(&format!("{name}:other"), login, progress).await;
    assert!(matches!(&nothing, Err(Error::PullFailed { .. })), "{nothing:?}");
}

pub(super) async fn moves_images_as_every_engine_does(harness: Harness) {
    let site = Site::start().await;
    let (tag, _) = build(&harness, "moving", "moved").await;
    let announced = site.registry.announce(Repository(site.service), random::id());
    let (name, build) = announced.destination();
    there_and_back(harness.engine(), &tag, (&name, &build), &site.login()).await;
}

#[tokio::test]
async fn the_fake_moves_images_as_every_engine_does() {
    let fake = FakeEngine::new();
    let image = Image {
        id: format!("sha256:{}", "0".repeat(64)),
        bytes: 1,
        exposed_ports: Vec::new(),
        architecture: None,
        digest: None,
    };
    fake.add_image("localhost/narvana-test/moving:1", image);
    let login = LocalLogin { user: "u".to_owned(), password: Secret::new("p") };
    there_and_back(&fake, "localhost/narvana-test/moving:1", ("127.0.0.1:5000/x", "1"), &login).await;
}

async fn what_one_pushes_the_other_pulls(from: EngineKind, to: EngineKind) {
    let site = Site::start().await;
    let (source, target) = (Harness::of(from).await, Harness::of(to).await);
    let (tag, id) = build(&source, "crossing", "across").await;
    let image = site.push(source.engine(), &tag).await;
    source.engine().remove_image(&tag).await.expect("removed");
    let pulled = site.pull(target.engine(), &image, &site.login()).await.expect("pulled");
    assert_eq!(pulled.id, id, "one id, whichever engine");
    assert_eq!(page(&target, &pulled.id).await, ["across"]);
    target.engine().remove_image(&id).await.expect("removed");
}

#[tokio::test]
async fn what_podman_pushes_docker_pulls() {
    what_one_pushes_the_other_pulls(EngineKind::Podman, EngineKind::Docker).await;
}

#[tokio::test]
async fn what_docker_pushes_podman_pulls() {
    what_one_pushes_the_other_pulls(EngineKind::Docker, EngineKind::Podman).await;
}
