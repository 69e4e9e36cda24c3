//! Emptying a node, and following that until nothing more happens there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::time::{Instant, sleep};

use super::nodes::id_of;
use super::outcome::{Exit, failure};
use super::output::{Table, time};
use super::session::Session;
use super::wait::WaitArgs;
use crate::client::view::{Departure, Drain};

/// How often is looked how far it is.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Which node, and what may be stopped.
#[derive(Args, Debug)]
pub(super) struct DrainArgs {
    /// Its id or name
    node: String,
    #[command(flatten)]
    stops: StopArgs,
    /// Only say what would move where
    #[arg(long, conflicts_with_all = ["no_wait", "timeout"])]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

/// What may be stopped so that a node becomes empty.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct StopArgs {
    /// Stop exclusive services, then start them elsewhere; else they stay
    #[arg(long)]
    stop_exclusive: bool,
    /// Stop services with volumes until the node takes work again, since their data is there; else they stay
    #[arg(long)]
    stop_volumes: bool,
}

/// Empties a node.
pub(super) async fn run(session: &Session, args: DrainArgs) -> anyhow::Result<()> {
    if args.dry_run {
        return simulate(session, &args.node, args.stops).await;
    }
    let id = id_of(session, &args.node).await?;
    let mut latest = session.client.drain_node(&id, (args.stops.stop_exclusive, args.stops.stop_volumes)).await?;
    let deadline = Instant::now() + args.wait.timeout;
    let mut told = BTreeMap::new();
    let node = if latest.view.node_name.is_empty() { args.node } else { latest.view.node_name.clone() };
    while !args.wait.no_wait && goes_on(&latest.view) {
        tell(session, &latest.view, &mut told);
        if Instant::now() >= deadline {
            session.output.show(&latest, table)?;
            let message = format!(
                "node {node} is not empty yet: {}\n  next: it goes on by itself; `narvana node drain {node} --dry-run` says how far \
                 it is, `narvana node uncordon {node}` ends it",
                what_is_left(&latest.view)
            );
            return Err(failure(Exit::StillRunning, message));
        }
        sleep(LOOK_INTERVAL).await;
        latest = match session.client.drain(&id, None).await {
            Err(error) if error.is_passing() => continue,
            answer => answer.context("the drain goes on, and cannot be followed")?,
        };
        if !latest.view.draining {
            return Err(failure(Exit::Conflict, format!("somebody uncordoned node {node}, which ended the drain")));
        }
    }
    tell(session, &latest.view, &mut told);
    session.output.show(&latest, table)?;
    if args.wait.no_wait {
        return Ok(());
    }
    let staying = latest.view.instances.len();
    if staying > 0 {
        let message = format!(
            "node {node} is drained but for what must not be stopped: {}\n  next: --stop-exclusive and --stop-volumes allow it, \
             `narvana node uncordon {node}` ends the drain",
            what_is_left(&latest.view)
        );
        return Err(failure(Exit::Failed, message));
    }
    // What is on record of a node that does not answer is what the others expect of it.
    let seen = session.client.node(&id).await?.view;
    if !time(seen.silent_since).is_empty() {
        let message = format!(
            "nothing is to run on node {node} any more, but it does not answer since {}, and what it ran may run still\n  next: see to \
             its machine before it is switched off for good; when it answers it ends what is not its own",
            time(seen.silent_since)
        );
        return Err(failure(Exit::StillRunning, message));
    }
    session.output.note(&format!("node {node} is empty; `narvana node uncordon {node}` gives it work again"));
    Ok(())
}

/// Says what draining a node would do, or how far that is.
pub(super) async fn simulate(session: &Session, node: &str, stops: StopArgs) -> anyhow::Result<()> {
    let id = id_of(session, node).await?;
    // Of a node that is being drained it is asked how far that is, unless something else is said.
    let stops = (stops.stop_exclusive || stops.stop_volumes).then_some((stops.stop_exclusive, stops.stop_volumes));
    let found = session.client.drain(&id, stops).await?;
    if found.view.empty && !session.output.for_programs() {
        session.output.note("nothing runs on this node");
        return Ok(());
    }
    session.output.show(&found, table)
}

/// Whether anything is still to happen.
fn goes_on(drain: &Drain) -> bool {
    drain.builds > 0 || drain.instances.iter().any(|instance| instance.step != "stays")
}

/// Says of each instance what is new.
fn tell(session: &Session, drain: &Drain, told: &mut BTreeMap<String, String>) {
    let now: BTreeMap<String, String> = drain.instances.iter().map(|one| (name(one), becomes(one))).collect();
    for (name, becomes) in &now {
        if told.get(name) != Some(becomes) {
            session.output.note(&format!("{name} {becomes}"));
        }
    }
    for name in told.keys().filter(|name| !now.contains_key(*name)) {
        session.output.note(&format!("{name} is gone from here"));
    }
    *told = now;
}

fn name(one: &Departure) -> String {
    format!("{}/{} replica {}", one.app_name, one.service_name, one.slot)
}

fn becomes(one: &Departure) -> String {
    let why = one.reasons.join("; ");
    match one.step.as_str() {
        "moves" => format!("goes to {}", one.to_node_name),
        "moving" => format!("goes to {}: {why}", one.to_node_name),
        "ends_first" => format!("ends, then starts on {}", one.to_node_name),
        "ends_until_back" => format!("ends until this node takes work again: {why}"),
        "ends" => format!("ends: {why}"),
        "waits" => format!("waits: {why}"),
        "stays" => format!("stays: {why}"),
        other => format!("{other}: {why}"),
    }
}

fn what_is_left(drain: &Drain) -> String {
    let mut left: Vec<String> = drain.instances.iter().map(|one| format!("{} {}", name(one), becomes(one))).collect();
    match drain.builds {
        0 => {}
        1 => left.push("1 build runs".to_owned()),
        more => left.push(format!("{more} builds run")),
    }
    left.join("; ")
}

fn table(drain: &Drain) -> Table {
    let mut table = Table::new(["APP", "SERVICE", "REPLICA", "WHAT HAPPENS", "GOES TO", "WHY"]);
    for one in &drain.instances {
        let step = one.step.replace('_', " ");
        let (app, service, slot) = (one.app_name.clone(), one.service_name.clone(), one.slot.to_string());
        table.row([app, service, slot, step, one.to_node_name.clone(), one.reasons.join("; ")]);
    }
    table
}
