//! Logs of builds and instances, as they are now. This file and `sse` are where the API touches `logs`.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Caller, Scoped};
use crate::logs::{Away, Entry, Library, LogKey, LogStream, LogTime, ReadError};
use crate::model::{Build, BuildId, Deployment, DeploymentId, NodeId, Role, quoted};

use super::Error;
use super::extract::{At, Reader, Search};
use super::gate::Gate;
use super::page::limit;
use super::sse::LOGS_MAX;

/// Longest wait for the lines of one node.
const NODE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Which lines are wanted.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// `build` or `runtime`; both when absent.
    source: Option<String>,
    /// Only of this deployment; of the newest and the serving one of each service when absent.
    deployment_id: Option<String>,
    /// Only of this build, one of the deployments above.
    build_id: Option<String>,
    /// Only of this service.
    service_name: Option<String>,
    /// Lines at most, from 1 to 1000; 100 when absent.
    limit: Option<usize>,
}

/// Lines, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Logs)]
pub(super) struct LogsView {
    /// The deployment they are of, when it is one.
    deployment_id: Option<String>,
    logs: Vec<LineView>,
    /// Nodes that hold more lines and did not give them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<MissingView>,
}

/// A node that did not give its lines.
#[derive(Serialize, ToSchema)]
#[schema(as = MissingLogs)]
pub(super) struct MissingView {
    node_id: String,
    node_name: String,
    reason: String,
}

impl MissingView {
    /// The node of a log, which did what is said of it.
    pub(super) fn new(target: &Target, what: &str) -> Self {
        let (node_id, node_name) = (target.node.to_string(), target.node_name.clone());
        Self { reason: format!("node {node_name} {what}"), node_id, node_name }
    }

    /// The same of one that does not give its lines.
    pub(super) fn away(target: &Target, away: &Away) -> Self {
        Self::new(target, &format!("does not give its log lines: {}", away.reason))
    }
}

/// A line.
#[derive(Serialize, ToSchema)]
#[schema(as = LogLine)]
pub(super) struct LineView {
    deployment_id: String,
    service_name: String,
    /// `build` or `runtime`.
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
    /// `stdout`, `stderr`, or `system` for what narvana itself says.
    stream: &'static str,
    message: String,
    timestamp: String,
    /// Place in its log, from 0.
    seq: u64,
}

/// One log that the caller may read.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) key: LogKey,
    /// The node that holds it.
    pub(super) node: NodeId,
    /// Its name.
    pub(super) node_name: String,
    deployment: DeploymentId,
    service_name: String,
}

#[cfg(test)]
impl Target {
    /// A log of this node.
    pub(super) fn of_nobody(key: LogKey) -> Self {
        let node_name = "one".to_owned();
        Self {
            key,
            node: NodeId::FOUNDER,
            node_name,
            deployment: DeploymentId(uuid::Uuid::nil()),
            service_name: String::new(),
        }
    }
}

impl LineView {
    pub(super) fn new(target: &Target, entry: &Entry) -> Self {
        let (source, build_id, instance_id) = match target.key {
            LogKey::Build(id) => ("build", Some(id.to_string()), None),
            LogKey::Instance(id) => ("runtime", None, Some(id.to_string())),
        };
        Self {
            deployment_id: target.deployment.to_string(),
            service_name: target.service_name.clone(),
            source,
            build_id,
            instance_id,
            stream: match entry.line.stream {
                LogStream::Stdout => "stdout",
                LogStream::Stderr => "stderr",
                LogStream::System => "system",
            },
            message: entry.line.text().to_owned(),
            timestamp: entry.line.at.to_string(),
            seq: entry.seq,
        }
    }
}

/// What a [`LogQuery`] asks for, checked.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    app: String,
    build: bool,
    runtime: bool,
    deployment: Option<DeploymentId>,
    of_build: Option<BuildId>,
    service_name: Option<String>,
    pub(super) limit: usize,
}

impl Selection {
    pub(super) fn new(app: String, query: LogQuery) -> Result<Self, Error> {
        let (build, runtime) = match query.source.as_deref() {
            None => (true, true),
            Some("build") => (true, false),
            Some("runtime") => (false, true),
            Some(other) => {
                return Err(Error::field("source", format!("must be build or runtime, got {}", quoted(other))));
            }
        };
        let bad = |_| Error::field("deployment_id", "must be the id of a deployment");
        let deployment = query.deployment_id.as_deref().map(|id| id.parse().map_err(bad)).transpose()?;
        let bad = |_| Error::field("build_id", "must be the id of a build");
        let of_build = query.build_id.as_deref().map(|id| id.parse().map_err(bad)).transpose()?;
        let (service_name, limit) = (query.service_name, limit(query.limit)?);
        Ok(Self { app, build, runtime, deployment, of_build, service_name, limit })
    }

    /// The deployments it means, in the state that the caller sees.
    pub(super) fn deployments(&self, caller: &Caller) -> Result<Vec<Scoped<Deployment>>, Error> {
        let app = caller.app(Role::Viewer, &self.app)?;
        if let Some(id) = self.deployment {
            let deployment: Scoped<Deployment> = caller.load(Role::Viewer, id)?;
            // A deployment of another app is none of this one, even when it is the caller's.
            let matches = self.service_name.as_ref().is_none_or(|name| *name == deployment.service_name);
            if deployment.app != app.id || !matches {
                return Err(Error::NotFound(format!("deployment {id} does not exist in app {}", app.name)));
            }
            return Ok(vec![deployment]);
        }
        let services = match &self.service_name {
            Some(name) => vec![app.service(name)?],
            None => app.services().collect(),
        };
        let mut found: Vec<Scoped<Deployment>> = Vec::new();
        for service in services {
            let newest = service.deployments().next();
            let serving =
                service.serving().filter(|serving| newest.as_ref().is_none_or(|newest| newest.id != serving.id));
            found.extend(newest.into_iter().chain(serving));
        }
        Ok(found)
    }

    /// The logs of those deployments, newest first and not more than can be followed.
    pub(super) fn targets(&self, deployments: &[Scoped<Deployment>]) -> Vec<Target> {
        let mut keys = Vec::new();
        for deployment in deployments {
            if self.build {
                keys.extend(build_targets(deployment));
            }
            if self.runtime {
                keys.extend(deployment.instances().map(|instance| {
                    let (key, node) = (LogKey::Instance(instance.id), instance.placement.node);
                    let (node_name, service_name) = (instance.node_name(), deployment.service_name.clone());
                    Target { key, node, node_name, deployment: deployment.id, service_name }
                }));
            }
        }
        if let Some(id) = self.of_build {
            keys.retain(|target| target.key == LogKey::Build(id));
        }
        let made_at = |target: &Target| match target.key {
            LogKey::Build(id) => id.0,
            LogKey::Instance(id) => id.0,
        };
        // Ids sort by the time they were made.
        keys.sort_by_key(|target| std::cmp::Reverse(made_at(target)));
        keys.truncate(LOGS_MAX);
        keys
    }
}

/// Build logs of a deployment. A build that nobody has taken yet has none.
pub(super) fn build_targets(deployment: &Scoped<Deployment>) -> Vec<Target> {
    let target = |build: Scoped<Build>| {
        let (key, node) = (LogKey::Build(build.id), build.lease?.node);
        let (node_name, service_name) = (build.node_name()?, deployment.service_name.clone());
        Some(Target { key, node, node_name, deployment: deployment.id, service_name })
    };
    deployment.builds().filter_map(target).collect()
}

/// Logs of an app
///
/// The newest lines of its builds and instances, newest first.
#[utoipa::path(get, path = "/v1/apps/{app}/logs", tag = "logs",
    params(("app" = String, Path, description = "Its id or name"), LogQuery), responses((status = 200, body = LogsView)))]
pub(super) async fn show(
    State(gate): State<Gate>,
    Reader(caller): Reader,
    At(app): At<String>,
    Search(query): Search<LogQuery>,
) -> Result<Json<LogsView>, Error> {
    let selection = Selection::new(app, query)?;
    let deployments = selection.deployments(&caller)?;
    let mut by_node: BTreeMap<NodeId, Vec<Target>> = BTreeMap::new();
    for target in selection.targets(&deployments) {
        by_node.entry(target.node).or_default().push(target);
    }
    let asked = by_node.into_iter().map(|(node, targets)| of_node(gate.logs(), node, targets, selection.limit));
    let (mut lines, mut missing) = (Vec::new(), Vec::new());
    for answer in join_all(asked).await {
        let (found, absent) = answer?;
        lines.extend(found);
        missing.extend(absent);
    }
    lines.sort_by_key(|(at, seq, _)| std::cmp::Reverse((*at, *seq)));
    lines.truncate(selection.limit);
    let deployment_id = match deployments.as_slice() {
        [one] => Some(one.id.to_string()),
        _ => None,
    };
    Ok(Json(LogsView { deployment_id, logs: lines.into_iter().map(|(.., line)| line).collect(), missing }))
}

/// The last lines of logs that one node holds; when it does not answer, those it gave before.
async fn of_node(
    logs: &Library,
    node: NodeId,
    targets: Vec<Target>,
    limit: usize,
) -> Result<(Vec<(LogTime, u64, LineView)>, Option<MissingView>), Error> {
    let mut lines = Vec::new();
    let deadline = Instant::now() + NODE_WAIT_MAX;
    for target in targets {
        let entries = match timeout_at(deadline, logs.tail(node, target.key, limit)).await {
            Ok(Ok(entries)) => entries,
            Ok(Err(ReadError::Away(away))) => return Ok((lines, Some(MissingView::away(&target, &away)))),
            Ok(Err(ReadError::Here(error))) => return Err(error.into()),
            Err(_) => return Ok((lines, Some(MissingView::new(&target, "did not answer in time")))),
        };
        lines.extend(entries.iter().map(|entry| (entry.line.at, entry.seq, LineView::new(&target, entry))));
    }
    Ok((lines, None))
}
