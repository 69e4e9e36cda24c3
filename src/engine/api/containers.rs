//! Starting, ending, listing and inspecting containers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, PortMap};
use bollard::query_parameters::{
    KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
};
use futures::StreamExt;
use rustix::process::Pid;

use super::{ApiEngine, CALL_TIME};
use crate::engine::{Binding, ContainerState, ContainerStatus, Error, Labels, kernel_log};
use crate::model::{Protocol, Timestamp};

/// How many containers are inspected at once: enough to hide the round trips, few enough for a small machine.
const INSPECTIONS_AT_ONCE: usize = 8;

impl ApiEngine {
    pub(super) async fn start_container(&self, id: &str) -> Result<(), Error> {
        let start = self.docker.start_container(id, None::<StartContainerOptions>);
        self.call(format!("start container {id}")).run(start).await
    }

    pub(super) async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        // The engine answers when the container has ended, so its answer may begin later than that of other calls.
        let docker = self.streaming.clone();
        let stop = docker.stop_container(id, Some(options));
        self.call(format!("stop container {id}")).within(grace.saturating_add(CALL_TIME), stop).await
    }

    pub(super) async fn kill_container(&self, id: &str) -> Result<(), Error> {
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        let kill = self.docker.kill_container(id, Some(options));
        match self.call(format!("kill container {id}")).run(kill).await {
            // It does not run.
            Err(Error::Conflict { .. }) => Ok(()),
            answer => answer,
        }
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        self.call(format!("remove container {id}")).gone(self.docker.remove_container(id, Some(options))).await
    }

    pub(super) async fn list_containers(&self, labels: &Labels) -> Result<Vec<ContainerStatus>, Error> {
        let ids = self.read_ids(&self.call("list containers"), &label_filter(labels)).await?;
        // The list says nothing about exit codes and times; only an inspection does.
        let mut inspected =
            futures::stream::iter(ids).map(|id| self.inspect_owned(id)).buffer_unordered(INSPECTIONS_AT_ONCE);
        let mut containers = Vec::new();
        while let Some(answer) = inspected.next().await {
            match answer {
                Ok(container) => containers.push(container),
                // Removed since the list was made.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    async fn inspect_owned(&self, id: String) -> Result<ContainerStatus, Error> {
        self.inspect_container(&id).await
    }

    pub(super) async fn inspect_container(&self, id: &str) -> Result<ContainerStatus, Error> {
        let answer = self.read_container(&self.call(format!("inspect container {id}")), id).await?;
        let limited = answer.host_config.as_ref().and_then(|host| host.memory).unwrap_or(0) > 0;
        let mut status = status(answer);
        let failed = status.state == ContainerState::Exited && status.exit_code != Some(0);
        if failed && limited && !status.oom_killed {
            let id = status.id.clone();
            status.oom_killed =
                tokio::task::spawn_blocking(move || kernel_log::killed_for_memory(&id)).await.unwrap_or(false);
        }
        Ok(status)
    }

    /// The first process of a running container, as this machine numbers it.
    pub(super) async fn process_of(&self, id: &str) -> Result<Pid, Error> {
        let call = self.call(format!("inspect container {id}"));
        let pid = self.read_container(&call, id).await?.state.and_then(|state| state.pid);
        let process = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid > 0)?));
        process.ok_or_else(|| Error::Conflict { action: call.action.clone(), reason: "it does not run".to_owned() })
    }
}

/// A filter for containers that carry all these labels.
pub(super) fn label_filter(labels: &Labels) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), labels.iter().map(|(key, value)| format!("{key}={value}")).collect())])
}

fn status(answer: ContainerInspectResponse) -> ContainerStatus {
    let state = answer.state.unwrap_or_default();
    let how_far = match state.status {
        Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::PAUSED)
        | Some(ContainerStateStatusEnum::RESTARTING | ContainerStateStatusEnum::STOPPING) => ContainerState::Running,
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD) => ContainerState::Exited,
        Some(ContainerStateStatusEnum::REMOVING) => ContainerState::Removing,
        Some(ContainerStateStatusEnum::CREATED | ContainerStateStatusEnum::EMPTY) | None => ContainerState::Created,
    };
    let exited = how_far == ContainerState::Exited;
    ContainerStatus {
        id: answer.id.unwrap_or_default(),
        name: answer.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image_id: super::images::with_algorithm(answer.image.unwrap_or_default()),
        labels: answer.config.and_then(|config| config.labels).unwrap_or_default().into_iter().collect(),
        state: how_far,
        exit_code: if exited { state.exit_code } else { None },
        oom_killed: state.oom_killed.unwrap_or(false),
        started_at: state.started_at.as_deref().and_then(time),
        finished_at: if exited { state.finished_at.as_deref().and_then(time) } else { None },
        error: state.error.filter(|error| !error.is_empty()),
        bindings: match (how_far, answer.network_settings.and_then(|network| network.ports)) {
            (ContainerState::Running, Some(ports)) => bindings(&ports),
            _ => Vec::new(),
        },
    }
}

/// A time of the engine; it says year 1 for never.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    (time.as_millisecond() > 0).then(|| Timestamp(time.as_millisecond()))
}

fn bindings(ports: &PortMap) -> Vec<Binding> {
    let mut bindings: Vec<Binding> = ports
        .iter()
        .filter_map(|(key, hosts)| {
            let (container_port, protocol) = port(key)?;
            let host = hosts.iter().flatten().find_map(|host| {
                let port: u16 = host.host_port.as_deref()?.parse().ok()?;
                let address = host.host_ip.as_deref().and_then(|ip| ip.parse().ok());
                Some(SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port))
            })?;
            Some(Binding { container_port, protocol, host })
        })
        .collect();
    bindings.sort_by_key(|binding| (binding.container_port, binding.protocol));
    bindings
}

/// `8080/tcp` taken apart; the protocol may be missing.
pub(super) fn port(key: &str) -> Option<(u16, Protocol)> {
    let (number, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    Some((number.parse().ok()?, protocol.parse().ok()?))
}
