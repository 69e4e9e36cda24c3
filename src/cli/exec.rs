//! `exec`: a command inside an instance, with this terminal or this pipe.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use bytes::BytesMut;
use clap::Args;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

use super::outcome::{Exit, failure};
use super::replicas::has_ended;
use super::session::{ServiceArg, Session};
use crate::client::{Command, Error, ExecInput, ExecOutput, ExecOutputs};

/// Bytes of input that are read at once.
const INPUT_BYTES: usize = 16 * 1024;
/// What people get when they name no command.
const SHELL: &str = "/bin/sh";
/// The size of a terminal that does not tell.
const SIZE_UNKNOWN: (u16, u16) = (24, 80);

/// Where, and what.
#[derive(Args, Debug)]
pub(super) struct ExecArgs {
    #[command(flatten)]
    pub(super) service: ServiceArg,
    /// This instance, by its id or the beginning or end of it [default: a running one of the service, the newest]
    #[arg(short = 'I', long, value_name = "ID", conflicts_with = "service")]
    pub(super) instance: Option<String>,
    /// Give the command what this one reads; without a terminal it gets nothing otherwise
    #[arg(short = 'i', long)]
    pub(super) stdin: bool,
    /// Give it no terminal, even where there is one
    #[arg(short = 'T', long)]
    pub(super) no_tty: bool,
    /// The program and its arguments; no shell reads them [default on a terminal: /bin/sh]
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

/// Runs it, and ends as it ends.
pub(super) async fn run(session: &Session, args: ExecArgs) -> anyhow::Result<()> {
    let on_terminal = !args.no_tty && io::stdin().is_terminal() && io::stdout().is_terminal();
    let argv = match (args.command.is_empty(), on_terminal) {
        (false, _) => args.command.clone(),
        (true, true) => vec![SHELL.to_owned()],
        (true, false) => {
            let message = "name a command after --, such as `narvana exec -- env`; a shell needs a terminal";
            return Err(failure(Exit::Usage, message));
        }
    };
    let instance = instance(session, &args).await?;
    let terminal = on_terminal.then(size);
    let command = Command { argv, terminal, input: on_terminal || args.stdin };
    let (input, outputs) = session.client.exec(&instance, &command).await?;
    let raw = if on_terminal { Some(RawTerminal::new()?) } else { None };
    let ended = converse(input, outputs, &command).await;
    drop(raw);
    match ended? {
        0 => Ok(()),
        code => Err(failure(Exit::Command(u8::try_from(code).unwrap_or(u8::MAX)), "")),
    }
}

/// The instance that is meant.
async fn instance(session: &Session, args: &ExecArgs) -> anyhow::Result<String> {
    if let Some(id) = args.instance.as_ref().filter(|id| id.parse::<uuid::Uuid>().is_ok()) {
        return Ok(id.clone());
    }
    let (deployments, whose) = match &args.instance {
        Some(part) => (session.client.deployments().await?.view, format!("called {part}")),
        None => {
            let (app, service) = session.service(&args.service).await?;
            let mut deployments = session.client.app_deployments(&app).await?.view;
            deployments.retain(|deployment| deployment.service_name == service);
            (deployments, format!("of {service}"))
        }
    };
    let mut running: Vec<_> = deployments
        .iter()
        .flat_map(|deployment| &deployment.instances)
        .filter(|instance| match &args.instance {
            Some(part) => !has_ended(instance) && (instance.id.0.starts_with(part) || instance.id.0.ends_with(part)),
            None => instance.status == "running",
        })
        .collect();
    // The newest last; of a service a healthy one is preferred.
    running.sort_by_key(|instance| (instance.health != "unhealthy", instance.created_at.0));
    match running.as_slice() {
        [] => Err(failure(Exit::NotFound, format!("no instance {whose} runs; `narvana ps` shows what does"))),
        [.., last] if args.instance.is_none() || running.len() == 1 => Ok(last.id.0.clone()),
        _ => Err(failure(Exit::Conflict, format!("several instances are {whose}; give more of the id"))),
    }
}

/// Carries bytes both ways until the command has ended; gives its exit code.
async fn converse(mut input: ExecInput, mut outputs: ExecOutputs, command: &Command) -> anyhow::Result<i64> {
    let feeding = feed(&mut input, command);
    tokio::pin!(feeding);
    let mut fed = false;
    loop {
        let output = tokio::select! {
            output = outputs.next() => output?,
            // What it writes is still to come, also when it takes no more input.
            _ = &mut feeding, if !fed => {
                fed = true;
                continue;
            }
        };
        match output {
            ExecOutput::Stdout(bytes) => show(&mut io::stdout(), &bytes)?,
            ExecOutput::Stderr(bytes) => show(&mut io::stderr(), &bytes)?,
            ExecOutput::Exited(code) => return Ok(code),
        }
    }
}

fn show(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

async fn feed(input: &mut ExecInput, command: &Command) -> Result<(), Error> {
    let mut stdin = tokio::io::stdin();
    let mut resized = signal(SignalKind::window_change()).ok();
    let mut open = command.input;
    loop {
        let mut bytes = BytesMut::with_capacity(INPUT_BYTES);
        tokio::select! {
            read = stdin.read_buf(&mut bytes), if open => match read {
                Ok(1..) => input.send(bytes.freeze()).await?,
                Ok(0) | Err(_) => {
                    open = false;
                    input.end().await?;
                }
            },
            () = change(&mut resized), if command.terminal.is_some() => input.resize(size()).await?,
            else => return std::future::pending().await,
        }
    }
}

async fn change(resized: &mut Option<tokio::signal::unix::Signal>) {
    match resized {
        Some(resized) => drop(resized.recv().await),
        None => std::future::pending().await,
    }
}

fn size() -> (u16, u16) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => SIZE_UNKNOWN,
    }
}

/// This terminal with every key passed on as it is, until it is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn new() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.0) {
            super::output::warn(&format!("the terminal cannot be set back ({error}); type `reset`"));
        }
    }
}
