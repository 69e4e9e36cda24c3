//! Nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::auth::Caller;
use crate::consensus::{MissingVoter, Status};
use crate::model::{Admission, Incarnation, Node, NodeId, NodeResources, NodeRole};
use crate::rpc::{OptionDifference, SharedOptions};

use super::Error;
use super::extract::{At, Reader, Search};
use super::gate::Gate;
use super::page::{Order, Page, PageQuery};

/// A node.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub(super) struct NodeView {
    id: u64,
    hostname: String,
    /// Without port.
    address: String,
    api_port: u16,
    grpc_port: u16,
    /// 0 when this node has no ingress.
    ingress_http_port: u16,
    /// `voter`; of a node that does not vote, what it was let in as: `voter-eligible`, which votes when another voter is wanted, or
    /// `worker`, which never does.
    role: &'static str,
    voter: bool,
    leader: bool,
    /// That it answers and can run containers.
    healthy: bool,
    /// Why it is not.
    unhealthy_reason: Option<String>,
    /// Since when it does not answer; absent while it does.
    silent_since: Option<String>,
    /// Takes no new instances.
    cordoned: bool,
    /// Since when what runs there is to go elsewhere.
    draining_since: Option<String>,
    engine: Option<String>,
    arch: String,
    version: String,
    /// The newest version of a cluster that its program supports; 0 when it has not said.
    cluster_version_max: u32,
    labels: BTreeMap<String, String>,
    /// Options that all nodes should have alike and in which it differs from the node that answers, as far as that node heard: every
    /// two nodes of which one votes hear each other.
    option_differences: Vec<OptionDifferenceView>,
    resources: NodeResourcesView,
    /// Instances on it that have not ended.
    instances: usize,
    joined_at: String,
    started_at: String,
}

/// What a node has, and what is promised of it to instances.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeResources)]
pub(super) struct NodeResourcesView {
    /// Cores.
    cpu_total: String,
    cpu_reserved: String,
    memory_total: String,
    memory_reserved: String,
    disk_total: String,
}

/// An option of which two nodes have different values.
#[derive(Serialize, ToSchema)]
#[schema(as = OptionDifference)]
pub(super) struct OptionDifferenceView {
    /// Its name on the command line, without dashes.
    option: String,
    /// As the node that answers was started.
    here: String,
    /// As this node was.
    there: String,
}

impl From<OptionDifference> for OptionDifferenceView {
    fn from(OptionDifference { option, here, there }: OptionDifference) -> Self {
        Self { option, here, there }
    }
}

/// What the node that answers knows of the others besides the state.
pub(super) struct Sight {
    pub(super) status: Status,
    pub(super) shared_options: SharedOptions,
    /// Voters that do not answer it, while it has no quorum.
    pub(super) missing: Vec<MissingVoter>,
}

/// A member, whether it has come up or not.
pub(super) fn member_view(
    (admission, node): (&Arc<Admission>, Option<&Arc<Node>>),
    caller: &Caller,
    sight: &Sight,
) -> NodeView {
    match node {
        Some(node) => view(node, caller, sight),
        None => silent(admission, caller, sight),
    }
}

/// A member that has said nothing of itself.
fn silent(admission: &Admission, caller: &Caller, sight: &Sight) -> NodeView {
    let why = match admission.removed_at {
        None => format!(
            "was let in at {} and has not come up yet: start it with `narvana run`; the others have to reach it at {}",
            admission.admitted_at, admission.address
        ),
        Some(at) => {
            format!("was removed at {at}, and the Raft group needs it until another node that may vote has caught up")
        }
    };
    let nothing = Node {
        id: admission.node,
        name: admission.name.clone(),
        address: admission.address.clone(),
        api_port: 0,
        grpc_port: 0,
        ingress_http_port: 0,
        arch: String::new(),
        version: String::new(),
        cluster_version_max: 0,
        engine: Err(why),
        resources: NodeResources::default(),
        labels: BTreeMap::new(),
        label_changes: BTreeMap::new(),
        cordoned: false,
        drain: None,
        incarnation: Incarnation(Uuid::nil()),
        joined_at: admission.admitted_at,
        started_at: admission.admitted_at,
    };
    let since = admission.removed_at.unwrap_or(admission.admitted_at);
    NodeView { silent_since: Some(since.to_string()), ..view(&nothing, caller, sight) }
}

pub(super) fn view(node: &Node, caller: &Caller, sight: &Sight) -> NodeView {
    let voter = sight.status.voters.contains(&node.id);
    let load = caller.load_of(node.id);
    // Who is away is on record only while somebody leads.
    let missing = sight.missing.iter().find(|voter| voter.node == node.id).map(|voter| voter.since);
    let silent_since = missing.or_else(|| caller.absent_since(node.id));
    let silent = silent_since.map(|since| format!("does not answer since {since}"));
    let unhealthy_reason = silent.or_else(|| node.engine.as_ref().err().cloned());
    NodeView {
        id: node.id.0,
        hostname: node.name.clone(),
        address: node.address.clone(),
        api_port: node.api_port,
        grpc_port: node.grpc_port,
        ingress_http_port: node.ingress_http_port,
        role: if voter { "voter" } else { caller.role_of(node.id).map_or("worker", NodeRole::as_str) },
        voter,
        leader: sight.status.leader == Some(node.id),
        healthy: unhealthy_reason.is_none(),
        unhealthy_reason,
        silent_since: silent_since.map(|since| since.to_string()),
        cordoned: node.cordoned,
        draining_since: node.drain.map(|drain| drain.since.to_string()),
        engine: node.engine.as_ref().ok().cloned(),
        arch: node.arch.clone(),
        version: node.version.clone(),
        cluster_version_max: node.cluster_version_max,
        labels: node.labels.clone(),
        option_differences: sight
            .shared_options
            .differing(node.id)
            .into_iter()
            .map(OptionDifferenceView::from)
            .collect(),
        resources: NodeResourcesView {
            cpu_total: node.resources.cpu.to_string(),
            cpu_reserved: load.cpu.to_string(),
            memory_total: node.resources.memory.to_string(),
            memory_reserved: load.memory.to_string(),
            disk_total: node.resources.disk.to_string(),
        },
        instances: load.instances,
        joined_at: node.joined_at.to_string(),
        started_at: node.started_at.to_string(),
    }
}

/// The nodes
#[utoipa::path(get, path = "/v1/nodes", tag = "cluster", params(PageQuery), responses((status = 200, body = Vec<NodeView>)))]
pub(super) async fn list(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    Search(page): Search<PageQuery>,
) -> Result<Page<NodeView>, Error> {
    let sight = gate.sight();
    page.cut(
        Order::OldestFirst,
        caller.members(),
        |member| member.0.node,
        |member| member_view(member, &caller, &sight),
    )
}

/// A node
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "cluster", params(("node" = u64, Path, description = "Its id")),
    responses((status = 200, body = NodeView)))]
pub(super) async fn show(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(id): At<NodeId>,
) -> Result<Json<NodeView>, Error> {
    let found = caller.members().find(|member| member.0.node == id);
    let member = found.ok_or_else(|| Error::NotFound(format!("node {id} does not exist")))?;
    Ok(Json(member_view(member, &caller, &gate.sight())))
}
