//! Spreading what runs better, and what one more node would change.

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::output::Table;
use super::session::Session;
use super::value::Pair;
use crate::client::view::Relocation;
use crate::model::ARCHITECTURES;

/// How much, and whether really.
#[derive(Args, Debug)]
pub(super) struct RebalanceArgs {
    /// Move them; else they are only listed
    #[arg(long)]
    apply: bool,
    /// Instances that are moved at most
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    budget: u32,
}

/// The node that would join.
#[derive(Args, Debug)]
pub(super) struct JoinedArgs {
    /// Its cores, such as 4 [default: 2]
    #[arg(long)]
    cpu: Option<String>,
    /// Its memory, such as 8Gi [default: 4Gi]
    #[arg(long)]
    memory: Option<String>,
    /// Its architecture, as container images name it [default: that of the first node]
    #[arg(long, value_parser = PossibleValuesParser::new(ARCHITECTURES))]
    arch: Option<String>,
    /// Its label; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<Pair>,
}

/// Spreads what runs better, or says what that would move.
pub(super) async fn run(session: &Session, args: RebalanceArgs) -> anyhow::Result<()> {
    let none = "nothing would be better elsewhere";
    if !args.apply {
        let found = session.client.rebalanced(args.budget).await?;
        session.output.show_list(&found, none, moves)?;
        if !found.view.is_empty() {
            session.output.note("nothing was moved; --apply does it");
        }
        return Ok(());
    }
    let begun = session.client.rebalance(args.budget).await?;
    session.output.show_list(&begun, none, moves)?;
    if !begun.view.is_empty() {
        session.output.note("begun; `narvana ps` shows how far it is");
    }
    Ok(())
}

/// Says what one more node would change.
pub(super) async fn simulate_join(session: &Session, args: JoinedArgs) -> anyhow::Result<()> {
    let labels: Vec<String> = args.label.iter().map(|label| format!("{}={}", label.key, label.value)).collect();
    let labels = (!labels.is_empty()).then(|| labels.join(","));
    let given = [("cpu", args.cpu), ("memory", args.memory), ("arch", args.arch), ("labels", labels)];
    let newcomer: Vec<(&'static str, String)> =
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let found = session.client.joined(&newcomer).await?;
    session.output.show_list(&found, "it would change nothing", moves)
}

fn moves(moves: &[Relocation]) -> Table {
    let mut table = Table::new(["APP", "SERVICE", "REPLICA", "FROM", "TO", "WHY"]);
    for one in moves {
        let from = if one.from_node_name.is_empty() { "waits".to_owned() } else { one.from_node_name.clone() };
        let (app, service, slot) = (one.app_name.clone(), one.service_name.clone(), one.slot.to_string());
        table.row([app, service, slot, from, one.to_node_name.clone(), one.reasons.join("; ")]);
    }
    table
}
