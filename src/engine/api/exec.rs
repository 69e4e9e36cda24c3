//! Commands inside running containers.

use std::time::Duration;

use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures::StreamExt;
use tokio::time::Instant;

use super::call::Call;
use super::{ApiEngine, CALL_TIME};
use crate::engine::{Error, ExecOutcome};

/// Most output kept of one command; a health check that writes more has said enough.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// How often the engine is asked for the exit code, when the output has ended before it knows.
const EXIT_CODE_PERIOD: Duration = Duration::from_millis(20);
/// The exit code that shells use for a command that does not exist.
const NO_SUCH_COMMAND: i64 = 127;

impl ApiEngine {
    pub(super) async fn run_inside(&self, id: &str, argv: &[String], limit: Duration) -> Result<ExecOutcome, Error> {
        let call = self.call(format!("run a command in container {id}"));
        let config = ExecConfig {
            cmd: Some(argv.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let deadline = Instant::now() + limit;
        let exec = call.run(self.docker.create_exec(id, config)).await?.id;
        let mut output = Vec::new();
        match tokio::time::timeout_at(deadline, self.collect(&call, &exec, &mut output)).await {
            Ok(Ok(code)) => Ok(ExecOutcome::Exited { code, output }),
            // Podman refuses to start what Docker starts and lets fail.
            Ok(Err(Error::Rejected { reason, .. })) if reason.contains("not found") => {
                Ok(ExecOutcome::Exited { code: NO_SUCH_COMMAND, output: reason.into_bytes() })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(ExecOutcome::TimedOut { output }),
        }
    }

    /// Runs a prepared command to its end; what it writes is added to `output`.
    async fn collect(&self, call: &Call, exec: &str, output: &mut Vec<u8>) -> Result<i64, Error> {
        let attached = call.within(CALL_TIME, self.docker.start_exec(exec, None::<StartExecOptions>)).await?;
        if let StartExecResults::Attached { output: mut pieces, .. } = attached {
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|error| call.error(error))?.into_bytes();
                let room = OUTPUT_BYTES_MAX - output.len();
                output.extend_from_slice(&piece[..piece.len().min(room)]);
            }
        }
        loop {
            let state = call.run(self.docker.inspect_exec(exec)).await?;
            if let (Some(code), false) = (state.exit_code, state.running.unwrap_or(false)) {
                return Ok(code);
            }
            tokio::time::sleep(EXIT_CODE_PERIOD).await;
        }
    }
}
