//! Nodes of the cluster, and the cluster at a glance.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::Value;

use super::drain::{self, DrainArgs, StopArgs};
use super::node::JoinArgs;
use super::outcome::{Exit, failure};
use super::output::{Table, node_name, time, yes_no};
use super::rebalance::{self, JoinedArgs};
use super::session::Session;
use super::value::LabelChange;
use crate::client::view::{Cluster, Id, Loss, Move, Node, OnlyCopies, Upgrade};

/// Commands about nodes.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the nodes of the cluster
    Ls,
    /// Show a node
    Show {
        /// Its id or name
        node: String,
    },
    /// Give a node no new work; what runs there goes on
    Cordon {
        /// Its id or name
        node: String,
    },
    /// Empty a node: what runs there goes elsewhere, another instance working before one ends
    #[command(after_help = "Examples:
  narvana node drain n3 --dry-run      what would go where
  narvana node drain n3                waits until it is empty
  narvana node uncordon n3             gives it work again

Services with volumes and exclusive ones must not run twice: they stay, and the exit code is 1, unless --stop-volumes or
--stop-exclusive says that they may be stopped. Exit code 6 when the time is up; it goes on then.")]
    Drain(DrainArgs),
    /// Change labels of a node; what runs there goes on
    #[command(after_help = "Example:\n  narvana node label n3 disk=ssd zone-")]
    Label {
        /// Its id or name
        node: String,
        /// New values, and labels to take away
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        labels: Vec<LabelChange>,
    },
    /// Give a node work again; ends a drain
    Uncordon {
        /// Its id or name
        node: String,
    },
    /// End a node's membership for ever; others take its work
    #[command(after_help = "Examples:
  narvana node remove n3 --dry-run     where its instances would go
  narvana node remove n3")]
    Remove {
        /// Its id or name
        node: String,
        /// Only say what would move where
        #[arg(long)]
        dry_run: bool,
        /// Also when it has the only copy of an image or of an uploaded source
        #[arg(long, conflicts_with = "dry_run")]
        force: bool,
    },
    /// Make a new node of this machine, whose own is damaged or was removed, and keep running it
    #[command(after_help = "Example:
  narvana --api https://n1:8080 node rebuild --token-file - < token

Removes the old node from the cluster, which its administrator must be logged in for; removes the old node's containers; moves its data folder
aside; joins. Give the flags that the old node had.")]
    Rebuild(Box<JoinArgs>),
}

/// What is simulated.
#[derive(Debug, Subcommand)]
pub(super) enum SimulateCommand {
    /// What would go where if a node were drained
    Drain {
        /// Its id or name
        node: String,
        #[command(flatten)]
        stops: StopArgs,
    },
    /// What would start and what could move if a node joined
    Join(JoinedArgs),
    /// What would move where if a node died
    Lose {
        /// Its id or name
        node: String,
    },
}

/// Runs a command about nodes.
pub(super) async fn run(session: &Session, command: NodeCommand) -> anyhow::Result<()> {
    match command {
        NodeCommand::Ls => session.output.show_list(&session.client.nodes().await?, "there are no nodes", list),
        NodeCommand::Show { node } => {
            let id = id_of(session, &node).await?;
            session.output.show(&session.client.node(&id).await?, fields)
        }
        NodeCommand::Cordon { node } => set_cordoned(session, &node, true).await,
        NodeCommand::Drain(args) => drain::run(session, args).await,
        NodeCommand::Label { node, labels } => {
            let id = id_of(session, &node).await?;
            let labels: BTreeMap<_, _> = labels.into_iter().map(|label| (label.key, label.value)).collect();
            session.output.show(&session.client.label_node(&id, &labels).await?, fields)
        }
        NodeCommand::Uncordon { node } => set_cordoned(session, &node, false).await,
        NodeCommand::Rebuild(args) => Box::pin(super::node::rebuild(session, *args)).await,
        NodeCommand::Remove { node, dry_run: true, .. } => show_moves(session, &node, true).await,
        NodeCommand::Remove { node, dry_run: false, force } => {
            let id = id_of(session, &node).await?;
            let removed = session.client.remove_node(&id, force).await?;
            let name = node_name(&removed.view.name, &removed.view.id);
            session.output.note(&format!("node {name} is removed; it stops what it runs"));
            note_volumes(session, &name, &removed.view.moves);
            session.output.show(&removed, |removed| moves(&removed.moves))
        }
    }
}

/// Runs a command that asks what would happen.
pub(super) async fn simulate(session: &Session, command: SimulateCommand) -> anyhow::Result<()> {
    match command {
        SimulateCommand::Drain { node, stops } => drain::simulate(session, &node, stops).await,
        SimulateCommand::Join(args) => rebalance::simulate_join(session, args).await,
        SimulateCommand::Lose { node } => show_moves(session, &node, false).await,
    }
}

async fn set_cordoned(session: &Session, node: &str, cordoned: bool) -> anyhow::Result<()> {
    let id = id_of(session, node).await?;
    session.output.show(&session.client.cordon_node(&id, cordoned).await?, fields)
}

async fn show_moves(session: &Session, node: &str, is_removed: bool) -> anyhow::Result<()> {
    let id = id_of(session, node).await?;
    let found = session.client.moves_without(&id, is_removed).await?;
    let name = session.client.node(&id).await?.view.hostname;
    note_volumes(session, &name, &found.view);
    match session.client.only_copies(&id).await {
        Ok(only) => note_copies(session, &name, &only.view),
        Err(error) => session.output.note(&format!("what only node {name} has copies of is not known: {error}")),
    }
    session.output.show_list(&found, "nothing runs on this node", moves)
}

/// Says which services lose their data by a removal.
fn note_volumes(session: &Session, node: &str, moves: &[Move]) {
    for one in moves.iter().filter(|one| one.leaves_volumes) {
        session.output.note(&format!(
            "service {} of app {} begins with empty volumes, 45 s later: what is in them stays on the machine of node {node}",
            one.service_name, one.app_name
        ));
    }
}

/// Says what cannot start anywhere else.
fn note_copies(session: &Session, node: &str, only: &OnlyCopies) {
    if only.services.is_empty() {
        return;
    }
    let services = only.services.join(", ");
    session.output.note(&match only.is_certain {
        true => format!(
            "only node {node} has what was built or uploaded for {services}: without it they start nowhere else until they are deployed \
             again; the other nodes fetch it as soon as they can"
        ),
        false => format!(
            "no node that answers has all that was built or uploaded for {services}, and node {node}, which does not answer, may"
        ),
    });
}

fn moves(moves: &[Move]) -> Table {
    let mut table = Table::new(["APP", "SERVICE", "REPLICA", "GOES DOWN", "WOULD GO TO", "WHY"]);
    for one in moves {
        let to = if one.to_node_name.is_empty() { "nowhere".to_owned() } else { one.to_node_name.clone() };
        let down = yes_no(one.goes_down);
        let (app, service, slot) = (one.app_name.clone(), one.service_name.clone(), one.slot.to_string());
        table.row([app, service, slot, down, to, one.reasons.join("; ")]);
    }
    table
}

/// The id of the node of this id or name.
pub(super) async fn id_of(session: &Session, node: &str) -> anyhow::Result<String> {
    if node.parse::<u64>().is_ok() {
        return Ok(node.to_owned());
    }
    let nodes = session.client.nodes().await?.view;
    let named: Vec<&Node> = nodes.iter().filter(|other| other.hostname == node).collect();
    match named[..] {
        [one] => Ok(one.id.to_string()),
        [] => Err(failure(Exit::NotFound, format!("node {node} does not exist; `narvana node ls` lists them"))),
        _ => Err(failure(Exit::Conflict, format!("several nodes are named {node}; use the id"))),
    }
}

/// Shows the cluster at a glance.
pub(super) async fn status(session: &Session) -> anyhow::Result<()> {
    let answer = session.client.status().await?;
    if let Err(error) = session.learn(&answer.view) {
        session.output.note(&format!("the addresses of the nodes cannot be kept: {error:#}"));
    }
    let api = session.client.address();
    session.output.show(&answer, |cluster| summary(cluster, &api))
}

fn list(nodes: &[Node]) -> Table {
    let mut table = Table::new([
        "ID",
        "NAME",
        "ADDRESS",
        "HEALTH",
        "ROLE",
        "INSTANCES",
        "ENGINE",
        "+LEADER",
        "+ARCH",
        "+VERSION",
        "+SUPPORTS",
    ]);
    for node in nodes {
        table.row([
            node.id.to_string(),
            node.hostname.clone(),
            node.address.clone(),
            health(node),
            role(node),
            node.instances.to_string(),
            node.engine.clone(),
            yes_no(node.leader),
            node.arch.clone(),
            node.version.clone(),
            node.cluster_version_max.to_string(),
        ]);
    }
    table
}

fn health(node: &Node) -> String {
    match (node.healthy, node.cordoned) {
        (true, false) => "healthy".to_owned(),
        (true, true) if !time(node.draining_since).is_empty() => "healthy, draining".to_owned(),
        (true, true) => "healthy, cordoned".to_owned(),
        (false, _) if node.unhealthy_reason.is_empty() => "unhealthy".to_owned(),
        (false, _) => format!("unhealthy: {}", node.unhealthy_reason),
    }
}

fn takes_work(node: &Node) -> &'static str {
    match (node.cordoned, time(node.draining_since).is_empty()) {
        (false, _) if !node.healthy => "no, it is unhealthy",
        (false, _) => "yes",
        (true, true) => "no, it is cordoned",
        (true, false) => "no, it is being drained",
    }
}

fn role(node: &Node) -> String {
    match node.role.is_empty() {
        false => node.role.clone(),
        true if node.voter => "voter".to_owned(),
        true => "worker".to_owned(),
    }
}

fn fields(node: &Node) -> Table {
    let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut table = Table::of_fields([
        ("id", node.id.to_string()),
        ("name", node.hostname.clone()),
        ("address", node.address.clone()),
        ("health", health(node)),
        ("takes work", takes_work(node).to_owned()),
        ("role", role(node)),
        ("leader", yes_no(node.leader)),
        ("instances", node.instances.to_string()),
        ("engine", node.engine.clone()),
        ("architecture", node.arch.clone()),
        ("version", node.version.clone()),
        ("supports cluster version", node.cluster_version_max.to_string()),
        ("labels", labels.join(", ")),
        ("options", option_differences(node)),
    ]);
    if let Some(resources) = node.resources.as_object() {
        for (name, value) in resources {
            table.field(name, plain(value));
        }
    }
    table
}

fn summary(cluster: &Cluster, api: &str) -> Table {
    let name_of = |id: &Id| {
        let node = cluster.nodes.iter().find(|node| node.id == *id);
        node_name(node.map_or("", |node| node.hostname.as_str()), id)
    };
    let decides = match (cluster.has_quorum, cluster.leader.0.as_str()) {
        (true, "") => "yes".to_owned(),
        (true, _) => format!("yes, led by {}", name_of(&cluster.leader)),
        (false, _) => format!(
            "no quorum: {} of {} voters answer this node, {} are needed",
            cluster.quorum.answering,
            cluster.voters.len(),
            cluster.quorum.needed
        ),
    };
    let voters: Vec<String> = cluster.voters.iter().map(name_of).collect();
    let missing = cluster.quorum.missing.iter().map(|voter| {
        let name = node_name(&voter.name, &voter.node_id);
        format!("{name} ({}) does not answer since {}", voter.address, time(voter.since))
    });
    let missing: Vec<String> = missing.collect();
    let rivals: Vec<String> = cluster.rivals.iter().map(|rival| format!("{}: {}", rival.address, rival.why)).collect();
    let known = match cluster.has_quorum {
        true => String::new(),
        false => {
            format!("what follows is what {} knew last, at index {}", name_of(&cluster.node_id), cluster.applied_index)
        }
    };
    let mut table = Table::of_fields([
        ("cluster", cluster.cluster_id.to_string()),
        ("can decide", decides),
        ("missing voters", missing.join("; ")),
        ("goes on", cluster.goes_on.join("; ")),
        ("waits", cluster.waits.join("; ")),
        ("how new", known),
        ("voters", voters.join(", ")),
        ("answered by", format!("{} ({}) at {api}", name_of(&cluster.node_id), cluster.role)),
        ("version", cluster.version.clone()),
        ("cluster version", cluster.cluster_version.to_string()),
        ("upgrade", cluster.upgrade.as_ref().map(upgrading).unwrap_or_default()),
        ("state", format!("{} of {} MiB", cluster.state_bytes.div_ceil(1 << 20), cluster.state_limit_bytes >> 20)),
        ("authority", cluster.rotation.as_ref().map(super::ca::waiting).unwrap_or_default()),
        ("no copy", without_copies(&cluster.without_copies)),
        ("NOT OF THIS CLUSTER", rivals.join("; ")),
        ("failure", cluster.failure.clone()),
    ]);
    for node in &cluster.nodes {
        let (health, instances) = (health(node), node.instances);
        let state = format!("{}, narvana {}, {health}, {instances} instances", node.address, node.version);
        table.field(&format!("node {}", node_name(&node.hostname, &node.id)), state);
        if !node.option_differences.is_empty() {
            table.field("  options", option_differences(node));
        }
        if let Some(loss) = cluster.if_lost.iter().find(|loss| loss.node_id == node.id) {
            table.field("  if it dies", would_be_down(loss));
        }
    }
    table
}

/// The options of a node that are not those of the one that answered.
fn option_differences(node: &Node) -> String {
    if node.option_differences.is_empty() {
        return String::new();
    }
    let each = node.option_differences.iter();
    let each = each.map(|one| format!("--{} {}, and {} on the node that answers", one.option, one.there, one.here));
    format!("{}: start all nodes with the same", each.collect::<Vec<_>>().join("; "))
}

/// What cannot start until a node is back.
fn without_copies(services: &[String]) -> String {
    if services.is_empty() {
        return String::new();
    }
    format!(
        "what was built or uploaded for {} is on no node that answers: start the nodes that are away, or deploy these again",
        services.join(", ")
    )
}

/// What an upgrade waits for.
fn upgrading(upgrade: &Upgrade) -> String {
    let awaited = upgrade.waits_for.iter().map(|member| match member.cluster_version_max {
        Some(newest) => format!("node {} (narvana {}, supports {newest}: upgrade it)", member.name, member.version),
        None => format!("node {} (has not come up: start it)", member.name),
    });
    let awaited: Vec<String> = awaited.collect();
    let awaited = if awaited.is_empty() { "nobody".to_owned() } else { awaited.join(", ") };
    format!("to cluster version {} waits for {awaited}", upgrade.to)
}

/// What goes down with a node, in words.
fn would_be_down(loss: &Loss) -> String {
    let services = |count: usize| if count == 1 { "1 service".to_owned() } else { format!("{count} services") };
    let mut parts = Vec::new();
    if loss.back_elsewhere > 0 {
        parts.push(format!("{} down until started elsewhere", services(loss.back_elsewhere)));
    }
    if loss.down_for_long > 0 {
        let mut names: Vec<&str> = loss.examples.iter().map(|example| example.service.as_str()).collect();
        if loss.down_for_long > names.len() {
            names.push("…");
        }
        parts.push(format!("{} down for long: {}", services(loss.down_for_long), names.join(", ")));
    }
    parts.join("; ")
}

/// A value as people write it.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cluster: Value) -> String {
        let cluster: Cluster = serde_json::from_value(cluster).expect("a cluster");
        summary(&cluster, "http://n1:8080").render(false, false)
    }

    fn is_there(shown: &str, line: &str) {
        assert!(
            shown.lines().any(|shown| shown.split_whitespace().collect::<Vec<_>>().join(" ") == line),
            "{line}: {shown}"
        );
    }

    #[test]
    fn nodes_have_their_names_where_they_are_known() {
        let since = "2026-11-30T10:00:00.000Z";
        let mut cluster = serde_json::json!({
            "node_id": 1, "role": "leader", "has_quorum": true, "leader": 4, "voters": [1, 4, 9],
            "nodes": [
                {"id": 1, "hostname": "one", "address": "10.0.0.1", "version": "0.1.0", "healthy": true, "instances": 2},
                {"id": 4, "hostname": "four", "address": "10.0.0.4", "version": "0.1.0", "unhealthy_reason": format!("does not answer since {since}")},
            ],
            "if_lost": [{"node_id": 1, "back_elsewhere": 1}],
        });
        let healthy = shown(cluster.clone());
        is_there(&healthy, "can decide: yes, led by four");
        is_there(&healthy, "voters: one, four, node 9");
        is_there(&healthy, "answered by: one (leader) at http://n1:8080");
        is_there(&healthy, "node one: 10.0.0.1, narvana 0.1.0, healthy, 2 instances");

        cluster["has_quorum"] = false.into();
        cluster["quorum"] = serde_json::json!({
            "needed": 2, "answering": 1, "missing": [{"node_id": 4, "name": "four", "address": "10.0.0.4:9090", "since": since}],
        });
        let alone = shown(cluster);
        // One death, one time, in the same words.
        is_there(&alone, &format!("missing voters: four (10.0.0.4:9090) does not answer since {since}"));
        is_there(
            &alone,
            &format!("node four: 10.0.0.4, narvana 0.1.0, unhealthy: does not answer since {since}, 0 instances"),
        );
        is_there(&alone, "how new: what follows is what one knew last, at index 0");
    }
}
