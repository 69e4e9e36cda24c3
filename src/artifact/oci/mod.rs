//! The node's registry: the OCI distribution API over the artifact store, for the container engine of this node.
//!
//! The engine pushes what a build made and pulls what an instance needs; so an image outlives the engine that built it.
//! In come requests on a loopback address, at a port that is picked at every start, and out go blobs and manifests that
//! were verified. A manifest is taken only when every blob it names is here.
//!
//! **Who may use it.** Only this node, for its own engine. Containers cannot reach the loopback of the host; other
//! programs of the machine can, so every request must carry a password that is made at every start, kept in memory only
//! and given to the engine with each order to push or pull. What a user names as an image, or a Dockerfile after `FROM`,
//! is pulled without it and refused. Whoever has the password may read every image: repositories tell services apart
//! for people, they are no boundary. A manifest can be tagged only while a build of this node has announced that
//! ([`RegistryHandle::announce`]).
//!
//! Absent on purpose: lists of repositories and tags, removal (the collector's), indexes of several platforms, schema 1,
//! other algorithms than SHA-256, TLS (nothing leaves the machine), compression on the way (bytes must match digests).

mod answer;
mod exchange;
mod manifest;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod uploads;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

pub use manifest::{MANIFEST_BYTES_MAX, Manifest, NotAManifest, Part};

use self::request::Tag;
use self::uploads::Uploads;
use super::{ArtifactStore, Digest, Fetcher, Images};
use crate::model::{BuildId, BuiltImage, Repository, Secret};
use crate::random;
use crate::task::{OnError, Supervisor};

/// The only user there is.
const USER: &str = "narvana";

/// A registry that is bound to its address and not yet serving.
pub struct Registry {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    password: Secret,
    /// The hash of the only `Authorization` that is accepted.
    authorization: [u8; 32],
    store: ArtifactStore,
    images: Images,
    uploads: Uploads,
    announced: Mutex<BTreeMap<(Repository, Tag), Option<Digest>>>,
    received: AtomicU64,
}

impl Registry {
    /// Binds a port of loopback that the system picks; an engine may connect from now on and is served after
    /// [`Self::run`].
    pub async fn bind(fetcher: Fetcher) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let password = hex::encode(random::bytes::<32>());
        let authorization = format!("Basic {}", STANDARD.encode(format!("{USER}:{password}")));
        let shared = Shared {
            address,
            password: Secret::new(password),
            authorization: Sha256::digest(authorization).into(),
            store: fetcher.store().clone(),
            images: Images::new(fetcher),
            uploads: Uploads::default(),
            announced: Mutex::default(),
            received: AtomicU64::new(0),
        };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// How the rest of the node reaches it.
    pub fn handle(&self) -> RegistryHandle {
        RegistryHandle { shared: Arc::clone(&self.shared) }
    }

    /// Serves until the supervisor stops: no new connections from then on; open requests finish within its grace period.
    pub fn run(self, supervisor: &Supervisor) {
        let accept = server::accept(self.listener, self.shared, supervisor.clone());
        supervisor.spawn("registry accept", OnError::StopNode, accept);
    }
}

/// A running registry, for those who give the engine orders. Clones are the same.
#[derive(Clone)]
pub struct RegistryHandle {
    shared: Arc<Shared>,
}

impl RegistryHandle {
    /// The user to log in as.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// The password of this run of the process.
    pub fn password(&self) -> &Secret {
        &self.shared.password
    }

    /// What an engine of this node calls that image: with the address of this registry.
    pub fn reference(&self, image: &BuiltImage) -> String {
        format!("{}/{image}", self.shared.address)
    }

    /// The images it serves.
    pub fn images(&self) -> &Images {
        &self.shared.images
    }

    /// Accepts the image of this build in that repository, as long as what is returned lives.
    pub fn announce(&self, repository: Repository, build: BuildId) -> Announced {
        let tag = Tag::new(&build.to_string()).expect("an id is made of hex digits and dashes");
        let key = (repository, tag);
        self.shared.announced().insert(key.clone(), None);
        Announced { shared: Arc::clone(&self.shared), key }
    }

    /// Bytes of blobs that engines have sent so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }
}

/// That an image is about to be pushed.
pub struct Announced {
    shared: Arc<Shared>,
    key: (Repository, Tag),
}

impl Announced {
    /// Where to push it to: a repository at this registry, and a tag.
    pub fn destination(&self) -> (String, String) {
        (format!("{}/{}", self.shared.address, self.key.0), self.key.1.as_str().to_owned())
    }

    /// The name of what was pushed, when that has happened.
    pub fn pushed(&self) -> Option<BuiltImage> {
        let manifest = self.shared.announced().get(&self.key).copied().flatten()?;
        Some(BuiltImage { repository: self.key.0, manifest })
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.shared.announced().remove(&self.key);
    }
}

impl Shared {
    fn announced(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Repository, Tag), Option<Digest>>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
