//! This node's instances: what the state wants here against what the engine has.
//!
//! One loop compares the two (`decide::reconcile`) whenever the state, the engine or the clock gives reason to, and one
//! task per instance, its `runner`, takes it from assigned to ended: image, container, health, log, exit. In: the
//! replicated state and the engine. Out: containers, log lines, and what was observed, proposed as `ReportInstance`.
//!
//! People run commands inside instances, from any node (`exec`).
//!
//! A node that has lost touch with the cluster ends what has volumes, so that it can be started again where that is
//! decided (`contact`); when its program cannot, its `guard` does.
//!
//! The agent decides nothing: not where an instance runs, not whether a failed one is followed by another. An engine
//! that does not answer is no observation, so nothing is ever declared dead on that ground. Containers go on when
//! narvana stops, and are adopted by their labels when it starts.

mod assurance;
mod contact;
mod container;
mod engine_state;
mod engine_watch;
mod exec;
mod exit;
mod ground;
mod guard;
mod hosts;
mod image;
mod leftovers;
mod log_pump;
mod probe;
mod reconciler;
mod removal;
mod runner;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::artifact::oci::RegistryHandle;
use crate::consensus::Consensus;
use crate::engine::Engine;
use crate::logs::LogStore;
use crate::model::{ClusterId, InstanceId, NodeId};
use crate::task::Supervisor;

pub use assurance::{Assurance, Standing};
#[cfg(test)]
pub(crate) use container::{INSTANCE_LABEL, SERVICE_LABEL};
pub use engine_state::EngineState;
pub use exec::{Exec, ExecElsewhere, ExecError, ExecInput, ExecInputs, ExecOutputs, ExecRequest, LocalExec};
pub use guard::{Guard, stand_guard};
pub use hosts::Hosts;
pub use reconciler::Agent;
pub use removal::remove_all;

/// What the agent needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster, for labels.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// How long a process may take to end after it was asked to.
    pub stop_grace: Duration,
    /// How long requests to an instance may take to end before its process is asked to.
    pub drain_max: Duration,
}

/// What the agent works with.
#[derive(Clone)]
pub struct Parts {
    /// The replicated state.
    pub consensus: Consensus,
    /// The engine, once there is one.
    pub engine: watch::Receiver<Option<Arc<dyn Engine>>>,
    /// Where log lines go.
    pub logs: LogStore,
    /// Where images are that were built.
    pub registry: RegistryHandle,
    /// Who knows of requests to instances.
    pub drain: Arc<dyn Drain>,
    /// Who ends what runs alone when this program cannot.
    pub guard: Arc<dyn Guard>,
    /// What containers find other services of their app by.
    pub hosts: Hosts,
    /// Owner of the agent's tasks.
    pub supervisor: Supervisor,
}

/// Waits for requests to end. Implemented over the ingress, which the agent does not know.
#[async_trait]
pub trait Drain: Send + Sync + 'static {
    /// Returns when no request to the instance is open any more, or after `limit`.
    async fn drained(&self, instance: InstanceId, limit: Duration);
}
