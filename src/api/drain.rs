//! Emptying a node: what that does or would do, and beginning it.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Caller, Departure, Departures};
use crate::clock;
use crate::decide::drain::Fate;
use crate::model::NodeId;
use crate::state::Command;

use super::Error;
use super::extract::{At, Reader, Search, Write};
use super::gate::Gate;

/// How a node is emptied.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainRequest {
    /// Exclusive services may be stopped, and start elsewhere once they have ended. False when absent: they stay.
    #[serde(default)]
    stop_exclusive: bool,
    /// Services with volumes may be stopped, and wait for the node, since their data is there. False when absent: they stay.
    #[serde(default)]
    stop_volumes: bool,
}

/// How it would be emptied; what is absent is as it is said of the node, else false.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DrainQuery {
    stop_exclusive: Option<bool>,
    stop_volumes: Option<bool>,
}

/// What is left to do until a node is empty, or would be.
#[derive(Serialize, ToSchema)]
#[schema(as = Drain)]
pub(super) struct DrainView {
    node_id: u64,
    node_name: String,
    /// Whether it is being emptied; else this is what would happen.
    draining: bool,
    since: Option<String>,
    stop_exclusive: bool,
    stop_volumes: bool,
    /// That nothing runs there any more.
    empty: bool,
    /// Instances that have not ended there.
    instances: Vec<DepartureView>,
    /// Builds that run there; they are waited for.
    builds: usize,
}

/// What becomes of one instance.
#[derive(Serialize, ToSchema)]
#[schema(as = Departure)]
pub(super) struct DepartureView {
    instance_id: String,
    app_name: String,
    service_name: String,
    /// Which replica.
    slot: u32,
    /// `moves` (another one is started, then it ends), `moving` (that one is on its way), `ends_first` (it ends, then
    /// another one is started), `ends_until_back` (it ends and starts again when the node takes work), `ends`, `waits`
    /// or `stays`.
    step: &'static str,
    /// The node where its replica is to run.
    to_node_id: Option<u64>,
    to_node_name: Option<String>,
    /// Why there, or what it waits for, or why it stays.
    reasons: Vec<String>,
}

impl From<Departure> for DepartureView {
    fn from(departure: Departure) -> Self {
        let (step, reasons) = match departure.fate {
            Fate::Moves(placement) => ("moves", placement.reasons),
            Fate::Moving(successor) => {
                let state = departure.successor.map(|it| it.status.state.as_str()).unwrap_or_default();
                ("moving", vec![format!("instance {} is {state}", successor.short())])
            }
            Fate::EndsFirst(placement) => ("ends_first", placement.reasons),
            Fate::EndsUntilBack => ("ends_until_back", vec!["its volumes are on this node".to_owned()]),
            Fate::Ends(why) => ("ends", vec![why]),
            Fate::Waits(why) => ("waits", vec![why]),
            Fate::Stays(why) => ("stays", vec![why]),
        };
        Self {
            instance_id: departure.instance.id.to_string(),
            app_name: departure.app.name.clone(),
            service_name: departure.deployment.service_name.clone(),
            slot: departure.instance.slot,
            step,
            to_node_id: departure.to.as_ref().map(|node| node.id.0),
            to_node_name: departure.to.map(|node| node.name.clone()),
            reasons,
        }
    }
}

fn view(caller: &Caller, gate: &Gate, node: NodeId, query: &DrainQuery) -> Result<DrainView, Error> {
    let Departures { node, draining, drain, instances, builds } =
        caller.departures(node, (query.stop_exclusive, query.stop_volumes), &gate.options().decide, clock::now())?;
    Ok(DrainView {
        node_id: node.id.0,
        node_name: node.name.clone(),
        draining,
        since: draining.then(|| drain.since.to_string()),
        stop_exclusive: drain.stop_exclusive,
        stop_volumes: drain.stop_volumes,
        empty: instances.is_empty() && builds == 0,
        instances: instances.into_iter().map(DepartureView::from).collect(),
        builds,
    })
}

/// What emptying a node does, or would do
///
/// Of a node that is being emptied: what is left to do. Of another one: what would happen, decided on a copy of the state.
/// For administrators of the cluster.
#[utoipa::path(get, path = "/v1/nodes/{node}/drain", tag = "cluster",
    params(("node" = u64, Path, description = "Its id"), DrainQuery), responses((status = 200, body = DrainView)))]
pub(super) async fn show(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(id): At<NodeId>,
    Search(query): Search<DrainQuery>,
) -> Result<Json<DrainView>, Error> {
    Ok(Json(view(&caller, &gate, id, &query)?))
}

/// Empty a node
///
/// It is cordoned, and what runs there goes elsewhere: another instance works before one ends. What must not run twice at the
/// same time stays, unless it may be stopped. It goes on until nothing is left, whoever leads meanwhile; uncordoning
/// ends it. For administrators of the cluster.
#[utoipa::path(post, path = "/v1/nodes/{node}/drain", tag = "cluster",
    params(("node" = u64, Path, description = "Its id")), request_body = DrainRequest, responses((status = 202, body = DrainView)))]
pub(super) async fn begin(
    At(node): At<NodeId>,
    Write(change, request): Write<DrainRequest>,
) -> Result<(http::StatusCode, Json<DrainView>), Error> {
    let DrainRequest { stop_exclusive, stop_volumes } = request;
    let (_, caller) = change
        .commit(|caller| {
            caller.require_admin()?;
            Ok(Command::DrainNode { node, stop_exclusive, stop_volumes })
        })
        .await?;
    let query = DrainQuery { stop_exclusive: None, stop_volumes: None };
    Ok((http::StatusCode::ACCEPTED, Json(view(&caller, change.gate(), node, &query)?)))
}
