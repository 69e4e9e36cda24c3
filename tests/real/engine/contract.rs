//! What every engine has to do, whichever it is.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use narvana::clock;
use narvana::engine::{
    ContainerSpec, ContainerState, ContainerStatus, Engine, Error, EventKind, ExecOutcome, Image, Labels, LogLine,
    LogStream, LogsFrom, NetworkAttachment, PublishedPort, VolumeMount,
};
use narvana::model::{Cpu, Memory, Protocol};
use tokio::sync::mpsc;

use crate::harness::{BUSYBOX, DEADLINE, context_with, until};

/// Runs for a long time and ends when asked.
pub(super) const SLEEP: [&str; 2] = ["sleep", "1000"];
/// Writes three lines, the second to standard error, and ends with 7.
pub(super) const CHATTY: [&str; 3] =
    ["sh", "-c", "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo $GREETING; exit 7"];
/// Writes a line and ends with 3.
pub(super) const FAILS: [&str; 3] = ["sh", "-c", "echo out; exit 3"];
/// Never ends by itself.
pub(super) const HANGS: [&str; 3] = ["sh", "-c", "sleep 1000"];
/// Does not exist.
pub(super) const MISSING: [&str; 1] = ["no-such-command"];

/// Everything, on one engine. `prefix` keeps names apart, `labels` are on all containers.
pub(super) async fn all(engine: &dyn Engine, prefix: &str, labels: &Labels) {
    let stage = Stage { engine, prefix, labels };
    stage.answers().await;
    stage.images().await;
    stage.what_is_kept_is_listed_by_label().await;
    stage.a_service_lives_and_ends().await;
    stage.a_task_writes_and_exits().await;
    assert_eq!(engine.list(labels).await.expect("a list"), [], "everything was removed");
}

struct Stage<'a> {
    engine: &'a dyn Engine,
    prefix: &'a str,
    labels: &'a Labels,
}

impl Stage<'_> {
    fn spec(&self, name: &str, command: &[&str]) -> ContainerSpec {
        let mut spec = ContainerSpec::new(format!("{}-{name}", self.prefix), BUSYBOX);
        spec.command = words(command);
        spec.labels = self.labels.clone();
        spec.labels.insert("narvana.service".to_owned(), name.to_owned());
        spec
    }

    async fn answers(&self) {
        self.engine.ping().await.expect("it answers");
        let description = self.engine.describe();
        assert!(!description.version.is_empty() && !description.address.is_empty(), "{description:?}");
    }

    async fn images(&self) {
        let image = self.engine.image(BUSYBOX).await.expect("an answer").expect("busybox is there");
        assert!(image.id.starts_with("sha256:") && image.bytes > 0, "{image:?}");
        assert_eq!(image.exposed_ports, [(8080, Protocol::Tcp)]);
        assert!(image.architecture.as_ref().is_some_and(|name| !name.contains("_")), "as images name it: {image:?}");
        // The digest is one under a name.
        let by_id = self.engine.image(&image.id).await.expect("an answer");
        assert_eq!(by_id, Some(Image { digest: None, ..image }));

        let missing = "localhost/narvana-test/missing:latest";
        assert_eq!(self.engine.image(missing).await.expect("an answer"), None);
        let (progress, _) = mpsc::channel(1);
        let pulled = self.engine.pull(missing, progress).await;
        assert!(matches!(&pulled, Err(Error::PullFailed { image, .. }) if image == missing), "{pulled:?}");
        let mut spec = self.spec("missing", &SLEEP);
        spec.image = missing.to_owned();
        let created = self.engine.create(&spec).await;
        assert_eq!(created, Err(Error::ImageNotFound { image: missing.to_owned() }));
        self.engine.remove_image(missing).await.expect("what is not there is removed");
    }

    async fn what_is_kept_is_listed_by_label(&self) {
        let engine = self.engine;
        let mut own = self.labels.clone();
        own.insert("narvana.build".to_owned(), self.prefix.to_owned());
        let others = Labels::from([("narvana.build".to_owned(), format!("not-{}", self.prefix))]);
        let tag = format!("localhost/narvana-test/{}:v1", self.prefix);
        let id = self.build(&tag, &own).await;
        let listed = engine.list_images(&own).await.expect("a list");
        let [image] = &listed[..] else { panic!("one image: {listed:?}") };
        assert_eq!((image.id.as_str(), &image.references[..]), (id.as_str(), std::slice::from_ref(&tag)));
        assert!(own.iter().all(|(key, value)| image.labels.get(key) == Some(value)), "{image:?}");
        assert_eq!(engine.list_images(&others).await.expect("a list"), []);

        // What a container needs stays, whether it runs or not.
        let mut spec = self.spec("keeper", &SLEEP);
        spec.image = tag.clone();
        let container = engine.create(&spec).await.expect("created");
        let used = engine.remove_image(&tag).await;
        assert!(matches!(used, Err(Error::Conflict { .. })), "{used:?}");
        engine.start(&container).await.expect("started");
        let used = engine.remove_image(&tag).await;
        assert!(matches!(used, Err(Error::Conflict { .. })), "{used:?}");
        engine.remove(&container).await.expect("removed");

        // An image that loses its name to a newer one is listed without it, and goes by its id.
        let mut newer = own.clone();
        newer.insert("narvana.attempt".to_owned(), "2".to_owned());
        let second = self.build(&tag, &newer).await;
        let listed = engine.list_images(&own).await.expect("a list");
        let names = |id: &str| listed.iter().find(|image| image.id == id).map(|image| image.references.len());
        assert_eq!((names(&id), names(&second)), (self.keeps_unnamed().then_some(0), Some(1)), "{listed:?}");
        engine.remove_image(&id).await.expect("removed");
        engine.remove_image(&tag).await.expect("removed");
        assert_eq!(engine.list_images(&own).await.expect("a list"), []);

        let network = format!("{}-listed", self.prefix);
        engine.ensure_network(&network, &own).await.expect("a network");
        let listed = engine.list_networks(&own).await.expect("a list");
        assert_eq!(listed.iter().map(|network| network.name.as_str()).collect::<Vec<_>>(), [network.as_str()]);
        assert!(own.iter().all(|(key, value)| listed[0].labels.get(key) == Some(value)), "{listed:?}");
        assert_eq!(engine.list_networks(&others).await.expect("a list"), []);
        engine.remove_network(&network).await.expect("removed");
        assert_eq!(engine.list_networks(&own).await.expect("a list"), []);
    }

    /// The fake forgets an image together with its last name.
    fn keeps_unnamed(&self) -> bool {
        self.engine.describe().kind != narvana::engine::Kind::Fake
    }

    async fn build(&self, tag: &str, labels: &Labels) -> String {
        // No two of them are alike: one that another is built upon counts as a part of that and is not listed.
        let attempt = labels.get("narvana.attempt").map_or("1", String::as_str);
        let mut request = context_with(tag, &format!("FROM {BUSYBOX}\nENV BUILT={attempt}\n"), &[]);
        request.labels.clone_from(labels);
        let (log, mut lines) = mpsc::channel(64);
        let (built, ()) =
            tokio::join!(self.engine.build(request, log), async { while lines.recv().await.is_some() {} });
        built.expect("it is built")
    }

    async fn a_service_lives_and_ends(&self) {
        let engine = self.engine;
        let (network, volume) = (format!("{}-net", self.prefix), format!("{}-vol", self.prefix));
        for _twice in 0..2 {
            engine.ensure_network(&network, self.labels).await.expect("a network");
            engine.ensure_volume(&volume, self.labels).await.expect("a volume");
        }
        let mut spec = self.spec("web", &SLEEP);
        spec.ports = vec![PublishedPort { container_port: 8080, protocol: Protocol::Tcp }];
        spec.network = Some(NetworkAttachment { name: network.clone(), aliases: vec!["web.shop.internal".into()] });
        spec.volumes = vec![VolumeMount { volume: volume.clone(), path: "/data".into() }];
        spec.cpu = Cpu::from_millis(500);
        spec.memory = Memory::from_mebibytes(64);
        spec.pids_max = Some(64);

        let id = engine.create(&spec).await.expect("created");
        let again = engine.create(&spec).await;
        assert!(matches!(again, Err(Error::Conflict { .. })), "{again:?}");
        let created = self.inspect(&id).await;
        assert_eq!((created.state, created.name.as_str()), (ContainerState::Created, spec.name.as_str()));
        assert_eq!((created.started_at, created.exit_code, created.bindings.len()), (None, None, 0));

        engine.start(&id).await.expect("started");
        engine.start(&id).await.expect("starting twice has no effect");
        let running = self.inspect(&id).await;
        assert_eq!((running.id.as_str(), running.state), (id.as_str(), ContainerState::Running));
        assert!(running.started_at.is_some() && running.finished_at.is_none() && !running.oom_killed, "{running:?}");
        let binding = running.bindings.first().expect("its port is published");
        assert_eq!((binding.container_port, binding.protocol), (8080, Protocol::Tcp));
        assert!(binding.host.ip().is_loopback() && binding.host.port() > 0, "{binding:?}");
        assert!(spec.labels.iter().all(|(key, value)| running.labels.get(key) == Some(value)), "{running:?}");
        assert_eq!(engine.inspect(&spec.name).await.expect("by name"), running);
        assert_eq!(engine.list(&spec.labels).await.expect("a list"), [running]);
        let others = Labels::from([("narvana.service".to_owned(), "other".to_owned())]);
        assert_eq!(engine.list(&others).await.expect("a list"), []);

        self.commands_run_inside(&id).await;

        let used = engine.remove_volume(&volume).await;
        assert!(matches!(used, Err(Error::Conflict { .. })), "{used:?}");
        let used = engine.remove_network(&network).await;
        assert!(matches!(used, Err(Error::Conflict { .. })), "{used:?}");

        for _twice in 0..2 {
            engine.stop(&id, Duration::from_secs(10)).await.expect("stopped");
        }
        engine.kill(&id).await.expect("killing what does not run has no effect");
        let stopped = self.inspect(&id).await;
        assert_eq!((stopped.state, stopped.exit_code), (ContainerState::Exited, Some(143)));
        assert!(stopped.finished_at.is_some() && !stopped.oom_killed && stopped.bindings.is_empty(), "{stopped:?}");

        engine.start(&id).await.expect("started again");
        engine.kill(&id).await.expect("killed");
        let killed = self.exited(&id).await;
        assert_eq!((killed.exit_code, killed.oom_killed), (Some(137), false));

        for _twice in 0..2 {
            engine.remove(&id).await.expect("removed");
            engine.remove_volume(&volume).await.expect("removed");
            engine.remove_network(&network).await.expect("removed");
        }
        let gone = engine.inspect(&id).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
        let gone = engine.start(&id).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    }

    async fn commands_run_inside(&self, id: &str) {
        let failed = self.engine.exec(id, &words(&FAILS), DEADLINE).await.expect("an answer");
        assert_eq!(failed, ExecOutcome::Exited { code: 3, output: b"out\n".to_vec() });
        let missing = self.engine.exec(id, &words(&MISSING), DEADLINE).await.expect("an answer");
        assert!(matches!(missing, ExecOutcome::Exited { code: 126 | 127, .. }), "{missing:?}");
        let hung = self.engine.exec(id, &words(&HANGS), Duration::from_millis(300)).await.expect("an answer");
        assert_eq!(hung, ExecOutcome::TimedOut { output: Vec::new() });
    }

    async fn a_task_writes_and_exits(&self) {
        let before = clock::now();
        let mut events = self.engine.events(self.labels, before);
        let mut spec = self.spec("task", &CHATTY);
        spec.env.insert("GREETING".to_owned(), "hello".to_owned());
        let id = self.engine.create(&spec).await.expect("created");
        self.engine.start(&id).await.expect("started");

        let lines = self.log(&id, LogsFrom { follow: true, ..LogsFrom::default() }).await;
        assert_eq!(texts(&lines), ["one", "two", "hello"]);
        let streams: Vec<_> = lines.iter().map(|line| line.stream).collect();
        assert_eq!(streams, [LogStream::Stdout, LogStream::Stderr, LogStream::Stdout]);
        let exited = self.exited(&id).await;
        assert_eq!((exited.exit_code, exited.oom_killed), (Some(7), false));

        let mut seen = Vec::new();
        while !seen.iter().any(|kind| matches!(kind, EventKind::Died { .. })) {
            let event = tokio::time::timeout(DEADLINE, events.next()).await.expect("an event in time");
            let event = event.expect("the engine is there").expect("an event");
            if event.container == id {
                assert_eq!(event.name, spec.name);
                seen.push(event.kind);
            }
        }
        assert_eq!(seen, [EventKind::Created, EventKind::Started, EventKind::Died { exit_code: Some(7) }]);

        self.engine.start(&id).await.expect("started again");
        let after = LogsFrom { after: Some(lines[2].cursor), tail: None, follow: true };
        assert_eq!(texts(&self.log(&id, after).await), ["one", "two", "hello"]);
        self.exited(&id).await;
        assert_eq!(self.log(&id, LogsFrom::default()).await.len(), 6);
        let after = LogsFrom { after: Some(lines[0].cursor), ..LogsFrom::default() };
        assert_eq!(texts(&self.log(&id, after).await), ["two", "hello", "one", "two", "hello"]);
        let tail = LogsFrom { tail: Some(2), ..LogsFrom::default() };
        assert_eq!(texts(&self.log(&id, tail).await), ["two", "hello"]);
        self.engine.remove(&id).await.expect("removed");
    }

    async fn log(&self, id: &str, from: LogsFrom) -> Vec<LogLine> {
        let lines = self.engine.logs(id, from).try_collect();
        tokio::time::timeout(DEADLINE, lines).await.expect("the log ends in time").expect("a log")
    }

    async fn inspect(&self, id: &str) -> ContainerStatus {
        self.engine.inspect(id).await.expect("it is there")
    }

    async fn exited(&self, id: &str) -> ContainerStatus {
        until("the container exits", || async {
            let status = self.inspect(id).await;
            (status.state == ContainerState::Exited).then_some(status)
        })
        .await
    }
}

pub(super) fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

pub(super) fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect()
}
