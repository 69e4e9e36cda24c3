//! The fake's answers to calls.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;

use super::state::State;
use super::{End, FakeEngine, Fault, Pace, Script};
use crate::engine::{
    Attached, BuildRequest, ContainerSpec, ContainerState, ContainerStatus, Description, Engine, Error, Event,
    EventKind, ExecOutcome, ExecOutput, ExecSpec, Image, Kind, Labels, LocalLogin, LogLine, LogsFrom, StoredImage,
    StoredNetwork, TerminalSize,
};
use crate::model::Timestamp;

const ADDRESS: &str = "fake";
/// Exit code of a process that ended on SIGTERM, and on SIGKILL.
const TERMINATED: End = End::Exit(143);
const KILLED: End = End::Exit(137);

impl FakeEngine {
    /// Waits as long as the engine hangs, then acts unless it is unreachable.
    async fn call<T>(&self, action: &str, act: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        self.takes(|pace| pace.call).await;
        self.until(|state| state.fault != Fault::Hung).await;
        self.change(|state| match state.fault {
            Fault::Unreachable => Err(unreachable(action)),
            Fault::None | Fault::Hung => act(state),
        })
    }

    /// Waits as its pace has it, if there is one.
    async fn takes(&self, most: impl FnOnce(&Pace) -> Duration) {
        if let Some(pace) = self.pace.get() {
            (pace.wait)(most(pace)).await;
        }
    }

    async fn until(&self, mut holds: impl FnMut(&State) -> bool) {
        let mut changes = self.changes.subscribe();
        while !self.look(&mut holds) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl FakeEngine {
    /// A stream of what `next` finds, looked for again after every change. Ends with an error when the engine becomes
    /// unreachable.
    fn pump<T: Send + 'static>(
        &self,
        mut next: impl FnMut(&State, &mut usize) -> Next<T> + Send + 'static,
    ) -> BoxStream<'static, Result<T, Error>> {
        let (state, mut changes) = (self.state.clone(), self.changes.subscribe());
        Box::pin(async_stream::stream! {
            let mut position = 0;
            loop {
                changes.mark_unchanged();
                let found = {
                    let state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    match state.fault {
                        Fault::None => Ok(next(&state, &mut position)),
                        Fault::Hung => Ok(Next::Later),
                        Fault::Unreachable => Err(unreachable("read a stream")),
                    }
                };
                match found {
                    Ok(Next::Item(item)) => yield Ok(item),
                    Ok(Next::End) => return,
                    // An engine that was dropped says nothing more.
                    Ok(Next::Later) => if changes.changed().await.is_err() { return },
                    Err(error) => {
                        yield Err(error);
                        return;
                    }
                }
            }
        })
    }
}

fn unreachable(action: &str) -> Error {
    Error::Unreachable { engine: ADDRESS.into(), action: action.into(), cause: "connection refused".into() }
}

fn container(state: &State, id: &str) -> Result<usize, Error> {
    state.find(id).ok_or_else(|| Error::NotFound { what: format!("container {id}") })
}

fn matches(labels: &Labels, filter: &Labels) -> bool {
    filter.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl Engine for FakeEngine {
    fn describe(&self) -> Description {
        Description { kind: Kind::Fake, version: "1".into(), address: ADDRESS.into() }
    }

    async fn ping(&self) -> Result<(), Error> {
        self.call("ping", |_| Ok(())).await
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, Error> {
        self.call("inspect image", |state| Ok(state.image(reference).cloned())).await
    }

    async fn pull(&self, reference: &str, progress: mpsc::Sender<String>) -> Result<Image, Error> {
        let pulled = self.call("pull image", |state| match state.remote.get(reference).cloned() {
            Some(Ok(image)) => {
                state.images.insert(reference.to_owned(), image.clone());
                Ok(image)
            }
            Some(Err(reason)) => Err(Error::PullFailed { image: reference.to_owned(), reason }),
            None => Err(Error::PullFailed { image: reference.to_owned(), reason: "no such image".to_owned() }),
        });
        let image = pulled.await?;
        let _nobody_listens = progress.send(format!("pulled {reference}")).await;
        Ok(image)
    }

    async fn pull_from_loopback(
        &self,
        reference: &str,
        _login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<Image, Error> {
        self.pull(reference, progress).await
    }

    async fn push(
        &self,
        image: &str,
        (name, tag): (&str, &str),
        _login: &LocalLogin,
        progress: mpsc::Sender<String>,
    ) -> Result<(), Error> {
        let pushed = self.call("push image", |state| {
            let found =
                state.image(image).cloned().ok_or_else(|| Error::NotFound { what: format!("image {image}") })?;
            if let Some(Err(reason)) = state.remote.get(name) {
                return Err(Error::PushFailed { image: image.to_owned(), reason: reason.clone() });
            }
            state.remote.insert(format!("{name}:{tag}"), Ok(found));
            Ok(())
        });
        pushed.await?;
        let _nobody_listens = progress.send(format!("pushed {image}")).await;
        Ok(())
    }

    async fn build(&self, request: BuildRequest, log: mpsc::Sender<String>) -> Result<String, Error> {
        let BuildRequest { tag, labels, mut context, .. } = request;
        while let Some(bytes) = context.next().await {
            bytes.map_err(|error| Error::Rejected { action: format!("build {tag}"), reason: error.to_string() })?;
        }
        let line = format!("building {tag}");
        let _nobody_listens = log.send(line.clone()).await;
        self.call("build image", |state| {
            if let Some(reason) = state.build_errors.get(&tag).cloned() {
                return Err(Error::BuildFailed { reason, last_lines: vec![line] });
            }
            let id = format!("sha256:{}", state.new_id());
            state.image_labels.insert(id.clone(), labels);
            state.images.insert(
                tag,
                Image { id: id.clone(), bytes: 1, exposed_ports: Vec::new(), architecture: None, digest: None },
            );
            Ok(id)
        })
        .await
    }

    async fn remove_image(&self, reference: &str) -> Result<(), Error> {
        self.call("remove image", |state| {
            let Some(id) = state.image(reference).map(|image| image.id.clone()) else { return Ok(()) };
            let references = state.images.values().filter(|image| image.id == id).count();
            let used = state.containers.iter().any(|container| container.status.image_id == id);
            if used && references == 1 {
                let action = format!("remove image {reference}");
                return Err(Error::Conflict { action, reason: "a container is using it".into() });
            }
            state.images.retain(|name, image| name != reference && !(reference == id && image.id == id));
            Ok(())
        })
        .await
    }

    async fn list_images(&self, labels: &Labels) -> Result<Vec<StoredImage>, Error> {
        self.call("list images", |state| {
            let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for (reference, image) in &state.images {
                found.entry(&image.id).or_default().push(reference.clone());
            }
            let stored = found.into_iter().map(|(id, references)| {
                let labels = state.image_labels.get(id).cloned().unwrap_or_default();
                StoredImage { id: id.to_owned(), references, labels }
            });
            Ok(stored.filter(|image| matches(&image.labels, labels)).collect())
        })
        .await
    }

    async fn ensure_network(&self, name: &str, labels: &Labels) -> Result<(), Error> {
        self.call("create network", |state| {
            state.networks.entry(name.to_owned()).or_insert_with(|| labels.clone());
            Ok(())
        })
        .await
    }

    async fn list_networks(&self, labels: &Labels) -> Result<Vec<StoredNetwork>, Error> {
        self.call("list networks", |state| {
            let carrying = state.networks.iter().filter(|(_, found)| matches(found, labels));
            Ok(carrying.map(|(name, labels)| StoredNetwork { name: name.clone(), labels: labels.clone() }).collect())
        })
        .await
    }

    async fn remove_network(&self, name: &str) -> Result<(), Error> {
        self.call("remove network", |state| {
            let used = |spec: &ContainerSpec| spec.network.as_ref().is_some_and(|network| network.name == name);
            if state.containers.iter().any(|container| used(&container.spec)) {
                return Err(Error::Conflict { action: format!("remove network {name}"), reason: "in use".into() });
            }
            state.networks.remove(name);
            Ok(())
        })
        .await
    }

    async fn ensure_volume(&self, name: &str, _labels: &Labels) -> Result<(), Error> {
        self.call("create volume", |state| {
            state.volumes.insert(name.to_owned());
            Ok(())
        })
        .await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.call("remove volume", |state| {
            let used = |spec: &ContainerSpec| spec.volumes.iter().any(|volume| volume.volume == name);
            if state.containers.iter().any(|container| used(&container.spec)) {
                return Err(Error::Conflict { action: format!("remove volume {name}"), reason: "in use".into() });
            }
            state.volumes.remove(name);
            Ok(())
        })
        .await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, Error> {
        self.call("create container", |state| {
            let action = format!("create container {}", spec.name);
            if state.find(&spec.name).is_some() {
                return Err(Error::Conflict { action, reason: "the name is already in use".into() });
            }
            let failure = state.create_errors.iter().find(|(part, why)| spec.name.contains(*part) && !why.is_empty());
            if let Some((_, reason)) = failure {
                return Err(Error::Rejected { action, reason: reason.clone() });
            }
            let missing = || Error::ImageNotFound { image: spec.image.clone() };
            let image = state.image(&spec.image).ok_or_else(missing)?.id.clone();
            match &spec.network {
                Some(network) if !state.networks.contains_key(&network.name) => {
                    Err(Error::NotFound { what: format!("network {}", network.name) })
                }
                _ => Ok(state.create(spec, image)),
            }
        })
        .await
    }

    async fn start(&self, id: &str) -> Result<(), Error> {
        let slow = self.call("start container", |state| {
            let index = container(state, id)?;
            Ok(state.script(&state.containers[index].spec).slow_start)
        });
        if slow.await? {
            self.until(|state| state.starts_released).await;
        }
        self.call("start container", |state| {
            let index = container(state, id)?;
            if let Some(reason) = state.script(&state.containers[index].spec).start_error {
                state.containers[index].status.error = Some(reason.clone());
                return Err(Error::Rejected { action: format!("start container {id}"), reason });
            }
            if state.containers[index].status.state != ContainerState::Running {
                state.start(index);
            }
            Ok(())
        })
        .await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error> {
        // It is there, and goes on until its process has ended.
        self.call("stop container", |state| container(state, id).map(drop)).await?;
        self.takes(|pace| pace.stop.min(grace)).await;
        self.call("stop container", |state| end_if_running(state, id, TERMINATED)).await
    }

    async fn kill(&self, id: &str) -> Result<(), Error> {
        self.call("kill container", |state| end_if_running(state, id, KILLED)).await
    }

    async fn kill_without_engine(&self, id: &str) -> io::Result<usize> {
        Ok(usize::from(self.end(id, KILLED)))
    }

    async fn listen_inside(&self, _: &str) -> io::Result<TcpListener> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the fake engine's containers have no network of their own"))
    }

    async fn remove(&self, id: &str) -> Result<(), Error> {
        self.call("remove container", |state| {
            if let Some(index) = state.find(id) {
                end_if_running(state, id, KILLED)?;
                state.record(index, EventKind::Removed);
                state.containers.remove(index);
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, labels: &Labels) -> Result<Vec<ContainerStatus>, Error> {
        self.call("list containers", |state| {
            let all = state.containers.iter().map(|container| &container.status);
            let mut found: Vec<_> = all.filter(|status| matches(&status.labels, labels)).cloned().collect();
            found.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(found)
        })
        .await
    }

    async fn inspect(&self, id: &str) -> Result<ContainerStatus, Error> {
        self.call("inspect container", |state| Ok(state.containers[container(state, id)?].status.clone())).await
    }

    fn events(&self, labels: &Labels, since: Timestamp) -> BoxStream<'static, Result<Event, Error>> {
        let labels = labels.clone();
        self.pump(move |state, next| {
            while let Some((event, of)) = state.events.get(*next) {
                *next += 1;
                if event.at >= since && matches(of, &labels) {
                    return Next::Item(event.clone());
                }
            }
            Next::Later
        })
    }

    fn logs(&self, id: &str, from: LogsFrom) -> BoxStream<'static, Result<LogLine, Error>> {
        let id = id.to_owned();
        let mut skipped = false;
        self.pump(move |state, next| {
            let Some(index) = state.find(&id) else { return Next::End };
            let container = &state.containers[index];
            if let (Some(tail), false) = (from.tail, skipped) {
                *next = container.log.len().saturating_sub(tail as usize);
            }
            skipped = true;
            while let Some(line) = container.log.get(*next) {
                *next += 1;
                if from.after.is_none_or(|after| line.cursor > after) {
                    return Next::Item(line.clone());
                }
            }
            let running = container.status.state == ContainerState::Running;
            if from.follow && running { Next::Later } else { Next::End }
        })
    }

    async fn exec(&self, id: &str, argv: &[String], _limit: Duration) -> Result<ExecOutcome, Error> {
        self.call("run a command", |state| {
            let index = container(state, id)?;
            if state.containers[index].status.state != ContainerState::Running {
                let action = format!("run a command in container {id}");
                return Err(Error::Conflict { action, reason: "it is not running".into() });
            }
            let Some(Script { lines, end, .. }) = state.by_command.get(argv) else {
                return Ok(ExecOutcome::Exited { code: 127, output: b"not found".to_vec() });
            };
            let output = lines.iter().flat_map(|(_, line)| format!("{line}\n").into_bytes()).collect();
            Ok(match end {
                Some(End::Exit(code)) => ExecOutcome::Exited { code: *code, output },
                Some(End::OutOfMemory) => ExecOutcome::Exited { code: 137, output },
                None => ExecOutcome::TimedOut { output },
            })
        })
        .await
    }

    /// The lines of the command's script, then its end; input is not read.
    async fn attach(&self, id: &str, spec: &ExecSpec) -> Result<Attached, Error> {
        let (output, end) = match self.exec(id, &spec.argv, Duration::MAX).await? {
            ExecOutcome::Exited { code, output } => (output, stream::iter([Ok(ExecOutput::Exited(code))]).boxed()),
            ExecOutcome::TimedOut { output } => (output, stream::pending().boxed()),
        };
        let output = stream::iter([Ok(ExecOutput::Stdout(output.into()))]).chain(end).boxed();
        Ok(Attached { id: id.to_owned(), output, input: Box::pin(tokio::io::sink()) })
    }

    async fn resize(&self, _: &str, _: TerminalSize) -> Result<(), Error> {
        self.call("resize a terminal", |_| Ok(())).await
    }

    async fn hang_up(&self, id: &str, _: &str) -> Result<(), Error> {
        self.call("hang up", |state| {
            container(state, id)?;
            state.hung_up += 1;
            Ok(())
        })
        .await
    }
}

fn end_if_running(state: &mut State, id: &str, end: End) -> Result<(), Error> {
    let index = container(state, id)?;
    if state.containers[index].status.state == ContainerState::Running {
        state.end(index, end);
    }
    Ok(())
}

/// What a stream gives next.
enum Next<T> {
    Item(T),
    Later,
    End,
}
