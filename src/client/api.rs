//! The calls.

use std::collections::BTreeMap;
use std::path::Path;

use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use super::connection::{Body, Connection, Request};
use super::view::{
    App, Authority, Build, BuildRecipe, Cluster, Deployment, Deployments, Detection, Drain, EnvVars, Explanation,
    Instance, JoinToken, Logs, Move, Node, OnlyCopies, Preview, Profile, Relocation, RemovedNode, Service, SignedIn,
    UploadedSource,
};
use super::{Answer, Error, Events, Options, Progress, download, exec};

/// Header of a page of a list: where the next one begins.
const NEXT_CURSOR: &str = "x-narvana-next-cursor";

/// The API of one cluster, as one user. Names of apps and services may be ids too.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
}

/// Which log lines are asked for.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    /// Of builds or of instances; of instances when absent.
    pub source: Option<LogSource>,
    /// Of one deployment; the newest one when absent.
    pub deployment: Option<String>,
    /// Of one build.
    pub build: Option<String>,
    /// Of one service; of all when absent.
    pub service: Option<String>,
    /// At most so many, the newest ones.
    pub limit: Option<u32>,
}

/// What wrote a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSource {
    /// Builds.
    Build,
    /// Instances.
    Runtime,
}

impl LogFilter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let source = self.source.map(|source| match source {
            LogSource::Build => "build".to_owned(),
            LogSource::Runtime => "runtime".to_owned(),
        });
        let limit = self.limit.map(|limit| limit.to_string());
        [
            ("source", source),
            ("deployment_id", self.deployment.clone()),
            ("build_id", self.build.clone()),
            ("service_name", self.service.clone()),
            ("limit", limit),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// What a call answers.
type Reply<T> = Result<Answer<T>, Error>;

impl Client {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Token`], [`Error::CertificateFile`], [`Error::Tls`].
    pub fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self { connection: Connection::new(options)? })
    }

    /// Address of the node that answered last, or of the first one.
    pub fn address(&self) -> String {
        self.connection.address()
    }

    // --- accounts ---

    /// Makes a user: the first one of a cluster.
    pub async fn register(&self, email: &str, password: &str, setup_token: Option<&str>) -> Reply<SignedIn> {
        let mut body = json!({ "email": email, "password": password });
        if let Some(token) = setup_token {
            body["setup_token"] = token.into();
        }
        self.post(&["auth", "register"], Some(&body)).await
    }

    /// Begins a log-in.
    pub async fn login(&self, email: &str, password: &str) -> Reply<SignedIn> {
        self.post(&["auth", "login"], Some(&json!({ "email": email, "password": password }))).await
    }

    /// Ends the log-in whose token this client has.
    pub async fn logout(&self) -> Reply<Value> {
        self.post(&["auth", "logout"], None).await
    }

    /// Who this client is.
    pub async fn profile(&self) -> Reply<Profile> {
        self.get(&["v1", "user", "profile"], &[]).await
    }

    // --- apps ---

    /// All apps of the user's organisations.
    pub async fn apps(&self) -> Reply<Vec<App>> {
        self.list(&["v1", "apps"]).await
    }

    /// One app.
    pub async fn app(&self, app: &str) -> Reply<App> {
        self.get(&["v1", "apps", app], &[]).await
    }

    /// Makes an app.
    pub async fn create_app(&self, app: &Value) -> Reply<App> {
        self.post(&["v1", "apps"], Some(app)).await
    }

    /// Changes an app; `change` names the `version` it is based on.
    pub async fn update_app(&self, app: &str, change: &Value) -> Reply<App> {
        self.patch(&["v1", "apps", app], change).await
    }

    /// Deletes an app with all its services.
    pub async fn delete_app(&self, app: &str) -> Reply<Value> {
        self.call(Method::DELETE, &["v1", "apps", app], Body::Empty).await
    }

    /// Why an app is as it is.
    pub async fn explain_app(&self, app: &str) -> Reply<Explanation> {
        self.get(&["v1", "apps", app, "explain"], &[]).await
    }

    /// Deploys all services of an app.
    pub async fn deploy_app(&self, app: &str, request: &Value) -> Reply<Deployments> {
        self.post(&["v1", "apps", app, "deploy"], Some(request)).await
    }

    /// Deployments of an app, newest first.
    pub async fn app_deployments(&self, app: &str) -> Reply<Vec<Deployment>> {
        self.list(&["v1", "apps", app, "deployments"]).await
    }

    // --- services ---

    /// Services of an app.
    pub async fn services(&self, app: &str) -> Reply<Vec<Service>> {
        self.list(&["v1", "apps", app, "services"]).await
    }

    /// One service.
    pub async fn service(&self, app: &str, service: &str) -> Reply<Service> {
        self.get(&["v1", "apps", app, "services", service], &[]).await
    }

    /// Makes a service.
    pub async fn create_service(&self, app: &str, service: &Value) -> Reply<Service> {
        self.post(&["v1", "apps", app, "services"], Some(service)).await
    }

    /// Changes what is given of a service.
    pub async fn update_service(&self, app: &str, service: &str, change: &Value) -> Reply<Service> {
        self.patch(&["v1", "apps", app, "services", service], change).await
    }

    /// Deletes a service.
    pub async fn delete_service(&self, app: &str, service: &str) -> Reply<Value> {
        self.call(Method::DELETE, &["v1", "apps", app, "services", service], Body::Empty).await
    }

    /// Deploys a service as it is specified now.
    pub async fn deploy_service(&self, app: &str, service: &str, request: &Value) -> Reply<Deployment> {
        self.post(&["v1", "apps", app, "services", service, "deploy"], Some(request)).await
    }

    /// Stops a service; it stays stopped until it is started.
    pub async fn stop_service(&self, app: &str, service: &str) -> Reply<Service> {
        self.post(&["v1", "apps", app, "services", service, "stop"], None).await
    }

    /// Starts a stopped service.
    pub async fn start_service(&self, app: &str, service: &str) -> Reply<Deployment> {
        self.post(&["v1", "apps", app, "services", service, "start"], None).await
    }

    /// Replaces the instances of a service by new ones of the same thing.
    pub async fn restart_service(&self, app: &str, service: &str) -> Reply<Deployment> {
        self.post(&["v1", "apps", app, "services", service, "restart"], None).await
    }

    /// Sets how many instances a service has.
    pub async fn scale_service(&self, app: &str, service: &str, replicas: u32) -> Reply<Service> {
        let body = json!({ "replicas": replicas });
        self.post(&["v1", "apps", app, "services", service, "scale"], Some(&body)).await
    }

    /// Goes back to a version of a service, or to the last one that worked.
    pub async fn rollback_service(&self, app: &str, service: &str, version: Option<u64>) -> Reply<Deployment> {
        let body = version.map_or_else(|| json!({}), |version| json!({ "version": version }));
        self.post(&["v1", "apps", app, "services", service, "rollback"], Some(&body)).await
    }

    /// Uploads a source (tar, tar.gz or tar.zst) that the next deployment of a service uses.
    pub async fn upload_source(
        &self,
        app: &str,
        service: &str,
        archive: &Path,
        progress: &Progress,
    ) -> Reply<UploadedSource> {
        let body = Body::File { path: archive, progress };
        self.call(Method::POST, &["v1", "apps", app, "services", service, "source"], body).await
    }

    // --- environment variables ---

    /// Environment variables of a service.
    pub async fn env(&self, app: &str, service: &str) -> Reply<EnvVars> {
        self.get(&["v1", "apps", app, "services", service, "env"], &[]).await
    }

    /// Sets environment variables of a service, all or none; the others stay.
    pub async fn set_env(&self, app: &str, service: &str, variables: &BTreeMap<String, String>) -> Reply<EnvVars> {
        let body = json!({ "variables": variables });
        self.call(Method::PUT, &["v1", "apps", app, "services", service, "env"], Body::Json(&body)).await
    }

    /// Sets the environment variables that the text of a `.env` file names, all or none; the others stay.
    pub async fn import_env(&self, app: &str, service: &str, dotenv: &str) -> Reply<EnvVars> {
        let body = json!({ "dotenv": dotenv });
        self.call(Method::PUT, &["v1", "apps", app, "services", service, "env"], Body::Json(&body)).await
    }

    /// Removes an environment variable.
    pub async fn remove_env(&self, app: &str, service: &str, key: &str) -> Reply<Value> {
        self.call(Method::DELETE, &["v1", "apps", app, "services", service, "env", key], Body::Empty).await
    }

    // --- deployments, instances, builds ---

    /// Deployments of all the user's apps, newest first.
    pub async fn deployments(&self) -> Reply<Vec<Deployment>> {
        self.list(&["v1", "deployments"]).await
    }

    /// The newest deployments, at most so many.
    pub async fn newest_deployments(&self, limit: usize) -> Reply<Vec<Deployment>> {
        self.get(&["v1", "deployments"], &[("limit", limit.to_string())]).await
    }

    /// One deployment with its instances.
    pub async fn deployment(&self, id: &str) -> Reply<Deployment> {
        self.get(&["v1", "deployments", id], &[]).await
    }

    /// Makes a new deployment like an older one.
    pub async fn rollback_deployment(&self, id: &str) -> Reply<Deployment> {
        self.post(&["v1", "deployments", id, "rollback"], None).await
    }

    /// Why a deployment is as it is.
    pub async fn explain_deployment(&self, id: &str) -> Reply<Explanation> {
        self.get(&["v1", "deployments", id, "explain"], &[]).await
    }

    /// One instance.
    pub async fn instance(&self, id: &str) -> Reply<Instance> {
        self.get(&["v1", "instances", id], &[]).await
    }

    /// Why an instance is where it is.
    pub async fn explain_instance(&self, id: &str) -> Reply<Explanation> {
        self.get(&["v1", "instances", id, "explain"], &[]).await
    }

    /// Builds of all the user's apps, newest first.
    pub async fn builds(&self) -> Reply<Vec<Build>> {
        self.list(&["v1", "builds"]).await
    }

    /// The newest builds, at most so many.
    pub async fn newest_builds(&self, limit: usize) -> Reply<Vec<Build>> {
        self.get(&["v1", "builds"], &[("limit", limit.to_string())]).await
    }

    /// One build.
    pub async fn build(&self, id: &str) -> Reply<Build> {
        self.get(&["v1", "builds", id], &[]).await
    }

    /// How a build is done.
    pub async fn build_recipe(&self, id: &str) -> Reply<BuildRecipe> {
        self.get(&["v1", "builds", id, "recipe"], &[]).await
    }

    /// How a service would be built.
    pub async fn preview(&self, app: &str, service: &str) -> Reply<Preview> {
        self.post(&["v1", "apps", app, "services", service, "preview"], None).await
    }

    /// Ends a build.
    pub async fn cancel_build(&self, id: &str) -> Reply<Build> {
        self.post(&["v1", "builds", id, "cancel"], None).await
    }

    /// Builds again what failed.
    pub async fn retry_build(&self, id: &str) -> Reply<Deployment> {
        self.post(&["v1", "builds", id, "retry"], None).await
    }

    /// Starts a command in an instance.
    ///
    /// # Errors
    /// As every call; nothing was started then, unless the error is [`Error::Cut`].
    pub async fn exec(&self, instance: &str, command: &exec::Command) -> Result<(exec::Input, exec::Outputs), Error> {
        let key = generate_key();
        let request = Request {
            method: Method::GET,
            path: &["v1", "instances", instance, "exec"],
            query: &[],
            body: Body::WebSocket(&key),
            stream: None,
        };
        let response = self.connection.send(&request).await?;
        exec::start(response, &key, command, self.connection.address()).await
    }

    // --- logs and streams ---

    /// Log lines of an app.
    pub async fn logs(&self, app: &str, filter: &LogFilter) -> Reply<Logs> {
        self.get(&["v1", "apps", app, "logs"], &filter.query()).await
    }

    /// Log lines of an app as they are written.
    ///
    /// With `after`, the id of the last event that came, it goes on behind that.
    pub async fn log_events(&self, app: &str, filter: &LogFilter, after: Option<&str>) -> Result<Events, Error> {
        self.events(&["v1", "apps", app, "logs", "stream"], &filter.query(), after).await
    }

    /// What happens to a deployment: changes of its status, its build and its instances, and lines of its build log.
    ///
    /// With `after`, the id of the last event that came, it goes on behind that.
    pub async fn deployment_events(&self, id: &str, after: Option<&str>) -> Result<Events, Error> {
        self.events(&["v1", "deployments", id, "stream"], &[], after).await
    }

    // --- cluster ---

    /// Whether the node can do what a cluster's node is there for; needs no log-in.
    pub async fn ready(&self) -> Reply<Value> {
        self.get(&["ready"], &[]).await
    }

    /// The cluster at a glance, as one node sees it; works without a majority.
    pub async fn status(&self) -> Reply<Cluster> {
        self.get(&["v1", "status"], &[("consistency", "stale".to_owned())]).await
    }

    /// All nodes.
    pub async fn nodes(&self) -> Reply<Vec<Node>> {
        self.list(&["v1", "nodes"]).await
    }

    /// One node.
    pub async fn node(&self, node: &str) -> Reply<Node> {
        self.get(&["v1", "nodes", node], &[]).await
    }

    /// Where the instances of a node would go without it, or when it is removed.
    pub async fn moves_without(&self, node: &str, is_removed: bool) -> Reply<Vec<Move>> {
        self.get(&["v1", "nodes", node, "moves"], &[("removed", is_removed.to_string())]).await
    }

    /// What only a node has copies of.
    pub async fn only_copies(&self, node: &str) -> Reply<OnlyCopies> {
        self.get(&["v1", "nodes", node, "only-copies"], &[]).await
    }

    /// Keeps new work away from a node, or gives it work again.
    pub async fn cordon_node(&self, node: &str, cordoned: bool) -> Reply<Node> {
        self.post(&["v1", "nodes", node, if cordoned { "cordon" } else { "uncordon" }], Some(&json!({}))).await
    }

    /// What emptying a node does, or would do.
    pub async fn drain(&self, node: &str, stops: Option<(bool, bool)>) -> Reply<Drain> {
        let query = stops.map_or_else(Vec::new, |(exclusive, volumes)| {
            vec![("stop_exclusive", exclusive.to_string()), ("stop_volumes", volumes.to_string())]
        });
        self.get(&["v1", "nodes", node, "drain"], &query).await
    }

    /// Begins to empty a node; exclusive services and those with volumes stay unless they may be stopped.
    pub async fn drain_node(&self, node: &str, (exclusive, volumes): (bool, bool)) -> Reply<Drain> {
        let request = json!({ "stop_exclusive": exclusive, "stop_volumes": volumes });
        self.post(&["v1", "nodes", node, "drain"], Some(&request)).await
    }

    /// Changes labels of a node; those without a value are taken away.
    pub async fn label_node(&self, node: &str, labels: &BTreeMap<String, Option<String>>) -> Reply<Node> {
        let request = json!({ "labels": labels });
        self.call(Method::PATCH, &["v1", "nodes", node], Body::Json(&request)).await
    }

    /// What rebalancing would move.
    pub async fn rebalanced(&self, budget: u32) -> Reply<Vec<Relocation>> {
        self.get(&["v1", "rebalance"], &[("budget", budget.to_string())]).await
    }

    /// Has instances moved so that what runs is spread better, once.
    pub async fn rebalance(&self, budget: u32) -> Reply<Vec<Relocation>> {
        self.post(&["v1", "rebalance"], Some(&json!({ "budget": budget }))).await
    }

    /// What a repository is.
    pub async fn detect(&self, repository: &Value) -> Reply<Detection> {
        self.post(&["v1", "detect"], Some(repository)).await
    }

    /// What one more node would change.
    pub async fn joined(&self, newcomer: &[(&'static str, String)]) -> Reply<Vec<Relocation>> {
        self.get(&["v1", "simulate", "join"], newcomer).await
    }

    /// Ends the membership of a node; by force also when it has the only copy of something.
    pub async fn remove_node(&self, node: &str, force: bool) -> Reply<RemovedNode> {
        let (path, query) = (["v1", "nodes", node], [("force", force.to_string())]);
        let request = Request { method: Method::DELETE, path: &path, query: &query, body: Body::Empty, stream: None };
        self.request(request).await
    }

    /// The authority that signs the certificates of nodes.
    pub async fn authority(&self) -> Reply<Authority> {
        self.get(&["v1", "authority"], &[]).await
    }

    /// Begins to replace it.
    pub async fn rotate_authority(&self) -> Reply<Authority> {
        self.post(&["v1", "authority", "rotate"], None).await
    }

    /// All join tokens, without their secrets.
    pub async fn join_tokens(&self) -> Reply<Vec<JoinToken>> {
        self.list(&["v1", "join-tokens"]).await
    }

    /// Makes a join token.
    pub async fn create_join_token(&self, input: &Value) -> Reply<JoinToken> {
        self.post(&["v1", "join-tokens"], Some(input)).await
    }

    /// Takes a join token back.
    pub async fn revoke_join_token(&self, id: &str) -> Reply<JoinToken> {
        self.call(Method::DELETE, &["v1", "join-tokens", id], Body::Empty).await
    }

    /// Everything the cluster knows, in the clear: it must be sealed before it reaches a disk.
    pub async fn backup(&self) -> Result<impl AsyncRead + Send + Unpin + 'static, Error> {
        let path = &["v1", "backup"];
        let request = Request { method: Method::GET, path, query: &[], body: Body::Download, stream: None };
        let response = self.connection.send(&request).await?;
        let from = response.url().to_string();
        Ok(download::reader(response, from))
    }

    /// All settings of the cluster.
    pub async fn settings(&self) -> Reply<Value> {
        self.get(&["v1", "settings"], &[]).await
    }

    /// Makes a setting what it is by default.
    pub async fn reset_setting(&self, key: &str) -> Reply<Value> {
        self.call(Method::DELETE, &["v1", "settings", key], Body::Empty).await
    }

    /// Changes settings of the cluster.
    pub async fn change_settings(&self, settings: &Value) -> Reply<Value> {
        self.patch(&["v1", "settings"], settings).await
    }

    // --- how ---

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&'static str, String)]) -> Reply<T> {
        self.request(Request { method: Method::GET, path, query, body: Body::Empty, stream: None }).await
    }

    /// All pages of a list, as one.
    async fn list<T: DeserializeOwned>(&self, path: &[&str]) -> Reply<Vec<T>> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let query: Vec<(&'static str, String)> = cursor.map(|cursor| ("cursor", cursor)).into_iter().collect();
            let request = Request { method: Method::GET, path, query: &query, body: Body::Empty, stream: None };
            let response = self.connection.send(&request).await?;
            let from = response.url().to_string();
            let next = response.headers().get(NEXT_CURSOR).and_then(|next| next.to_str().ok()).map(str::to_owned);
            match body(response, &from).await? {
                Value::Array(page) => all.extend(page),
                _ => return Err(Error::Answer { from, reason: "it is not a list".to_owned() }),
            }
            // A cursor that does not move would never end.
            if next.as_ref().is_none_or(|next| query.first().is_some_and(|(_, cursor)| cursor == next)) {
                return Answer::read(Value::Array(all), &from);
            }
            cursor = next;
        }
    }

    async fn post<T: DeserializeOwned>(&self, path: &[&str], body: Option<&Value>) -> Reply<T> {
        self.call(Method::POST, path, body.map_or(Body::Empty, Body::Json)).await
    }

    async fn patch<T: DeserializeOwned>(&self, path: &[&str], body: &Value) -> Reply<T> {
        self.call(Method::PATCH, path, Body::Json(body)).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &[&str], body: Body<'_>) -> Reply<T> {
        self.request(Request { method, path, query: &[], body, stream: None }).await
    }

    async fn request<T: DeserializeOwned>(&self, request: Request<'_>) -> Reply<T> {
        let response = self.connection.send(&request).await?;
        let from = response.url().to_string();
        Answer::read(body(response, &from).await?, &from)
    }

    async fn events(
        &self,
        path: &[&str],
        query: &[(&'static str, String)],
        after: Option<&str>,
    ) -> Result<Events, Error> {
        let stream = Some(after.unwrap_or_default());
        let request = Request { method: Method::GET, path, query, body: Body::Empty, stream };
        let response = self.connection.send(&request).await?;
        let from = response.url().to_string();
        Ok(Events::new(response, from))
    }
}

/// The body of an answer; `null` when it has none.
async fn body(response: reqwest::Response, from: &str) -> Result<Value, Error> {
    let broken = |source: reqwest::Error| Error::Broken { from: from.to_owned(), source: source.without_url() };
    let bytes = response.bytes().await.map_err(broken)?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|error| Error::Answer { from: from.to_owned(), reason: error.to_string() })
}
