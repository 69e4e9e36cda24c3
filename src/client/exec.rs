//! Commands in instances, over a WebSocket.

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Error, Refusal};

/// What precedes each piece of output: where the command wrote it.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// What to run.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program and its arguments; no shell reads them.
    pub argv: Vec<String>,
    /// Rows and columns of its terminal; none when it gets pipes.
    pub terminal: Option<(u16, u16)>,
    /// Whether it gets input.
    pub input: bool,
}

/// What comes from a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its standard output, or of its terminal.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// It ended, with this exit code; the last that comes.
    Exited(i64),
}

type Socket = WebSocketStream<reqwest::Upgraded>;

/// What a running command reads.
pub struct Input {
    sink: SplitSink<Socket, Message>,
    from: String,
}

/// What it writes.
pub struct Outputs {
    stream: SplitStream<Socket>,
    from: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told {
    Started,
    Exited {
        code: i64,
    },
    Error {
        code: String,
        message: String,
    },
    #[serde(other)]
    Unknown,
}

/// Starts a command on a connection that was answered with `101 Switching Protocols`.
pub(super) async fn start(
    response: reqwest::Response,
    key: &str,
    command: &Command,
    from: String,
) -> Result<(Input, Outputs), Error> {
    let accepted = response
        .headers()
        .get("sec-websocket-accept")
        .is_some_and(|accept| accept == &derive_accept_key(key.as_bytes()));
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS || !accepted {
        let reason = format!("HTTP status {} instead of a WebSocket", response.status().as_u16());
        return Err(Error::Answer { from, reason });
    }
    let upgraded = match response.upgrade().await {
        Ok(upgraded) => upgraded,
        Err(source) => return Err(Error::Broken { from, source }),
    };
    let (sink, stream) = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await.split();
    let (mut input, mut outputs) = (Input { sink, from: from.clone() }, Outputs { stream, from });
    let terminal = command.terminal.map(|(rows, columns)| json!({"rows": rows, "columns": columns}));
    let start = json!({"type": "start", "command": command.argv, "terminal": terminal, "input": command.input});
    input.say(&start).await?;
    match outputs.told().await? {
        Said::Started => Ok((input, outputs)),
        Said::Output(_) => Err(outputs.unexpected("output before the command was started")),
    }
}

enum Said {
    Started,
    Output(Output),
}

impl Input {
    /// Bytes for the command to read.
    ///
    /// # Errors
    /// [`Error::Cut`].
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.pass(Message::Binary(bytes)).await
    }

    /// There are no more bytes.
    ///
    /// # Errors
    /// [`Error::Cut`].
    pub async fn end(&mut self) -> Result<(), Error> {
        self.say(&json!({"type": "end"})).await
    }

    /// Its terminal has another size.
    ///
    /// # Errors
    /// [`Error::Cut`].
    pub async fn resize(&mut self, (rows, columns): (u16, u16)) -> Result<(), Error> {
        self.say(&json!({"type": "resize", "rows": rows, "columns": columns})).await
    }

    async fn say(&mut self, words: &Value) -> Result<(), Error> {
        self.pass(Message::Text(words.to_string().into())).await
    }

    async fn pass(&mut self, message: Message) -> Result<(), Error> {
        self.sink.send(message).await.map_err(|error| cut(&self.from, &error))
    }
}

impl Outputs {
    /// The next piece. Safe to drop while it waits.
    ///
    /// # Errors
    /// [`Error::Cut`] when the connection broke, [`Error::Refused`] when the node says why it goes no further.
    pub async fn next(&mut self) -> Result<Output, Error> {
        match self.told().await? {
            Said::Output(output) => Ok(output),
            Said::Started => Err(self.unexpected("a second start")),
        }
    }

    async fn told(&mut self) -> Result<Said, Error> {
        loop {
            let message = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(cut(&self.from, &error)),
                None => return Err(cut(&self.from, &tungstenite::Error::ConnectionClosed)),
            };
            match message {
                Message::Binary(mut bytes) if !bytes.is_empty() => {
                    let channel = bytes.split_to(1);
                    return match channel[0] {
                        STDOUT => Ok(Said::Output(Output::Stdout(bytes))),
                        STDERR => Ok(Said::Output(Output::Stderr(bytes))),
                        _ => continue,
                    };
                }
                Message::Text(words) => match serde_json::from_str(&words) {
                    Ok(Told::Started) => return Ok(Said::Started),
                    Ok(Told::Exited { code }) => return Ok(Said::Output(Output::Exited(code))),
                    Ok(Told::Error { code, message }) => {
                        return Err(Error::Refused(Box::new(Refusal { code, message, ..Refusal::default() })));
                    }
                    Ok(Told::Unknown) => {}
                    Err(error) => return Err(self.unexpected(&error.to_string())),
                },
                _ => {}
            }
        }
    }

    fn unexpected(&self, reason: &str) -> Error {
        Error::Answer { from: self.from.clone(), reason: reason.to_owned() }
    }
}

fn cut(from: &str, error: &tungstenite::Error) -> Error {
    Error::Cut { from: from.to_owned(), reason: error.to_string() }
}
