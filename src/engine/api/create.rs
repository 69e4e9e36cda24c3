//! Creating containers, networks and volumes.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkCreateRequest, NetworkingConfig, PortBinding, PortMap, VolumeCreateRequest,
};
use bollard::query_parameters::CreateContainerOptionsBuilder;

use super::ApiEngine;
use crate::engine::{ContainerSpec, Error, Kind, Labels, PublishedPort};

/// What containers may do of what root may: enough to change owner and user, as database images do, and to listen on
/// port 80. Not: raw sockets, device nodes, file capabilities, audit.
const CAPABILITIES: [&str; 8] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];
/// Most bytes of log the engine keeps of a container; narvana keeps its own copy.
const LOG_SIZE_MAX: &str = "10m";

impl ApiEngine {
    pub(super) async fn create_container(&self, spec: &ContainerSpec) -> Result<String, Error> {
        let call = self.call(format!("create container {}", spec.name));
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let body = body(spec, self.description.kind);
        match call.run(self.docker.create_container(Some(options), body)).await {
            Ok(created) => Ok(created.id),
            // Nothing else is looked up that may be missing but the image and the network.
            Err(Error::NotFound { .. }) => match (&spec.network, self.find_image(&spec.image).await?) {
                (Some(network), Some(_)) => Err(Error::NotFound { what: format!("network {}", network.name) }),
                _ => Err(Error::ImageNotFound { image: spec.image.clone() }),
            },
            Err(error) => Err(error),
        }
    }

    pub(super) async fn make_network(&self, name: &str, labels: &Labels) -> Result<(), Error> {
        let _one_at_a_time = self.making_network.lock().await;
        let inspection = self.docker.inspect_network(name, None::<bollard::query_parameters::InspectNetworkOptions>);
        match self.call(format!("inspect network {name}")).run(inspection).await {
            Ok(_) => return Ok(()),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            labels: Some(labels.clone().into_iter().collect()),
            ..NetworkCreateRequest::default()
        };
        match self.call(format!("create network {name}")).run(self.docker.create_network(request)).await {
            // Someone else made it since.
            Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn make_volume(&self, name: &str, labels: &Labels) -> Result<(), Error> {
        match self.call(format!("inspect volume {name}")).run(self.docker.inspect_volume(name)).await {
            Ok(_) => return Ok(()),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        match self.call(format!("create volume {name}")).run(self.docker.create_volume(request)).await {
            Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn body(spec: &ContainerSpec, kind: Kind) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        exposed_ports: Some(spec.ports.iter().map(port_key).collect()),
        // narvana checks health itself; Podman needs systemd for its own checks.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host_config(spec, kind)),
        networking_config: spec.network.as_ref().map(|network| NetworkingConfig {
            endpoints_config: Some(HashMap::from([(
                network.name.clone(),
                EndpointSettings { aliases: Some(network.aliases.clone()), ..EndpointSettings::default() },
            )])),
        }),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &ContainerSpec, kind: Kind) -> HostConfig {
    let limit = |value: u64| (value > 0).then(|| i64::try_from(value).unwrap_or(i64::MAX));
    let memory = limit(spec.memory.bytes);
    let log_driver = match kind {
        Kind::Podman => "k8s-file",
        Kind::Docker | Kind::Fake => "json-file",
    };
    HostConfig {
        nano_cpus: limit(spec.cpu.millis.saturating_mul(1_000_000)),
        memory,
        // The same value means: no swap on top.
        memory_swap: memory,
        pids_limit: spec.pids_max.map(i64::from),
        port_bindings: Some(spec.ports.iter().map(published).collect::<PortMap>()),
        mounts: Some(
            spec.volumes
                .iter()
                .map(|volume| Mount {
                    typ: Some(MountType::VOLUME),
                    source: Some(volume.volume.clone()),
                    target: Some(volume.path.clone()),
                    ..Mount::default()
                })
                .collect(),
        ),
        // Labelled for all containers where SELinux keeps them from unlabelled files.
        binds: spec.hosts.as_ref().map(|hosts| vec![format!("{}:/etc/hosts:ro,z", hosts.display())]),
        network_mode: spec.network.as_ref().map(|network| network.name.clone()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // Reaps zombies and passes signals on: a program that runs as process 1 ignores SIGTERM by default.
        init: Some(true),
        log_config: Some(HostConfigLogConfig {
            typ: Some(log_driver.to_owned()),
            config: Some(HashMap::from([("max-size".to_owned(), LOG_SIZE_MAX.to_owned())])),
        }),
        ..HostConfig::default()
    }
}

fn port_key(port: &PublishedPort) -> String {
    format!("{}/{}", port.container_port, port.protocol)
}

fn published(port: &PublishedPort) -> (String, Option<Vec<PortBinding>>) {
    let chosen_by_engine = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    (port_key(port), Some(vec![chosen_by_engine]))
}
