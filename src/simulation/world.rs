//! One run: a seed becomes a cluster, what clients ask of it, what goes wrong, the end of that, and the verdict.

mod members;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, RngSeed};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::faults::{Kind, strike};
use super::ledger::Ledger;
use super::machine::{End, Machine, Settings, on};
use super::network::{Net, Weather, address};
use super::trace::Trace;
use super::wait::until;
use super::workload::{CANARY, Client, Counts, Doors, Known, join_token};
use crate::agent::{INSTANCE_LABEL, SERVICE_LABEL};
use crate::config::cluster_versions;
use crate::consensus::{self, Peer, ProposeError};
use crate::engine::ContainerState;
use crate::engine::fake::FakeEngine;
use crate::host::{Clocks, Host};
use crate::model::{
    Cluster, ClusterId, DeploymentId, JoinToken, JoinTokenId, NodeId, OrgId, PasswordHash, RequestId, Secret, Session,
    SessionId, Timestamp, UserId,
};
use crate::state::{Actor, Command, LogEntry, NewUser, Outcome, Request};
use crate::store::crash_disk::{Dice, Fate};
use crate::store::observed::observe;

/// What the clock on the walls shows at the beginning.
const WALL: Timestamp = Timestamp(1_800_000_000_000);
/// Longest wait for something that is asked of a cluster where nothing is wrong.
const DONE_MAX: Duration = Duration::from_secs(60);
/// Pause before somebody else is asked.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The first user.
const USER: UserId = UserId(Uuid::from_u128(1));
/// How often it is looked whether anything runs twice.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a run is to be like; the seed chooses the rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// Whether to keep what happened in words.
    pub(super) readable: bool,
    /// Only this goes wrong.
    pub(super) only: Option<Kind>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) violation: Option<String>,
    /// The same for two runs of one seed.
    pub(super) sum: u64,
    pub(super) events: u64,
    pub(super) entries: u64,
    pub(super) counts: Counts,
    /// Containers that were started.
    pub(super) containers: u64,
    /// States that were taken from snapshots.
    pub(super) installed: u32,
    /// Machines that joined later.
    pub(super) joined: usize,
    /// Members that were removed and have ended.
    pub(super) removed: usize,
    pub(super) faults: BTreeMap<Kind, u32>,
    /// How long it was, in simulated time.
    pub(super) took: Duration,
    pub(super) lines: Vec<String>,
}

/// The world of one run.
pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) machines: Vec<Machine>,
    pub(super) net: Net,
    pub(super) trace: Trace,
    settings: Settings,
    pub(super) ledger: Rc<Ledger>,
    doors: Doors,
    /// The engines of all machines, in their order.
    engines: Rc<RefCell<Vec<Arc<FakeEngine>>>>,
    cluster: ClusterId,
    /// How many machines there were at first.
    founded_with: usize,
    began: Instant,
    faults: BTreeMap<Kind, u32>,
}

/// Runs a seed to its end.
pub(super) fn run(seed: u64, wish: &Wish) -> Verdict {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let trace = Trace::new(wish.readable);
        let ledger = Rc::new(Ledger::new(trace.clone()));
        observe(Some(Rc::clone(&ledger) as _));
        let verdict = World::live(seed, wish, &trace, &ledger).await;
        observe(None);
        verdict
    })
}

impl World {
    async fn live(seed: u64, wish: &Wish, trace: &Trace, ledger: &Rc<Ledger>) -> Verdict {
        let mut dice = Dice(seed);
        let machines = [3, 3, 3, 5][dice.roll(4)];
        let latency = [(50, 300), (100, 2_000), (1_000, 8_000), (5_000, 40_000)][dice.roll(4)];
        let weather = Weather { latency, lost: [0, 0, 5, 30][dice.roll(4)] };
        let settings = Settings {
            consensus: consensus::Options {
                snapshot_entries: 10 + dice.roll(190) as u64,
                keep_entries: dice.roll(40) as u64,
                ..consensus::Options::default()
            },
            disk_time: Duration::from_micros([200, 1_000, 5_000, 20_000][dice.roll(4)]),
            clocks: [0, 200, 20_000][dice.roll(3)],
        };
        trace.note(&["begin", &format!("{machines} machines, {weather:?}, {settings:?}")]);
        let net = Net::new(Dice(dice.roll(usize::MAX) as u64), weather, trace.clone());
        let mut world = Self {
            dice,
            machines: Vec::new(),
            net,
            trace: trace.clone(),
            settings,
            ledger: Rc::clone(ledger),
            doors: Doors::default(),
            engines: Rc::default(),
            cluster: ClusterId(Uuid::nil()),
            founded_with: machines,
            began: Instant::now(),
            faults: BTreeMap::new(),
        };
        let known = match world.found(machines).await {
            Ok(known) => Rc::new(known),
            Err(error) => {
                ledger.accuse(format!("the cluster was not founded: {error}"));
                return world.verdict(Counts::default());
            }
        };
        let end = Rc::new(Cell::new(false));
        let clients = world.clients(&known, &end);
        let watch = world.watch_over();
        let ended = world.suffer(wish).await;
        end.set(true);
        for client in clients {
            // A client that panicked is a defect of the simulation.
            client.await.expect("clients do not panic");
        }
        if let Err(error) = ended {
            ledger.accuse(error);
        }
        if world.violation().is_none() {
            world.recover().await;
        }
        // It looks until the end, unless it has panicked.
        assert!(!watch.is_finished(), "nobody has watched over what runs alone");
        watch.abort();
        known.check_end(ledger);
        if let Some(machine) = world.machines.iter().find(|machine| machine.disk.holds(CANARY.as_bytes())) {
            ledger.accuse(format!("a secret is on the disk of machine {} in the clear", machine.number));
        }
        world.verdict(known.counts.get())
    }

    fn verdict(&mut self, counts: Counts) -> Verdict {
        let took = self.began.elapsed();
        (0..self.machines.len()).for_each(|machine| self.kill(machine, None));
        let (sum, events) = self.trace.sum();
        Verdict {
            violation: self.violation(),
            sum,
            events,
            entries: self.ledger.last(),
            counts,
            containers: self.machines.iter().map(|machine| machine.engine.started()).sum(),
            installed: self.ledger.installed(),
            joined: self.machines.len().saturating_sub(self.founded_with),
            removed: self.machines.iter().filter(|machine| machine.end() == Some(End::Removed)).count(),
            faults: std::mem::take(&mut self.faults),
            took,
            lines: self.trace.lines(),
        }
    }

    fn violation(&self) -> Option<String> {
        self.ledger.violation()
    }

    fn seed(&mut self) -> u64 {
        self.dice.roll(usize::MAX) as u64
    }

    fn wall(&self) -> Timestamp {
        WALL.plus(self.began.elapsed())
    }

    /// The first machine founds a cluster, and the others join it.
    async fn found(&mut self, machines: usize) -> Result<Known, String> {
        let cluster = ClusterId(Uuid::from_u128(u128::from(self.seed())));
        self.cluster = cluster;
        self.assemble(NodeId::FOUNDER);
        self.begin(0).await?;
        let (host, consensus) = self.machines[0].consensus().ok_or("the founder does not run")?;
        let initialized = on(&host, DONE_MAX, async move { consensus.initialize(&address(0)).await });
        initialized.await.ok_or("the founder died")?.map_err(|error| error.to_string())?;
        let org = OrgId(Uuid::from_u128(2));
        let now = self.wall();
        let uses = u32::try_from(machines).unwrap_or(u32::MAX);
        let token = join_token(JoinTokenId(Uuid::from_u128(4)), USER, uses, now);
        let commands = [
            Command::InitCluster(Cluster {
                id: cluster,
                token_key: Secret::new([7; 32]),
                ca_certificate: "certificate".to_owned(),
                ca_key: Secret::new([8; 32]),
                cluster_version: *cluster_versions().end(),
                created_at: now,
                rotation: None,
                rebalance: 0,
            }),
            Command::RegisterFirstUser {
                user: NewUser { id: USER, email: "ada@example.org".to_owned(), password: PasswordHash(String::new()) },
                org,
                org_name: "Ada".to_owned(),
                session: Session {
                    id: SessionId(Uuid::from_u128(3)),
                    user: USER,
                    created_at: now,
                    expires_at: now.plus(Duration::from_secs(86_400)),
                },
            },
            Command::CreateJoinToken(token.clone()),
        ];
        for command in commands {
            self.ask(0, command).await?;
        }
        self.enter(0);
        for _ in 1..machines {
            self.join(&token).await?;
        }
        let (ledger, wanted) = (Rc::clone(&self.ledger), machines);
        let joined = until(DONE_MAX, async || ledger.newest().nodes().count() == wanted).await;
        if joined { Ok(Known::new(org, USER)) } else { Err("not everybody came up".to_owned()) }
    }

    /// One more machine, which belongs to that node.
    fn assemble(&mut self, node: NodeId) -> usize {
        let number = self.machines.len();
        let wrong = self.settings.clocks;
        let fast = self.dice.roll(2 * wrong + 1) as i64 - wrong as i64;
        let clocks = Clocks::new(self.wall(), fast);
        let doors =
            self.at_work().into_iter().map(|door| Peer { node: self.machines[door].node, address: address(door) });
        let machine = Machine::new(number, (node, self.cluster), doors.collect(), (clocks, self.settings.disk_time));
        self.engines.borrow_mut().push(Arc::clone(&machine.engine));
        self.machines.push(machine);
        number
    }

    /// One machine more, which is let in and starts.
    async fn join(&mut self, token: &JoinToken) -> Result<NodeId, String> {
        let number = self.machines.len();
        let admit = Command::AdmitNode {
            token: token.id,
            digest: token.digest,
            name: format!("m{number}"),
            address: address(number),
            cluster_version_max: *cluster_versions().end(),
        };
        let Some(Outcome::Node(node)) = self.settle(admit).await? else {
            return Err("a machine was not let in".to_owned());
        };
        let number = self.assemble(node);
        self.start(number).await?;
        Ok(node)
    }

    /// Machines whose part in the cluster has not ended, whether they run or not.
    pub(super) fn at_work(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|machine| self.machines[*machine].end().is_none()).collect()
    }

    /// Has a command decided, by whoever can: asked again with the same key until it is known what became of it. Nothing comes of one
    /// that is refused.
    pub(super) async fn settle(&mut self, command: Command) -> Result<Option<Outcome>, String> {
        let request = Request { id: RequestId(Uuid::from_u128(u128::from(self.seed()))), fingerprint: [7; 32] };
        let deadline = Instant::now() + DONE_MAX;
        for turn in 0.. {
            let up: Vec<_> = self.machines.iter().filter(|it| it.is_up()).filter_map(Machine::consensus).collect();
            if let Some((host, consensus)) = up.get(turn % up.len().max(1)).cloned() {
                let (now, command) = (host.now(), command.clone());
                let entry = LogEntry { proposed_at: now, actor: Actor::System, request: Some(request), command };
                match on(&host, DONE_MAX, async move { consensus.propose(entry).await }).await {
                    Some(Ok(committed)) => return Ok(Some(committed.outcome)),
                    Some(Err(ProposeError::Rejected(_) | ProposeError::TooLarge { .. })) => return Ok(None),
                    _ => {}
                }
            }
            if Instant::now() > deadline {
                break;
            }
            sleep(ASK_AGAIN_AFTER).await;
        }
        Err(format!("{} is not decided {DONE_MAX:?} after it was asked for", command.name()))
    }

    /// Has a machine put a command into the log.
    pub(super) async fn ask(&self, machine: usize, command: Command) -> Result<Outcome, String> {
        let (host, consensus) = self.machines[machine].consensus().ok_or("it does not run")?;
        let entry = LogEntry { proposed_at: host.now(), actor: Actor::System, request: None, command };
        let asked = on(&host, DONE_MAX, async move { consensus.propose(entry).await });
        let committed = asked.await.ok_or("it died")?.map_err(|error| error.to_string())?;
        Ok(committed.outcome)
    }

    async fn begin(&mut self, machine: usize) -> Result<(), String> {
        let seed = self.seed();
        self.trace.note(&["start", &machine.to_string()]);
        let started = self.machines[machine].start(seed, &self.settings, &self.net, &self.ledger);
        started.await.map_err(|error| format!("machine {machine} does not start: {error}"))
    }

    fn enter(&mut self, machine: usize) {
        let mut dice = Dice(self.seed());
        self.machines[machine].take_part(&mut dice);
        if let Some(door) = self.machines[machine].consensus() {
            self.doors.borrow_mut().insert(machine, door);
        }
    }

    /// Starts a process again.
    pub(super) async fn start(&mut self, machine: usize) -> Result<(), String> {
        if !self.machines[machine].is_up() && self.machines[machine].end().is_none() {
            // It may have ended itself.
            if self.machines[machine].process.is_some() {
                self.kill(machine, None);
            }
            self.begin(machine).await?;
            self.enter(machine);
        }
        Ok(())
    }

    /// Kills a process, or the machine with it.
    pub(super) fn kill(&mut self, machine: usize, power: Option<Fate>) {
        self.doors.borrow_mut().remove(&machine);
        let mut dice = Dice(self.seed());
        self.trace.note(&["kill", &machine.to_string(), &format!("{power:?}")]);
        self.machines[machine].kill(power.map(|fate| (fate, &mut dice)));
    }

    fn host(&self, machine: usize) -> Option<&Host> {
        self.machines[machine].process.as_ref().map(|process| &process.host)
    }

    pub(super) fn pause(&self, machine: usize) {
        self.host(machine).inspect(|host| host.pause());
    }

    pub(super) fn resume(&self, machine: usize) {
        self.host(machine).inspect(|host| host.resume());
    }

    /// Cuts a cable in both directions.
    pub(super) fn cut(&self, one: usize, other: usize) {
        self.net.set_cut(one, other, true);
        self.net.set_cut(other, one, true);
    }

    pub(super) fn heal(&self) {
        self.trace.note(&["heal"]);
        self.net.heal();
    }

    pub(super) fn set_clock(&mut self, machine: usize, by: i64) {
        self.machines[machine].set_clock(by);
    }

    /// Whoever leads steps aside.
    pub(super) async fn hand_over(&self) {
        for machine in &self.machines {
            if let Some((host, consensus)) = machine.consensus() {
                on(&host, Duration::from_secs(5), async move { consensus.step_aside().await }).await;
            }
        }
    }

    fn clients(&mut self, known: &Rc<Known>, end: &Rc<Cell<bool>>) -> Vec<tokio::task::JoinHandle<()>> {
        let pace = [20, 100, 400][self.dice.roll(3)];
        let count = 2 + self.dice.roll(5);
        let client = |number: usize| {
            let client = Client {
                number,
                dice: Dice(self.seed()),
                doors: Rc::clone(&self.doors),
                known: Rc::clone(known),
                ledger: Rc::clone(&self.ledger),
                trace: self.trace.clone(),
                pace,
            };
            tokio::task::spawn_local(client.run(Rc::clone(end)))
        };
        (0..count).map(client).collect()
    }

    /// Things go wrong, one after the other.
    async fn suffer(&mut self, wish: &Wish) -> Result<(), String> {
        let strikes = 2 + self.dice.roll(7);
        let mut result = Ok(());
        for _ in 0..strikes {
            let pause = self.dice.roll(4_000) as u64;
            sleep(Duration::from_millis(pause)).await;
            let kind = wish.only.unwrap_or_else(|| Kind::ALL[self.dice.roll(Kind::ALL.len())]);
            *self.faults.entry(kind).or_default() += 1;
            result = strike(self, kind).await;
            if result.is_err() || self.violation().is_some() {
                break;
            }
        }
        result
    }

    /// Looks all the time whether anything runs in two places that must not, or two instances of a deployment run different
    /// programs.
    fn watch_over(&self) -> tokio::task::JoinHandle<()> {
        let engines = Rc::clone(&self.engines);
        let ledger = Rc::clone(&self.ledger);
        tokio::task::spawn_local(async move {
            let mut images: BTreeMap<DeploymentId, String> = BTreeMap::new();
            loop {
                sleep(LOOK_EVERY).await;
                let mut places: BTreeMap<String, u32> = BTreeMap::new();
                let state = ledger.newest();
                for container in engines.borrow().iter().flat_map(|engine| engine.containers()) {
                    let instance = container.labels.get(INSTANCE_LABEL).and_then(|id| id.parse().ok());
                    if let Some(instance) = instance.and_then(|id| state.instance(id))
                        && *images.entry(instance.deployment).or_insert_with(|| container.image_id.clone())
                            != container.image_id
                    {
                        ledger.accuse(format!("instances of deployment {} run different images", instance.deployment));
                    }
                    if container.state == ContainerState::Running
                        && let Some(service) = container.labels.get(SERVICE_LABEL)
                    {
                        *places.entry(service.clone()).or_default() += 1;
                    }
                }
                for (service, _) in places.into_iter().filter(|(_, count)| *count > 1) {
                    let alone = service.parse().ok().and_then(|id| state.service(id)).map(|it| it.spec.runs_alone());
                    if alone == Some(true) {
                        ledger.accuse(format!("service {service} runs alone and ran twice"));
                    }
                }
            }
        })
    }
}
