//! Whether this node lives, whether it can serve, and its numbers.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock;
use crate::consensus::RaftRole;
use crate::telemetry::Number;

use super::Error;
use super::context::Context;
use super::extract::bearer;
use super::gate::{Freshness, Gate};

/// Version of the program.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What Prometheus expects (OpenMetrics 1.0).
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// That this node lives.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `healthy`, or `unhealthy` when consensus has stopped here.
    status: &'static str,
    version: &'static str,
    uptime_seconds: u64,
    node_id: u64,
}

/// That this node serves.
#[derive(Serialize, ToSchema)]
pub(super) struct Ready {
    ready: bool,
    /// Index up to which it has applied the log.
    applied_index: u64,
    leader_id: Option<u64>,
}

/// Whether this node lives
#[utoipa::path(get, path = "/health", tag = "node", security(()), responses((status = 200, body = Health)))]
pub(super) async fn health(State(gate): State<Gate>) -> Result<Json<Health>, Error> {
    let status = gate.status();
    if let Some(failure) = status.failure {
        tracing::error!(%failure, "asked for health");
        return Err(Error::NoQuorum("consensus has stopped on this node; its log says why".to_owned()));
    }
    Ok(Json(Health {
        status: "healthy",
        version: VERSION,
        uptime_seconds: clock::now().since(gate.started_at()).as_secs(),
        node_id: gate.node().0,
    }))
}

/// Whether this node serves
///
/// 200 when a majority confirms and this node has applied everything; 503 with `no_quorum` else.
#[utoipa::path(get, path = "/ready", tag = "node", security(()), responses((status = 200, body = Ready)))]
pub(super) async fn ready(State(gate): State<Gate>, context: Context) -> Result<Json<Ready>, Error> {
    gate.cluster()?;
    let applied_index = gate.has_quorum().await?;
    context.saw(applied_index);
    Ok(Json(Ready { ready: true, applied_index, leader_id: gate.status().leader.map(|node| node.0) }))
}

/// Numbers for Prometheus
///
/// Open to this machine; from another one it needs a token.
#[utoipa::path(get, path = "/metrics", tag = "node", security((), ("token" = [])),
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(gate): State<Gate>, context: Context, headers: HeaderMap) -> Result<Response, Error> {
    let local = context.peer().is_some_and(|peer| peer.address.ip().to_canonical().is_loopback());
    if !local {
        let missing = || Error::Unauthorized("from another machine this needs a token".to_owned());
        let token = bearer(&headers)?.ok_or_else(missing)?;
        gate.caller(token, Freshness { stale: true, min_index: None }, &context).await?;
    }
    let text = gate.metrics().text(&numbers(&gate)).map_err(Error::internal)?;
    Ok(([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response())
}

fn numbers(gate: &Gate) -> Vec<Number> {
    let status = gate.status();
    let census = gate.census();
    let mut numbers = Vec::new();
    let mut add = |name: &'static str, help: &'static str, labels: &[(&str, &str)], value: u64| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        numbers.push(Number { name, help, labels, value: i64::try_from(value).unwrap_or(i64::MAX) });
    };
    let leads = u64::from(status.role == RaftRole::Leader);
    add("info", "Version of the program", &[("version", VERSION)], 1);
    add("uptime_seconds", "Time since the API began", &[], clock::now().since(gate.started_at()).as_secs());
    add("raft_leader", "1 on the node that leads", &[], leads);
    add("raft_term", "Current term", &[], status.term);
    add("raft_applied_index", "Last entry applied here", &[], status.applied.unwrap_or(0));
    add("raft_committed_index", "Last entry known to be committed", &[], status.committed.unwrap_or(0));
    add("raft_voters", "Members that vote", &[], status.voters.len() as u64);
    add("raft_log_entries", "Entries in this node's log", &[], status.log_size.0);
    add("raft_log_bytes", "Bytes in this node's log", &[], status.log_size.1);
    add("raft_log_syncs_total", "How often the log was synced since the start", &[], status.log_syncs);
    add("state_bytes", "Bytes of the replicated state's rows, encoded", &[], census.bytes);
    add("state_limit_bytes", "Size at which changes that make the state grow are refused", &[], census.bytes_max);
    add("nodes", "Members", &[], census.nodes as u64);
    add("users", "Accounts", &[], census.users as u64);
    add("apps", "Apps", &[], census.apps as u64);
    add("services", "Services", &[], census.services as u64);
    add("instances_healthy", "Instances that pass their check", &[], census.instances_healthy as u64);
    for (status, count) in census.deployments_by_status {
        add("deployments", "Deployments by status", &[("status", status)], count as u64);
    }
    for (status, count) in census.builds_by_status {
        add("builds", "Builds by status", &[("status", status)], count as u64);
    }
    for (status, count) in census.instances_by_status {
        add("instances", "Instances by status", &[("status", status)], count as u64);
    }
    numbers
}
