//! An engine in memory, for the simulation and for tests, with faults to order.
//!
//! Nothing sleeps and nothing is random: its clock moves when [`FakeEngine::set_time`] says so, ids count up, and a
//! container does what its [`Script`] says the moment it starts. A simulation gives it a [`Pace`]. Deliberately absent: processes and networks.

mod call;
mod state;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use self::state::{Container, State};
use super::{ContainerState, ContainerStatus, Event, EventKind, Image, LogStream};
use crate::model::Timestamp;

/// What a container does once it starts, chosen by its command or its image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Lines it writes at once.
    pub lines: Vec<(LogStream, String)>,
    /// How it ends right after; it runs on when absent, and a command run inside a container then hits its limit.
    pub end: Option<End>,
    /// Starting it fails with this reason.
    pub start_error: Option<String>,
    /// Starting it does not return until [`FakeEngine::release_starts`].
    pub slow_start: bool,
}

/// How a container ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exit code.
    Exit(i64),
    /// Killed for memory.
    OutOfMemory,
}

/// A fault of the whole engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// None.
    #[default]
    None,
    /// Nothing answers: every call fails, streams end.
    Unreachable,
    /// Calls do not return until the fault ends.
    Hung,
}

/// How an engine of a simulation lives: what its clock shows, and that everything takes its time.
pub struct Pace {
    /// The clock of its machine.
    pub now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// Waits for a while, as chance has it, for so long at most.
    pub wait: Box<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
    /// How long a call takes at most.
    pub call: Duration,
    /// How long containers need to stop at most, within the grace they get.
    pub stop: Duration,
}

/// An engine in memory. Containers live through [`Fault`]s, as real ones do.
pub struct FakeEngine {
    state: Arc<Mutex<State>>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
    pace: OnceLock<Pace>,
}

impl Default for FakeEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeEngine {
    /// An engine without images, at time 0.
    pub fn new() -> Self {
        Self { state: Arc::default(), changes: watch::Sender::new(0), pace: OnceLock::new() }
    }

    /// Sets its clock.
    pub fn set_time(&self, now: Timestamp) {
        self.change(|state| state.now = now);
    }

    /// The same with a pace.
    pub fn with_pace(pace: Pace) -> Self {
        Self { pace: pace.into(), ..Self::new() }
    }

    /// Makes an image known under a reference.
    pub fn add_image(&self, reference: &str, image: Image) {
        self.change(|state| state.images.insert(reference.to_owned(), image));
    }

    /// Makes an image known to the registry only, so that a pull finds it.
    pub fn add_remote_image(&self, reference: &str, image: Image) {
        self.change(|state| state.remote.insert(reference.to_owned(), Ok(image)));
    }

    /// Makes pulls of an image fail.
    pub fn fail_pull(&self, reference: &str, reason: &str) {
        self.change(|state| state.remote.insert(reference.to_owned(), Err(reason.to_owned())));
    }

    /// Makes the creation of containers whose name contains this fail; the empty reason ends that.
    pub fn fail_create(&self, name_part: &str, reason: &str) {
        self.change(|state| state.create_errors.insert(name_part.to_owned(), reason.to_owned()));
    }

    /// Makes builds of a tag fail.
    pub fn fail_build(&self, tag: &str, reason: &str) {
        self.change(|state| state.build_errors.insert(tag.to_owned(), reason.to_owned()));
    }

    /// Says what containers with that command (or commands run inside) do.
    pub fn script_command(&self, command: &[&str], script: Script) {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        self.change(|state| state.by_command.insert(command, script));
    }

    /// Says what containers of that image do, unless their command has a script.
    pub fn script_image(&self, image: &str, script: Script) {
        self.change(|state| state.by_image.insert(image.to_owned(), script));
    }

    /// Begins or ends a fault of the whole engine.
    pub fn set_fault(&self, fault: Fault) {
        self.change(|state| state.fault = fault);
    }

    /// Lets slow starts return.
    pub fn release_starts(&self) {
        self.change(|state| state.starts_released = true);
    }

    /// Writes a line to the log of a running container, by id or name; `false` when there is none.
    pub fn write(&self, id: &str, stream: LogStream, line: &str) -> bool {
        self.on_running(id, |state, index| state.write(index, stream, line))
    }

    /// Ends a running container, by id or name; `false` when there is none.
    pub fn end(&self, id: &str, end: End) -> bool {
        self.on_running(id, |state, index| state.end(index, end))
    }

    /// How many terminals were hung up.
    pub fn hung_up(&self) -> usize {
        self.look(|state| state.hung_up)
    }

    /// All containers there are, whatever fault the engine has.
    pub fn containers(&self) -> Vec<ContainerStatus> {
        self.look(|state| state.containers.iter().map(|container| container.status.clone()).collect())
    }

    /// How many starts of containers there were.
    pub fn started(&self) -> u64 {
        self.look(|state| {
            let starts = state.events.iter().filter(|(event, _)| event.kind == EventKind::Started);
            starts.count() as u64
        })
    }

    /// How many containers run.
    pub fn running(&self) -> usize {
        self.look(|state| state.containers.iter().filter(|c| c.status.state == ContainerState::Running).count())
    }

    fn on_running(&self, id: &str, act: impl FnOnce(&mut State, usize)) -> bool {
        self.change(|state| {
            let index = state.containers.iter().position(|c| c.is(id) && c.status.state == ContainerState::Running);
            index.map(|index| act(state, index)).is_some()
        })
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(pace) = self.pace.get() {
            state.now = (pace.now)();
        }
        let result = act(&mut state);
        drop(state);
        self.changes.send_modify(|count| *count += 1);
        result
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Container {
    fn is(&self, id: &str) -> bool {
        self.status.id == id || self.status.name == id
    }
}

impl State {
    fn record(&mut self, index: usize, kind: EventKind) {
        let status = &self.containers[index].status;
        let event = Event { at: self.now, container: status.id.clone(), name: status.name.clone(), kind };
        self.events.push((event, status.labels.clone()));
    }
}
