//! Following a deployment until it has come up, failed, or the wait for it has ended.
//!
//! The stream of events says when to look and brings the build's log; what is true is always read anew. A lost stream
//! therefore costs lines of a log and a moment, never the outcome.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::outcome::{Exit, failure};
use super::screen::Screen;
use super::service::title;
use super::session::Session;
use super::wait::WaitArgs;
use crate::client::view::{Build, Deployment, LogLine};
use crate::client::{Answer, Client, Error, Event, Events};

/// How long a cluster without a quorum is waited for: an election takes a second or two, a machine that starts again a
/// minute.
const QUORUM_WAIT: Duration = Duration::from_secs(60);
/// How often the deployment is looked at when nothing is heard.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the last lines of a build's log are waited for once the outcome is known.
const LAST_LINES_WAIT: Duration = Duration::from_millis(500);
/// Most log lines in a report.
const TAIL_LINES_MAX: usize = 20;

/// How following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The deployment will not change by itself any more.
    Settled,
    /// The time was up.
    TimedOut,
    /// The user had seen enough.
    Interrupted,
}

/// Ends a command that has begun a deployment: follows it, or shows it when nobody wants to wait.
pub(super) async fn finish(session: &Session, begun: &Answer<Deployment>, wait: &WaitArgs) -> anyhow::Result<()> {
    let output = &session.output;
    if wait.no_wait {
        return output.show(begun, super::deployment::fields);
    }
    let (answer, end) = follow(session, begun, wait.timeout).await?;
    let deployment = &answer.view;
    let running = end == End::Settled && deployment.status == "running";
    if output.for_programs() {
        output.data(&answer.json)?;
    }
    if running {
        output.note(&format!("{} is running", title(deployment)));
        if !output.for_programs() && !deployment.url.is_empty() {
            output.text(&deployment.url)?;
        }
        return Ok(());
    }
    Err(match end {
        End::Settled => {
            let build = match deployment.build_id.0.as_str() {
                "" => None,
                id => session.client.build(id).await.ok().map(|answer| answer.view),
            };
            failure(Exit::Failed, failure_text(deployment, build.as_ref()))
        }
        End::TimedOut | End::Interrupted => {
            let exit = if end == End::TimedOut { Exit::StillRunning } else { Exit::Interrupted };
            let message = format!(
                "{} is still {} and goes on\n  next: `narvana deployment show {}` shows how far it is",
                title(deployment),
                deployment.status,
                deployment.id
            );
            failure(exit, message)
        }
    })
}

async fn follow(
    session: &Session,
    begun: &Answer<Deployment>,
    longest: Duration,
) -> anyhow::Result<(Answer<Deployment>, End)> {
    let mut latest = begun.clone();
    // Before the first wait, and for all of them: a node that is away must not make a command that nobody can end.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to Ctrl-C")?;
    let end = tokio::select! {
        end = watch(session, &mut latest, Instant::now() + longest) => end?,
        _ = interrupt.recv() => End::Interrupted,
    };
    Ok((latest, end))
}

/// Shows what becomes of a deployment, and keeps the latest answer about it.
async fn watch(session: &Session, latest: &mut Answer<Deployment>, deadline: Instant) -> Result<End, Error> {
    let mut screen = Screen::new(&session.output);
    let mut seen = Deployment::default();
    let mut stream = Stream { client: &session.client, id: latest.view.id.0.clone(), events: None, last: None };
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    looks.tick().await;
    loop {
        stream.connect().await?;
        *latest = look(&session.client, &stream.id, deadline, &screen).await?;
        screen.deployment(&seen, &latest.view);
        seen.clone_from(&latest.view);
        if seen.is_settled() || seen.status == "stopping" {
            // A build that failed says why in its last lines; one that succeeded has said everything long ago.
            if seen.status == "failed" {
                stream.last_lines(&mut screen).await;
            }
            return Ok(End::Settled);
        }
        loop {
            tokio::select! {
                () = sleep_until(deadline) => return Ok(End::TimedOut),
                _ = looks.tick() => break,
                event = stream.next() => match event {
                    Some(event) => match build_line(&event) {
                        Some(line) => screen.build_line(&line),
                        None => break,
                    },
                    // Tried again with the next look.
                    None => stream.events = None,
                },
            }
        }
    }
}

/// Reads the deployment. A node that is away for a moment is no reason to give up, nor is an election.
async fn look(client: &Client, id: &str, deadline: Instant, screen: &Screen) -> Result<Answer<Deployment>, Error> {
    let mut told = false;
    let patient_until = deadline.min(Instant::now() + QUORUM_WAIT);
    loop {
        match client.deployment(id).await {
            Err(error)
                if error.is_passing()
                    && Instant::now() < if error.code() == "no_quorum" { patient_until } else { deadline } =>
            {
                if !told {
                    screen.note(&format!("{error}; trying again"));
                }
                told = true;
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            outcome => return outcome,
        }
    }
}

/// The events of one deployment, over as many connections as it takes.
struct Stream<'a> {
    client: &'a Client,
    id: String,
    events: Option<Events>,
    /// The last event that came, to go on after it.
    last: Option<String>,
}

impl Stream<'_> {
    async fn connect(&mut self) -> Result<(), Error> {
        if self.events.is_none() {
            match self.client.deployment_events(&self.id, self.last.as_deref()).await {
                Ok(events) => self.events = Some(events),
                // Looking goes on without it; a refusal would be said by the look too.
                Err(Error::Unreachable { .. } | Error::Broken { .. } | Error::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next event, `None` when the connection ended; never without one.
    async fn next(&mut self) -> Option<Event> {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        let event = events.next().await?.ok()?;
        if event.id.is_some() {
            self.last.clone_from(&event.id);
        }
        Some(event)
    }

    async fn last_lines(&mut self, screen: &mut Screen) {
        let until_end = async {
            while let Some(event) = self.next().await {
                if let Some(line) = build_line(&event) {
                    screen.build_line(&line);
                }
            }
        };
        // A stream that goes on says nothing that matters any more.
        let _ = timeout(LAST_LINES_WAIT, until_end).await;
    }
}

/// The text of a log line, if that is what an event is.
fn build_line(event: &Event) -> Option<String> {
    if event.name != "log" {
        return None;
    }
    let line: LogLine = serde_json::from_str(&event.data).ok()?;
    Some(line.message)
}

/// Cause, last log lines and fix of a deployment that did not come up.
fn failure_text(deployment: &Deployment, build: Option<&Build>) -> String {
    let title = title(deployment);
    if deployment.status != "failed" {
        return format!(
            "{title} was {}: a newer deployment replaced it, or somebody stopped the service\n  next: `narvana service show {}` shows what runs now",
            deployment.status, deployment.service_name
        );
    }
    let failure = build.map(|build| &build.failure).filter(|failure| !failure.message.is_empty());
    let failed = deployment.instances.iter().rfind(|instance| !instance.log_tail.is_empty());
    let first = |texts: [&str; 2]| texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default().to_owned();
    let cause = first([&deployment.reason, failure.map_or("", |failure| &failure.message)]);
    let tail = [
        Some(&deployment.log_tail),
        failure.map(|failure| &failure.log_tail),
        failed.map(|instance| &instance.log_tail),
    ];
    let tail = tail.into_iter().flatten().find(|tail| !tail.is_empty());
    // The reason of a failed build ends with it.
    let step = failure.map_or("", |failure| &failure.next_step);
    let step = if cause.contains(step) { "" } else { step };

    let mut text = format!("{title} failed");
    if !cause.is_empty() {
        text.push_str(&format!(": {cause}"));
    }
    if let Some(lines) = tail {
        text.push_str("\n  last log lines:");
        for line in &lines[lines.len().saturating_sub(TAIL_LINES_MAX)..] {
            text.push_str("\n    ");
            text.push_str(line);
        }
    }
    text.push_str("\n  next: ");
    text.push_str(&match step {
        "" => format!("`narvana explain {}` says more; fix the cause and deploy again", deployment.id),
        step => step.to_owned(),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> T {
        serde_json::from_value(json).expect("valid")
    }

    #[test]
    fn a_failed_deployment_says_cause_last_lines_and_fix() {
        let deployment: Deployment = read(serde_json::json!({
            "id": "d1", "service_name": "web", "version": 3, "status": "failed", "reason": "the build failed",
        }));
        let build: Build = read(serde_json::json!({
            "failure": {"build_code": "BUILD_FAILED", "message": "a step failed", "next_step": "repair line 3", "log_tail": ["a", "b"]},
        }));
        assert_eq!(
            failure_text(&deployment, Some(&build)),
            "web v3 failed: the build failed\n  last log lines:\n    a\n    b\n  next: repair line 3"
        );
        let unhealthy: Deployment = read(serde_json::json!({
            "id": "d1", "service_name": "web", "version": 3, "status": "failed", "reason": "it exits",
            "instances": [{"id": "i", "status": "failed", "log_tail": ["no such file"]}],
        }));
        let text = failure_text(&unhealthy, None);
        assert!(text.contains("no such file") && text.contains("narvana explain d1"), "{text}");
    }

    #[test]
    fn log_lines_are_told_from_changes() {
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into(), id: None };
        assert_eq!(build_line(&event("log", r#"{"message":"STEP 1"}"#)).as_deref(), Some("STEP 1"));
        assert_eq!(build_line(&event("deployment", r#"{"status":"running"}"#)), None);
    }
}
