//! Backups: made, looked at, restored.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use console::Term;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use tokio_util::io::SyncIoBridge;

use super::Global;
use super::environment;
use super::node::{self, NodeArgs};
use super::outcome::{Exit, failure};
use super::output::{Table, age_at};
use super::screen::byte_bar;
use super::session::Session;
use crate::backup::{self, Passphrase, PassphraseError, Restored, Summary};
use crate::clock;
use crate::node::Losses;

/// Longest file that is read for a passphrase.
const PASSPHRASE_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Commands about backups.
#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Save everything the cluster knows into one file, sealed with a passphrase
    #[command(after_help = "Examples:
  narvana backup create
  narvana backup create --passphrase-file /etc/narvana/passphrase /srv/backup/cluster.age

Contains: apps, services, variables, users, settings, the cluster's keys. Does not contain: volumes, images, logs.
The file is a file of `age` (age-encryption.org) too: `age -d` opens it.")]
    Create(CreateArgs),
    /// Read a whole backup and say what is in it
    Verify(VerifyArgs),
    /// Found the cluster of a backup anew on this machine, and keep running its first node
    #[command(after_help = "Example:\n  narvana backup restore --advertise 10.0.0.7 cluster.age

The old nodes are removed for ever. Give the first node's flags, as with `narvana init`; then let other machines join.")]
    Restore(Box<RestoreArgs>),
}

/// How the passphrase is given: never as an argument, which everybody on a machine can see.
#[derive(Args, Debug)]
pub(super) struct PassphraseArg {
    /// File whose first line is the passphrase, `-` for stdin [default: NARVANA_BACKUP_PASSPHRASE, or asked for]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// What is saved where.
#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Where to; it must not exist [default: narvana-<time>.age here]
    file: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArg,
}

/// What is looked at.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// The backup
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArg,
}

/// What is restored, and as which node.
#[derive(Args)]
pub(super) struct RestoreArgs {
    // First: the fields below take their values out of what was parsed.
    #[command(flatten)]
    node: NodeArgs,
    /// The backup
    file: PathBuf,
    /// End the nodes of the cluster before, although some of them can be reached
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    passphrase: PassphraseArg,
}

impl std::fmt::Debug for RestoreArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestoreArgs").field("node", &self.node).field("file", &self.file).finish_non_exhaustive()
    }
}

/// Runs a command about backups.
pub(super) async fn run(global: &Global, command: BackupCommand) -> anyhow::Result<()> {
    match command {
        BackupCommand::Create(args) => create(&Session::open(global)?, args).await,
        BackupCommand::Verify(args) => {
            let passphrase = args.passphrase.known()?;
            let file = args.file.clone();
            let summary = tokio::task::spawn_blocking(move || backup::verify(&file, &passphrase)).await??;
            let output = global.printer();
            output.show_as(&data(&args.file, &summary), || fields(&args.file, &summary))?;
            output.note("it is whole");
            Ok(())
        }
        BackupCommand::Restore(args) => restore(*args).await,
    }
}

async fn create(session: &Session, args: CreateArgs) -> anyhow::Result<()> {
    let passphrase = args.passphrase.chosen()?;
    let now = clock::now().to_string().replace([':', '-'], "");
    let file = args.file.unwrap_or_else(|| PathBuf::from(format!("narvana-{now}.age")));
    // Found before anything is asked of a node, and again when it gets its name.
    if file.exists() {
        return Err(backup::Error::Exists { path: file }.into());
    }
    session.output.note(&format!("asking {} for everything the cluster knows", session.client.address()));
    let contents = session.client.backup().await?;
    let bar = byte_bar(&session.output, "saving", 0);
    let (shown, target) = (bar.clone(), file.clone());
    let made = tokio::task::spawn_blocking(move || {
        backup::create(&target, &passphrase, SyncIoBridge::new(contents), |done, all| {
            shown.set_length(all);
            shown.set_position(done);
        })
    });
    let made = made.await;
    bar.finish_and_clear();
    let summary = made??;
    session.output.show_as(&data(&file, &summary), || fields(&file, &summary))?;
    session.output.note("keep the passphrase where the file is not: without it nobody opens the backup");
    Ok(())
}

async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let passphrase = args.passphrase.known()?;
    let file = args.file.clone();
    let backup = tokio::task::spawn_blocking(move || backup::restore(&file, &passphrase)).await??;
    crate::node::may_restore(&backup, args.replace).await?;
    node::restore(args.node, &backup, &restored(&backup)).await
}

/// What comes back, and what does not.
fn restored(backup: &Restored) -> String {
    let header = &backup.summary.header;
    let old = age_at(header.created_at, clock::now());
    let mut text = format!(
        "Restoring cluster {} as it was at {} ({old} ago, entry {}): {} apps, {} services, {} users.
What was changed after that is lost.",
        header.cluster,
        header.created_at,
        header.index,
        backup.summary.apps,
        backup.summary.services,
        backup.summary.users
    );
    let names: Vec<&str> = backup.state.members().map(|member| member.name.as_str()).collect();
    text.push_str(&format!(
        "\nRemoved for ever: {}. They are refused, and end when they are reached.",
        names.join(", ")
    ));
    text.push_str("\nLog-ins have ended and join tokens are revoked.");
    let losses = Losses::of_backup(backup);
    if !losses.built.is_empty() {
        text.push_str("\nThe images of these were on the old nodes only; deploy them again:");
        for name in &losses.built {
            let (app, service) = name.split_once('/').unwrap_or((name, ""));
            let folder = if losses.uploaded.contains(name) { "FOLDER " } else { "" };
            text.push_str(&format!("\n  narvana deploy {folder}--app {app} --service {service}"));
        }
    }
    if !losses.with_volumes.is_empty() {
        text.push_str(&format!(
            "\nVolumes are in no backup; these begin with empty ones: {}",
            losses.with_volumes.join(", ")
        ));
    }
    text
}

fn data(file: &Path, summary: &Summary) -> Value {
    let header = &summary.header;
    json!({
        "file": file.display().to_string(),
        "bytes": summary.file_bytes,
        "cluster_id": header.cluster.to_string(),
        "created_at": header.created_at.to_string(),
        "index": header.index,
        "version": header.version,
        "apps": summary.apps,
        "services": summary.services,
        "users": summary.users,
        "nodes": summary.nodes,
    })
}

fn fields(file: &Path, summary: &Summary) -> Table {
    let header = &summary.header;
    Table::of_fields([
        ("file", format!("{} ({})", file.display(), HumanBytes(summary.file_bytes))),
        ("cluster", header.cluster.to_string()),
        ("made at", header.created_at.to_string()),
        ("up to entry", header.index.to_string()),
        ("by version", header.version.clone()),
        ("apps", summary.apps.to_string()),
        ("services", summary.services.to_string()),
        ("users", summary.users.to_string()),
        ("nodes", summary.nodes.to_string()),
    ])
}

impl PassphraseArg {
    /// For a new backup. Asked for twice, since nobody notices a slip of the fingers before it is too late.
    fn chosen(&self) -> anyhow::Result<Passphrase> {
        if let Some(given) = self.given()? {
            return Passphrase::chosen(given).map_err(refused);
        }
        let passphrase = Passphrase::chosen(ask("Passphrase of the backup: ")?).map_err(refused)?;
        match Passphrase::known(ask("Once more: ")?).is_ok_and(|again| again.is(&passphrase)) {
            true => Ok(passphrase),
            false => Err(failure(Exit::Usage, "the two passphrases differ; nothing was done")),
        }
    }

    /// For one that exists.
    fn known(&self) -> anyhow::Result<Passphrase> {
        let given = match self.given()? {
            Some(given) => given,
            None => ask("Passphrase of the backup: ")?,
        };
        Passphrase::known(given).map_err(refused)
    }

    fn given(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.passphrase_file else { return Ok(environment::backup_passphrase()) };
        let cannot = || format!("cannot read the passphrase from {}", path.display());
        let source: Box<dyn Read> = match path.as_os_str() == "-" {
            true => Box::new(io::stdin()),
            false => Box::new(std::fs::File::open(path).with_context(cannot)?),
        };
        let mut line = String::new();
        io::BufReader::new(source.take(PASSPHRASE_FILE_BYTES_MAX)).read_line(&mut line).with_context(cannot)?;
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

fn refused(error: PassphraseError) -> anyhow::Error {
    failure(Exit::Usage, error.to_string())
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    let terminal = Term::stderr();
    if !terminal.is_term() || !io::stdin().is_terminal() {
        let message = "no passphrase is given and there is no terminal to ask at; use --passphrase-file or \
                       NARVANA_BACKUP_PASSPHRASE";
        return Err(failure(Exit::Usage, message));
    }
    terminal.write_str(prompt)?;
    terminal.read_secure_line().context("cannot read the passphrase")
}
