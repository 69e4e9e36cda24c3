//! Where instances had better be: asked, begun, and asked for a cluster with one more node.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Caller, Newcomer, Relocated};
use crate::clock;
use crate::model::{Cpu, Invalid, Memory, check_architecture, check_label_key, check_label_value};
use crate::state::Command;

use super::Error;
use super::extract::{Reader, Search, Write};
use super::gate::Gate;

/// Instances that are moved when nobody says how many.
const BUDGET: u32 = 5;
/// What a node has of which nobody says it.
const NEW_CPU: Cpu = Cpu::from_millis(2_000);
const NEW_MEMORY: Memory = Memory::from_mebibytes(4_096);

/// How much is moved.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Budget {
    /// Instances that are moved at most; 5 when absent.
    budget: Option<u32>,
}

/// A node that does not exist.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NewcomerQuery {
    /// Its cores, such as `4`; 2 when absent.
    cpu: Option<String>,
    /// Its memory, such as `8Gi`; 4Gi when absent.
    memory: Option<String>,
    /// Its architecture, such as `arm64`; that of the first node when absent.
    arch: Option<String>,
    /// Its labels, as `disk=ssd,zone=b`.
    labels: Option<String>,
}

/// An instance that would be elsewhere, or would start.
#[derive(Serialize, ToSchema)]
#[schema(as = Relocation)]
pub(super) struct RelocatedView {
    /// The instance that is there; none for a replica that has none.
    instance_id: Option<String>,
    app_name: String,
    service_name: String,
    /// Which replica.
    slot: u32,
    /// The node where it is; none for a replica that has no instance.
    from_node_name: Option<String>,
    /// The node where it would be.
    to_node_name: String,
    /// What is wrong with where it is, then why there.
    reasons: Vec<String>,
}

impl From<Relocated> for RelocatedView {
    fn from(relocated: Relocated) -> Self {
        Self {
            instance_id: relocated.instance.map(|instance| instance.id.to_string()),
            app_name: relocated.app.name.clone(),
            service_name: relocated.deployment.service_name.clone(),
            slot: relocated.slot,
            from_node_name: relocated.from.map(|node| node.name.clone()),
            to_node_name: relocated.to,
            reasons: relocated.reasons,
        }
    }
}

fn moves(caller: &Caller, gate: &Gate, budget: u32) -> Result<Vec<RelocatedView>, Error> {
    let found = caller.rebalanced(budget, &gate.options().decide, clock::now())?;
    Ok(found.into_iter().map(RelocatedView::from).collect())
}

/// What rebalancing would move
///
/// Decided on a copy of the state; nothing happens. What must not run twice at the same time is left where it is. For
/// administrators of the cluster.
#[utoipa::path(get, path = "/v1/rebalance", tag = "cluster", params(Budget), responses((status = 200, body = Vec<RelocatedView>)))]
pub(super) async fn propose(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    Search(Budget { budget }): Search<Budget>,
) -> Result<Json<Vec<RelocatedView>>, Error> {
    Ok(Json(moves(&caller, &gate, budget.unwrap_or(BUDGET))?))
}

/// Spread what runs better
///
/// Once: the leader moves at most so many instances, another one working before one ends. The answer says which, as it was
/// decided just before. For administrators of the cluster.
#[utoipa::path(post, path = "/v1/rebalance", tag = "cluster", request_body = Budget, responses((status = 202, body = Vec<RelocatedView>)))]
pub(super) async fn begin(
    Write(change, Budget { budget }): Write<Budget>,
) -> Result<(StatusCode, Json<Vec<RelocatedView>>), Error> {
    let budget = budget.unwrap_or(BUDGET);
    let moves = moves(change.caller(), change.gate(), budget)?;
    change.commit(|_| Ok(Command::Rebalance { budget })).await?;
    Ok((StatusCode::ACCEPTED, Json(moves)))
}

/// What one more node would change
///
/// Decided on a copy of the state; nothing happens. What waits for room and would start, then what rebalancing would move to the
/// new node. For administrators of the cluster.
#[utoipa::path(get, path = "/v1/simulate/join", tag = "cluster", params(NewcomerQuery), responses((status = 200, body = Vec<RelocatedView>)))]
pub(super) async fn join(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    Search(query): Search<NewcomerQuery>,
) -> Result<Json<Vec<RelocatedView>>, Error> {
    let newcomer = newcomer(query)?;
    let found = caller.joined(newcomer, &gate.options().decide, clock::now())?;
    Ok(Json(found.into_iter().map(RelocatedView::from).collect()))
}

fn newcomer(query: NewcomerQuery) -> Result<Newcomer, Error> {
    let mut invalid = Invalid::default();
    if let Some(arch) = &query.arch {
        invalid.check("arch", check_architecture(arch));
    }
    let mut newcomer = Newcomer { cpu: NEW_CPU, memory: NEW_MEMORY, arch: query.arch, labels: Default::default() };
    match query.cpu.as_deref().map(str::parse) {
        Some(Ok(cpu)) => newcomer.cpu = cpu,
        Some(Err(problem)) => invalid.add("cpu", problem.0),
        None => {}
    }
    match query.memory.as_deref().map(str::parse) {
        Some(Ok(memory)) => newcomer.memory = memory,
        Some(Err(problem)) => invalid.add("memory", problem.0),
        None => {}
    }
    for label in query.labels.as_deref().unwrap_or_default().split(',').filter(|label| !label.is_empty()) {
        let Some((key, value)) = label.split_once('=') else {
            invalid.add("labels", format!("must be key=value, separated by commas, got {label:?}"));
            continue;
        };
        invalid.check("labels", check_label_key(key).and_then(|()| check_label_value(value)));
        newcomer.labels.insert(key.to_owned(), value.to_owned());
    }
    invalid.into_result()?;
    Ok(newcomer)
}
