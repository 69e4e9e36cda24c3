//! The API over a real Raft group of one, in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::{HeaderMap, Request};
use narvana::agent::{Exec, LocalExec};
use narvana::api::{self, Peer};
use narvana::artifact::{ArtifactStore, Fetcher, Holdings, Nobody};
use narvana::build::Inspector;
use narvana::consensus::{self, Consensus};
use narvana::logs::{self, Library, LogStore};
use narvana::model::{Cluster, ClusterId, Incarnation, NEWEST_CLUSTER_VERSION, NodeId, NodeResources, Secret};
use narvana::space::Space;
use narvana::state::{Actor, Command, LogEntry, NodeFacts, Outcome};
use narvana::store::{self, SealKey, Store};
use narvana::task::Supervisor;
use narvana::telemetry::Metrics;
use narvana::{clock, random};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Longest wait for something that should happen soon.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Somebody on this machine.
pub(crate) const LOCAL: &str = "127.0.0.1:40000";
/// Somebody on another machine, over HTTPS.
pub(crate) const REMOTE: &str = "192.0.2.7:40000";

/// An API that is called without a network.
pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) consensus: Consensus,
    pub(crate) logs: LogStore,
    pub(crate) stopping: CancellationToken,
    pub(crate) token: String,
    exec: LocalExec,
    artifacts: ArtifactStore,
    folder: TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl Reply {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json
    }

    /// An error in the one shape.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.json["code"].as_str()), (status, Some(code)), "{}", self.text);
        let fields: Vec<&String> = self.json.as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["code", "details", "message", "request_id"], "{}", self.text);
        assert!(self.json["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", self.text);
        assert_eq!(self.json["request_id"].as_str(), self.headers["x-request-id"].to_str().ok(), "{}", self.text);
        assert!(self.headers.contains_key("x-narvana-index"));
        self.json
    }
}

pub(crate) fn options() -> api::Options {
    api::Options { setup_token: Some(Secret::new(*b"let me in")), ingress_port: Some(8000), ..api::Options::default() }
}

impl Api {
    /// With nobody registered.
    pub(crate) async fn empty(options: api::Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        let key = SealKey::create(&data.join(store::KEY_FILE)).expect("a key");
        let (cluster, node) = (random::id::<ClusterId>(), NodeId::FOUNDER);
        let fatal = CancellationToken::new();
        let store =
            Store::open(store::Options { folder: data, cluster, node, key, fatal: fatal.clone() }).expect("opens");
        let part = |name| Supervisor::new(name, fatal.clone());
        let choices = consensus::Options::default();
        let consensus =
            Consensus::start(node, choices, store, Arc::new(consensus::NoTransport), part("consensus")).await;
        let consensus = consensus.expect("starts");
        consensus.initialize("127.0.0.1:9090").await.expect("leads");
        let cluster = Cluster {
            id: cluster,
            token_key: Secret::new(random::bytes::<32>()),
            ca_certificate: String::new(),
            ca_key: Secret::new([]),
            rotation: None,
            rebalance: 0,
            cluster_version: 2,
            created_at: clock::now(),
        };
        let logs =
            LogStore::open(folder.path().join("logs"), logs::Options::default(), part("logs")).await.expect("logs");
        let artifacts = ArtifactStore::open(folder.path().join("artifacts")).await.expect("artifacts");
        let stopping = CancellationToken::new();
        let exec = LocalExec::new(node, consensus.watch(), watch::channel(None).1, part("agent"));
        let (router, token) = (Router::new(), String::new());
        let mut api = Self { router, consensus, logs, exec, stopping, token, artifacts, folder };
        api.router = api::router(api.parts(), options, api.stopping.clone());
        api.apply(Command::InitCluster(cluster)).await;
        api
    }

    /// With the first user, whose token is used.
    pub(crate) async fn registered() -> Self {
        Self::registered_with(options()).await
    }

    pub(crate) async fn registered_with(options: api::Options) -> Self {
        let mut api = Self::empty(options).await;
        let answer = api.post("/auth/register", &credentials()).await.expect(201);
        api.token = answer["token"].as_str().expect("a token").to_owned();
        api
    }

    pub(crate) fn parts(&self) -> api::Parts {
        api::Parts {
            consensus: self.consensus.clone(),
            logs: Library::of_one(self.logs.clone()),
            exec: Exec::of_one(self.exec.clone()),
            artifacts: Holdings::new(NodeId::FOUNDER, self.artifacts.clone(), Arc::new(Nobody)),
            metrics: Metrics::default(),
            inspector: Inspector::new(
                self.folder.path().to_owned(),
                Space::of(self.folder.path()),
                true,
                Fetcher::new(self.artifacts.clone(), Arc::new(Nobody)),
                "github:a/b".to_owned(),
                Supervisor::new("test", CancellationToken::new()),
            ),
        }
    }

    /// Files of uploaded sources, whole or not.
    pub(crate) fn artifact_files(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("artifacts")).expect("the folder").count()
    }

    /// Repositories that were looked at and are still there.
    pub(crate) fn left_of_detection(&self) -> usize {
        let entries = std::fs::read_dir(self.folder.path()).expect("the folder").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("detect-")).count()
    }

    /// What the platform itself does.
    pub(crate) async fn apply(&self, command: Command) -> Outcome {
        let entry = LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command };
        self.consensus.propose(entry).await.expect("accepted").outcome
    }

    /// Registers the one node, as a run of the program that it gives back.
    pub(crate) async fn register_node(&self) -> Incarnation {
        let incarnation = random::id();
        self.apply(Command::RegisterNode(NodeFacts {
            id: NodeId::FOUNDER,
            name: "one".to_owned(),
            address: "127.0.0.1".to_owned(),
            api_port: 8080,
            grpc_port: 9090,
            ingress_http_port: 0,
            arch: "amd64".to_owned(),
            version: "0.1.0".to_owned(),
            cluster_version_max: NEWEST_CLUSTER_VERSION,
            engine: Ok("podman 4.3.1".to_owned()),
            resources: NodeResources::default(),
            labels: BTreeMap::new(),
            incarnation,
        }))
        .await;
        incarnation
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, body).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.request(self.build(method, path, body, LOCAL)).await
    }

    pub(crate) fn build(&self, method: &str, path: &str, body: &Value, from: &str) -> Request<Body> {
        let mut request = Request::builder().method(method).uri(path);
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        let address: SocketAddr = from.parse().expect("an address");
        request = request.extension(Peer { address, tls: from == REMOTE });
        if body.is_null() {
            return request.body(Body::empty()).expect("a request");
        }
        request.header("content-type", "application/json").body(Body::from(body.to_string())).expect("a request")
    }

    pub(crate) async fn open(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.expect("infallible")
    }

    pub(crate) async fn request(&self, request: Request<Body>) -> Reply {
        let (parts, body) = self.open(request).await.into_parts();
        let bytes = to_bytes(body, 16 << 20).await.expect("a body");
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            json: serde_json::from_slice(&bytes).unwrap_or_default(),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

pub(crate) fn credentials() -> Value {
    json!({"email": "ada@example.org", "password": "correct horse"})
}

pub(crate) fn image_service(name: &str) -> Value {
    json!({"name": name, "image": "docker.io/library/nginx:1.27"})
}
