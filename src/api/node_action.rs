//! What administrators do to nodes: keep work away from one, change its labels, and end its membership.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Caller, Moving};
use crate::clock;
use crate::model::{NodeId, ServiceId};
use crate::state::Command;

use super::Error;
use super::extract::{At, Reader, Search, Write};
use super::gate::Gate;
use super::node::{NodeView, view};
use super::session::Empty;

/// Where one instance would go.
#[derive(Serialize, ToSchema)]
#[schema(as = Move)]
pub(super) struct MoveView {
    instance_id: String,
    app_name: String,
    service_name: String,
    /// Which replica.
    slot: u32,
    /// That its service serves nobody until it runs again: nothing else of it serves on another node.
    goes_down: bool,
    /// That it begins with empty volumes: what is in them stays on the machine of the node that is removed.
    leaves_volumes: bool,
    /// The node it would go to; none when there is none for it.
    to_node_id: Option<u64>,
    to_node_name: Option<String>,
    /// Why there, or why nowhere.
    reasons: Vec<String>,
}

impl From<Moving> for MoveView {
    fn from(moving: Moving) -> Self {
        let (to, reasons) = match moving.to {
            Ok((node, reasons)) => (Some(node), reasons),
            Err(why) => (None, vec![why]),
        };
        Self {
            instance_id: moving.instance.id.to_string(),
            app_name: moving.app.name.clone(),
            service_name: moving.deployment.service_name.clone(),
            slot: moving.instance.slot,
            goes_down: moving.goes_down,
            leaves_volumes: moving.leaves_volumes,
            to_node_id: to.as_ref().map(|node| node.id.0),
            to_node_name: to.map(|node| node.name.clone()),
            reasons,
        }
    }
}

/// What is changed of a node.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeChange {
    /// Labels with their new values; `null` takes one away. Others stay.
    labels: BTreeMap<String, Option<String>>,
}

/// A node that was removed.
#[derive(Serialize, ToSchema)]
pub(super) struct RemovedNode {
    id: u64,
    name: String,
    /// What ran on it, and where that goes, as it was decided just before.
    moves: Vec<MoveView>,
}

/// How a node is thought away.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MovesQuery {
    /// As if it were removed, and not only gone: nothing waits for its volumes then. False when absent.
    #[serde(default)]
    removed: bool,
}

fn moves(caller: &Caller, gate: &Gate, node: NodeId, is_removed: bool) -> Result<Vec<MoveView>, Error> {
    let found = caller.moves_without(node, is_removed, &gate.options().decide, clock::now())?;
    Ok(found.into_iter().map(MoveView::from).collect())
}

/// What would move without a node
///
/// Decided on a copy of the state; nothing happens. With `removed`, a node that cannot be removed is refused with 409, as its removal
/// is. For administrators of the cluster.
#[utoipa::path(get, path = "/v1/nodes/{node}/moves", tag = "cluster",
    params(("node" = u64, Path, description = "Its id"), MovesQuery), responses((status = 200, body = Vec<MoveView>)))]
pub(super) async fn would_move(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(id): At<NodeId>,
    Search(MovesQuery { removed }): Search<MovesQuery>,
) -> Result<Json<Vec<MoveView>>, Error> {
    let moves = moves(&caller, &gate, id, removed)?;
    if removed {
        caller.check_removal(id)?;
    }
    Ok(Json(moves))
}

/// Give a node no new work
///
/// What runs there goes on. For administrators of the cluster.
#[utoipa::path(post, path = "/v1/nodes/{node}/cordon", tag = "cluster",
    params(("node" = u64, Path, description = "Its id")), request_body = Empty, responses((status = 200, body = NodeView)))]
pub(super) async fn cordon(At(id): At<NodeId>, Write(change, Empty {}): Write<Empty>) -> Result<Json<NodeView>, Error> {
    set_cordoned(change, id, true).await
}

/// Change labels of a node
///
/// They win over those that it is started with, from then on. What runs there goes on, also where it asks for labels that
/// the node has no more. For administrators of the cluster.
#[utoipa::path(patch, path = "/v1/nodes/{node}", tag = "cluster",
    params(("node" = u64, Path, description = "Its id")), request_body = NodeChange, responses((status = 200, body = NodeView)))]
pub(super) async fn relabel(
    At(node): At<NodeId>,
    Write(change, NodeChange { labels }): Write<NodeChange>,
) -> Result<Json<NodeView>, Error> {
    let (_, caller) = change
        .commit(|caller| {
            caller.require_admin()?;
            Ok(Command::LabelNode { node, changes: labels })
        })
        .await?;
    Ok(Json(view(&*caller.node(node)?, &caller, &change.gate().sight())))
}

/// Give a node work again
///
/// This ends a drain as well. For administrators of the cluster.
#[utoipa::path(post, path = "/v1/nodes/{node}/uncordon", tag = "cluster",
    params(("node" = u64, Path, description = "Its id")), request_body = Empty, responses((status = 200, body = NodeView)))]
pub(super) async fn uncordon(
    At(id): At<NodeId>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<Json<NodeView>, Error> {
    set_cordoned(change, id, false).await
}

async fn set_cordoned(change: super::change::Change, node: NodeId, cordoned: bool) -> Result<Json<NodeView>, Error> {
    let (_, caller) = change
        .commit(|caller| {
            caller.require_admin()?;
            Ok(Command::CordonNode { node, cordoned })
        })
        .await?;
    Ok(Json(view(&*caller.node(node)?, &caller, &change.gate().sight())))
}

/// How a node is removed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Also when it has, or may have, the only copy of an image or of an uploaded source. False when absent.
    #[serde(default)]
    force: bool,
}

/// What only one node has.
#[derive(Serialize, ToSchema)]
pub(super) struct OnlyCopies {
    /// Services of which an image or an uploaded source is on no other node that answers, as `app/service`.
    services: Vec<String>,
    /// Whether the node has them. One that does not answer may.
    is_certain: bool,
}

async fn only_copies(caller: &Caller, gate: &Gate, node: NodeId) -> OnlyCopies {
    let only = gate.only_copies_on(node).await;
    // One that was made a moment ago has no name here yet.
    let name = |id: ServiceId| caller.path_of(id).unwrap_or_else(|| id.to_string());
    OnlyCopies { services: only.services.into_iter().map(name).collect(), is_certain: only.is_certain }
}

/// What only one node has copies of
///
/// Of what was built or uploaded and is on record. The other nodes fetch theirs within seconds. All nodes are asked. For
/// administrators of the cluster.
#[utoipa::path(get, path = "/v1/nodes/{node}/only-copies", tag = "cluster",
    params(("node" = u64, Path, description = "Its id")), responses((status = 200, body = OnlyCopies)))]
pub(super) async fn has_only_copies(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(id): At<NodeId>,
) -> Result<Json<OnlyCopies>, Error> {
    caller.require_admin()?;
    caller.node(id)?;
    Ok(Json(only_copies(&caller, &gate, id).await))
}

/// Refuses while a node has something that no other one has, or may have it. The others fetch their copies within seconds of a build, so that
/// this is about a build of just now, or about nodes that cannot fetch.
async fn check_copies(caller: &Caller, gate: &Gate, node: NodeId) -> Result<(), Error> {
    let only = only_copies(caller, gate, node).await;
    if only.services.is_empty() {
        return Ok(());
    }
    let services = only.services.join(", ");
    let node = caller.name_of(node);
    Err(Error::Conflict(if only.is_certain {
        format!(
            "node {node} has the only copy of what was built or uploaded for {services}; the other nodes fetch it as soon as \
             they can: try again in a minute, or remove the node with --force (force=true) and deploy these again"
        )
    } else {
        format!(
            "no node that answers has all that was built or uploaded for {services}, and node {node}, which does not answer, \
             may: start it once more and the others fetch it, or remove it with --force (force=true) and deploy these again"
        )
    }))
}

/// Remove a node
///
/// It can do nothing in the cluster from then on, and stops what it runs; others take its work. Its volumes stay on its machine.
/// Refused with 409 when it is the last one that answers and may vote, while it has the only copy of an image or of an uploaded source, or does not answer and may have it.
/// For administrators of the cluster.
#[utoipa::path(delete, path = "/v1/nodes/{node}", tag = "cluster",
    params(("node" = u64, Path, description = "Its id"), RemoveQuery), responses((status = 200, body = RemovedNode)))]
pub(super) async fn remove(
    At(id): At<NodeId>,
    Search(RemoveQuery { force }): Search<RemoveQuery>,
    Write(change, Empty {}): Write<Empty>,
) -> Result<Json<RemovedNode>, Error> {
    change.caller().require_admin()?;
    // First what no --force helps against: whoever makes copies of everything should not hear of it after that.
    change.caller().check_removal(id)?;
    if !force {
        check_copies(change.caller(), change.gate(), id).await?;
    }
    // One that is removed already has nothing to move.
    let moves = moves(change.caller(), change.gate(), id, true).unwrap_or_default();
    let name = change.caller().name_of(id);
    change.commit(|_| Ok(Command::RemoveNode(id))).await?;
    Ok(Json(RemovedNode { id: id.0, name, moves }))
}
