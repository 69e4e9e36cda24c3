//! What an image build should be.

use std::fmt;
use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::Labels;
use crate::model::{Cpu, EnvVars, Memory};

/// A build from a Dockerfile. Build arguments may be secret to their owner: they are not shown by `Debug`.
pub struct BuildRequest {
    /// The context as a tar stream, gzip allowed. Its files are data: the engine unpacks them.
    pub context: BoxStream<'static, io::Result<Bytes>>,
    /// The Dockerfile's path inside the context.
    pub dockerfile: String,
    /// The reference the image gets.
    pub tag: String,
    /// Labels of the image.
    pub labels: Labels,
    /// Build arguments.
    pub build_args: EnvVars,
    /// Most CPU of a step; no limit when 0.
    pub cpu: Cpu,
    /// Most memory of a step, swap included; no limit when 0.
    pub memory: Memory,
    /// Most processes and threads of all steps that run at once; no limit when nothing is said.
    pub pids_max: Option<u32>,
    /// What steps can reach.
    pub network: BuildNetwork,
    /// Run every step, whatever was built before.
    pub no_cache: bool,
}

/// What the steps of a build can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildNetwork {
    /// Nothing.
    None,
    /// What the engine's default bridge reaches.
    Bridge,
}

impl fmt::Debug for BuildRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildRequest")
            .field("dockerfile", &self.dockerfile)
            .field("tag", &self.tag)
            .field("build_args", &self.build_args.keys().collect::<Vec<_>>())
            .field("cpu", &self.cpu)
            .field("memory", &self.memory)
            .field("pids_max", &self.pids_max)
            .field("network", &self.network)
            .field("no_cache", &self.no_cache)
            .finish_non_exhaustive()
    }
}
