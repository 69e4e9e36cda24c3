//! `debug bundle`: what a bug report needs, without what nobody else may see.
//!
//! Users, health checks and builds put secrets anywhere: into names, addresses of repositories, commands, and into the words
//! with which something failed. So nothing is taken out of the answers; a few things are taken over, by [`STATUS`],
//! [`DEPLOYMENT`] and [`BUILD`], and a field that is new stays behind until somebody lists it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Global;
use super::node::StartArgs;
use super::outcome::{Exit, failure};
use super::output::Table;
use super::session::Session;
use crate::client::Client;
use crate::{client, clock, node};

/// Deployments and builds in a bundle, the newest ones.
const ROWS: usize = 100;
/// Longest text that is taken over: an id, a time, a state. What is longer was written by somebody.
const TEXT_MAX: usize = 64;
/// Stands for a text that is not taken over.
const LEFT_OUT: &str = "left out";

/// What is taken over of the cluster and its nodes.
const STATUS: &[&str] = &[
    "cluster_id",
    "version",
    "node_id",
    "role",
    "has_quorum",
    "quorum",
    "needed",
    "answering",
    "missing",
    "since",
    "leader",
    "term",
    "voters",
    "learners",
    "applied_index",
    "committed_index",
    "state_bytes",
    "state_limit_bytes",
    "cluster_version",
    "upgrade",
    "to",
    "waits_for",
    "cluster_version_max",
    "nodes",
    "id",
    "api_port",
    "grpc_port",
    "ingress_http_port",
    "voter",
    "healthy",
    "silent_since",
    "cordoned",
    "draining_since",
    "engine",
    "arch",
    "resources",
    "cpu_total",
    "cpu_reserved",
    "memory_total",
    "memory_reserved",
    "disk_total",
    "instances",
    "joined_at",
    "started_at",
    "if_lost",
    "back_elsewhere",
    "down_for_long",
];

/// What is taken over of a deployment and its instances.
const DEPLOYMENT: &[&str] = &[
    "id",
    "app_id",
    "service_id",
    "version",
    "status",
    "cause",
    "cause_deployment_id",
    "build_id",
    "source_id",
    "created_at",
    "started_at",
    "finished_at",
    "config",
    "source_type",
    "build_strategy",
    "build_type",
    "replicas",
    "exclusive",
    "resources",
    "cpu",
    "memory",
    "ports",
    "container_port",
    "host_port",
    "protocol",
    // Their number: nothing that is in one is taken over.
    "volumes",
    "instances",
    "deployment_id",
    "node_id",
    "slot",
    "attempt",
    "health",
    "exit_code",
    "out_of_memory",
    "start_after",
    "healthy_at",
];

/// What is taken over of a build.
const BUILD: &[&str] = &[
    "id",
    "deployment_id",
    "app_id",
    "service_id",
    "source_type",
    "build_strategy",
    "status",
    "attempt",
    "node_id",
    "cancel_requested",
    "failure",
    "code",
    "created_at",
    "started_at",
    "finished_at",
];

/// Commands for whoever looks for a defect.
#[derive(Debug, Subcommand)]
pub(super) enum DebugCommand {
    /// Write a file for a bug report: this machine, the cluster, its newest deployments and builds, without secrets
    #[command(after_help = "Example:
  narvana debug bundle --data-dir /var/lib/narvana

Of applications it holds ids, states, times and exit codes: no names, variables, sources, images, logs, and no words of
programs, builds and health checks. Of this machine it holds what `narvana doctor` says: folders, ports, addresses, the
user who runs this, names of nodes, and the programs that are in the way. It is text: read it before you give it to
somebody. Without a log-in it holds this machine only.")]
    Bundle(Box<BundleArgs>),
}

/// Where to, and how the node is started that is looked at.
#[derive(Args)]
pub(super) struct BundleArgs {
    // First: the fields below take their values out of what was parsed.
    #[command(flatten)]
    start: StartArgs,
    /// Where to; it must not exist [default: narvana-debug-<time>.json here]
    file: Option<PathBuf>,
}

impl std::fmt::Debug for BundleArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BundleArgs").field("start", &self.start).field("file", &self.file).finish()
    }
}

/// Runs a command for whoever looks for a defect.
pub(super) async fn run(global: &Global, command: DebugCommand) -> anyhow::Result<()> {
    match command {
        DebugCommand::Bundle(args) => bundle(&Session::open(global)?, *args).await,
    }
}

async fn bundle(session: &Session, args: BundleArgs) -> anyhow::Result<()> {
    let now = clock::now().to_string();
    let file =
        args.file.unwrap_or_else(|| PathBuf::from(format!("narvana-debug-{}.json", now.replace([':', '-'], ""))));
    if file.exists() {
        return Err(exists(&file));
    }
    session.output.note("looking at this machine");
    let machine = node::examine(&args.start.settle()?).await?;
    session.output.note(&format!("asking {} about the cluster", session.client.address()));
    let (cluster, left_out) = of_cluster(&session.client).await;
    for (part, error) in &left_out {
        session.output.note(&format!("without {part}: {error}"));
    }
    let reasons: Map<String, Value> =
        left_out.iter().map(|(part, error)| ((*part).to_owned(), reason(error.code()).into())).collect();
    let contents = json!({
        "narvana": env!("CARGO_PKG_VERSION"),
        "made_at": now,
        "machine": machine,
        "cluster": cluster,
        "left_out": reasons,
    });
    write(&file, &contents)?;
    let shown = file.display().to_string();
    session.output.show_as(&json!({ "file": shown }), || Table::of_fields([("file", shown.clone())]))?;
    session
        .output
        .note("read it before you give it to somebody: it names folders, ports, addresses and the user of this machine, and nodes");
    Ok(())
}

/// The parts that could be read, and why the others could not.
async fn of_cluster(client: &Client) -> (Map<String, Value>, Vec<(&'static str, client::Error)>) {
    let parts = [
        ("status", STATUS, client.status().await.map(|answer| answer.json)),
        ("deployments", DEPLOYMENT, client.newest_deployments(ROWS).await.map(|answer| answer.json)),
        ("builds", BUILD, client.newest_builds(ROWS).await.map(|answer| answer.json)),
    ];
    let (mut read, mut left_out) = (Map::new(), Vec::new());
    for (part, keys, answer) in parts {
        match answer {
            Ok(answer) => drop(read.insert(part.to_owned(), taken_over(answer, keys))),
            Err(error) => left_out.push((part, error)),
        }
    }
    (read, left_out)
}

/// Why a part is left out, by the code of the answer: one that is none is not taken over either.
fn reason(code: &str) -> &str {
    match code {
        "" => "unreachable",
        code if is_plain(code) => code,
        _ => LEFT_OUT,
    }
}

/// What is taken over of an answer.
fn taken_over(answer: Value, keys: &[&str]) -> Value {
    match answer {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(key, _)| keys.contains(&key.as_str()));
            fields.map(|(key, value)| (key, taken_over(value, keys))).collect()
        }
        Value::Array(rows) => rows.into_iter().map(|row| taken_over(row, keys)).collect(),
        Value::String(text) if !is_plain(&text) => LEFT_OUT.into(),
        other => other,
    }
}

/// Whether narvana itself may have written this: a second wall behind the keys.
fn is_plain(text: &str) -> bool {
    text.len() <= TEXT_MAX && text.chars().all(|letter| letter.is_ascii_alphanumeric() || " .:_+-".contains(letter))
}

/// All of it or nothing, and never over a file that is there.
fn write(file: &Path, contents: &Value) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", file.display());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut begun = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
    serde_json::to_writer_pretty(&mut begun, contents).with_context(cannot)?;
    begun.write_all(b"\n").and_then(|()| begun.as_file().sync_all()).with_context(cannot)?;
    match begun.persist_noclobber(file) {
        Ok(_) => Ok(()),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(file)),
        Err(refused) => Err(refused.error).with_context(cannot),
    }
}

fn exists(file: &Path) -> anyhow::Error {
    failure(
        Exit::Failed,
        format!("{} exists already, and a bundle replaces nothing; name another file", file.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_taken_over() {
        let answer = json!([{
            "id": "01a20a9d-d674-7596-9080-16e54cb976e5",
            "reason": "the check said hunter2",
            "status": "failed because of hunter2, which somebody put here",
            "started_at": "2026-11-24T00:00:00.000Z",
            "exit_code": -1,
            "config": {"image": "hunter2", "replicas": 2, "env_vars": {"id": "hunter2"}, "volumes": [{"path": "/hunter2"}]},
            "new_field": {"id": "hunter2"},
        }]);
        assert_eq!(
            taken_over(answer, DEPLOYMENT),
            json!([{
                "id": "01a20a9d-d674-7596-9080-16e54cb976e5",
                "status": "left out",
                "started_at": "2026-11-24T00:00:00.000Z",
                "exit_code": -1,
                "config": {"replicas": 2, "volumes": [{}]},
            }])
        );
    }

    #[test]
    fn a_part_that_is_left_out_says_why() {
        assert_eq!(reason("unauthorized"), "unauthorized");
        assert_eq!(reason(""), "unreachable");
        assert_eq!(reason("<hunter2>"), LEFT_OUT);
    }

    #[test]
    fn a_file_that_is_there_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("bundle.json");
        write(&file, &json!(1)).expect("written");
        let refused = write(&file, &json!(2)).expect_err("it exists").to_string();
        assert!(refused.contains("bundle.json exists already"), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).expect("reads"), "1\n");
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1, "nothing is left over");
    }
}
