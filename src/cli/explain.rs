//! `explain`: why something is as it is.

use clap::Args;

use super::output::Table;
use super::session::Session;
use crate::client::view::Explanation;
use crate::client::{Answer, Error};
use crate::model::DeploymentId;

/// What is to be explained.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// Id of a deployment or of an instance, or name or id of an app
    pub(super) what: String,
}

/// Explains a deployment, an instance or an app, in the words of what decided about it.
pub(super) async fn run(session: &Session, args: ExplainArgs) -> anyhow::Result<()> {
    let (client, what) = (&session.client, &args.what);
    // Ids of all kinds look alike: they are tried in the order in which people have them at hand.
    if what.parse::<DeploymentId>().is_ok() {
        if let Some(answer) = found(client.explain_deployment(what).await)? {
            return session.output.show(&answer, sentences);
        }
        if let Some(answer) = found(client.explain_instance(what).await)? {
            return session.output.show(&answer, sentences);
        }
    }
    session.output.show(&client.explain_app(what).await?, sentences)
}

fn found<T>(outcome: Result<Answer<T>, Error>) -> Result<Option<Answer<T>>, Error> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(None),
        outcome => outcome.map(Some),
    }
}

fn sentences(explanation: &Explanation) -> Table {
    let mut table = Table::new([""]);
    for line in &explanation.lines {
        table.row([line.clone()]);
    }
    table
}
