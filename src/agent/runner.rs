//! One instance, from assigned to ended: the task that owns its container.
//!
//! Every observation is proposed before the next step depends on it. An engine that does not answer makes the runner
//! wait, never conclude. When narvana stops the runner goes and the container stays.

mod image;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::consensus::ProposeError;
use crate::decide::discovery::discovery;
use crate::decide::probe::Probing;
use crate::engine::{self, ContainerState, ContainerStatus, Engine};
use crate::logs::LogKey;
use crate::model::{Deployment, Health, HealthCheck, Instance, InstanceState, InstanceStatus, Memory, PortBinding};
use crate::state::{Actor, Command, LogEntry, Rejection};
use crate::task::{OnError, blocking};

use super::contact::is_only_member;
use super::ground::Ground;
use super::guard::keep_standing;
use super::log_pump::pump;
use super::{Options, Parts, container, exit, probe};

/// Lines of its log that a failed instance is shown with.
const LOG_TAIL_LINES: usize = 20;
/// Longest wait for the last lines of a container that has ended.
const LAST_LINES_MAX: Duration = Duration::from_secs(2);
/// Pause before an engine or a leader that did not answer is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Pause between checks until the first one passes: a service should serve soon after it can.
const FIRST_CHECKS_EVERY: Duration = Duration::from_millis(250);

/// How an instance is to end, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// With its requests finished, and on record from the beginning.
    Stop(String),
    /// At once, whether or not anybody can be told.
    Isolate(String),
}

/// What the reconciler tells a runner.
#[derive(Clone)]
pub(super) struct Orders {
    /// Set when the instance is to end; a second time only to make that sooner.
    pub(super) stop: watch::Receiver<Option<Order>>,
    /// Something happened to the container: look at it.
    pub(super) look: Arc<Notify>,
    /// The node stops.
    pub(super) quit: CancellationToken,
}

/// The task of one instance.
pub(super) struct Runner {
    options: Options,
    parts: Parts,
    engine: Arc<dyn Engine>,
    orders: Orders,
    instance: Arc<Instance>,
    deployment: Arc<Deployment>,
    app: String,
    status: InstanceStatus,
}

/// Why a runner ends before its instance has.
enum Halt {
    /// The node stops, or the state knows better than this runner.
    Quit,
    /// The instance is to end.
    Stop(String),
    /// The same, before anybody is told.
    Isolate(String),
    /// The instance cannot run.
    Fail(String),
}

type Step<T> = Result<T, Halt>;

impl Runner {
    pub(super) fn new(
        (options, parts): (Options, Parts),
        engine: Arc<dyn Engine>,
        orders: Orders,
        (app, deployment, instance): (String, Arc<Deployment>, Arc<Instance>),
    ) -> Self {
        let status = instance.status.clone();
        Self { options, parts, engine, orders, instance, deployment, app, status }
    }

    /// Runs the instance to its end. `container` is the one that exists already, if one does.
    pub(super) async fn run(mut self, container: Option<String>, ground: Arc<Ground>) {
        let started = self.start(container, &ground).await;
        if matches!(started, Err(Halt::Fail(_))) {
            ground.look_again();
        }
        // What was found says nothing to those that start much later.
        drop(ground);
        // The log is read on until the very end: what a program says last usually tells why.
        let (halt, log) = match started {
            Ok(running) => (self.watch(&running).await, Some(running.log)),
            Err(halt) => (halt, None),
        };
        match halt {
            Halt::Quit => {}
            Halt::Stop(reason) | Halt::Isolate(reason) => self.end(InstanceState::Stopped, reason, log).await,
            Halt::Fail(reason) => self.end(InstanceState::Failed, reason, log).await,
        }
    }

    /// From whatever there is to a running container.
    async fn start(&mut self, existing: Option<String>, ground: &Ground) -> Step<Running> {
        let (id, found) = match existing {
            Some(id) => {
                self.status.container = Some(id.clone());
                let seen = self.insist(|| self.engine.inspect(&id)).await?;
                (id, Some(seen).filter(|seen| seen.state != ContainerState::Created))
            }
            // What was just created need not be asked about: each call to an engine takes about 10 ms.
            None => (self.create(ground).await?, None),
        };
        self.status.container = Some(id.clone());
        let seen = match found {
            Some(seen) => seen,
            None => {
                self.be_guarded().await?;
                self.insist(|| self.engine.start(&id)).await?;
                self.insist(|| self.engine.inspect(&id)).await?
            }
        };
        let log = self.spawn_pump(&id);
        if self.status.state < InstanceState::Running {
            self.status.state = InstanceState::Running;
            self.status.started_at = seen.started_at.or_else(|| Some(clock::now()));
        }
        self.status.ports = bindings(&seen);
        if seen.state == ContainerState::Running {
            self.running_health();
            self.report().await?;
        }
        Ok(Running { container: id, log })
    }

    /// The health of a process that runs and was not checked in this run of narvana.
    fn running_health(&mut self) {
        if self.deployment.spec.health_check.is_none() {
            self.set_health(Health::Healthy);
        } else if self.status.health == Health::Unknown {
            self.set_health(Health::Starting);
        }
    }

    fn set_health(&mut self, health: Health) {
        self.status.health = health;
        if health == Health::Healthy && self.status.healthy_at.is_none() {
            self.status.healthy_at = Some(clock::now());
        }
    }

    async fn create(&mut self, ground: &Ground) -> Step<String> {
        let image = self.image(ground).await?;
        self.status.state = self.status.state.max(InstanceState::Starting);
        self.report().await?;
        let network = container::network_name(self.instance.app);
        let labels = container::node_labels(self.options.cluster, self.options.node);
        ground.network(self.insist(|| self.engine.ensure_network(&network, &labels))).await?;
        for volume in self.deployment.spec.volumes.clone() {
            let name = container::volume_name(self.instance.service, &volume.name);
            let words = (self.app.as_str(), self.deployment.service_name.as_str(), volume.name.as_str());
            let labels = container::volume_labels(self.options.cluster, &self.instance, words);
            self.insist(|| self.engine.ensure_volume(&name, &labels)).await?;
        }
        let mut spec = container::spec(self.options.cluster, &self.app, &self.deployment, &self.instance, &image);
        spec.hosts = self.hosts().await;
        loop {
            let created = self.attempt(|| self.engine.create(&spec)).await?;
            match created {
                Ok(id) => return Ok(id),
                // The name ends in this instance's id, so whatever has it is what an earlier, interrupted attempt made.
                Err(engine::Error::Conflict { .. }) => {
                    self.insist(|| self.engine.remove(&spec.name)).await?;
                }
                Err(error) => return Err(Halt::Fail(error.to_string())),
            }
        }
    }

    /// The file of names that its container has. Nothing leads through the node before that listens inside. An engine on another
    /// machine cannot have it.
    async fn hosts(&self) -> Option<PathBuf> {
        if !self.engine.describe().is_here() {
            return None;
        }
        let found = discovery(&self.parts.consensus.latest().state, self.options.node, self.instance.app);
        let (hosts, instance) = (self.parts.hosts.clone(), self.instance.id);
        match blocking(move || hosts.begin(instance, &found.hosts(false))).await {
            Ok(path) => Some(path),
            Err(error) => {
                tracing::warn!(
                    %instance,
                    %error,
                    "its container gets no names of services from the node: it finds only those that run here"
                );
                None
            }
        }
    }

    /// Waits until this instance would be ended also when this program cannot end it, if it must be.
    async fn be_guarded(&mut self) -> Step<()> {
        if !self.deployment.spec.runs_alone() {
            return Ok(());
        }
        while !is_only_member(&self.parts.consensus.latest().state)
            && let Err(reason) = self.parts.guard.stand().await
        {
            let reason = format!("it must not run twice, and nothing would end it with narvana gone: {reason}");
            tracing::error!(instance = %self.instance.id, reason, "not started; trying again");
            if self.status.reason.as_ref() != Some(&reason) {
                self.status.reason = Some(reason);
                self.report().await?;
            }
            self.interruptible(self.pause()).await?;
        }
        self.status.reason = None;
        Ok(())
    }

    /// What may be given up at any time: an order to end is heeded at once.
    async fn interruptible<T>(&self, work: impl Future<Output = Step<T>>) -> Step<T> {
        let mut stop = self.orders.stop.clone();
        tokio::select! {
            halt = ordered(&mut stop) => Err(halt),
            done = work => done,
        }
    }

    fn spawn_pump(&self, container: &str) -> PumpHandle {
        let ended = CancellationToken::new();
        let stop = self.orders.quit.child_token();
        let pump = pump(
            Arc::clone(&self.engine),
            container.to_owned(),
            self.instance.id,
            self.parts.logs.clone(),
            stop.clone(),
        );
        let guard = ended.clone().drop_guard();
        self.parts.supervisor.spawn("instance log", OnError::Log, async move {
            let _ended = guard;
            pump.await
        });
        PumpHandle { ended, stop }
    }

    /// Watches over a running container until something ends it.
    async fn watch(&mut self, running: &Running) -> Halt {
        let mut stop = self.orders.stop.clone();
        let check = self.deployment.spec.health_check.clone();
        let mut probing = check.as_ref().map(|check| self.probing(check));
        let mut looked_at_log_end = false;
        let guard = (Arc::clone(&self.parts.guard), self.parts.consensus.clone());
        let runs_alone = self.deployment.spec.runs_alone();
        let mut guarded = std::pin::pin!(keep_standing(guard.0, guard.1));
        loop {
            let pause = match &check {
                None => None,
                Some(_) if self.status.health == Health::Starting => Some(FIRST_CHECKS_EVERY),
                Some(check) => Some(Duration::from_secs(u64::from(check.interval_seconds))),
            };
            let next_check = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.orders.quit.cancelled() => return Halt::Quit,
                halt = ordered(&mut stop) => return halt,
                never = &mut guarded, if runs_alone => match never {},
                () = self.orders.look.notified() => {}
                // The log of a container ends when it does: the earliest sign there is.
                () = running.log.ended.cancelled(), if !looked_at_log_end => looked_at_log_end = true,
                () = next_check => {
                    if let (Some(check), Some(probing)) = (&check, &mut probing)
                        && let Err(halt) = self.check_health(&running.container, check, probing).await
                    {
                        return halt;
                    }
                    continue;
                }
            }
            match self.look(running).await {
                Ok(()) => {}
                Err(halt) => return halt,
            }
        }
    }

    /// Looks whether the container still runs.
    async fn look(&mut self, running: &Running) -> Step<()> {
        let id = running.container.clone();
        let seen = match self.attempt(|| self.engine.inspect(&id)).await? {
            Ok(seen) => seen,
            Err(engine::Error::NotFound { .. }) => {
                return Err(Halt::Fail("its container was removed by somebody else".to_owned()));
            }
            Err(error) => return Err(Halt::Fail(error.to_string())),
        };
        if seen.state == ContainerState::Running {
            return Ok(());
        }
        self.note_exit(&seen);
        let reason = exit::reason(&seen, self.memory());
        Err(Halt::Fail(match self.foreign_image(&seen).await {
            Some(foreign) => format!("{reason}; {foreign}"),
            None => reason,
        }))
    }

    /// That the image of a process which failed is for another processor, as far as that can be found out now.
    async fn foreign_image(&self, seen: &ContainerStatus) -> Option<String> {
        if seen.oom_killed || matches!(seen.exit_code, None | Some(0)) {
            return None;
        }
        let image = self.engine.image(&seen.image_id).await.ok()??;
        let view = self.parts.consensus.latest();
        exit::foreign_image(&image.architecture?, &view.state.node(self.options.node)?.arch)
    }

    fn note_exit(&mut self, seen: &ContainerStatus) {
        self.status.exit = exit::exit_of(seen);
        self.status.finished_at = seen.finished_at;
    }

    fn memory(&self) -> Memory {
        self.deployment.spec.resources.memory
    }

    /// Goes on counting after a restart of narvana where an instance had worked before.
    fn probing(&self, check: &HealthCheck) -> Probing {
        let began_at = self.status.started_at.unwrap_or_else(clock::now);
        if self.status.healthy_at.is_some() { Probing::resumed(check, began_at) } else { Probing::new(check, began_at) }
    }

    async fn check_health(&mut self, id: &str, check: &HealthCheck, probing: &mut Probing) -> Step<()> {
        let seen = probe::check(&*self.engine, id, &self.status.ports, check).await;
        let failure = match seen {
            Ok(()) => None,
            Err(probe::Trouble::Failed(failure)) => Some(failure),
            Err(probe::Trouble::NotSeen) => return Ok(()),
        };
        let verdict = probing.record(clock::now(), failure.is_none());
        if verdict.give_up
            && let Some(failure) = failure
        {
            return Err(Halt::Fail(format!("it is unhealthy, its health check fails: {failure}")));
        }
        if verdict.health != self.status.health {
            self.set_health(verdict.health);
            self.status.reason = failure.map(|failure| format!("its health check fails: {failure}"));
            self.report().await?;
        }
        Ok(())
    }

    /// Ends the instance: its requests, its process, its container; and says how it ended.
    async fn end(&mut self, state: InstanceState, reason: String, log: Option<PumpHandle>) {
        self.status.reason = Some(reason);
        if let Some(id) = self.status.container.clone() {
            if state == InstanceState::Stopped && self.status.state < InstanceState::Stopping {
                self.status.state = InstanceState::Stopping;
                match self.report().await {
                    Ok(()) => tokio::select! {
                        () = self.parts.drain.drained(self.instance.id, self.options.drain_max) => {}
                        _ = self.isolated() => {}
                    },
                    Err(Halt::Isolate(_)) => {}
                    Err(_) => return,
                }
            }
            let grace = self.options.stop_grace;
            let stopped = self.insist(|| self.engine.stop(&id, grace)).await;
            if matches!(stopped, Err(Halt::Quit)) {
                return;
            }
            if let Ok(Ok(seen)) = self.attempt(|| self.engine.inspect(&id)).await
                && self.status.exit.is_none()
            {
                self.note_exit(&seen);
            }
        }
        if let Some(log) = log {
            // Worth a short wait, and no longer one: an engine may keep a log open for ever.
            let _ = tokio::time::timeout(LAST_LINES_MAX, log.ended.cancelled()).await;
        }
        if state == InstanceState::Failed {
            let key = LogKey::Instance(self.instance.id);
            let tail = self.parts.logs.tail(key, LOG_TAIL_LINES).await.unwrap_or_default();
            self.status.log_tail = tail.into_iter().map(|entry| entry.line.text().to_owned()).collect();
        }
        self.status.state = state;
        self.status.health = Health::Unknown;
        self.status.ports.clear();
        self.status.finished_at = self.status.finished_at.or_else(|| Some(clock::now()));
        // Only when the end is on record may the evidence go; a container left behind is cleaned up by the reconciler.
        if self.report().await.is_ok()
            && let Some(id) = self.status.container.clone()
        {
            let _ = self.attempt(|| self.engine.remove(&id)).await;
        }
    }

    /// Returns, with the reason, when the node is isolated and this instance has to end for that.
    async fn isolated(&self) -> String {
        let mut stop = self.orders.stop.clone();
        let order =
            stop.wait_for(|order| matches!(order, Some(Order::Isolate(_)))).await.ok().and_then(|it| it.clone());
        match order {
            Some(Order::Isolate(reason)) => reason,
            _ => std::future::pending().await,
        }
    }

    /// Puts what was observed on record. Ends the runner when the state refuses it: then somebody knows better.
    async fn report(&self) -> Step<()> {
        // What has ended need not end sooner.
        if self.status.state.is_terminal() {
            return self.put_on_record().await;
        }
        tokio::select! {
            biased;
            reason = self.isolated() => Err(Halt::Isolate(reason)),
            reported = self.put_on_record() => reported,
        }
    }

    async fn put_on_record(&self) -> Step<()> {
        let report = Command::ReportInstance {
            instance: self.instance.id,
            node: self.options.node,
            status: self.status.clone(),
        };
        match self.propose(report).await? {
            Ok(()) => Ok(()),
            Err(rejection) => {
                tracing::debug!(instance = %self.instance.id, %rejection, "report refused");
                Err(Halt::Quit)
            }
        }
    }

    /// Proposes until there is an answer. Whatever it is, the command must be one that does nothing the second time.
    async fn propose(&self, command: Command) -> Step<Result<(), Rejection>> {
        let node = Actor::Node(self.options.node);
        loop {
            if self.orders.quit.is_cancelled() {
                return Err(Halt::Quit);
            }
            let entry = LogEntry { proposed_at: clock::now(), actor: node, request: None, command: command.clone() };
            match self.parts.consensus.propose(entry).await {
                Ok(_) | Err(ProposeError::NotYetHere { .. }) => return Ok(Ok(())),
                Err(ProposeError::Rejected(rejection)) => return Ok(Err(rejection)),
                Err(error) => {
                    tracing::debug!(instance = %self.instance.id, %error, "no answer, proposing it again");
                    self.pause().await?;
                }
            }
        }
    }

    /// Asks the engine until it answers, and gives its answer.
    async fn attempt<T, F>(&self, mut call: impl FnMut() -> F) -> Step<Result<T, engine::Error>>
    where
        F: Future<Output = Result<T, engine::Error>>,
    {
        // An order to stop does not interrupt a call: what it did must be known, or the container would be an orphan.
        loop {
            match call().await {
                Err(error) if error.is_unreachable() => self.pause().await?,
                answer => return Ok(answer),
            }
        }
    }

    /// Like [`Self::attempt`], where any refusal means that the instance cannot run.
    async fn insist<T, F>(&self, call: impl FnMut() -> F) -> Step<T>
    where
        F: Future<Output = Result<T, engine::Error>>,
    {
        self.attempt(call).await?.map_err(|error| Halt::Fail(error.to_string()))
    }

    async fn pause(&self) -> Step<()> {
        tokio::select! {
            () = self.orders.quit.cancelled() => Err(Halt::Quit),
            () = tokio::time::sleep(RETRY_AFTER) => Ok(()),
        }
    }
}

/// A container that was started, and its log.
struct Running {
    container: String,
    log: PumpHandle,
}

struct PumpHandle {
    ended: CancellationToken,
    stop: CancellationToken,
}

impl Drop for PumpHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn ordered(stop: &mut watch::Receiver<Option<Order>>) -> Halt {
    match stop.wait_for(Option::is_some).await.ok().and_then(|order| order.clone()) {
        Some(Order::Stop(reason)) => Halt::Stop(reason),
        Some(Order::Isolate(reason)) => Halt::Isolate(reason),
        // The reconciler is gone: the node stops, which the runner hears of by its own token.
        None => std::future::pending().await,
    }
}

fn bindings(seen: &ContainerStatus) -> Vec<PortBinding> {
    seen.bindings
        .iter()
        .map(|binding| PortBinding {
            container_port: binding.container_port,
            protocol: binding.protocol,
            host_port: binding.host.port(),
        })
        .collect()
}
