//! Clients of the cluster: each asks one node after the other for changes and reads, and checks every answer against what had been
//! answered before it asked, and against what the nodes applied.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::ledger::Ledger;
use super::machine::{IMAGES, on};
use super::trace::Trace;
use crate::consensus::{Consensus, ProposeError};
use crate::host::Host;
use crate::model::{
    AppId, BuildConfig, BuildSpec, BuildStrategy, BuildType, Cause, Cpu, Desired, EnvVars, JoinToken, JoinTokenId,
    Memory, NodeId, NodeRole, OrgId, RequestId, Resources, ServiceId, ServiceSpec, Source, Timestamp, UserId, Volume,
};
use crate::state::{Actor, Command, EnvExpectation, LogEntry, NewApp, NewDeployment, NewService, Outcome, Request};
use crate::store::crash_disk::Dice;

/// Longest wait for an answer. Nodes answer within five seconds.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// How often a client asks again with the same key, when it does not know what became of a request.
const REPEATS: usize = 4;
/// Something that must never be on a disk in the clear.
pub(super) const CANARY: &str = "canary-5f3a9c71";

/// The processes that clients may ask, by machine; those that are dead are missing.
pub(super) type Doors = Rc<RefCell<BTreeMap<usize, (Host, Consensus)>>>;

/// What clients know together.
pub(super) struct Known {
    pub(super) org: OrgId,
    pub(super) user: UserId,
    pub(super) apps: RefCell<Vec<AppId>>,
    services: RefCell<Vec<ServiceId>>,
    /// The highest index that was answered: whoever asks after that must see it.
    floor: Cell<u64>,
    pub(super) counts: Cell<Counts>,
    /// Requests that were answered as done.
    done: RefCell<Vec<(RequestId, Outcome)>>,
    /// Requests that were refused, and of which nobody doubted what became of them.
    refused: RefCell<Vec<RequestId>>,
}

/// What came of all that was asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) done: u64,
    pub(super) refused: u64,
    pub(super) unavailable: u64,
    pub(super) unknown: u64,
    pub(super) reads: u64,
}

impl Known {
    pub(super) fn new(org: OrgId, user: UserId) -> Self {
        Self {
            org,
            user,
            apps: RefCell::default(),
            services: RefCell::default(),
            floor: Cell::new(0),
            counts: Cell::default(),
            done: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Everything that was answered is in the log that the nodes applied, with that answer.
    pub(super) fn check_end(&self, ledger: &Ledger) {
        for (request, outcome) in self.done.borrow().iter() {
            let found = ledger.answer(*request);
            if found.as_ref().and_then(|found| found.as_ref().ok()) != Some(outcome) {
                ledger.accuse(format!("a client was told {outcome:?}, and the log says {found:?}"));
            }
        }
        for request in self.refused.borrow().iter() {
            if let Some(Ok(done)) = ledger.answer(*request) {
                ledger.accuse(format!("a client was refused, and the log says {done:?}"));
            }
        }
    }
}

/// One client.
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) dice: Dice,
    pub(super) doors: Doors,
    pub(super) known: Rc<Known>,
    pub(super) ledger: Rc<Ledger>,
    pub(super) trace: Trace,
    /// Milliseconds between two questions, at most.
    pub(super) pace: usize,
}

impl Client {
    /// Asks until the end is told.
    pub(super) async fn run(mut self, end: Rc<Cell<bool>>) {
        while !end.get() {
            sleep(Duration::from_millis(self.dice.roll(self.pace) as u64 + 1)).await;
            if self.dice.roll(3) == 0 {
                self.read().await;
            } else {
                let command = self.command();
                self.write(command).await;
            }
        }
    }

    fn door(&mut self) -> Option<(Host, Consensus)> {
        let doors = self.doors.borrow();
        let open: Vec<_> = doors.values().filter(|(host, _)| !host.is_dead()).collect();
        open.get(self.dice.roll(open.len().max(1))).map(|door| (*door).clone())
    }

    /// Asks for a change, again with the same key as long as it is not known what became of it.
    pub(super) async fn write(&mut self, command: Command) -> Option<Outcome> {
        let floor = self.known.floor.get();
        let request = Request { id: RequestId(self.uuid()), fingerprint: [7; 32] };
        let name = command.name();
        let mut doubtful = false;
        for _ in 0..REPEATS {
            let Some((host, consensus)) = self.door() else {
                sleep(Duration::from_millis(200)).await;
                continue;
            };
            let entry = LogEntry {
                proposed_at: host.now(),
                actor: Actor::User(self.known.user),
                request: Some(request),
                command: command.clone(),
            };
            let asked = on(&host, ANSWER_MAX, async move { consensus.propose(entry).await }).await;
            let answer = match &asked {
                // It names a folder, which is another one each time.
                Some(Err(ProposeError::DiskFull(full))) => format!("{} of {} bytes are free", full.free, full.needed),
                other => format!("{other:?}"),
            };
            self.trace.note(&["client", &self.number.to_string(), name, &answer]);
            match asked {
                Some(Ok(committed)) => {
                    if committed.index <= floor {
                        let at = committed.index;
                        self.ledger.accuse(format!("{name} was put at {at}, and {floor} was answered before it began"));
                    }
                    self.known.floor.set(self.known.floor.get().max(committed.index));
                    self.known.count(|counts| counts.done += 1);
                    self.known.done.borrow_mut().push((request.id, committed.outcome.clone()));
                    return Some(committed.outcome);
                }
                Some(Err(ProposeError::Rejected(_) | ProposeError::TooLarge { .. })) => {
                    self.known.count(|counts| counts.refused += 1);
                    if !doubtful {
                        self.known.refused.borrow_mut().push(request.id);
                    }
                    return None;
                }
                Some(Err(ProposeError::NoLeader { .. } | ProposeError::DiskFull(_) | ProposeError::Stopped)) => {
                    self.known.count(|counts| counts.unavailable += 1);
                }
                Some(Err(ProposeError::OutcomeUnknown | ProposeError::NotYetHere { .. })) | None => {
                    doubtful = true;
                    self.known.count(|counts| counts.unknown += 1);
                }
            }
        }
        None
    }

    /// Reads, and finds out whether everything that was answered before is there.
    async fn read(&mut self) {
        let floor = self.known.floor.get();
        let Some((host, consensus)) = self.door() else { return };
        let asked = on(&host, ANSWER_MAX, async move { consensus.linearizable().await }).await;
        let Some(Ok(view)) = asked else {
            self.known.count(|counts| counts.unavailable += 1);
            return;
        };
        self.known.count(|counts| counts.reads += 1);
        self.trace.note(&["client", &self.number.to_string(), "read", &view.index.to_string()]);
        if view.index < floor {
            self.ledger.accuse(format!("a read saw {} entries, and {floor} were answered before it began", view.index));
        }
        match self.ledger.state_at(view.index) {
            Some(state) if state == view.state => {}
            Some(_) => self.ledger.accuse(format!("a read at {} saw another state than there was", view.index)),
            None => self.ledger.accuse(format!("a read saw entry {}, which nobody applied", view.index)),
        }
        // What was read was certain: nobody may read less from now on.
        self.known.floor.set(self.known.floor.get().max(view.index));
    }

    fn uuid(&mut self) -> uuid::Uuid {
        let half = |dice: &mut Dice| u128::from(dice.roll(usize::MAX) as u64);
        uuid::Uuid::from_u128(half(&mut self.dice) << 64 | half(&mut self.dice))
    }

    fn app(&mut self) -> AppId {
        let apps = self.known.apps.borrow();
        apps.get(self.dice.roll(apps.len().max(1))).copied().unwrap_or(AppId(uuid::Uuid::nil()))
    }

    fn service(&mut self) -> ServiceId {
        let services = self.known.services.borrow();
        services.get(self.dice.roll(services.len().max(1))).copied().unwrap_or(ServiceId(uuid::Uuid::nil()))
    }

    fn command(&mut self) -> Command {
        let apps = self.known.apps.borrow().len();
        match self.dice.roll(20) {
            0 | 1 if apps < 6 => {
                let id = AppId(self.uuid());
                self.known.apps.borrow_mut().push(id);
                Command::CreateApp(NewApp {
                    id,
                    org: self.known.org,
                    owner: self.known.user,
                    name: format!("app-{}", self.dice.roll(8)),
                    description: "new".to_owned(),
                    icon_url: String::new(),
                    services: Vec::new(),
                })
            }
            0..=5 => self.update(),
            6 | 7 => self.new_service(),
            8..=10 => Command::Deploy(vec![NewDeployment {
                id: self.uuid().into(),
                build: self.uuid().into(),
                service: self.service(),
                cause: Cause::Deploy,
                git_ref: None,
            }]),
            11 | 12 => Command::Scale { service: self.service(), replicas: self.dice.roll(4) as u32 },
            13 => {
                let desired = if self.dice.roll(3) == 0 { Desired::Stopped } else { Desired::Running };
                Command::SetDesired { service: self.service(), desired }
            }
            14 | 15 => Command::SetEnv {
                service: self.service(),
                entries: EnvVars::from([("SECRET".to_owned(), format!("{CANARY}-{}", self.dice.roll(1000)))]),
                expectation: EnvExpectation::Any,
            },
            16 => {
                let node = self.node();
                Command::CordonNode { node, cordoned: self.dice.roll(4) == 0 }
            }
            17 if self.dice.roll(4) == 0 => Command::DeleteService(self.service()),
            18 if self.dice.roll(6) == 0 => Command::DeleteApp(self.app()),
            19 if self.dice.roll(2) == 0 => Command::Rebalance { budget: 2 },
            _ => self.update(),
        }
    }

    /// A member.
    fn node(&mut self) -> NodeId {
        let state = self.ledger.newest();
        let members: Vec<NodeId> = state.members().map(|member| member.node).collect();
        members.get(self.dice.roll(members.len().max(1))).copied().unwrap_or(NodeId::FOUNDER)
    }

    fn update(&mut self) -> Command {
        let app = self.app();
        let latest = self.ledger.app_at(self.ledger.last(), app).map_or(1, |(version, _)| version);
        // Sometimes what somebody saw who is late.
        let expected_version = latest.saturating_sub(self.dice.roll(5) as u64 / 4);
        let description = Some(format!("by {} {}", self.number, self.dice.roll(1_000_000)));
        Command::UpdateApp { app, expected_version, name: None, description, icon_url: None }
    }

    fn new_service(&mut self) -> Command {
        let id = ServiceId(self.uuid());
        let app = self.app();
        self.known.services.borrow_mut().push(id);
        let kind = self.dice.roll(4);
        let volume = Volume { name: "data".to_owned(), path: "/data".to_owned(), size: None };
        let spec = ServiceSpec {
            source: Source::Image { image: IMAGES[self.dice.roll(IMAGES.len())].to_owned() },
            build: BuildSpec {
                strategy: BuildStrategy::Dockerfile,
                build_type: BuildType::Oci,
                config: BuildConfig::default(),
            },
            resources: Resources { cpu: Cpu::from_millis(100), memory: Memory::from_mebibytes(32) },
            replicas: if kind < 2 { 1 + self.dice.roll(3) as u32 } else { 1 },
            ports: Vec::new(),
            health_check: None,
            env: EnvVars::new(),
            depends_on: Default::default(),
            volumes: if kind == 3 { vec![volume] } else { Vec::new() },
            constraints: Vec::new(),
            command: Vec::new(),
            exclusive: kind == 2,
        };
        let name = format!("s{}", self.dice.roll(6));
        Command::CreateService { app, service: NewService { id, name, spec } }
    }
}

/// A right to join, for so many nodes.
pub(super) fn join_token(id: JoinTokenId, user: UserId, uses_left: u32, now: Timestamp) -> JoinToken {
    JoinToken {
        id,
        digest: [9; 32],
        role: NodeRole::VoterEligible,
        uses_left,
        expires_at: now.plus(Duration::from_secs(20 * 365 * 86_400)),
        revoked: false,
        created_by: user,
        created_at: now,
    }
}
