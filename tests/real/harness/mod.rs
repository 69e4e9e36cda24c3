//! Engines of a test's own, and an image to run on them.
//!
//! `Harness::podman()` runs Podman's service on a socket in a temporary folder, over the machine's own storage.
//! `Harness::docker()` runs a Docker daemon of its own. Both have [`BUSYBOX`] when they return. When a harness is
//! dropped, also by a failing test, its containers are removed and its engine ends.

mod busybox;
pub(crate) mod daemon;
pub(crate) mod disk;
pub(crate) mod nixpkgs;
pub(crate) mod node;
pub(crate) mod registry;
pub(crate) mod site;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use narvana::engine::{ApiEngine, ContainerSpec, Engine, Labels};
use narvana::random;
use narvana::task::Supervisor;
use tokio_util::sync::CancellationToken;

pub(crate) use busybox::{BUSYBOX, context_with};
use daemon::Daemon;
use registry::Registry;

/// How long anything in these tests may take before it counts as failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Label of everything a test makes; its value is the harness's scope.
const LABEL: &str = "narvana.test";

/// Which real engine a test runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EngineKind {
    Podman,
    Docker,
}

pub(crate) struct Harness {
    engine: Arc<dyn Engine>,
    daemon: Daemon,
    scope: String,
}

impl Harness {
    /// A real Podman.
    pub(crate) async fn podman() -> Self {
        Self::with(Daemon::podman(None)).await
    }

    /// A real Podman that keeps everything in this folder.
    pub(crate) async fn podman_in(storage: &Path) -> Self {
        Self::with(Daemon::podman_in(storage)).await
    }

    /// A real Docker.
    pub(crate) async fn docker() -> Self {
        Self::with(Daemon::docker(&[])).await
    }

    /// A real Docker with storage of its own, started by a command line that begins with this.
    async fn docker_within(within: &[String]) -> Self {
        Self::with(Daemon::docker_within(within)).await
    }

    /// A real Docker whose containers go on without it.
    pub(crate) async fn docker_with_live_restore() -> Self {
        Self::with(Daemon::docker(&["--live-restore"])).await
    }

    /// The one that was asked for.
    pub(crate) async fn of(kind: EngineKind) -> Self {
        match kind {
            EngineKind::Podman => Self::podman().await,
            EngineKind::Docker => Self::docker().await,
        }
    }

    /// An engine that may pull from this registry, which speaks plain HTTP. Docker trusts loopback by itself.
    pub(crate) async fn with_registry(kind: EngineKind, registry: &Registry) -> Self {
        match kind {
            EngineKind::Podman => Self::with(Daemon::podman(Some(registry.host()))).await,
            EngineKind::Docker => Self::docker().await,
        }
    }

    async fn with(daemon: Daemon) -> Self {
        let scope = random::id::<uuid::Uuid>().simple().to_string()[20..].to_owned();
        let engine = connect(daemon.address(), &scope).await;
        busybox::ensure(&*engine).await;
        Self { engine, daemon, scope }
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Where the engine listens, for nodes that run as processes of their own.
    pub(crate) fn address(&self) -> &str {
        self.daemon.address()
    }

    /// The socket's path.
    pub(crate) fn socket(&self) -> &Path {
        self.daemon.socket()
    }

    /// A new connection, as a restarted node would make.
    pub(crate) async fn reconnect(&self) -> Arc<dyn Engine> {
        connect(self.address(), &self.scope).await
    }

    /// The engine's own process.
    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// A name nobody else uses.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("nvt-{}-{name}", self.scope)
    }

    /// Labels that tell this harness's things from all others.
    pub(crate) fn labels(&self) -> Labels {
        Labels::from([(LABEL.to_owned(), self.scope.clone())])
    }

    /// A busybox container with that command, removed with the harness.
    pub(crate) fn spec(&self, name: &str, command: &[&str]) -> ContainerSpec {
        let mut spec = ContainerSpec::new(self.name(name), BUSYBOX);
        spec.command = command.iter().map(|word| (*word).to_owned()).collect();
        spec.labels = self.labels();
        spec
    }

    /// Creates and starts a container; returns its id.
    pub(crate) async fn run(&self, spec: &ContainerSpec) -> String {
        let id = self.engine.create(spec).await.expect("created");
        self.engine.start(&id).await.expect("started");
        id
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        // A daemon of our own has nobody else's containers; the machine's Podman has.
        let labels = if self.daemon.is_ours() { Labels::new() } else { self.labels() };
        let (address, scope) = (self.daemon.address().to_owned(), self.scope.clone());
        self.daemon.resume();
        remove_containers(address, scope, labels);
        self.daemon.remove_networks();
    }
}

/// Removes the containers with these labels, from wherever a test ends.
pub(crate) fn remove_containers(address: String, scope: String, labels: Labels) {
    let clean = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let supervisor = Supervisor::new("clean-up", CancellationToken::new());
            let Ok(engine) = ApiEngine::connect(&address, &scope, supervisor).await else { return };
            for container in engine.list(&labels).await.unwrap_or_default() {
                let _best_effort = engine.remove(&container.id).await;
                if let Some(app) = container.labels.get("narvana.app") {
                    let _best_effort = engine.remove_network(&format!("narvana-{app}")).await;
                }
            }
        });
    });
    let _best_effort = clean.join();
}

async fn connect(address: &str, scope: &str) -> Arc<dyn Engine> {
    // An engine that has just started may be slow to answer on a busy machine.
    until("the engine answers", || async {
        let supervisor = Supervisor::new("engine", CancellationToken::new());
        ApiEngine::connect(address, scope, supervisor).await.ok()
    })
    .await
}

/// Asks until the answer is there.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // poll
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("within {DEADLINE:?}: {what}"))
}
