//! Instances: containers-to-be on a node.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AppId, DeploymentId, InstanceId, NodeId, Protocol, ServiceId, Timestamp};

/// One container-to-be on one node. Written by the leader when assigned; its status is written by the node's agent
/// alone. A restart is a new instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Identity.
    pub id: InstanceId,
    /// What it runs.
    pub deployment: DeploymentId,
    /// Of which service.
    pub service: ServiceId,
    /// Of which app.
    pub app: AppId,
    /// Which replica it is, from 0.
    pub slot: u32,
    /// 0 for the first instance of this slot in this deployment, one more for each restart.
    pub attempt: u32,
    /// Where it runs, and why there.
    pub placement: Placement,
    /// The agent starts it no earlier: the back-off after failures.
    pub start_after: Timestamp,
    /// Set when it is to take the place of another one that works until then.
    pub relocation: Option<Relocation>,
    /// That the leader wants it to end. Once set it stays set.
    pub stop_requested: Option<String>,
    /// What the agent observed last.
    pub status: InstanceStatus,
    /// When it was assigned. Of two instances of a service that were assigned one after the other, the second has the later time,
    /// whatever the clocks of those who led.
    pub created_at: Timestamp,
}

impl Instance {
    /// How long its start waits from when it was assigned: the back-off after failures.
    pub fn pause(&self) -> Duration {
        self.start_after.since(self.created_at)
    }
}

/// A move of a replica: both instances are there until the new one works, then the old one is told to end. When the new one
/// ends first, nothing has happened to the old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relocation {
    /// The instance of the same replica whose place is taken.
    pub from: InstanceId,
    /// Why it has to go.
    pub reason: String,
}

/// Where an instance runs and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The node.
    pub node: NodeId,
    /// Why this node and not another, in words; shown as they are.
    pub reasons: Vec<String>,
}

/// What was observed of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// How far it is; only ever moves forward.
    pub state: InstanceState,
    /// What its health check says.
    pub health: Health,
    /// The engine's id of the container.
    pub container: Option<String>,
    /// Where its ports are reached on its node.
    pub ports: Vec<PortBinding>,
    /// Why it is in this state, in words, when there is something to say.
    pub reason: Option<String>,
    /// How its process ended.
    pub exit: Option<Exit>,
    /// The last lines it wrote, kept when it failed.
    pub log_tail: Vec<String>,
    /// When its process began.
    pub started_at: Option<Timestamp>,
    /// When it first counted as healthy.
    pub healthy_at: Option<Timestamp>,
    /// When its process ended.
    pub finished_at: Option<Timestamp>,
}

impl InstanceStatus {
    /// The status of an instance that nobody has touched yet.
    pub fn assigned() -> Self {
        Self {
            state: InstanceState::Assigned,
            health: Health::Unknown,
            container: None,
            ports: Vec::new(),
            reason: None,
            exit: None,
            log_tail: Vec::new(),
            started_at: None,
            healthy_at: None,
            finished_at: None,
        }
    }
}

/// How far an instance is, in the only order it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InstanceState {
    /// The leader chose a node for it.
    Assigned,
    /// Its node fetches the image.
    Pulling,
    /// Its container is being created and started.
    Starting,
    /// Its process runs.
    Running,
    /// It was told to end.
    Stopping,
    /// It ended because it was told to.
    Stopped,
    /// It ended, or could not begin, by itself.
    Failed,
    /// Its node is gone; nothing is known.
    Lost,
}

impl InstanceState {
    /// The word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Pulling => "pulling",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }

    /// Whether it has ended for good. It then holds no resources of its node.
    pub fn is_terminal(self) -> bool {
        self >= Self::Stopped
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the health check says. Unlike the state it may go back and forth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// Not running yet, or not any more.
    Unknown,
    /// Running, and its first check has not passed yet.
    Starting,
    /// Its check passes; or it has none and runs.
    Healthy,
    /// Its check failed as often in a row as it may.
    Unhealthy,
}

impl Health {
    /// The word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i64,
    /// That it was killed for using more memory than it may.
    pub out_of_memory: bool,
}

/// Where one port of a container is reached on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// The port inside.
    pub container_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port on the node's loopback address.
    pub host_port: u16,
}
