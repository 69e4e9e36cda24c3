//! What a client should know before it shows a form, and the numbers of a dashboard.

use std::collections::BTreeMap;

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use crate::build::STRATEGIES;
use crate::model::{DeploymentStatus, SettingKey};

use super::extract::Reader;
use super::service_input::AVAILABLE_SOURCES;

/// What the platform offers and where its limits are.
#[derive(Serialize, ToSchema)]
pub(super) struct Config {
    /// Domain under which services are reachable.
    domain: String,
    /// What a service gets that asks for nothing.
    default_resources: DefaultResources,
    /// Most services in one app.
    max_services_per_app: String,
    /// Kinds of source that this version takes.
    source_types: Vec<&'static str>,
    /// Build strategies that this version has.
    build_strategies: Vec<&'static str>,
}

/// CPU and memory.
#[derive(Serialize, ToSchema)]
pub(super) struct DefaultResources {
    /// Cores, such as `0.5`.
    cpu: String,
    /// With a unit, such as `512Mi`.
    memory: String,
}

/// A dashboard's numbers: of the caller's organisations, and of the nodes.
#[derive(Serialize, ToSchema)]
pub(super) struct Stats {
    active_deployments: usize,
    total_apps: usize,
    total_services: usize,
    running_builds: usize,
    deployments_by_status: BTreeMap<&'static str, usize>,
    node_health: NodeHealth,
}

/// How many nodes can run containers.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeHealth {
    total: usize,
    healthy: usize,
    unhealthy: usize,
}

/// What the platform offers
#[utoipa::path(get, path = "/v1/config", tag = "cluster", responses((status = 200, body = Config)))]
pub(super) async fn show(Reader(caller): Reader) -> Json<Config> {
    let setting = |key| caller.setting(key).to_owned();
    Json(Config {
        domain: setting(SettingKey::ServerDomain),
        default_resources: DefaultResources {
            cpu: setting(SettingKey::DefaultResourceCpu),
            memory: setting(SettingKey::DefaultResourceMemory),
        },
        max_services_per_app: setting(SettingKey::MaxServicesPerApp),
        source_types: AVAILABLE_SOURCES.to_vec(),
        build_strategies: STRATEGIES.iter().map(|strategy| strategy.as_str()).collect(),
    })
}

/// Numbers of a dashboard
#[utoipa::path(get, path = "/v1/dashboard/stats", tag = "cluster", responses((status = 200, body = Stats)))]
pub(super) async fn stats(Reader(caller): Reader) -> Json<Stats> {
    let mut deployments_by_status = BTreeMap::new();
    for deployment in caller.deployments() {
        *deployments_by_status.entry(deployment.told_status().as_str()).or_default() += 1;
    }
    let total = caller.nodes().count();
    let healthy = caller.nodes().filter(|node| node.engine.is_ok() && caller.absent_since(node.id).is_none()).count();
    Json(Stats {
        active_deployments: deployments_by_status.get(DeploymentStatus::Running.as_str()).copied().unwrap_or(0),
        total_apps: caller.apps().count(),
        total_services: caller.services().count(),
        running_builds: caller.builds().filter(|build| !build.status.is_terminal()).count(),
        deployments_by_status,
        node_health: NodeHealth { total, healthy, unhealthy: total - healthy },
    })
}
