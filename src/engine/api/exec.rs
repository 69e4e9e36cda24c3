//! Commands inside running containers.

use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures::stream::{BoxStream, once};
use futures::{StreamExt, TryStreamExt};
use rustix::process::Pid;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::call::Call;
use super::{ApiEngine, CALL_TIME};
use crate::engine::{Attached, Error, ExecOutcome, ExecOutput, ExecSpec, TerminalSize, processes};
use crate::task::blocking;

/// Most output kept of one command; a health check that writes more has said enough.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// How soon the engine is asked again for the exit code, when the output has ended before it knows.
const EXIT_CODE_PERIOD: Duration = Duration::from_millis(20);
/// The same after a while: a command may close its output and go on.
const EXIT_CODE_PERIOD_MAX: Duration = Duration::from_secs(1);
/// The exit code that shells use for a command that does not exist.
const NO_SUCH_COMMAND: i64 = 127;

/// What a started command writes, and what it reads.
pub(super) type Pipes = (BoxStream<'static, Result<ExecOutput, Error>>, Pin<Box<dyn AsyncWrite + Send>>);

impl ApiEngine {
    pub(super) async fn run_inside(&self, id: &str, argv: &[String], limit: Duration) -> Result<ExecOutcome, Error> {
        let spec = ExecSpec { argv: argv.to_vec(), terminal: None, takes_input: false };
        let deadline = Instant::now() + limit;
        let mut output = Vec::new();
        match tokio::time::timeout_at(deadline, self.collect(id, &spec, &mut output)).await {
            Ok(Ok(code)) => Ok(ExecOutcome::Exited { code, output }),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(ExecOutcome::TimedOut { output }),
        }
    }

    /// Runs a command to its end; what it writes is added to `output`.
    async fn collect(&self, container: &str, spec: &ExecSpec, output: &mut Vec<u8>) -> Result<i64, Error> {
        let mut attached = self.attach_inside(container, spec).await?;
        while let Some(item) = attached.output.try_next().await? {
            match item {
                ExecOutput::Stdout(piece) | ExecOutput::Stderr(piece) => {
                    let room = OUTPUT_BYTES_MAX - output.len();
                    output.extend_from_slice(&piece[..piece.len().min(room)]);
                }
                ExecOutput::Exited(code) => return Ok(code),
            }
        }
        Err(self.call(format!("run a command in container {container}")).garbled("it has no end".to_owned()))
    }

    pub(super) async fn attach_inside(&self, container: &str, spec: &ExecSpec) -> Result<Attached, Error> {
        let call = self.call(format!("run a command in container {container}"));
        let config = ExecConfig {
            cmd: Some(spec.argv.clone()),
            attach_stdin: Some(spec.takes_input),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(spec.terminal.is_some()),
            ..ExecConfig::default()
        };
        let id = call.run(self.docker.create_exec(container, config)).await?.id;
        let started = match spec.terminal {
            Some(size) => self.start_on_terminal(&call, &id, size).await,
            None => self.start_apart(&call, &id).await,
        };
        let (pieces, input) = match started {
            Ok(pipes) => pipes,
            // Podman refuses to start what Docker starts and lets fail.
            Err(Error::Rejected { reason, .. }) if reason.contains("not found") => {
                let items = [Ok(ExecOutput::Stderr(reason.into())), Ok(ExecOutput::Exited(NO_SUCH_COMMAND))];
                let output = futures::stream::iter(items).boxed();
                return Ok(Attached { id, output, input: Box::pin(tokio::io::sink()) });
            }
            Err(error) => return Err(error),
        };
        let (docker, exec) = (self.docker.clone(), id.clone());
        let end = once(async move { exit_code(&docker, &call, &exec).await.map(ExecOutput::Exited) });
        Ok(Attached { id, output: pieces.chain(end).boxed(), input })
    }

    pub(super) async fn resize_terminal(&self, exec: &str, size: TerminalSize) -> Result<(), Error> {
        let options = ResizeExecOptions { height: size.rows, width: size.columns };
        self.call("resize a terminal").run(self.docker.resize_exec(exec, options)).await
    }

    /// No engine can do that, so the kernel is asked: an engine knows the number of the process.
    pub(super) async fn hang_up_terminal(&self, container: &str, exec: &str) -> Result<(), Error> {
        let call = self.call(format!("hang up a command in container {container}"));
        self.is_here().map_err(|error| call.rejected(error.to_string()))?;
        let process = async {
            loop {
                match progress(&self.docker, &call, exec).await? {
                    Progress::Ended(_) => return Ok(None),
                    Progress::Running(Some(process)) => return Ok(Some(process)),
                    // It is being started.
                    Progress::Running(None) => tokio::time::sleep(EXIT_CODE_PERIOD).await,
                }
            }
        };
        let Some(process) = call.in_time(CALL_TIME, process).await? else { return Ok(()) };
        let container = container.to_owned();
        let told = blocking(move || processes::hang_up(&container, process)).await;
        told.map_err(|error| call.rejected(error.to_string()))
    }

    /// Starts a command whose output and errors come apart.
    async fn start_apart(&self, call: &Call, exec: &str) -> Result<Pipes, Error> {
        let started = call.within(CALL_TIME, self.docker.start_exec(exec, None::<StartExecOptions>)).await?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(call.garbled("the command was not attached".to_owned()));
        };
        let call = call.clone();
        let pieces = output.map(move |piece| match piece {
            Ok(LogOutput::StdErr { message }) => Ok(ExecOutput::Stderr(message)),
            Ok(piece) => Ok(ExecOutput::Stdout(piece.into_bytes())),
            Err(error) => Err(call.error(error)),
        });
        Ok((pieces.boxed(), input))
    }

    /// Starts a command on a terminal of that size.
    async fn start_on_terminal(&self, call: &Call, exec: &str, size: TerminalSize) -> Result<Pipes, Error> {
        let pipes = call.in_time(CALL_TIME, super::terminal::start(self, call, exec)).await?;
        // A command may have ended by now, and a terminal of the wrong size is better than none.
        if let Err(error) = self.resize_terminal(exec, size).await {
            tracing::debug!(%error, "a terminal keeps the size that the engine gave it");
        }
        Ok(pipes)
    }
}

/// How far a command is.
enum Progress {
    /// It runs, once it is started as this process of the machine.
    Running(Option<Pid>),
    /// It ended with this code.
    Ended(i64),
}

async fn progress(docker: &Docker, call: &Call, exec: &str) -> Result<Progress, Error> {
    let state = call.run(docker.inspect_exec(exec)).await?;
    if let (Some(code), false) = (state.exit_code, state.running.unwrap_or(false)) {
        return Ok(Progress::Ended(code));
    }
    let process = state.pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid > 0)?));
    Ok(Progress::Running(process))
}

async fn exit_code(docker: &Docker, call: &Call, exec: &str) -> Result<i64, Error> {
    let mut pause = EXIT_CODE_PERIOD;
    loop {
        if let Progress::Ended(code) = progress(docker, call, exec).await? {
            return Ok(code);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(EXIT_CODE_PERIOD_MAX);
    }
}
