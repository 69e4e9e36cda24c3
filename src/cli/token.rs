//! Join tokens.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::outcome::{Exit, failure};
use super::output::{Table, age, time, warn};
use super::session::Session;
use crate::client::view::JoinToken;
use crate::model::JoinTokenId;

/// Commands about join tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a join token; it is printed this once
    #[command(after_help = "Examples:
  narvana token create                          one node, within an hour
  narvana token create --role worker --uses 5 --ttl 24h
  narvana token create | ssh n2 narvana join --token-file -")]
    Create(CreateArgs),
    /// List join tokens
    Ls,
    /// Take a join token back; nodes that joined with it stay
    Revoke {
        /// Its id, as `narvana token ls` lists it
        id: String,
    },
}

/// What a join token allows.
#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// What the nodes may become: voter-eligible, or worker, which never votes
    #[arg(long, value_parser = ["voter-eligible", "worker"])]
    role: Option<String>,
    /// How long it is good: 30m, 24h, 7d [default: 1h]
    #[arg(long)]
    ttl: Option<String>,
    /// How many nodes may join with it [default: 1]
    #[arg(long)]
    uses: Option<u32>,
}

/// Runs a command about join tokens.
pub(super) async fn run(session: &Session, command: TokenCommand) -> anyhow::Result<()> {
    let (client, output) = (&session.client, &session.output);
    match command {
        TokenCommand::Create(args) => create(session, args).await,
        TokenCommand::Ls => output.show_list(&client.join_tokens().await?, "there are no join tokens", list),
        TokenCommand::Revoke { id } => {
            // Nothing else is sent: it may be the token itself, with its secret.
            let id: JoinTokenId = id.parse().map_err(|_| {
                let message = "that is not the id of a join token; `narvana token ls` lists them, and `narvana token create` says it";
                failure(Exit::NotFound, message)
            })?;
            output.show(&client.revoke_join_token(&id.to_string()).await?, fields)
        }
    }
}

async fn create(session: &Session, args: CreateArgs) -> anyhow::Result<()> {
    let mut wanted = Map::new();
    for (field, value) in
        [("role", args.role.map(Value::from)), ("ttl", args.ttl.map(Value::from)), ("uses", args.uses.map(Value::from))]
    {
        if let Some(value) = value {
            wanted.insert(field.to_owned(), value);
        }
    }
    let made = session.client.create_join_token(&wanted.into()).await?;
    let token = &made.view;
    if session.output.for_programs() {
        return session.output.show(&made, fields);
    }
    // Alone on stdout, for a pipe to the other machine.
    session.output.text(&token.token)?;
    let nodes = if token.uses_left == 1 { "one node".to_owned() } else { format!("{} nodes", token.uses_left) };
    session.output.note(&format!("good for {nodes} ({}) until {}", token.role, time(token.expires_at)));
    session.output.note(&format!("its id is {0}; `narvana token revoke {0}` takes it back", token.id));
    session.output.note(
        "on the other machine:\n  narvana join --token-file -      and paste the token, or\n  narvana join <token>",
    );
    if token.addresses.iter().all(|address| is_only_here(address)) {
        warn(&format!(
            "the token names {} only, which no other machine reaches: start this node with --advertise and an address of its machine first",
            token.addresses.join(", ")
        ));
    }
    Ok(())
}

fn is_only_here(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|host| host.is_loopback())
}

fn list(tokens: &[JoinToken]) -> Table {
    let mut table = Table::new(["ID", "STATUS", "ROLE", "USES LEFT", "EXPIRES", "AGE", "+CREATED BY"]);
    for token in tokens {
        table.row([
            token.id.to_string(),
            token.status.clone(),
            token.role.clone(),
            token.uses_left.to_string(),
            time(token.expires_at),
            age(token.created_at),
            if token.created_by_email.is_empty() {
                token.created_by.to_string()
            } else {
                token.created_by_email.clone()
            },
        ]);
    }
    table
}

fn fields(token: &JoinToken) -> Table {
    Table::of_fields([
        ("id", token.id.to_string()),
        ("status", token.status.clone()),
        ("role", token.role.clone()),
        ("uses left", token.uses_left.to_string()),
        ("expires", time(token.expires_at)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_told_from_others() {
        for (address, only_here) in [
            ("127.0.0.1:9090", true),
            ("[::1]:9090", true),
            ("localhost:1", true),
            ("10.0.0.1:9090", false),
            ("n1:9", false),
        ] {
            assert_eq!(is_only_here(address), only_here, "{address}");
        }
    }
}
