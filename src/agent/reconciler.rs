//! The agent's loop: compares what is wanted here with what the engine has, and starts what makes them equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::consensus::ProposeError;
use crate::decide::alone::runs_alone;
use crate::decide::reconcile::{self, Action, Container, Task, reconcile};
use crate::engine::{self, ContainerState, ContainerStatus, Engine};
use crate::model::{DeploymentId, Exit, Health, Instance, InstanceId, InstanceState};
use crate::state::{Actor, Command, LogEntry, State};
use crate::task::OnError;

use super::contact::{Contact, is_only_member};
use super::container::{self, GENERATION_LABEL, INSTANCE_LABEL};
use super::engine_watch::keep_asking;
use super::ground::Ground;
use super::leftovers::keep_clear;
use super::runner::{Order, Orders, Runner};
use super::{EngineState, Options, Parts};

/// How often everything is compared even when nothing seems to have happened: events can be lost.
const FULL_PASS_EVERY: Duration = Duration::from_secs(5);
/// Pause before an engine that broke off its events is asked for more.
const EVENTS_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The agent of this node.
pub struct Agent {
    options: Options,
    parts: Parts,
    engine_state: EngineState,
    runners: BTreeMap<InstanceId, RunnerHandle>,
    ground: BTreeMap<DeploymentId, Arc<Ground>>,
    removing: Arc<Mutex<BTreeSet<String>>>,
    /// Wakes the loop: an engine event, or the end of a runner.
    wake: Arc<Notify>,
    contact: Contact,
    /// Since when it has known of each instance that has not started yet.
    known: BTreeMap<InstanceId, Instant>,
    /// A container went whose image and network may be nobody's now.
    look_for_leftovers: Arc<Notify>,
}

struct RunnerHandle {
    stop: watch::Sender<Option<Order>>,
    look: Arc<Notify>,
    done: Arc<std::sync::atomic::AtomicBool>,
}

impl RunnerHandle {
    fn is_done(&self) -> bool {
        self.done.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// What of the state concerns this node: which instances are to be here, and whether they are to end. A pass is due when it
/// changes. How far an instance is changes by what its runner says, after which nothing else is to be done.
type Slice = Vec<(InstanceId, bool)>;

impl Agent {
    /// An agent that has not run yet. It says through `engine_state` whether the engine answers.
    pub fn new(options: Options, parts: Parts, engine_state: EngineState) -> Self {
        Self {
            options,
            parts,
            engine_state,
            runners: BTreeMap::new(),
            ground: BTreeMap::new(),
            removing: Arc::default(),
            wake: Arc::new(Notify::new()),
            contact: Contact::new(),
            known: BTreeMap::new(),
            look_for_leftovers: Arc::new(Notify::new()),
        }
    }

    /// Runs until the supervisor stops.
    pub async fn run(mut self) -> Result<(), std::convert::Infallible> {
        let quit = self.parts.supervisor.stopping();
        let mut views = self.parts.consensus.watch();
        let mut engines = self.parts.engine.clone();
        let mut last_slice: Option<Slice> = None;
        let mut wake_in: Option<Duration> = None;
        if !self.is_certain(&quit).await {
            return Ok(());
        }
        self.follow_events();
        let asking = keep_asking(self.parts.clone(), self.engine_state.clone(), Arc::clone(&self.wake));
        self.parts.supervisor.spawn("engine watch", OnError::StopNode, asking);
        let guard = Arc::clone(&self.parts.guard);
        let touch = self.contact.keep(self.parts.consensus.clone(), guard, Arc::clone(&self.wake), quit.clone());
        self.parts.supervisor.spawn("contact", OnError::StopNode, touch);
        let leftovers = keep_clear(self.options.clone(), self.parts.clone(), Arc::clone(&self.look_for_leftovers));
        self.parts.supervisor.spawn("leftovers", OnError::Log, leftovers);
        loop {
            let slice = self.slice(&views.borrow_and_update().state);
            let engine = engines.borrow_and_update().clone();
            if let Some(engine) = engine
                && last_slice.as_ref() != Some(&slice)
            {
                wake_in = self.pass(&engine).await;
                last_slice = Some(slice);
            }
            let timer = wake_in.map_or(FULL_PASS_EVERY, |rest| rest.min(FULL_PASS_EVERY));
            tokio::select! {
                biased;
                () = quit.cancelled() => return Ok(()),
                changed = views.changed() => if changed.is_err() { return Ok(()) },
                changed = engines.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    last_slice = None;
                }
                () = self.wake.notified() => last_slice = None,
                () = tokio::time::sleep(timer) => last_slice = None,
            }
        }
    }

    /// Waits until this node has applied what was decided before it started: a container whose instance it has not heard
    /// of would be taken for nobody's. False when it is to stop.
    async fn is_certain(&self, quit: &CancellationToken) -> bool {
        loop {
            let (asked, since_boot) = (Instant::now(), clock::since_boot());
            tokio::select! {
                read = self.parts.consensus.linearizable() => match read {
                    Ok(view) => {
                        self.contact.assured(asked);
                        self.parts.guard.assured(since_boot, is_only_member(&view.state)).await;
                        return true;
                    }
                    Err(error) => tracing::info!(%error, "containers are left alone until the cluster decides again"),
                },
                () = quit.cancelled() => return false,
            }
        }
    }

    fn slice(&self, state: &State) -> Slice {
        state
            .live_instances()
            .filter(|instance| instance.placement.node == self.options.node)
            .map(|instance| (instance.id, instance.stop_requested.is_some()))
            .collect()
    }

    fn has_what_runs_alone(&self, state: &State) -> bool {
        let node = self.options.node;
        state.live_instances().any(|instance| instance.placement.node == node && runs_alone(state, instance))
    }

    /// For how long it has known of what it is to start.
    fn known(&mut self, state: &State) -> BTreeMap<InstanceId, Duration> {
        let now = Instant::now();
        let node = self.options.node;
        let waits =
            |instance: &Instance| instance.placement.node == node && instance.status.state < InstanceState::Running;
        let known = state.live_instances().filter(|instance| waits(instance)).map(|instance| instance.id);
        self.known = known.map(|id| (id, self.known.get(&id).copied().unwrap_or(now))).collect();
        self.known.iter().map(|(id, since)| (*id, now.duration_since(*since))).collect()
    }

    /// One comparison. Returns after which time the next one is due at the latest.
    async fn pass(&mut self, engine: &Arc<dyn Engine>) -> Option<Duration> {
        self.runners.retain(|_, runner| !runner.is_done());
        self.ground.retain(|_, ground| Arc::strong_count(ground) > 1);
        self.contact.set_needed(self.has_what_runs_alone(&self.parts.consensus.latest().state));
        let labels = container::node_labels(self.options.cluster, self.options.node);
        let containers = match engine.list(&labels).await {
            Ok(containers) => containers,
            Err(error) => {
                // Whether it answers at all is watched elsewhere, more often than this.
                let refuses = !error.is_unreachable();
                self.engine_state.set_refusal(refuses.then(|| error.to_string()));
                return None;
            }
        };
        self.engine_state.set_refusal(None);
        let observed: Vec<Container> = containers.iter().map(observe).collect();
        // Read after the containers: an instance assigned meanwhile has no container yet, which is the truth.
        let state = self.parts.consensus.latest().state;
        self.end_forgotten(&state);
        let isolated = self.contact.is_isolated(&state);
        let known = self.known(&state);
        let plan = reconcile(&state, self.options.node, &observed, &self.tasks(&state), isolated, &known);
        for action in plan.actions {
            self.carry_out(engine, &state, action);
        }
        self.poke_runners(&state, &containers);
        plan.wake_in
    }

    fn tasks(&self, state: &State) -> BTreeMap<InstanceId, Task> {
        let task = |id: &InstanceId, runner: &RunnerHandle| {
            if runner.stop.borrow().is_some() {
                return Task::Stopping;
            }
            match state.instance(*id) {
                Some(instance) if instance.status.state >= InstanceState::Running => Task::Watching,
                _ => Task::Starting,
            }
        };
        self.runners.iter().map(|(id, runner)| (*id, task(id, runner))).collect()
    }

    /// Ends the runners of instances that were deleted with their service. Their containers are nobody's then, and are
    /// removed as such by the pass that follows the end of a runner.
    fn end_forgotten(&self, state: &State) {
        for id in self.runners.keys().filter(|id| state.instance(**id).is_none()) {
            self.order(*id, Order::Stop("its service was deleted".to_owned()));
        }
    }

    /// Has those runners look whose container should run and does not.
    fn poke_runners(&self, state: &State, containers: &[ContainerStatus]) {
        let running: BTreeSet<InstanceId> = containers
            .iter()
            .filter(|container| container.state == ContainerState::Running)
            .filter_map(instance_of)
            .collect();
        for (id, runner) in &self.runners {
            let should_run =
                state.instance(*id).is_some_and(|instance| instance.status.state == InstanceState::Running);
            if should_run && !running.contains(id) {
                runner.look.notify_one();
            }
        }
    }

    fn carry_out(&mut self, engine: &Arc<dyn Engine>, state: &State, action: Action) {
        match action {
            Action::Run(instance) => self.spawn_runner(engine, state, instance, None),
            // A runner looks at the container first, and reports an end that nobody saw.
            Action::Adopt { instance, container } | Action::ReportExited { instance, container, .. } => {
                self.spawn_runner(engine, state, instance, Some(container));
            }
            Action::Stop { instance, container, reason, .. } => {
                if !self.runners.contains_key(&instance) {
                    self.spawn_runner(engine, state, instance, container);
                }
                self.order(instance, Order::Stop(reason));
            }
            Action::Isolate { instance, container, reason } => {
                tracing::warn!(%instance, reason, "stopping an instance");
                self.spawn_runner(engine, state, instance, container);
                self.order(instance, Order::Isolate(reason));
            }
            Action::ReportStopped { instance, exit } => {
                self.spawn_report_end(state, instance, InstanceState::Stopped, exit, None);
            }
            Action::ReportGone(instance) => {
                let reason = "its container was removed by somebody else".to_owned();
                self.spawn_report_end(state, instance, InstanceState::Failed, None, Some(reason));
            }
            Action::CleanUp { container, .. } => self.spawn_removal(engine, container),
            Action::RemoveOrphan { container, reason } => {
                tracing::info!(%container, reason, "removing a container that is nobody's");
                self.spawn_removal(engine, container);
            }
        }
    }

    fn order(&self, instance: InstanceId, new: Order) {
        if let Some(runner) = self.runners.get(&instance) {
            runner.stop.send_if_modified(|order| {
                let counts = match (&order, &new) {
                    (None, _) | (Some(Order::Stop(_)), Order::Isolate(_)) => true,
                    (Some(_), _) => false,
                };
                if counts {
                    *order = Some(new);
                }
                counts
            });
        }
    }

    fn spawn_runner(&mut self, engine: &Arc<dyn Engine>, state: &State, id: InstanceId, container: Option<String>) {
        if self.runners.contains_key(&id) {
            return;
        }
        let found = state.instance(id).and_then(|instance| {
            let deployment = state.deployment(instance.deployment)?;
            let app = state.app(instance.app)?;
            Some((app.name.clone(), Arc::clone(deployment), Arc::clone(instance)))
        });
        let Some(found) = found else { return };
        let (stop, stop_orders) = watch::channel(None);
        let look = Arc::new(Notify::new());
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let orders = Orders { stop: stop_orders, look: Arc::clone(&look), quit: self.parts.supervisor.stopping() };
        let ground = Arc::clone(self.ground.entry(found.1.id).or_default());
        let runner = Runner::new((self.options.clone(), self.parts.clone()), Arc::clone(engine), orders, found);
        let end = RunnerEnd { done: Arc::clone(&done), wake: Arc::clone(&self.wake) };
        self.parts.supervisor.spawn("instance", OnError::Log, async move {
            let _end = end;
            runner.run(container, ground).await;
            Ok::<(), std::convert::Infallible>(())
        });
        self.runners.insert(id, RunnerHandle { stop, look, done });
    }

    /// Says how an instance ended that has no runner.
    fn spawn_report_end(
        &mut self,
        state: &State,
        id: InstanceId,
        end: InstanceState,
        exit: Option<Exit>,
        reason: Option<String>,
    ) {
        let Some(instance) = state.instance(id) else { return };
        let mut status = instance.status.clone();
        status.state = end;
        status.health = Health::Unknown;
        status.ports.clear();
        status.exit = exit.or(status.exit);
        status.reason = reason.or_else(|| instance.stop_requested.clone());
        status.finished_at = Some(clock::now());
        let consensus = self.parts.consensus.clone();
        let node = self.options.node;
        self.parts.supervisor.spawn("report end", OnError::Log, async move {
            let command = Command::ReportInstance { instance: id, node, status };
            let entry = LogEntry { proposed_at: clock::now(), actor: Actor::Node(node), request: None, command };
            match consensus.propose(entry).await {
                // Refused: a later pass sees what became of it.
                Ok(_) | Err(ProposeError::Rejected(_) | ProposeError::NotYetHere { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        });
    }

    /// Removes a container, and has somebody look whether it was the last one that needed its image and its network.
    fn spawn_removal(&self, engine: &Arc<dyn Engine>, container: String) {
        let mut removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        if !removing.insert(container.clone()) {
            return;
        }
        drop(removing);
        let end = RemovalEnd { container: container.clone(), removing: Arc::clone(&self.removing) };
        let engine = Arc::clone(engine);
        let grace = self.options.stop_grace;
        let look_for_leftovers = Arc::clone(&self.look_for_leftovers);
        self.parts.supervisor.spawn("remove container", OnError::Log, async move {
            let _end = end;
            match engine.stop(&container, grace).await {
                Ok(()) | Err(engine::Error::NotFound { .. }) => engine.remove(&container).await?,
                Err(error) => return Err(error),
            }
            look_for_leftovers.notify_one();
            Ok(())
        });
    }

    /// Wakes the loop, and runners through it, for what happens to containers.
    fn follow_events(&self) {
        let mut engines = self.parts.engine.clone();
        let labels = container::node_labels(self.options.cluster, self.options.node);
        let wake = Arc::clone(&self.wake);
        let quit = self.parts.supervisor.stopping();
        let follow = async move {
            loop {
                let Ok(engine) = engines.wait_for(Option::is_some).await.map(|engine| engine.clone()) else { return };
                let Some(engine) = engine else { continue };
                let mut events = engine.events(&labels, clock::now());
                while let Some(Ok(event)) = events.next().await {
                    if matches!(event.kind, engine::EventKind::Died { .. } | engine::EventKind::Removed) {
                        wake.notify_one();
                    }
                }
                tokio::time::sleep(EVENTS_AGAIN_AFTER).await;
            }
        };
        self.parts.supervisor.spawn("engine events", OnError::Log, async move {
            tokio::select! {
                () = follow => {}
                () = quit.cancelled() => {}
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

struct RunnerEnd {
    done: Arc<std::sync::atomic::AtomicBool>,
    wake: Arc<Notify>,
}

impl Drop for RunnerEnd {
    fn drop(&mut self) {
        self.done.store(true, std::sync::atomic::Ordering::Release);
        self.wake.notify_one();
    }
}

struct RemovalEnd {
    container: String,
    removing: Arc<Mutex<BTreeSet<String>>>,
}

impl Drop for RemovalEnd {
    fn drop(&mut self) {
        self.removing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.container);
    }
}

fn instance_of(container: &ContainerStatus) -> Option<InstanceId> {
    container.labels.get(INSTANCE_LABEL).and_then(|id| id.parse().ok())
}

fn observe(container: &ContainerStatus) -> Container {
    let state = match container.state {
        ContainerState::Created => reconcile::ContainerState::Created,
        ContainerState::Running => reconcile::ContainerState::Running,
        ContainerState::Exited | ContainerState::Removing => reconcile::ContainerState::Exited(Exit {
            code: container.exit_code.unwrap_or_default(),
            out_of_memory: container.oom_killed,
        }),
    };
    Container {
        id: container.id.clone(),
        instance: instance_of(container),
        generation: container.labels.get(GENERATION_LABEL).and_then(|attempt| attempt.parse().ok()),
        state,
    }
}
