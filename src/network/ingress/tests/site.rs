//! An ingress with backends, and a client that says exactly what it is told to say.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use async_trait::async_trait;

use crate::decide::route_table::{Backend, Place, Route, RouteTable};
use crate::model::{InstanceId, NodeId};
use crate::network::{Carries, Ingress, IngressHandle, Limits, Options, Reach, ReachError, Wire};
use crate::random;
use crate::task::{OnError, Supervisor};

/// Longer than anything here takes; a test that reaches it has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) type Answer = Response<BoxBody<Bytes, Infallible>>;

pub(super) struct Site {
    pub(super) handle: IngressHandle,
    pub(super) supervisor: Supervisor,
    pub(super) routes: watch::Sender<Arc<RouteTable>>,
}

impl Site {
    /// Serves `a.test` from these backends.
    pub(super) async fn start(backends: &[Backend]) -> Self {
        Self::start_with(Limits::default(), backends).await
    }

    pub(super) async fn start_with(limits: Limits, backends: &[Backend]) -> Self {
        Self::start_at(limits, Arc::new(Nodes::default()), backends).await
    }

    /// With other nodes.
    pub(super) async fn start_at(limits: Limits, reach: Arc<dyn Reach>, backends: &[Backend]) -> Self {
        let (routes, receiver) = watch::channel(table(backends));
        let options = Options { address: Ipv4Addr::LOCALHOST.into(), port: 0, limits };
        let ingress = Ingress::bind(options, receiver, reach).await.unwrap();
        let supervisor = supervisor();
        let handle = ingress.handle();
        ingress.run(&supervisor);
        Self { handle, supervisor, routes }
    }

    pub(super) async fn connect(&self) -> TestClient {
        TestClient { stream: TcpStream::connect(self.handle.address()).await.unwrap() }
    }

    /// Says `text` on a connection of its own and returns everything that comes back until it is closed.
    pub(super) async fn ask(&self, text: &str) -> String {
        let mut client = self.connect().await;
        client.say(text).await;
        client.rest().await
    }

    pub(super) async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")).await
    }
}

pub(super) struct TestClient {
    pub(super) stream: TcpStream,
}

impl TestClient {
    pub(super) async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until `end` has come.
    pub(super) async fn until(&mut self, end: &str) -> String {
        let mut heard = Vec::new();
        let listen = async {
            while !heard.ends_with(end.as_bytes()) {
                match self.stream.read_u8().await {
                    Ok(byte) => heard.push(byte),
                    Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&heard)),
                }
            }
        };
        let in_time = timeout(DEADLINE, listen).await;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(in_time.is_ok(), "only {heard:?} came");
        heard
    }

    /// Reads until the connection is closed or cut.
    pub(super) async fn rest(&mut self) -> String {
        let mut heard = Vec::new();
        // A reset is an end, too.
        let end = timeout(DEADLINE, self.stream.read_to_end(&mut heard)).await;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(end.is_ok(), "the connection stays open after {heard:?}");
        heard
    }
}

pub(super) fn supervisor() -> Supervisor {
    Supervisor::new("test", CancellationToken::new())
}

pub(super) fn table(backends: &[Backend]) -> Arc<RouteTable> {
    let route = Route { backends: backends.to_vec() };
    Arc::new(RouteTable { routes: BTreeMap::from([("a.test".to_owned(), route)]) })
}

pub(super) fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("no answer")
}

/// A backend that does whatever `talk` does with each connection.
pub(super) async fn raw<F, T>(talk: F) -> (Backend, Supervisor)
where
    F: Fn(TcpStream) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let backend = at(listener.local_addr().unwrap());
    let supervisor = supervisor();
    let tasks = supervisor.clone();
    supervisor.spawn("backend", OnError::Log, async move {
        let stopping = tasks.stopping();
        while let Some(Ok((stream, _))) = stopping.run_until_cancelled(listener.accept()).await {
            let talk = talk(stream);
            tasks.spawn("backend connection", OnError::Log, async {
                talk.await;
                Ok::<_, Infallible>(())
            });
        }
        Ok::<_, Infallible>(())
    });
    (backend, supervisor)
}

/// A well-behaved HTTP/1.1 backend.
pub(super) async fn http<F, T>(answer: F) -> (Backend, Supervisor)
where
    F: Fn(Request<Incoming>) -> T + Clone + Send + 'static,
    T: Future<Output = Answer> + Send + 'static,
{
    raw(move |stream| {
        let answer = answer.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async { Ok::<_, Infallible>(answer.await) }
            });
            // An error is the ingress closing the connection, as some tests want it to.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        }
    })
    .await
}

/// A backend that answers with what it was asked.
pub(super) async fn mirror() -> (Backend, Supervisor) {
    http(|request| async {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
        for (name, value) in &parts.headers {
            text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        text.push_str(&format!("body: {}\n", String::from_utf8_lossy(&body)));
        reply(Full::from(text))
    })
    .await
}

pub(super) fn reply(body: impl Body<Data = Bytes, Error = Infallible> + Send + Sync + 'static) -> Answer {
    Response::new(body.boxed())
}

pub(super) fn at(address: SocketAddr) -> Backend {
    Backend { instance: random::id::<InstanceId>(), place: Place::Here(address) }
}

/// An address where nobody listens.
pub(super) async fn nobody() -> Backend {
    at(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap())
}

/// Other nodes: each leads to one address on this machine, or refuses.
#[derive(Default)]
pub(super) struct Nodes(pub(super) BTreeMap<NodeId, Result<SocketAddr, ReachError>>);

#[async_trait]
impl Reach for Nodes {
    async fn reach(&self, node: NodeId, _: InstanceId, _: u16, _: Carries) -> Result<Box<dyn Wire>, ReachError> {
        let there = self.0.get(&node).cloned();
        let address = there.unwrap_or_else(|| Err(ReachError::Node(format!("there is no node {node}"))))?;
        let stream = TcpStream::connect(address).await;
        Ok(Box::new(stream.map_err(|error| ReachError::Instance(error.to_string()))?))
    }
}

/// The same instance as another node has it.
pub(super) fn on(node: u64, backend: Backend) -> Backend {
    Backend { place: Place::There { node: NodeId(node), port: 80 }, ..backend }
}

/// Waits until something holds.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "{what}");
}
