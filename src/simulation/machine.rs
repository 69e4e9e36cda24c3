//! A machine of the simulation: a disk, an engine, and the node's process, which can be killed and started again.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::disk::SimDisk;
use super::guard::SimGuard;
use super::ledger::Ledger;
use super::network::{Cable, Net, Place};
use crate::agent::{self, Agent, Drain, EngineState};
use crate::artifact::oci::Registry;
use crate::artifact::{ArtifactStore, Fetcher, Nobody};
use crate::config::cluster_versions;
use crate::consensus::{self, Consensus, Mark, Peer};
use crate::control::{self, Control};
use crate::engine::fake::{End, FakeEngine, Pace};
use crate::engine::{Engine, Image};
use crate::host::{self, Host};
use crate::logs::{self, LogStore};
use crate::model::{ClusterId, Cpu, Digest, Memory, NodeId, NodeResources, Timestamp, image_by_digest};
use crate::node::{admit, keep_registered};
use crate::random;
use crate::space::Space;
use crate::state::NodeFacts;
use crate::store::crash_disk::{Dice, Fate};
use crate::store::{self, KEY_FILE, SealKey, Store};
use crate::task::{OnError, Supervisor};

/// The names of an image there are: of one version, and of the newest.
pub(super) const IMAGES: [&str; 2] = ["registry.test/web:1", "registry.test/web"];
/// More machines than any run has.
const MACHINES_MAX: u8 = 32;
/// How long calls to an engine take at most.
const CALL_MAX: Duration = Duration::from_millis(80);
/// Longest wait for a process to start.
const START_MAX: Duration = Duration::from_secs(30);

/// How processes are set up in this run.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) consensus: consensus::Options,
    /// How long a disk takes at most.
    pub(super) disk: Duration,
}

pub(super) struct Machine {
    pub(super) number: usize,
    pub(super) node: NodeId,
    cluster: ClusterId,
    folder: TempDir,
    key: SealKey,
    pub(super) disk: SimDisk,
    pub(super) engine: Arc<FakeEngine>,
    guard: SimGuard,
    /// When it was switched on.
    booted: Instant,
    pub(super) process: Option<Process>,
    doors: Vec<Peer>,
    /// What its store held for certain when it was killed.
    held: Mark,
    /// How far its clock on the wall is off, in milliseconds.
    clock: Arc<AtomicI64>,
    /// Its disk has changed bits.
    pub(super) is_damaged: bool,
    /// The damage was found while its node ran, which has ended for good.
    is_lost: Rc<Cell<bool>>,
}

/// A running process of a node.
pub(super) struct Process {
    pub(super) host: Host,
    pub(super) consensus: Consensus,
    store: Store,
    pub(super) fatal: CancellationToken,
}

struct NothingOpen;

#[async_trait]
impl Drain for NothingOpen {
    async fn drained(&self, _: crate::model::InstanceId, _: Duration) {}
}

impl Machine {
    /// A machine with an empty disk, which belongs to a node.
    pub(super) fn new(
        number: usize,
        (node, cluster): (NodeId, ClusterId),
        doors: Vec<Peer>,
        wall: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = SealKey::create(&folder.path().join(KEY_FILE)).expect("a key");
        let clock = Arc::new(AtomicI64::new(0));
        let off = Arc::clone(&clock);
        let engine = Arc::new(FakeEngine::with_pace(Pace {
            now: Box::new(move || Timestamp(wall().0 + off.load(Ordering::Relaxed))),
            wait: Box::new(|most| host::some_time(most).boxed()),
            call: CALL_MAX,
            stop: agent_options(cluster, node).stop_grace,
        }));
        // The tag moves on: each machine that asks for it gets another image, and anyone that a machine got by its digest.
        for other in 0..MACHINES_MAX {
            let digest = Digest::new([other; 32]);
            let image = Image {
                id: format!("sha256:{other:064x}"),
                bytes: 1,
                exposed_ports: Vec::new(),
                architecture: None,
                digest: Some(digest),
            };
            if usize::from(other) == number {
                IMAGES.iter().for_each(|name| engine.add_remote_image(name, image.clone()));
            }
            engine.add_remote_image(&image_by_digest(IMAGES[0], &digest), image);
        }
        Self {
            number,
            node,
            cluster,
            folder,
            key,
            disk: SimDisk::new(),
            guard: SimGuard::new(Arc::clone(&engine), agent_options(cluster, node), Instant::now()),
            booted: Instant::now(),
            engine,
            process: None,
            doors,
            held: Mark::default(),
            clock,
            is_damaged: false,
            is_lost: Rc::default(),
        }
    }

    /// Starts the process. An error is what the node would end with.
    pub(super) async fn start(
        &mut self,
        (seed, wall): (u64, Timestamp),
        settings: &Settings,
        net: &Net,
        ledger: &Rc<Ledger>,
    ) -> Result<(), String> {
        let host = Host::new(seed, self.booted, Timestamp(wall.0 + self.clock.load(Ordering::Relaxed)), settings.disk);
        let fatal = CancellationToken::new();
        let options = store::Options {
            folder: self.folder.path().to_owned(),
            cluster: self.cluster,
            node: self.node,
            key: self.key.clone(),
            fatal: fatal.clone(),
        };
        let store = host.run(|| Store::open_on(&self.disk, options)).map_err(|error| error.to_string())?;
        if !Mark::found(&store.log()).reaches(&self.held) {
            ledger.accuse(format!("node {} has forgotten what was on its disk", self.node));
        }
        let view = store.machine().view().borrow().clone();
        ledger.compare(&format!("node {}", self.node), view.index, &view.state);
        let cable = Cable { net: net.clone(), machine: self.number, node: self.node, host: host.clone() };
        let options = consensus::Options { doors: self.doors.clone(), ..settings.consensus.clone() };
        let (node, kept) = (self.node, store.clone());
        let part = Supervisor::new("consensus", fatal.clone());
        let started = on(&host, START_MAX, async move {
            Consensus::start(node, options, kept, Arc::new(cable), part).await.map_err(|error| error.to_string())
        });
        let consensus = started.await.unwrap_or(Err("it did not start in time".to_owned()))?;
        let place = Place {
            node: self.node,
            host: host.clone(),
            receiver: consensus.receiver(),
            admit: admit(consensus.watch()),
        };
        net.listen(self.number, place);
        self.hear_the_end(host.clone(), fatal.clone(), Rc::clone(ledger));
        self.process = Some(Process { host, consensus, store, fatal });
        Ok(())
    }

    /// A node ends itself when its disk fails, or it has found damage; else it is a defect.
    fn hear_the_end(&self, host: Host, fatal: CancellationToken, ledger: Rc<Ledger>) {
        let (disk, node, is_damaged, is_lost) =
            (self.disk.clone(), self.node, self.is_damaged, Rc::clone(&self.is_lost));
        tokio::task::spawn_local(async move {
            fatal.cancelled().await;
            if host.is_dead() {
                return;
            }
            host.kill();
            if is_damaged {
                is_lost.set(true);
            } else if !disk.has_failed() {
                ledger.accuse(format!("node {node} has ended itself, and nothing was wrong with its disk"));
            }
        });
    }

    /// Whether its node has ended for good.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    /// Sets its clock on the wall.
    pub(super) fn set_clock(&self, by: i64) {
        self.clock.fetch_add(by, Ordering::Relaxed);
        if let Some(process) = &self.process {
            process.host.set_clock(by);
        }
    }

    /// Starts what makes the process a node: its agent, its registration, and what leads.
    pub(super) fn take_part(&self, dice: &mut Dice) {
        let Some(process) = &self.process else { return };
        let (engine, found) = (Arc::clone(&self.engine) as Arc<dyn Engine>, Ok("fake 1".to_owned()));
        let engine_state = EngineState::new("looking");
        engine_state.set_found(found);
        let (consensus, fatal, guard) = (process.consensus.clone(), process.fatal.clone(), self.guard.clone());
        let (folder, cluster, node, number) = (self.folder.path().to_owned(), self.cluster, self.node, self.number);
        let labels = [("zone".to_owned(), format!("z{}", dice.roll(3)))].into();
        process.host.spawn(async move {
            let part = Supervisor::new("node", fatal);
            let (_found, engine) = watch::channel(Some(engine));
            let facts = NodeFacts {
                id: node,
                name: format!("m{number}"),
                address: format!("m{number}"),
                api_port: 8080,
                grpc_port: 9090,
                ingress_http_port: 0,
                arch: "amd64".to_owned(),
                version: "0.1.0".to_owned(),
                cluster_version_max: *cluster_versions().end(),
                engine: Err("looking".to_owned()),
                resources: NodeResources {
                    cpu: Cpu::from_millis(8_000),
                    memory: Memory::from_mebibytes(8_192),
                    disk: Memory::from_mebibytes(10_240),
                },
                labels,
                incarnation: random::id(),
            };
            let keep = keep_registered(consensus.clone(), facts, false, engine_state.clone(), part.stopping());
            part.spawn("registration", OnError::StopNode, keep);
            let space = Space::of(&folder);
            let artifacts = ArtifactStore::open(space.at(folder.join("artifacts"))).await.expect("opens");
            let logs = LogStore::open(space.at(folder.join("logs")), logs::Options::default(), part.clone());
            let logs = logs.await.expect("opens");
            let registry = Registry::bind(Fetcher::new(artifacts, Arc::new(Nobody))).await.expect("binds").handle();
            let agent = Agent::new(
                agent_options(cluster, node),
                agent::Parts {
                    consensus: consensus.clone(),
                    engine,
                    logs,
                    registry,
                    drain: Arc::new(NothingOpen),
                    guard: Arc::new(guard),
                    hosts: agent::Hosts::new(PathBuf::new()),
                    supervisor: part.clone(),
                },
                engine_state,
            );
            part.spawn("agent", OnError::StopNode, agent.run());
            let control = Control::new(control::Options::default(), consensus);
            part.spawn("control", OnError::StopNode, control.run(part.stopping()));
            // The supervisor ends its tasks when it is dropped.
            std::future::pending::<()>().await;
        });
    }

    /// Kills the process. With the machine, what was not synced meets its fate, and containers end.
    pub(super) fn kill(&mut self, power: Option<(Fate, &mut Dice)>) {
        let Some(process) = self.process.take() else { return };
        self.held = Mark::found(&process.store.log());
        // First: nothing may be tidied up on the disk of a process that was killed.
        match power {
            None => self.disk.cut(Fate::Kept, &mut Dice(0)),
            Some((fate, dice)) => {
                self.disk.cut(fate, dice);
                self.guard.end();
                for container in self.engine.containers() {
                    self.engine.end(&container.id, End::Exit(137));
                }
            }
        }
        process.host.kill();
    }

    /// Its process, if it runs.
    pub(super) fn consensus(&self) -> Option<(Host, Consensus)> {
        let process = self.process.as_ref()?;
        Some((process.host.clone(), process.consensus.clone()))
    }
}

fn agent_options(cluster: ClusterId, node: NodeId) -> agent::Options {
    agent::Options { cluster, node, stop_grace: Duration::from_secs(2), drain_max: Duration::from_secs(2) }
}

/// Does something on a machine and waits for it. Nothing comes when the machine dies, or it takes longer than this.
pub(super) async fn on<T: Send + 'static>(
    host: &Host,
    patience: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    host.spawn(async move {
        let _nobody_waits = done.send(work.await);
    });
    timeout(patience, result).await.ok()?.ok()
}
