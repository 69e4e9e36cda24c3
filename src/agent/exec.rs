//! Commands that people run inside instances: those of this node through its engine, those of another through that node.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::consensus::View;
use crate::engine::{self, Attached, Engine, ExecOutput, ExecSpec, TerminalSize};
use crate::model::{InstanceId, InstanceState, NodeId};
use crate::task::{OnError, Supervisor};

/// Commands at once on one node: more than people type, few enough that nobody exhausts the engine.
const COMMANDS_MAX: usize = 64;
/// Longest wait for entries of the log that the caller has seen already.
const ENTRIES_WAIT_MAX: Duration = Duration::from_secs(2);
/// Words of a command at most.
const WORDS_MAX: usize = 256;
/// Bytes of a command at most.
const WORDS_BYTES_MAX: usize = 64 * 1024;
/// Largest terminal, in either direction.
const TERMINAL_MAX: u16 = 1_000;
/// What a terminal gets when whoever held it has left and nobody on this machine may end what runs on it: Ctrl-C for what runs or is
/// half typed, again since the first may be taken for a character after Ctrl-V; Ctrl-D for the shell, and for one before it.
const GOODBYE: [u8; 4] = [0x03, 0x03, 0x04, 0x04];
/// Pause between those keys: with Ctrl-C, terminals and shells throw away what is typed after it and not read yet.
const GOODBYE_PAUSE: Duration = Duration::from_millis(300);
/// How long an engine may take to hang up a command, to take a key, and to take the end of its input.
const HANG_UP_MAX: Duration = Duration::from_secs(4);

/// What goes to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes to read.
    Data(Bytes),
    /// There are no more.
    End,
    /// Its terminal has another size.
    Resize(TerminalSize),
}

/// What goes to a command. Its end means that whoever held the command has left.
pub type ExecInputs = BoxStream<'static, ExecInput>;
/// What comes from a command, until [`ExecOutput::Exited`] or an error. Dropping it means the same.
pub type ExecOutputs = BoxStream<'static, Result<ExecOutput, ExecError>>;

/// A command to be started in an instance.
pub struct ExecRequest {
    /// Which one.
    pub instance: InstanceId,
    /// The index of the state in which it runs where it is asked for: whoever knows less does not refuse before it knows as much.
    pub index: u64,
    /// What to run.
    pub spec: ExecSpec,
    /// What it gets.
    pub inputs: ExecInputs,
}

/// Why a command was not run, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// It cannot be run as it is.
    #[error("{0}")]
    Invalid(String),
    /// The instance does not run there. Choose another.
    #[error("{0}")]
    NotRunning(String),
    /// The node runs as many as it may. Come back later.
    #[error("node {0} runs {COMMANDS_MAX} commands in instances, which is the most; end one, or wait")]
    Busy(String),
    /// The node, or its engine, does not answer. Whether the command ran is not known.
    #[error("{0}")]
    Away(String),
}

/// Runs commands in instances of other nodes. Defined here, implemented by `rpc`.
#[async_trait]
pub trait ExecElsewhere: Send + Sync + 'static {
    /// Like [`Exec::run`].
    async fn run(&self, node: NodeId, request: ExecRequest) -> Result<ExecOutputs, ExecError>;
}

/// Runs commands in all instances. Clones are the same.
#[derive(Clone)]
pub struct Exec {
    own: LocalExec,
    elsewhere: Option<Arc<dyn ExecElsewhere>>,
}

impl Exec {
    /// Only in those of this node.
    pub fn of_one(own: LocalExec) -> Self {
        Self { own, elsewhere: None }
    }

    /// In those of this node, and through `elsewhere` in those of the others.
    pub fn new(own: LocalExec, elsewhere: Arc<dyn ExecElsewhere>) -> Self {
        Self { own, elsewhere: Some(elsewhere) }
    }

    /// Starts a command in an instance that runs on `node`.
    ///
    /// # Errors
    /// [`ExecError`]; nothing was started then, unless it is [`ExecError::Away`].
    pub async fn run(&self, node: NodeId, request: ExecRequest) -> Result<ExecOutputs, ExecError> {
        check(&request.spec)?;
        match &self.elsewhere {
            Some(elsewhere) if node != self.own.node => elsewhere.run(node, request).await,
            _ => self.own.run(request).await,
        }
    }
}

/// Runs commands in instances of this node. Clones share the count.
#[derive(Clone)]
pub struct LocalExec {
    node: NodeId,
    views: watch::Receiver<View>,
    engine: watch::Receiver<Option<Arc<dyn Engine>>>,
    places: Arc<Semaphore>,
    supervisor: Supervisor,
}

impl LocalExec {
    /// Of the instances that the state gives to `node`, in `engine` once there is one.
    pub fn new(
        node: NodeId,
        views: watch::Receiver<View>,
        engine: watch::Receiver<Option<Arc<dyn Engine>>>,
        supervisor: Supervisor,
    ) -> Self {
        Self { node, views, engine, places: Arc::new(Semaphore::new(COMMANDS_MAX)), supervisor }
    }

    /// Starts a command in an instance of this node.
    ///
    /// # Errors
    /// As [`Exec::run`].
    pub async fn run(&self, request: ExecRequest) -> Result<ExecOutputs, ExecError> {
        let ExecRequest { instance, index, spec, inputs } = request;
        check(&spec)?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| ExecError::Busy(self.name()))?;
        let container = self.container(instance, index).await?;
        let engine = self.engine.borrow().clone();
        let engine = engine
            .ok_or_else(|| ExecError::Away(format!("node {} has no container engine that answers", self.name())))?;
        let terminal = spec.terminal.is_some();
        let outputs = start(engine, container, spec, inputs, place, &self.supervisor).await?;
        tracing::info!(%instance, terminal, "a command runs inside an instance");
        Ok(outputs)
    }

    /// The container of an instance that runs here.
    async fn container(&self, instance: InstanceId, index: u64) -> Result<String, ExecError> {
        let running = |view: &View| {
            let found = view.state.instance(instance).filter(|found| found.placement.node == self.node)?;
            found.status.container.clone().filter(|_| found.status.state == InstanceState::Running)
        };
        let mut views = self.views.clone();
        let known = views.wait_for(|view| view.index >= index || running(view).is_some());
        let found = timeout(ENTRIES_WAIT_MAX, known).await.ok().and_then(|view| running(&*view.ok()?));
        found.ok_or_else(|| ExecError::NotRunning(format!("instance {instance} does not run on node {}", self.name())))
    }

    /// What people call this node.
    fn name(&self) -> String {
        self.views.borrow().state.name_of(self.node)
    }
}

/// Starts the command in a task of its own: whoever asked may leave while the engine starts it, and it has to be hung up
/// all the same.
async fn start(
    engine: Arc<dyn Engine>,
    container: String,
    spec: ExecSpec,
    inputs: ExecInputs,
    place: OwnedSemaphorePermit,
    supervisor: &Supervisor,
) -> Result<ExecOutputs, ExecError> {
    let (answer, answered) = oneshot::channel();
    let gone = supervisor.stopping().child_token();
    let (left, place) = (gone.clone(), Arc::new(place));
    let kept = Arc::clone(&place);
    supervisor.spawn("exec", OnError::Log, async move {
        let _kept = kept;
        match engine.attach(&container, &spec).await {
            Ok(Attached { id: exec, output, input }) => {
                let _taken = answer.send(Ok(output));
                let on_terminal = spec.terminal.is_some();
                Feeder { engine, container, exec, input, on_terminal, gone: left }.feed(inputs).await;
            }
            Err(error) => drop(answer.send(Err(failed(&error)))),
        }
        Ok::<(), Infallible>(())
    });
    let held = (place, gone.drop_guard());
    let mut output = answered.await.unwrap_or_else(|_| Err(ExecError::Away("the node stops; ask again".to_owned())))?;
    Ok(Box::pin(stream! {
        let _held = held;
        while let Some(item) = output.next().await {
            yield item.map_err(|error| failed(&error));
        }
    }))
}

/// What no engine should be asked.
fn check(spec: &ExecSpec) -> Result<(), ExecError> {
    let invalid = |reason: &str| Err(ExecError::Invalid(reason.to_owned()));
    if spec.argv.first().is_none_or(String::is_empty) {
        return invalid("the command is empty; name a program, such as /bin/sh");
    }
    if spec.argv.len() > WORDS_MAX || spec.argv.iter().map(String::len).sum::<usize>() > WORDS_BYTES_MAX {
        return invalid("the command is too long: at most 256 words of 64 KiB together; send the rest as its input");
    }
    if spec.argv.iter().any(|word| word.contains('\0')) {
        return invalid("the command has a NUL byte, which no program can get");
    }
    if spec.terminal.is_some_and(|size| size.rows > TERMINAL_MAX || size.columns > TERMINAL_MAX) {
        return invalid("the terminal is too large: at most 1000 rows and columns");
    }
    Ok(())
}

fn failed(error: &engine::Error) -> ExecError {
    match error {
        engine::Error::NotFound { .. } | engine::Error::Conflict { .. } => ExecError::NotRunning(error.to_string()),
        engine::Error::Rejected { .. } => ExecError::Invalid(error.to_string()),
        _ => ExecError::Away(error.to_string()),
    }
}

/// Brings a command what it reads.
struct Feeder {
    engine: Arc<dyn Engine>,
    container: String,
    exec: String,
    input: Pin<Box<dyn AsyncWrite + Send>>,
    on_terminal: bool,
    /// Cancelled when nobody takes the output any more, and when the node stops.
    gone: CancellationToken,
}

impl Feeder {
    async fn feed(mut self, mut inputs: ExecInputs) {
        let gone = self.gone.clone();
        // A command that does not read holds its input up, not this.
        gone.run_until_cancelled(self.pass_on(&mut inputs)).await;
        let said = if self.on_terminal { self.hang_up().await } else { Ok(()) };
        let ended = timeout(HANG_UP_MAX, self.input.shutdown()).await;
        if let Some(error) = said.err().or_else(|| ended.ok()?.err()) {
            tracing::debug!(%error, "a command had ended before it was hung up");
        }
    }

    async fn hang_up(&mut self) -> io::Result<()> {
        let asked = timeout(HANG_UP_MAX, self.engine.hang_up(&self.container, &self.exec)).await?;
        let Err(error) = asked else { return Ok(()) };
        tracing::info!(%error, container = self.container, "a terminal gets Ctrl-C and Ctrl-D, and what does not mind them goes on");
        for key in GOODBYE {
            timeout(HANG_UP_MAX, self.input.write_all(&[key])).await??;
            timeout(HANG_UP_MAX, self.input.flush()).await??;
            sleep(GOODBYE_PAUSE).await;
        }
        Ok(())
    }

    /// Returns when there is nothing more to pass on.
    async fn pass_on(&mut self, inputs: &mut ExecInputs) {
        while let Some(input) = inputs.next().await {
            let passed = match input {
                ExecInput::Data(bytes) => {
                    let written = self.input.write_all(&bytes).await;
                    if written.is_ok() { self.input.flush().await } else { written }
                }
                ExecInput::End => self.input.shutdown().await,
                ExecInput::Resize(size) => {
                    if let Err(error) = self.engine.resize(&self.exec, size).await {
                        tracing::debug!(%error, "a terminal keeps its size");
                    }
                    Ok(())
                }
            };
            if let Err(error) = passed {
                // It reads no more; what it writes still comes.
                tracing::debug!(%error, "a command takes no more input");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::{AsyncReadExt, copy, duplex, sink};
    use tokio::time::Instant;

    use super::*;
    use crate::engine::fake::{FakeEngine, Fault, Script};
    use crate::engine::{ContainerSpec, Image};

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "still not: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await; // poll
        }
    }

    /// A container in which a shell can be started, by somebody who says nothing and does not leave.
    struct Scene {
        fake: Arc<FakeEngine>,
        container: String,
        places: Arc<Semaphore>,
        supervisor: Supervisor,
    }

    impl Scene {
        async fn new() -> Self {
            let fake = Arc::new(FakeEngine::new());
            let image = Image {
                id: format!("sha256:{:064x}", 1),
                bytes: 1,
                exposed_ports: Vec::new(),
                architecture: None,
                digest: None,
            };
            fake.add_image("app:1", image);
            fake.script_command(&["sh"], Script::default());
            let container = fake.create(&ContainerSpec::new("web".to_owned(), "app:1")).await.expect("created");
            fake.start(&container).await.expect("started");
            let supervisor = Supervisor::new("test", CancellationToken::new());
            Self { fake, container, places: Arc::new(Semaphore::new(1)), supervisor }
        }

        async fn shell(&self) -> Result<ExecOutputs, ExecError> {
            let spec = ExecSpec {
                argv: vec!["sh".to_owned()],
                terminal: Some(TerminalSize { rows: 24, columns: 80 }),
                takes_input: true,
            };
            let place = Arc::clone(&self.places).try_acquire_owned().expect("a place");
            let inputs = futures::stream::pending().boxed();
            start(self.fake.clone(), self.container.clone(), spec, inputs, place, &self.supervisor).await
        }
    }

    #[tokio::test]
    async fn whoever_leaves_while_the_command_is_started_hangs_up_too() {
        let scene = Scene::new().await;
        scene.fake.set_fault(Fault::Hung);
        let mut asked = Box::pin(scene.shell());
        assert!(futures::poll!(&mut asked).is_pending());
        drop(asked);
        assert_eq!(scene.places.available_permits(), 0, "the engine is at it still");
        scene.fake.set_fault(Fault::None);
        until("it was hung up", || scene.fake.hung_up() == 1).await;
        until("the place is free", || scene.places.available_permits() == 1).await;
    }

    #[tokio::test]
    async fn a_node_that_stops_hangs_up() {
        let scene = Scene::new().await;
        let outputs = scene.shell().await.expect("a shell");
        let begun = Instant::now();
        scene.supervisor.stop(Duration::from_secs(20)).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "it waited for whoever holds the shell");
        assert_eq!(scene.fake.hung_up(), 1);
        drop(outputs);
    }

    /// What shells make of the keys is theirs to say: with a line half typed, with a program that runs, in one another.
    #[tokio::test]
    async fn shells_end_by_keys_where_they_cannot_be_hung_up() {
        for (shell, typed, seen) in [
            ("env PS1=PROMPT bash --norc --noprofile -i", "", ""),
            ("env PS1=PROMPT bash --norc --noprofile -i", "echo half-\u{16}\u{16}", "half-^V"),
            ("env PS1=PROMPT bash --norc --noprofile -i", "sh -c 'echo $((40 + 2)); exec sleep 600'\n", "42"),
            ("env PS1=PROMPT bash --norc --noprofile -i", "dash -i\necho $((40 + 2))\n", "42"),
            ("env PS1=PROMPT dash -i", "", ""),
            ("env PS1=PROMPT dash -i", "sh -c 'echo $((40 + 2)); exec sleep 600'\n", "42"),
        ] {
            let mut process = tokio::process::Command::new("script")
                .args(["--quiet", "--command", shell, "/dev/null"])
                .env("TERM", "dumb")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("a terminal");
            let mut keyboard = process.stdin.take().expect("its input");
            let mut screen = process.stdout.take().expect("its output");
            // At the prompt: the terminal itself shows what is typed before that, and no shell has read it.
            for (typed, seen) in [("", "PROMPT"), (typed, seen)] {
                keyboard.write_all(typed.as_bytes()).await.expect("typed");
                let mut text = String::new();
                while !text.contains(seen) {
                    let mut bytes = [0; 1024];
                    let read = timeout(Duration::from_secs(20), screen.read(&mut bytes)).await;
                    let read = read.unwrap_or_else(|_| panic!("{shell} shows only {text:?}")).expect("more");
                    assert_ne!(read, 0, "{shell} ended: {text:?}");
                    text += &String::from_utf8_lossy(&bytes[..read]);
                }
            }
            // The end of its input alone would end it: `script` takes it for a key. So that stays open.
            let (input, mut keys) = duplex(16);
            let engine = Arc::new(FakeEngine::new());
            let gone = CancellationToken::new();
            gone.cancel();
            let (container, exec) = ("unknown".to_owned(), "1".to_owned());
            let feeder = Feeder { engine, container, exec, input: Box::pin(input), on_terminal: true, gone };
            let ended = async {
                let typed = copy(&mut keys, &mut keyboard);
                let mut nowhere = sink();
                let shown = copy(&mut screen, &mut nowhere);
                tokio::join!(feeder.feed(futures::stream::pending().boxed()), typed, shown, process.wait())
            };
            let ended = timeout(Duration::from_secs(20), ended).await;
            assert!(ended.is_ok(), "{shell} stays after {typed:?}");
        }
    }
}
