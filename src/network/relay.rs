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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::sockopt::ip_original_dst;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Carries, Reach, Wire};
use crate::decide::discovery::Discovery;
use crate::decide::route_table::{Backend, Place};
use crate::model::AppId;
use crate::task::{OnError, Supervisor};

/// How each app's services are found on this node.
pub type Discoveries = Arc<BTreeMap<AppId, Discovery>>;

/// How long a connection waits for a healthy instance: longer than one takes to be started elsewhere, shorter than clients
/// wait for an answer.
const INSTANCE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long an instance may take to accept a connection before another one is tried.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Pause before instances that could not be reached are tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Connections of one container, for the memory and the files that they take; more wait until one has ended.
const CONNECTIONS_MAX: usize = 1_024;
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
    /// Whose turn it is of several instances on other nodes.
    turn: Arc<AtomicUsize>,
}

impl Relay {
    /// To the services that these name; the tasks belong to the supervisor.
    pub fn new(discoveries: watch::Receiver<Discoveries>, reach: Arc<dyn Reach>, supervisor: Supervisor) -> Self {
        Self { discoveries, reach, supervisor, turn: Arc::default() }
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
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = async {
                let place = Arc::clone(&room).acquire_owned().await.expect("never closed");
                (listener.accept().await, place)
            };
            let (client, place) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                (accepted, place) = accepted => match accepted {
                    Ok((client, _)) => (client, place),
                    Err(error) => {
                        tracing::warn!(%error, "a connection from a container cannot be accepted");
                        sleep(ACCEPT_AGAIN_AFTER).await;
                        continue;
                    }
                }
            };
            let (relay, stop) = (self.clone(), stop.clone());
            self.supervisor.spawn("relayed connection", OnError::Log, async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = relay.carry(app, client) => {}
                }
                drop(place);
                Ok::<(), Infallible>(())
            });
        }
    }

    /// One connection, from its beginning to its end.
    async fn carry(&self, app: AppId, mut client: TcpStream) {
        // The client shall not take an end for which nobody asked for the end of what was sent.
        let broke_off = |client: &TcpStream, reason: &dyn std::fmt::Display| {
            tracing::debug!(%app, %reason, "a connection to a service of the same app was cut off");
            if let Err(error) = client.set_zero_linger() {
                tracing::debug!(%error, "a connection ends as if all had been sent");
            }
        };
        // Without the second each small message waits some 40 ms.
        let wanted = ip_original_dst(&client).map_err(io::Error::from);
        let wire = match wanted.and_then(|wanted| client.set_nodelay(true).map(|()| wanted)) {
            Ok(wanted) => self.open(app, wanted).await,
            Err(error) => Err(error.to_string()),
        };
        let mut wire = match wire {
            Ok(wire) => wire,
            Err(reason) => return broke_off(&client, &reason),
        };
        if let Err(error) = copy_bidirectional_with_sizes(&mut client, &mut wire, BUFFER_BYTES, BUFFER_BYTES).await {
            broke_off(&client, &error);
        }
    }

    /// A connection to the service at this address.
    async fn open(&self, app: AppId, wanted: SocketAddrV4) -> Result<Box<dyn Wire>, String> {
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
            for backend in self.in_turn(backends) {
                match timeout(CONNECT_MAX, self.connect(backend)).await {
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

    /// Those of this machine first, the others taking turns.
    fn in_turn(&self, backends: &[Backend]) -> Vec<Backend> {
        let mut all = backends.to_vec();
        if !all.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % all.len();
            all.rotate_left(turn);
        }
        all.sort_by_key(|backend| backend.place.node().is_some());
        all
    }

    async fn connect(&self, backend: Backend) -> Result<Box<dyn Wire>, String> {
        match backend.place {
            Place::Here(address) => {
                Ok(Box::new(connect(address).await.map_err(|error| format!("{address}: {error}"))?))
            }
            Place::There { node, port } => {
                let reached = self.reach.reach(node, backend.instance, port, Carries::Service).await;
                reached.map_err(|error| error.to_string())
            }
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
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
            Ok(self.relay.open(self.app, DB).await?.read_u64().await.expect("a number"))
        }
    }

    fn there(node: u64) -> Place {
        Place::There { node: NodeId(node), port: DB.port() }
    }

    #[tokio::test(start_paused = true)]
    async fn instances_take_turns_and_one_that_cannot_be_reached_is_passed_over() {
        let scene = Scene::new();
        scene.at(&[there(1), there(2)]);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(scene.open().await.expect("reached"));
        }
        assert_eq!(seen, [1, 2, 1, 2]);
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
