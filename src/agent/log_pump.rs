//! From a container's output to the instance's log file.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::engine::{ContainerState, Engine, LogCursor, LogStream as EngineStream, LogsFrom};
use crate::logs::{LogKey, LogLine, LogStore, LogStream, LogTime};
use crate::model::InstanceId;

/// Pause before an engine that broke off is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Pause before the log of a container that has most likely just ended is looked at again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Copies lines until the container ends or `stop` is cancelled. Resumes where an earlier run of narvana stopped.
pub(super) async fn pump(
    engine: Arc<dyn Engine>,
    container: String,
    instance: InstanceId,
    logs: LogStore,
    stop: CancellationToken,
) -> Result<(), crate::logs::Error> {
    let key = LogKey::Instance(instance);
    let writer = logs.writer(key).await?;
    let mut after = logs
        .resume(key)
        .await?
        .map(|resume| LogCursor { nanos: resume.at.0, lines: u32::try_from(resume.lines).unwrap_or(u32::MAX) });
    loop {
        let mut lines = engine.logs(&container, LogsFrom { after, tail: None, follow: true });
        let broken = loop {
            let next = tokio::select! {
                next = lines.next() => next,
                () = stop.cancelled() => None,
            };
            match next {
                None => break false,
                Some(Err(error)) => break error.is_unreachable(),
                Some(Ok(line)) => {
                    after = Some(line.cursor);
                    let stream = match line.stream {
                        EngineStream::Stdout => LogStream::Stdout,
                        EngineStream::Stderr => LogStream::Stderr,
                    };
                    writer.append(LogLine::new(LogTime(line.cursor.nanos), stream, &line.bytes)).await?;
                }
            }
        };
        if stop.is_cancelled() {
            return writer.stop().await;
        }
        if !broken && !may_say_more(&*engine, &container).await {
            // The container has ended, and it is never started again: followers need not wait for more.
            return writer.finish().await;
        }
        let pause = if broken { RETRY_AFTER } else { LOOK_AGAIN_AFTER };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return writer.stop().await,
        }
    }
}

/// Whether a log that ended is not at its end: an engine that goes away may end it as if it were.
async fn may_say_more(engine: &dyn Engine, container: &str) -> bool {
    match engine.inspect(container).await {
        Ok(seen) => seen.state == ContainerState::Running,
        Err(error) => error.is_unreachable(),
    }
}
