//! Connections from the containers of an app to services of the same app.
//!
//! Comes in: sockets that listen inside containers, and how each app's services are found on this node
//! ([`Discovery`]), through a watch channel. Goes out: bytes, to an instance on this machine or through another node.
//! The address that a program connected to says which service it wants, the port which port of it. While a service has no
//! healthy instance its clients wait for one, as long as most programs wait for a connection. Deliberately absent: what
//! the bytes mean, and services of other apps, which nobody in a container can name.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{ip_original_dst, set_socket_linger};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Carries, Reach, Wire};
use crate::decide::discovery::Discovery;
use crate::decide::route_table::{Backend, Place};
use crate::model::AppId;
use crate::random;
use crate::task::{OnError, Supervisor};

/// How each app's services are found on this node.
pub type Discoveries = Arc<BTreeMap<AppId, Discovery>>;

/// How long a connection waits for a healthy instance: longer than one version takes to follow another, shorter than clients
/// wait for an answer.
const INSTANCE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long an instance may take to accept a connection before another one is tried.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Pause before instances that could not be reached are tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Connections of one container, for the memory and the files that they take; more wait until one has ended.
const CONNECTIONS_MAX: usize = 512;
/// And of all containers of a node.
const CONNECTIONS_OF_ALL_MAX: usize = 4_096;
/// Pause when no connection can be accepted: no file is left.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// What is on its way in each direction of a connection.
const BUFFER_BYTES: usize = 16 * 1024;

/// Carries connections of containers to services of their apps.
#[derive(Clone)]
pub struct Relay {
    discoveries: watch::Receiver<Discoveries>,
    reach: Arc<dyn Reach>,
    supervisor: Supervisor,
    places: Arc<Semaphore>,
}

impl Relay {
    /// To the services that these name; the tasks belong to the supervisor.
    pub fn new(discoveries: watch::Receiver<Discoveries>, reach: Arc<dyn Reach>, supervisor: Supervisor) -> Self {
        Self { discoveries, reach, supervisor, places: Arc::new(Semaphore::new(CONNECTIONS_OF_ALL_MAX)) }
    }

    /// Serves a socket that listens inside a container of this app, until the guard is dropped.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn serve(&self, app: AppId, listener: std::net::TcpListener) -> io::Result<DropGuard> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let stop = self.supervisor.stopping().child_token();
        let guard = stop.clone().drop_guard();
        self.supervisor.spawn("relay", OnError::Log, self.clone().accept(app, listener, stop));
        Ok(guard)
    }

    async fn accept(self, app: AppId, listener: TcpListener, stop: CancellationToken) -> Result<(), Infallible> {
        let own = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut refused = false;
        loop {
            let accepted = async {
                let place = Arc::clone(&own).acquire_owned().await.expect("never closed");
                let of_all = Arc::clone(&self.places).acquire_owned().await.expect("never closed");
                (listener.accept().await, (place, of_all))
            };
            let Some((accepted, places)) = stop.run_until_cancelled(accepted).await else { return Ok(()) };
            match accepted {
                Ok((client, _)) => {
                    refused = false;
                    let (relay, stop) = (self.clone(), stop.clone());
                    self.supervisor.spawn("relayed connection", OnError::Log, async move {
                        relay.carry(app, client, stop).await;
                        drop(places);
                        Ok::<(), Infallible>(())
                    });
                }
                Err(error) => {
                    if !refused {
                        tracing::warn!(%error, "connections from a container cannot be accepted");
                    }
                    refused = true;
                    sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn carry(&self, app: AppId, mut client: TcpStream, stop: CancellationToken) {
        let carried = async {
            breaks_off(&client, true)?;
            // Without it each small message waits some 40 ms.
            client.set_nodelay(true)?;
            let wanted = ip_original_dst(&client)?;
            let mut far = self.open(app, wanted).await.map_err(io::Error::other)?;
            if let Far::Here(stream) = &far {
                breaks_off(stream, true)?;
            }
            copy_bidirectional_with_sizes(&mut client, far.wire(), BUFFER_BYTES, BUFFER_BYTES).await?;
            if let Far::Here(stream) = &far {
                breaks_off(stream, false)?;
            }
            breaks_off(&client, false)
        };
        let error = match stop.run_until_cancelled(carried).await {
            Some(Ok(())) => return,
            Some(Err(error)) => error,
            None => io::Error::other("its container has ended, or the node stops"),
        };
        tracing::debug!(%app, %error, "a connection to a service of the same app was cut off");
    }

    /// A connection to the service at this address.
    async fn open(&self, app: AppId, wanted: SocketAddrV4) -> Result<Far, String> {
        let deadline = Instant::now() + INSTANCE_WAIT_MAX;
        let mut discoveries = self.discoveries.clone();
        let mut last = None;
        loop {
            let found = discoveries.borrow_and_update().clone();
            let target = found.get(&app).and_then(|discovery| discovery.at(*wanted.ip()));
            let target = target.ok_or_else(|| format!("no service of the app is at {}", wanted.ip()))?;
            let backends = target.ports.get(&wanted.port()).ok_or_else(|| {
                format!("service {} does not name port {}; add it to the service's ports", target.name, wanted.port())
            })?;
            for backend in in_turn(backends) {
                match timeout_at(deadline.min(Instant::now() + CONNECT_MAX), self.connect(backend)).await {
                    Ok(Ok(wire)) => return Ok(wire),
                    Ok(Err(reason)) => last = Some(reason),
                    Err(_) => last = Some(format!("instance {} does not answer", backend.instance)),
                }
            }
            if Instant::now() >= deadline {
                let last = last.unwrap_or_else(|| "none of its instances is healthy".to_owned());
                return Err(format!("service {}: {last}", target.name));
            }
            tokio::select! {
                changed = discoveries.changed() => changed.map_err(|_| "the node stops".to_owned())?,
                () = tokio::time::sleep_until(deadline.min(Instant::now() + AGAIN_AFTER)) => {}
            }
        }
    }

    async fn connect(&self, backend: Backend) -> Result<Far, String> {
        match backend.place {
            Place::Here(address) => {
                Ok(Far::Here(connect(address).await.map_err(|error| format!("{address}: {error}"))?))
            }
            Place::There { node, port } => {
                let reached = self.reach.reach(node, backend.instance, port, Carries::Service).await;
                reached.map(Far::There).map_err(|error| error.to_string())
            }
        }
    }
}

/// Those of this machine first; any of the others.
fn in_turn(backends: &[Backend]) -> Vec<Backend> {
    let mut all = backends.to_vec();
    if !all.is_empty() {
        let first = usize::from(u16::from_be_bytes(random::bytes())) % all.len();
        all.rotate_left(first);
    }
    all.sort_by_key(|backend| backend.place.node().is_some());
    all
}

/// The other end of a connection.
enum Far {
    /// An instance of this machine.
    Here(TcpStream),
    /// One that another node leads to, which tells an end and a break apart.
    There(Box<dyn Wire>),
}

impl Far {
    fn wire(&mut self) -> &mut (dyn Wire + 'static) {
        match self {
            Self::Here(stream) => stream,
            Self::There(wire) => &mut **wire,
        }
    }
}

/// Whether a connection that is dropped breaks off, so that nobody takes that for the end of what was sent.
fn breaks_off(stream: &TcpStream, breaks: bool) -> io::Result<()> {
    Ok(set_socket_linger(stream, breaks.then_some(Duration::ZERO))?)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use async_trait::async_trait;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::decide::discovery::Target;
    use crate::model::{InstanceId, NodeId};
    use crate::network::ReachError;
    use crate::random;

    const DB: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 64, 1, 1), 5432);

    /// Nodes that answer with their number, but for those that are down and those that never do.
    struct Nodes;

    const DOWN: u64 = 8;
    const HANGS: u64 = 9;

    #[async_trait]
    impl Reach for Nodes {
        async fn reach(
            &self,
            node: NodeId,
            _: InstanceId,
            port: u16,
            carries: Carries,
        ) -> Result<Box<dyn Wire>, ReachError> {
            assert_eq!((port, carries), (DB.port(), Carries::Service));
            match node.0 {
                DOWN => return Err(ReachError::Node("node 8 is down".to_owned())),
                HANGS => std::future::pending().await,
                _ => {}
            }
            let (ours, mut theirs) = tokio::io::duplex(64);
            theirs.write_u64(node.0).await.expect("there is room");
            Ok(Box::new(ours))
        }
    }

    struct Scene {
        app: AppId,
        relay: Relay,
        discoveries: watch::Sender<Discoveries>,
    }

    impl Scene {
        fn new() -> Self {
            let (discoveries, known) = watch::channel(Discoveries::default());
            let supervisor = Supervisor::new("relay", CancellationToken::new());
            let scene = Self { app: random::id(), relay: Relay::new(known, Arc::new(Nodes), supervisor), discoveries };
            scene.at(&[]);
            scene
        }

        /// The service runs there now.
        fn at(&self, places: &[Place]) {
            let backends = places.iter().map(|place| Backend { instance: random::id(), place: *place }).collect();
            let target = Target {
                name: "db".to_owned(),
                full_name: "db.shop.internal".to_owned(),
                ports: BTreeMap::from([(DB.port(), backends)]),
            };
            let discovery = Discovery::of(BTreeMap::from([(*DB.ip(), target)]));
            self.discoveries.send_replace(Arc::new(BTreeMap::from([(self.app, discovery)])));
        }

        /// The number of the node that a connection came to.
        async fn open(&self) -> Result<u64, String> {
            let mut far = self.relay.open(self.app, DB).await?;
            Ok(far.wire().read_u64().await.expect("a number"))
        }
    }

    fn there(node: u64) -> Place {
        Place::There { node: NodeId(node), port: DB.port() }
    }

    #[tokio::test(start_paused = true)]
    async fn all_instances_are_used_and_one_that_cannot_be_reached_is_passed_over() {
        let scene = Scene::new();
        scene.at(&[there(1), there(2)]);
        let mut seen = BTreeSet::new();
        for _ in 0..64 {
            seen.insert(scene.open().await.expect("reached"));
        }
        assert_eq!(seen, BTreeSet::from([1, 2]));
        for down in [DOWN, HANGS] {
            scene.at(&[there(down), there(3)]);
            assert_eq!((scene.open().await, scene.open().await), (Ok(3), Ok(3)));
        }
    }

    #[tokio::test]
    async fn an_instance_on_this_machine_comes_first() {
        let scene = Scene::new();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let here = Place::Here(listener.local_addr().expect("bound"));
        scene.at(&[there(1), here, there(2)]);
        for _ in 0..3 {
            let (answer, accepted) = tokio::join!(scene.open(), async {
                let (mut stream, _) = listener.accept().await.expect("accepted");
                stream.write_u64(77).await.expect("written");
            });
            assert_eq!((answer, accepted), (Ok(77), ()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_wait_for_an_instance_and_not_for_ever() {
        let scene = Scene::new();
        let begun = Instant::now();
        let (answer, ()) = tokio::join!(scene.open(), async {
            sleep(Duration::from_secs(3)).await;
            scene.at(&[there(4)]);
        });
        assert_eq!((answer, begun.elapsed()), (Ok(4), Duration::from_secs(3)));

        scene.at(&[]);
        let begun = Instant::now();
        assert_eq!(scene.open().await, Err("service db: none of its instances is healthy".to_owned()));
        assert_eq!(begun.elapsed(), INSTANCE_WAIT_MAX);
        scene.at(&[there(DOWN)]);
        assert_eq!(scene.open().await, Err("service db: node 8 is down".to_owned()));
    }

    #[tokio::test]
    async fn nothing_but_ports_of_services_of_the_app_is_reached() {
        let scene = Scene::new();
        scene.at(&[there(1)]);
        let refusal = async |app, address| match scene.relay.open(app, address).await {
            Ok(_) => panic!("it was let in"),
            Err(reason) => reason,
        };
        let other_port = SocketAddrV4::new(*DB.ip(), 22);
        assert!(refusal(scene.app, other_port).await.contains("service db does not name port 22"));
        let nobody = SocketAddrV4::new(Ipv4Addr::LOCALHOST, DB.port());
        assert!(refusal(scene.app, nobody).await.contains("no service of the app is at 127.0.0.1"));
        assert!(refusal(random::id(), DB).await.contains("no service of the app"));
    }
}
