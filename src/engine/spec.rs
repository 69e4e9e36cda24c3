//! What a container should be.

use std::fmt;
use std::path::PathBuf;

use super::Labels;
use crate::model::{Cpu, EnvVars, Memory, Protocol};

/// What to create. Nothing privileged can be said: no host paths but one file that is read only, no host network, no devices, no added capabilities.
/// Every container gets a reduced set of capabilities, cannot gain new ones, and runs under an init process.
#[derive(Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name, unique on the engine.
    pub name: String,
    /// The image's reference or id, in the engine's store already.
    pub image: String,
    /// Arguments that replace the image's command; the image's own when empty.
    pub command: Vec<String>,
    /// Environment, secrets included.
    pub env: EnvVars,
    /// Labels to find it by.
    pub labels: Labels,
    /// Most CPU; no limit when 0.
    pub cpu: Cpu,
    /// Most memory, swap included; no limit when 0.
    pub memory: Memory,
    /// Most processes and threads; the engine's default when absent.
    pub pids_max: Option<u32>,
    /// Ports to publish on this node's 127.0.0.1, at ports the engine chooses.
    pub ports: Vec<PublishedPort>,
    /// Named volumes to mount.
    pub volumes: Vec<VolumeMount>,
    /// The network to join; the engine's default bridge when absent.
    pub network: Option<NetworkAttachment>,
    /// A file of this machine that is the container's `/etc/hosts`, read only; the engine's own when absent.
    pub hosts: Option<PathBuf>,
}

/// A port to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// The port inside.
    pub container_port: u16,
    /// Its transport.
    pub protocol: Protocol,
}

/// A volume and where it appears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// The volume's name.
    pub volume: String,
    /// The absolute path inside.
    pub path: String,
}

/// A network and the names by which the container is found on it, besides its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAttachment {
    /// The network's name.
    pub name: String,
    /// Further names.
    pub aliases: Vec<String>,
}

impl ContainerSpec {
    /// A container that runs the image's own command, without limits, ports, volumes or labels.
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            command: Vec::new(),
            env: EnvVars::new(),
            labels: Labels::new(),
            cpu: Cpu::default(),
            memory: Memory::default(),
            pids_max: None,
            ports: Vec::new(),
            volumes: Vec::new(),
            network: None,
            hosts: None,
        }
    }
}

impl fmt::Debug for ContainerSpec {
    /// Names of variables only: their values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerSpec")
            .field("name", &self.name)
            .field("image", &self.image)
            .field("command", &self.command)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("labels", &self.labels)
            .field("cpu", &self.cpu)
            .field("memory", &self.memory)
            .field("pids_max", &self.pids_max)
            .field("ports", &self.ports)
            .field("volumes", &self.volumes)
            .field("network", &self.network)
            .field("hosts", &self.hosts)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_values_of_variables() {
        let mut spec = ContainerSpec::new("c", "i");
        spec.env.insert("PASSWORD".into(), "hunter2".into());
        let shown = format!("{spec:?}");
        assert!(shown.contains("PASSWORD") && !shown.contains("hunter2"), "{shown}");
    }
}
