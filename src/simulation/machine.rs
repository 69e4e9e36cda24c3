//! A machine of the simulation: a disk, an engine, and the node's process, which can be killed and started again.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::disk::SimDisk;
use super::guard::SimGuard;
use super::ledger::Ledger;
use super::network::{Cable, Net, Place};
use crate::agent::{self, Agent, Drain, EngineState};
use crate::artifact::oci::Registry;
use crate::artifact::{ArtifactStore, Fetcher, Nobody};
use crate::config::cluster_versions;
use crate::consensus::{self, Consensus, Mark, Peer, View};
use crate::control::{self, Control};
use crate::engine::fake::{self, FakeEngine, Pace};
use crate::engine::{Engine, Image};
use crate::host::{self, Clocks, Hardware, Host};
use crate::logs::{self, LogStore};
use crate::model::{ClusterId, Cpu, Digest, Memory, NodeId, NodeResources, image_by_digest};
use crate::node::{CLEAN_UP_AGAIN_AFTER, CLEAN_UP_MAX, admit, keep_registered, watch_space};
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
    pub(super) disk_time: Duration,
    /// By how many millionths clocks may be wrong.
    pub(super) clocks: usize,
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
    hardware: Arc<Hardware>,
    pub(super) process: Option<Process>,
    doors: Vec<Peer>,
    /// What its store held for certain when it was killed.
    held: Mark,
    /// Its disk has changed bits.
    pub(super) is_damaged: bool,
    /// What ends what runs here, once its node knows that it was removed.
    cleaner: Option<Host>,
    /// Its node knows that it was removed.
    is_told: Rc<Cell<bool>>,
    end: Rc<Cell<Option<End>>>,
}

/// How a machine's part in the cluster ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its disk has changed bits, which was found while its node ran.
    Lost,
    /// Its node was removed, and it has ended what it ran, or was switched off.
    Removed,
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
        (clocks, disk_time): (Clocks, Duration),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = SealKey::create(&folder.path().join(KEY_FILE)).expect("a key");
        let disk = SimDisk::new();
        let space = disk.clone();
        let hardware = Arc::new(Hardware { clocks, disk_time, space: Box::new(move || space.space()) });
        let shown = Arc::clone(&hardware);
        let engine = Arc::new(FakeEngine::with_pace(Pace {
            now: Box::new(move || shown.clocks.now()),
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
            disk,
            guard: SimGuard::new(Arc::clone(&engine), agent_options(cluster, node), Arc::clone(&hardware)),
            hardware,
            engine,
            process: None,
            doors,
            held: Mark::default(),
            is_damaged: false,
            cleaner: None,
            is_told: Rc::default(),
            end: Rc::default(),
        }
    }

    /// Starts the process. An error is what the node would end with.
    pub(super) async fn start(
        &mut self,
        seed: u64,
        settings: &Settings,
        net: &Net,
        ledger: &Rc<Ledger>,
    ) -> Result<(), String> {
        if self.is_told.get() {
            tokio::task::spawn_local(self.cleaning());
            return Ok(());
        }
        self.disk.forget_was_full();
        let host = Host::new(seed, Arc::clone(&self.hardware));
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
        let refused = CancellationToken::new();
        let cable = Cable {
            net: net.clone(),
            machine: self.number,
            node: self.node,
            host: host.clone(),
            refused: refused.clone(),
        };
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
        self.hear_of_removal(host.clone(), consensus.watch(), refused, Rc::clone(ledger));
        self.process = Some(Process { host, consensus, store, fatal });
        Ok(())
    }

    /// A node ends itself when its disk fails or is full, or it has found damage; else it is a defect.
    fn hear_the_end(&self, host: Host, fatal: CancellationToken, ledger: Rc<Ledger>) {
        let (disk, node, is_damaged, end) = (self.disk.clone(), self.node, self.is_damaged, Rc::clone(&self.end));
        tokio::task::spawn_local(async move {
            fatal.cancelled().await;
            if host.is_dead() {
                return;
            }
            host.kill();
            if disk.has_failed() || disk.was_full() {
                return;
            }
            if is_damaged {
                end.set(Some(End::Lost));
            } else {
                ledger.accuse(format!("node {node} has ended itself, and nothing was wrong with its disk"));
            }
        });
    }

    /// A node that finds out that it was removed ends, and with it what it runs (`node::removal`).
    fn hear_of_removal(
        &mut self,
        host: Host,
        mut views: watch::Receiver<View>,
        refused: CancellationToken,
        ledger: Rc<Ledger>,
    ) {
        let node = self.node;
        let (tell, told) = oneshot::channel();
        host.spawn(async move {
            let is_fenced = |view: &View| view.state.admission(node).is_some_and(|own| own.fenced_at.is_some());
            tokio::select! {
                () = refused.cancelled() => {}
                Ok(_) = views.wait_for(is_fenced) => {}
            }
            let _nobody_waits = tell.send(());
        });
        let cleaning = self.cleaning();
        let is_told = Rc::clone(&self.is_told);
        tokio::task::spawn_local(async move {
            if told.await.is_err() || host.is_dead() {
                return;
            }
            if ledger.newest().admission(node).is_none_or(|own| own.removed_at.is_none()) {
                ledger.accuse(format!("node {node} was told that it was removed, and it was not"));
            }
            is_told.set(true);
            host.kill();
            cleaning.await;
        });
    }

    /// Ends what runs here. What cannot be ended now is when the machine is started again.
    fn cleaning(&mut self) -> impl Future<Output = ()> + use<> {
        let (cluster, node, engine, end) = (self.cluster, self.node, Arc::clone(&self.engine), Rc::clone(&self.end));
        let host = Host::new(0, Arc::clone(&self.hardware));
        self.cleaner = Some(host.clone());
        async move {
            let grace = agent_options(cluster, node).stop_grace;
            let cleaned = on(&host, CLEAN_UP_MAX, async move {
                while agent::remove_all(&*engine, cluster, node, grace).await.is_err() {
                    sleep(CLEAN_UP_AGAIN_AFTER).await;
                }
            });
            if cleaned.await.is_some() {
                end.set(Some(End::Removed));
            }
        }
    }

    /// How its part in the cluster ended, if it did.
    pub(super) fn end(&self) -> Option<End> {
        self.end.get()
    }

    /// Whether it is a member whose disk has changed bits, found out or not.
    pub(super) fn has_bad_disk(&self) -> bool {
        self.is_damaged && self.end() != Some(End::Removed)
    }

    /// It was switched off, and is never on again.
    pub(super) fn scrap(&self) {
        self.end.set(Some(End::Removed));
    }

    /// Sets its clock on the wall.
    pub(super) fn set_clock(&self, by: i64) {
        self.hardware.clocks.set(by);
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
            let watched = consensus.clone();
            let control = Control::new(control::Options::default(), consensus);
            part.spawn("control", OnError::StopNode, control.run(part.stopping()));
            part.spawn("disk space", OnError::Log, watch_space(space, watched, part.stopping()));
            // The supervisor ends its tasks when it is dropped.
            std::future::pending::<()>().await;
        });
    }

    /// Kills the process. With the machine, what was not synced meets its fate, and containers end.
    pub(super) fn kill(&mut self, power: Option<(Fate, &mut Dice)>) {
        let (loses_power, (fate, dice)) = match power {
            Some(fate) => (true, fate),
            None => (false, (Fate::Kept, &mut Dice(0))),
        };
        if let Some(process) = self.process.take() {
            self.held = Mark::found(&process.store.log());
            // First: nothing may be tidied up on the disk of a process that was killed.
            self.disk.cut(fate, dice);
            process.host.kill();
        }
        if let Some(cleaner) = self.cleaner.take() {
            cleaner.kill();
        }
        if loses_power {
            self.guard.end();
            for container in self.engine.containers() {
                self.engine.end(&container.id, fake::End::Exit(137));
            }
        }
    }

    /// Whether its process runs, or stands still.
    pub(super) fn is_up(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.host.is_dead())
    }

    /// Its process, if there is one.
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
