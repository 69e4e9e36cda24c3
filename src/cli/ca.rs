//! The authority that signs the certificates of nodes.

use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use tokio::time::{Instant, sleep};

use super::outcome::{Exit, failure};
use super::output::{Table, time};
use super::session::Session;
use super::wait::WaitArgs;
use crate::client::view::{Authority, Rotation};

/// How often a rotation is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Commands about the authority.
#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Show the authority, and what its rotation waits for
    #[command(
        after_help = "The SHA-256 of the certificate is what `openssl x509 -fingerprint -sha256 -noout -in ca.crt` prints; that of the key is in join
tokens, by which a machine recognises the cluster before it shows its token."
    )]
    Show,
    /// Replace the authority by another one, while everything goes on
    #[command(
        after_help = "Every member first trusts both, then shows a certificate of the new one, then drops the old one. A member that is
away keeps the next step waiting until it is back or removed. Join tokens that were made before are revoked."
    )]
    Rotate(WaitArgs),
}

/// Runs a command about the authority.
pub(super) async fn run(session: &Session, command: CaCommand) -> anyhow::Result<()> {
    match command {
        CaCommand::Show => session.output.show(&session.client.authority().await?, fields),
        CaCommand::Rotate(wait) => rotate(session, &wait).await,
    }
}

async fn rotate(session: &Session, wait: &WaitArgs) -> anyhow::Result<()> {
    let mut latest = session.client.rotate_authority().await?;
    // Over the connection that is open: in a second all members may show certificates that this command line does not know yet.
    match session.client.status().await {
        Ok(cluster) => session.learn(&cluster.view)?,
        Err(error) => {
            session.output.note(&format!("the new authority was not learnt: {error}; run `narvana status` soon"))
        }
    }
    let deadline = Instant::now() + wait.timeout;
    let mut told = String::new();
    while let Some(rotation) = latest.view.rotation.clone().filter(|_| !wait.no_wait) {
        let waits = waiting(&rotation);
        if waits != told {
            session.output.note(&waits);
            told = waits;
        }
        if Instant::now() >= deadline {
            let message = format!("{told}\n  next: `narvana ca show` says how far it is; it goes on by itself");
            return Err(failure(Exit::StillRunning, message));
        }
        sleep(LOOK_INTERVAL).await;
        latest = match session.client.authority().await {
            Err(error) if error.is_passing() => continue,
            answer => answer.context("the rotation goes on, and cannot be followed")?,
        };
    }
    session.output.show(&latest, fields)
}

/// What a rotation waits for, in words.
pub(super) fn waiting(rotation: &Rotation) -> String {
    let step = match rotation.step.as_str() {
        "trust" => "step 1 of 2, all members trust the new authority",
        "show" => "step 2 of 2, all members show certificates of the new authority",
        other => other,
    };
    let awaited = rotation.waits_for.iter().map(|member| match time(member.absent_since) {
        since if since.is_empty() => format!("node {}", member.name),
        since => {
            format!("node {} (does not answer since {since}: start it, or `narvana node remove {0}`)", member.name)
        }
    });
    let awaited: Vec<String> = awaited.collect();
    let awaited = if awaited.is_empty() { "nobody".to_owned() } else { awaited.join(", ") };
    format!("the authority is being rotated, {step}: waits for {awaited}")
}

fn fields(authority: &Authority) -> Table {
    let rotation = authority.rotation.as_ref();
    let of_new = |print: fn(&Rotation) -> &String| rotation.map(print).cloned().unwrap_or_default();
    Table::of_fields([
        ("certificate SHA-256", authority.certificate_fingerprint.clone()),
        ("key SHA-256", authority.fingerprint.clone()),
        ("new certificate SHA-256", of_new(|rotation| &rotation.certificate_fingerprint)),
        ("new key SHA-256", of_new(|rotation| &rotation.fingerprint)),
        ("since", rotation.map(|rotation| time(rotation.begun_at)).unwrap_or_default()),
        ("rotation", rotation.map_or_else(|| "none".to_owned(), waiting)),
    ])
}
