//! What the fake engine holds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{End, Fault, Script};
use crate::engine::{
    Binding, ContainerSpec, ContainerState, ContainerStatus, Event, EventKind, Image, Labels, LogCursor, LogLine,
    LogStream,
};
use crate::model::Timestamp;

/// First of the ports that published ports get.
const FIRST_HOST_PORT: u16 = 30_000;

#[derive(Default)]
pub(super) struct State {
    pub(super) now: Timestamp,
    pub(super) fault: Fault,
    pub(super) starts_released: bool,
    pub(super) images: BTreeMap<String, Image>,
    /// Labels of images that have some, by id.
    pub(super) image_labels: BTreeMap<String, Labels>,
    pub(super) remote: BTreeMap<String, Result<Image, String>>,
    pub(super) create_errors: BTreeMap<String, String>,
    pub(super) build_errors: BTreeMap<String, String>,
    pub(super) by_command: BTreeMap<Vec<String>, Script>,
    pub(super) by_image: BTreeMap<String, Script>,
    pub(super) networks: BTreeMap<String, Labels>,
    pub(super) volumes: BTreeSet<String>,
    pub(super) containers: Vec<Container>,
    pub(super) events: Vec<(Event, Labels)>,
    pub(super) made: u64,
    pub(super) hung_up: usize,
}

pub(super) struct Container {
    pub(super) spec: ContainerSpec,
    pub(super) status: ContainerStatus,
    pub(super) log: Vec<LogLine>,
}

impl State {
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        self.containers.iter().position(|container| container.is(id))
    }

    /// The image of that reference or id.
    pub(super) fn image(&self, reference: &str) -> Option<&Image> {
        self.images.get(reference).or_else(|| self.images.values().find(|image| image.id == reference))
    }

    /// A new id of 64 hex digits.
    pub(super) fn new_id(&mut self) -> String {
        self.made += 1;
        format!("{:064x}", self.made)
    }

    pub(super) fn script(&self, spec: &ContainerSpec) -> Script {
        self.by_command.get(&spec.command).or_else(|| self.by_image.get(&spec.image)).cloned().unwrap_or_default()
    }

    pub(super) fn create(&mut self, spec: &ContainerSpec, image_id: String) -> String {
        let id = self.new_id();
        let status = ContainerStatus {
            id: id.clone(),
            name: spec.name.clone(),
            image_id,
            labels: spec.labels.clone(),
            state: ContainerState::Created,
            exit_code: None,
            oom_killed: false,
            started_at: None,
            finished_at: None,
            error: None,
            bindings: Vec::new(),
        };
        self.containers.push(Container { spec: spec.clone(), status, log: Vec::new() });
        self.record(self.containers.len() - 1, EventKind::Created);
        id
    }

    /// Starts a container and plays its script.
    pub(super) fn start(&mut self, index: usize) {
        let script = self.script(&self.containers[index].spec);
        let now = self.now;
        let made = self.made;
        let container = &mut self.containers[index];
        let host_port = |place: usize| {
            // Wraps after thirty thousand containers: far more than any test makes.
            let offset = (made as usize * 8 + place) % 30_000;
            FIRST_HOST_PORT + u16::try_from(offset).unwrap_or_default()
        };
        let status = &mut container.status;
        status.state = ContainerState::Running;
        status.started_at = Some(now);
        (status.finished_at, status.exit_code, status.oom_killed) = (None, None, false);
        status.bindings = (container.spec.ports.iter().enumerate())
            .map(|(place, port)| Binding {
                container_port: port.container_port,
                protocol: port.protocol,
                host: ([127, 0, 0, 1], host_port(place)).into(),
            })
            .collect();
        self.made += 1;
        self.record(index, EventKind::Started);
        for (stream, line) in &script.lines {
            self.write(index, *stream, line);
        }
        if let Some(end) = script.end {
            self.end(index, end);
        }
    }

    pub(super) fn write(&mut self, index: usize, stream: LogStream, line: &str) {
        let now = self.now;
        let log = &mut self.containers[index].log;
        let nanos = now.0.saturating_mul(1_000_000);
        let lines = log.last().filter(|last| last.cursor.nanos == nanos).map_or(1, |last| last.cursor.lines + 1);
        let bytes = Bytes::copy_from_slice(line.as_bytes());
        log.push(LogLine { at: now, cursor: LogCursor { nanos, lines }, stream, bytes, cut: false });
    }

    pub(super) fn end(&mut self, index: usize, end: End) {
        let now = self.now;
        let status = &mut self.containers[index].status;
        let code = match end {
            End::Exit(code) => code,
            End::OutOfMemory => 137,
        };
        status.state = ContainerState::Exited;
        status.exit_code = Some(code);
        status.oom_killed = end == End::OutOfMemory;
        status.finished_at = Some(now);
        status.bindings.clear();
        if end == End::OutOfMemory {
            self.record(index, EventKind::OutOfMemory);
        }
        self.record(index, EventKind::Died { exit_code: Some(code) });
    }
}
