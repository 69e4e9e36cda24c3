//! The container of an instance: its name, labels and everything the engine is told.

use std::collections::BTreeMap;

use crate::decide::discovery::full_name;
use crate::engine::{ContainerSpec, Labels, NetworkAttachment, PublishedPort, VolumeMount};
use crate::model::{AppId, ClusterId, Deployment, Instance, NodeId, ServiceId};

/// Most processes and threads of one instance: enough for any server, few enough that a fork bomb stays its own.
const PIDS_MAX: u32 = 4_096;

/// Label that names the instance; the key to adopting a container.
pub(crate) const INSTANCE_LABEL: &str = "narvana.instance";
/// Label that names the app.
pub(super) const APP_LABEL: &str = "narvana.app";
/// Label that names the service.
pub(crate) const SERVICE_LABEL: &str = "narvana.service";
/// Label that names the build of an image, which the builder puts there.
pub(super) const BUILD_LABEL: &str = "narvana.build";
/// Label of what runs alone: the guard ends it when its node is not heard of.
pub(super) const ALONE_LABEL: &str = "narvana.alone";
/// Label that says for which attempt it was made.
pub(super) const GENERATION_LABEL: &str = "narvana.generation";

/// The labels that all images of this cluster have.
pub(super) fn cluster_labels(cluster: ClusterId) -> Labels {
    BTreeMap::from([("narvana.cluster".to_owned(), cluster.to_string())])
}

/// The labels that all containers of this node have, and none of another node's.
pub(super) fn node_labels(cluster: ClusterId, node: NodeId) -> Labels {
    BTreeMap::from([("narvana.cluster".to_owned(), cluster.to_string()), ("narvana.node".to_owned(), node.to_string())])
}

/// The network of an app: its services find each other there, and nothing else is on it.
pub(super) fn network_name(app: AppId) -> String {
    format!("narvana-{app}")
}

/// The app whose network has that name.
pub(super) fn app_of_network(name: &str) -> Option<AppId> {
    name.strip_prefix("narvana-")?.parse().ok()
}

/// The labels of a volume. It outlives its service, so it says in words what it held.
pub(super) fn volume_labels(
    cluster: ClusterId,
    instance: &Instance,
    (app, service, volume): (&str, &str, &str),
) -> Labels {
    let mut labels = node_labels(cluster, instance.placement.node);
    labels.insert(APP_LABEL.to_owned(), instance.app.to_string());
    labels.insert(SERVICE_LABEL.to_owned(), instance.service.to_string());
    labels.insert("narvana.volume".to_owned(), format!("{app}/{service}/{volume}"));
    labels
}

/// The engine's name for a volume of a service. It has the service's id, so that a later service of the same name never
/// gets the data of an earlier one.
pub(super) fn volume_name(service: ServiceId, volume: &str) -> String {
    format!("narvana-{service}-{volume}")
}

/// What to create for an instance.
pub(super) fn spec(
    cluster: ClusterId,
    app: &str,
    deployment: &Deployment,
    instance: &Instance,
    image: &str,
) -> ContainerSpec {
    let wanted = &deployment.spec;
    let name = format!("narvana-{app}-{}-v{}-{}", deployment.service_name, deployment.version, instance.id.short());
    let mut spec = ContainerSpec::new(name, image);
    spec.command.clone_from(&wanted.command);
    spec.env.clone_from(&wanted.env);
    if let Some(port) = wanted.ports.first() {
        // What most programs read to learn where to listen. The user's own value wins.
        spec.env.entry("PORT".to_owned()).or_insert_with(|| port.container_port.to_string());
    }
    spec.labels = node_labels(cluster, instance.placement.node);
    for (label, value) in [
        (APP_LABEL, instance.app.to_string()),
        (SERVICE_LABEL, instance.service.to_string()),
        ("narvana.deployment", instance.deployment.to_string()),
        (INSTANCE_LABEL, instance.id.to_string()),
        (GENERATION_LABEL, instance.attempt.to_string()),
    ] {
        spec.labels.insert(label.to_owned(), value);
    }
    if wanted.runs_alone() {
        spec.labels.insert(ALONE_LABEL.to_owned(), "true".to_owned());
    }
    spec.cpu = wanted.resources.cpu;
    spec.memory = wanted.resources.memory;
    spec.pids_max = Some(PIDS_MAX);
    spec.ports = wanted
        .ports
        .iter()
        .map(|port| PublishedPort { container_port: port.container_port, protocol: port.protocol })
        .collect();
    spec.volumes = wanted
        .volumes
        .iter()
        .map(|volume| VolumeMount { volume: volume_name(instance.service, &volume.name), path: volume.path.clone() })
        .collect();
    spec.network = Some(NetworkAttachment {
        name: network_name(instance.app),
        aliases: vec![deployment.service_name.clone(), full_name(&deployment.service_name, app)],
    });
    spec
}
