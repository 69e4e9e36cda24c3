//! Commands in instances, over a WebSocket.

use std::pin::pin;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::agent::{ExecError, ExecInput, ExecOutputs, ExecRequest};
use crate::auth::{Caller, Scoped};
use crate::engine::{ExecOutput, ExecSpec, TerminalSize};
use crate::model::{Instance, InstanceId, Role};

use super::extract::{At, Listener};
use super::gate::Gate;
use super::log_stream::RECHECK;
use super::{Error, json};

/// Longest wait for the message that says what to run.
const START_WAIT_MAX: Duration = Duration::from_secs(10);
/// Largest message of a client; larger input comes in several.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Pieces of input that wait for a command; with them full, the client waits.
const INPUTS_WAITING: usize = 4;
/// A client that gave no sign of life for so many pings has left.
const PINGS_MISSED: u32 = 3;
/// Before each piece of output: where the command wrote it.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// What a client says besides input.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Asked {
    Start {
        command: Vec<String>,
        terminal: Option<Size>,
        #[serde(default)]
        input: bool,
    },
    Resize {
        rows: u16,
        columns: u16,
    },
    End {},
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Size {
    rows: u16,
    columns: u16,
}

/// What it is told besides output.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told {
    Started,
    Exited { code: i64 },
    Error { code: &'static str, message: String },
}

/// Run a command in an instance
///
/// A WebSocket. The first message says what to run:
/// `{"type":"start","command":["sh","-c","id"],"terminal":{"rows":24,"columns":80},"input":true}`; without `terminal` the
/// command gets pipes, without `input` nothing to read. No shell reads the command. After `{"type":"started"}` binary
/// messages of the client are input; `{"type":"end"}` ends it, `{"type":"resize","rows":50,"columns":132}` resizes the
/// terminal. Binary messages of the server are output, after one byte: 1 for standard output and the terminal, 2 for standard
/// error. The last message is `{"type":"exited","code":0}`, or `{"type":"error","code":"conflict","message":"…"}` with the codes
/// of all errors. The token may be in `?token=`.
///
/// When the connection is lost, or the session ends, a terminal gets Ctrl-C and Ctrl-D, and pipes the end of input. A command that
/// heeds neither goes on until its instance ends: no container engine can end it.
#[utoipa::path(get, path = "/v1/instances/{instance}/exec", tag = "deployments",
    params(("instance" = String, Path, description = "Its id")),
    responses((status = 101, description = "The connection is a WebSocket now")))]
pub(super) async fn run(
    State(gate): State<Gate>,
    Listener(caller): Listener,
    At(instance): At<InstanceId>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Error> {
    reach(&caller, instance)?;
    let upgrade = upgrade.map_err(|rejection| {
        Error::Malformed(format!("this is a WebSocket, which takes an upgrade of HTTP/1.1: {}", rejection.body_text()))
    })?;
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| serve(gate, caller, instance, socket)))
}

/// The instance, for somebody who may run commands in it: whoever may deploy there.
fn reach(caller: &Caller, instance: InstanceId) -> Result<Scoped<Instance>, Error> {
    Ok(caller.load(Role::Member, instance)?)
}

async fn serve(gate: Gate, caller: Caller, instance: InstanceId, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let told = tokio::select! {
        told = converse(&gate, &caller, instance, &mut sink, &mut stream) => told,
        error = ended(&gate, &caller, instance) => Some(failure(&error)),
    };
    let Some(told) = told else { return };
    let last = async {
        sink.send(text(&told)).await?;
        sink.close().await
    };
    if let Ok(Err(error)) = timeout(gate.options().body_wait, last).await {
        tracing::debug!(%error, "a client left before it heard how its command ended");
    }
}

/// Runs a command; gives what the client is told last, or nothing when it has left.
async fn converse(
    gate: &Gate,
    caller: &Caller,
    instance: InstanceId,
    sink: &mut SplitSink<WebSocket, Message>,
    stream: &mut SplitStream<WebSocket>,
) -> Option<Told> {
    let spec = match timeout(START_WAIT_MAX, stream.next()).await {
        Ok(Some(Ok(Message::Text(message)))) => match spec(message.as_bytes()) {
            Ok(spec) => spec,
            Err(error) => return Some(failure(&error)),
        },
        Ok(None | Some(Err(_) | Ok(Message::Close(_)))) => return None,
        Ok(Some(Ok(_))) | Err(_) => {
            return Some(failure(&Error::Malformed("the first message must say what to run, as text".to_owned())));
        }
    };
    let (inputs, waiting) = mpsc::channel(INPUTS_WAITING);
    let outputs = match start(gate, caller, instance, spec, waiting).await {
        Ok(outputs) => outputs,
        Err(error) => return Some(failure(&error)),
    };
    sink.send(text(&Told::Started)).await.ok()?;
    let ping_every = gate.options().ping_every;
    tokio::select! {
        told = tell(sink, outputs, ping_every) => told,
        error = listen(stream, inputs, ping_every * PINGS_MISSED) => error.map(|error| failure(&error)),
    }
}

fn spec(message: &[u8]) -> Result<ExecSpec, Error> {
    match json::parse(message)? {
        Asked::Start { command, terminal, input } => {
            let terminal = terminal.map(|size| TerminalSize { rows: size.rows, columns: size.columns });
            Ok(ExecSpec { argv: command, terminal, takes_input: input })
        }
        _ => Err(Error::field("type", "must be start in the first message")),
    }
}

async fn start(
    gate: &Gate,
    caller: &Caller,
    instance: InstanceId,
    spec: ExecSpec,
    inputs: mpsc::Receiver<ExecInput>,
) -> Result<ExecOutputs, Error> {
    let found = reach(caller, instance)?;
    let request =
        ExecRequest { instance, index: gate.applied_index(), spec, inputs: ReceiverStream::new(inputs).boxed() };
    Ok(gate.exec().run(found.placement.node, request).await?)
}

/// Passes on what the command writes, to its end.
async fn tell(
    sink: &mut SplitSink<WebSocket, Message>,
    mut outputs: ExecOutputs,
    ping_every: Duration,
) -> Option<Told> {
    let mut ping = interval(ping_every);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let output = tokio::select! {
            output = outputs.next() => output,
            _ = ping.tick() => {
                sink.send(Message::Ping(bytes::Bytes::new())).await.ok()?;
                continue;
            }
        };
        let (channel, piece) = match output {
            Some(Ok(ExecOutput::Stdout(piece))) => (STDOUT, piece),
            Some(Ok(ExecOutput::Stderr(piece))) => (STDERR, piece),
            Some(Ok(ExecOutput::Exited(code))) => return Some(Told::Exited { code }),
            Some(Err(error)) => return Some(failure(&error.into())),
            None => return Some(failure(&Error::OutcomeUnknown("the command's node broke off".to_owned()))),
        };
        let mut message = BytesMut::with_capacity(1 + piece.len());
        message.put_u8(channel);
        message.put(piece);
        sink.send(Message::Binary(message.freeze())).await.ok()?;
    }
}

/// Passes on what the client sends, until it leaves or makes no sense.
async fn listen(
    stream: &mut SplitStream<WebSocket>,
    inputs: mpsc::Sender<ExecInput>,
    silent_max: Duration,
) -> Option<Error> {
    while let Ok(Some(Ok(message))) = timeout(silent_max, stream.next()).await {
        let input = match message {
            Message::Binary(bytes) => ExecInput::Data(bytes),
            Message::Text(message) => match json::parse(message.as_bytes()) {
                Ok(Asked::Resize { rows, columns }) => ExecInput::Resize(TerminalSize { rows, columns }),
                Ok(Asked::End {}) => ExecInput::End,
                Ok(Asked::Start { .. }) => return Some(Error::field("type", "must be resize or end from here on")),
                Err(error) => return Some(error),
            },
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return None,
        };
        if inputs.send(input).await.is_err() {
            // The command reads no more; how it ends is still to come.
            std::future::pending::<()>().await;
        }
    }
    None
}

/// Returns when the client may not do this any more, or the node stops.
async fn ended(gate: &Gate, caller: &Caller, instance: InstanceId) -> Error {
    let mut watch = gate.watch(caller);
    let mut recheck = interval(RECHECK);
    let mut stopping = pin!(gate.stopping().cancelled());
    loop {
        let newest = tokio::select! {
            () = &mut stopping => {
                return Error::OutcomeUnknown("this node stops; the command may go on".to_owned());
            }
            newest = watch.changed() => newest,
            _ = recheck.tick() => watch.now(),
        };
        let allowed = newest.and_then(|caller| reach(&caller, instance));
        if let Err(error) = allowed {
            return error;
        }
    }
}

fn text(told: &Told) -> Message {
    Message::Text(serde_json::to_string(told).expect("words are JSON").into())
}

fn failure(error: &Error) -> Told {
    Told::Error { code: error.status().1, message: error.body("").message() }
}

impl From<ExecError> for Error {
    fn from(error: ExecError) -> Self {
        let text = error.to_string();
        match error {
            ExecError::Invalid(_) => Self::Malformed(text),
            ExecError::NotRunning(_) => Self::Conflict(text),
            ExecError::Busy(_) => Self::RateLimited { message: text, retry_after: Duration::from_secs(5) },
            ExecError::Away(_) => Self::OutcomeUnknown(text),
        }
    }
}
