//! From source to artifact, on this node.
//!
//! The [`Builder`] takes the builds that the leader leased to this run of this node, one task each: fetch the source
//! into a folder of its own, check it, have the engine build it under limits and push it to the node's registry, say how
//! it ended. What was built before is not built again (`input`). In: leased builds in the replicated state, uploaded sources from the artifact store of any node. Out: an image in this
//! node's engine and in its artifact store, a build log, and `FinishBuild`, or `LoseBuild` for what only this node cannot do. Who builds
//! what is decided elsewhere (`decide::builds`). The [`Inspector`] looks at repositories that nobody builds yet.
//!
//! Text of users reaches no shell: git and the engine get argument vectors and API fields.

pub mod archive;
mod auto;
mod builder;
mod detect;
mod dockerfile;
pub mod git;
pub mod ignore;
mod input;
mod job;
mod log;
mod nix;
mod preview;
mod process;
mod publish;
mod recipe;
mod record;
mod source;
pub mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::artifact::oci::RegistryHandle;
use crate::artifact::{Fetcher, Holdings};
use crate::consensus::Consensus;
use crate::engine::Engine;
use crate::logs::LogStore;
use crate::model::{BuildStrategy, ClusterId, Cpu, Lease, Memory};
use crate::task::Supervisor;

pub use builder::Builder;
pub use detect::{InspectError, Inspected, Inspector, Repository, detect_in};
pub use nix::{FENCE_MAKER, FenceOptions, Options as NixOptions, enter_fence};
pub use preview::{Preview, Previewed};
pub use recipe::{Document, RecipeError};

/// By what this version builds.
pub const STRATEGIES: [BuildStrategy; 7] = [
    BuildStrategy::Dockerfile,
    BuildStrategy::Flake,
    BuildStrategy::Auto,
    BuildStrategy::AutoGo,
    BuildStrategy::AutoNode,
    BuildStrategy::AutoRust,
    BuildStrategy::AutoPython,
];

/// What a builder may use and do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster, for labels.
    pub cluster: ClusterId,
    /// The lease that builds of this run of this node are under.
    pub lease: Lease,
    /// Folder for sources being built. Emptied at start.
    pub work_dir: PathBuf,
    /// Longest time of a build whose service does not say.
    pub timeout: Duration,
    /// Cores of one build.
    pub cpu: Cpu,
    /// Memory of one build.
    pub memory: Memory,
    /// Accept repositories on loopback and link-local addresses.
    pub allow_loopback: bool,
    /// Processor architecture as container images name it.
    pub arch: &'static str,
    /// How Nix is used.
    pub nix: NixOptions,
}

/// What a builder works with.
#[derive(Clone)]
pub struct Parts {
    /// The replicated state.
    pub consensus: Consensus,
    /// The engine, once there is one.
    pub engine: watch::Receiver<Option<Arc<dyn Engine>>>,
    /// Where build logs go.
    pub logs: LogStore,
    /// Where uploaded sources are: on this node, or on others.
    pub artifacts: Fetcher,
    /// Who has which image.
    pub holdings: Holdings,
    /// Where images go.
    pub registry: RegistryHandle,
    /// Owner of the builder's tasks.
    pub supervisor: Supervisor,
}
