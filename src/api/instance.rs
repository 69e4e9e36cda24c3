//! Instances: the containers of a deployment.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Scoped;
use crate::model::{Health, Instance, InstanceId, Role};

use super::Error;
use super::extract::{At, Reader};

/// An instance.
#[derive(Serialize, ToSchema)]
#[schema(as = Instance)]
pub(super) struct InstanceView {
    id: String,
    deployment_id: String,
    service_id: String,
    service_name: Option<String>,
    app_id: String,
    node_id: u64,
    node_name: String,
    /// Which replica it is, from 0.
    slot: u32,
    /// How many instances this replica had before.
    attempt: u32,
    /// `assigned`, `pulling`, `starting`, `running`, `stopping`, `stopped`, `failed` or `lost`.
    status: &'static str,
    /// `unknown`, `starting`, `healthy` or `unhealthy`; `unknown` while its node does not answer.
    health: &'static str,
    /// Why it is in this state, when there is something to say.
    reason: Option<String>,
    exit_code: Option<i64>,
    out_of_memory: bool,
    container_id: Option<String>,
    ports: Vec<PortBindingView>,
    /// The last lines it wrote, when it failed.
    log_tail: Vec<String>,
    /// Why it runs on this node.
    placement: Vec<String>,
    created_at: String,
    /// Not started before this time: the pause after failures.
    start_after: Option<String>,
    started_at: Option<String>,
    healthy_at: Option<String>,
    finished_at: Option<String>,
}

/// Where a port of a container is reached on its node.
#[derive(Serialize, ToSchema)]
#[schema(as = PortBinding)]
pub(super) struct PortBindingView {
    container_port: u16,
    protocol: &'static str,
    host_port: u16,
}

pub(super) fn view(instance: &Scoped<Instance>) -> InstanceView {
    let status = &instance.status;
    // What its node said last is no health any more.
    let unheard = instance.unheard_since().map(|since| {
        let node = instance.node_name();
        format!("node {node} does not answer since {since}; before that it was {}", status.health.as_str())
    });
    let health = if unheard.is_some() { Health::Unknown } else { status.health };
    let ports = status.ports.iter().map(|binding| PortBindingView {
        container_port: binding.container_port,
        protocol: binding.protocol.as_str(),
        host_port: binding.host_port,
    });
    InstanceView {
        id: instance.id.to_string(),
        deployment_id: instance.deployment.to_string(),
        service_id: instance.service.to_string(),
        service_name: instance.deployment().map(|deployment| deployment.service_name.clone()),
        app_id: instance.app.to_string(),
        node_id: instance.placement.node.0,
        node_name: instance.node_name(),
        slot: instance.slot,
        attempt: instance.attempt,
        status: status.state.as_str(),
        health: health.as_str(),
        reason: unheard.or_else(|| status.reason.clone()).or_else(|| instance.stop_requested.clone()),
        exit_code: status.exit.map(|exit| exit.code),
        out_of_memory: status.exit.is_some_and(|exit| exit.out_of_memory),
        container_id: status.container.clone(),
        ports: ports.collect(),
        log_tail: status.log_tail.clone(),
        placement: instance.placement.reasons.clone(),
        created_at: instance.created_at.to_string(),
        start_after: Some(instance.start_after).filter(|at| *at > instance.created_at).map(|at| at.to_string()),
        started_at: status.started_at.map(|at| at.to_string()),
        healthy_at: status.healthy_at.map(|at| at.to_string()),
        finished_at: status.finished_at.map(|at| at.to_string()),
    }
}

/// An instance
#[utoipa::path(get, path = "/v1/instances/{instance}", tag = "deployments",
    params(("instance" = String, Path, description = "Its id")), responses((status = 200, body = InstanceView)))]
pub(super) async fn show(Reader(caller): Reader, At(id): At<InstanceId>) -> Result<Json<InstanceView>, Error> {
    Ok(Json(view(&caller.load(Role::Viewer, id)?)))
}
