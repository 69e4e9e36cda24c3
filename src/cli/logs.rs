//! Logs of builds and instances.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::output::time;
use super::screen::short;
use super::session::{AppArg, Session};
use crate::client::view::{LogLine, MissingLogs};
use crate::client::{Error, LogFilter, LogSource};

/// How many lines are printed unless the user says otherwise.
pub(super) const TAIL_DEFAULT: u32 = 100;
/// Pause before a lost stream is asked for again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Which lines.
#[derive(Args, Debug)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    pub(super) app: AppArg,
    /// Lines of this service only
    #[arg(short, long, env = "NARVANA_SERVICE")]
    pub(super) service: Option<String>,
    /// Lines of the build instead of the program
    #[arg(short, long)]
    pub(super) build: bool,
    /// Lines of this deployment instead of the newest one
    #[arg(short, long, value_name = "ID")]
    pub(super) deployment: Option<String>,
    /// Go on printing lines as they come
    #[arg(short, long)]
    pub(super) follow: bool,
    /// How many lines, the newest ones
    #[arg(short = 'n', long, default_value_t = TAIL_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) tail: u32,
    /// Print the time of each line
    #[arg(short, long)]
    pub(super) timestamps: bool,
}

/// Prints logs.
pub(super) async fn run(session: &Session, args: LogsArgs) -> anyhow::Result<()> {
    let app = session.app(&args.app).await?;
    let filter = LogFilter {
        source: Some(if args.build { LogSource::Build } else { LogSource::Runtime }),
        deployment: args.deployment.clone(),
        build: None,
        service: args.service.clone(),
        limit: Some(args.tail),
    };
    if args.follow {
        follow(session, &app, &filter, args.timestamps).await
    } else {
        show(session, &app, &filter, args.timestamps).await
    }
}

/// Prints the lines there are.
pub(super) async fn print(session: &Session, app: &str, filter: &LogFilter) -> anyhow::Result<()> {
    show(session, app, filter, false).await
}

async fn show(session: &Session, app: &str, filter: &LogFilter, timestamps: bool) -> anyhow::Result<()> {
    let answer = session.client.logs(app, filter).await?;
    if session.output.for_programs() {
        return session.output.data(&answer.json);
    }
    if answer.view.logs.is_empty() {
        session.output.note("there are no lines");
    }
    // The API lists newest first, people read oldest first.
    for line in answer.view.logs.iter().rev() {
        session.output.log_line(&text(line, timestamps))?;
    }
    for missing in &answer.view.missing {
        session.output.note(&format!("lines are missing: {}", missing.reason));
    }
    Ok(())
}

/// Prints lines until the user has seen enough.
async fn follow(session: &Session, app: &str, filter: &LogFilter, timestamps: bool) -> anyhow::Result<()> {
    tokio::select! {
        // Also while no node answers.
        _ = tokio::signal::ctrl_c() => Ok(()),
        outcome = print_events(session, app, filter, timestamps) => outcome,
    }
}

async fn print_events(session: &Session, app: &str, filter: &LogFilter, timestamps: bool) -> anyhow::Result<()> {
    let mut last: Option<String> = None;
    let mut events = session.client.log_events(app, filter, None).await?;
    loop {
        match events.next().await {
            Some(Ok(event)) if event.name == "log" => {
                print_event(session, &event.data, timestamps)?;
                last = event.id.or(last);
            }
            Some(Ok(event)) if event.name == "missing" => {
                last = event.id.or(last);
                let missing: MissingLogs = serde_json::from_str(&event.data).unwrap_or_default();
                session.output.note(&format!("lines are missing: {}", missing.reason));
            }
            Some(Ok(event)) => last = event.id.or(last),
            // The node stopped, or the network did: another node goes on where this one was.
            None | Some(Err(Error::Broken { .. } | Error::Silent { .. })) => loop {
                tokio::time::sleep(RECONNECT_PAUSE).await;
                match session.client.log_events(app, filter, last.as_deref()).await {
                    Ok(again) => {
                        events = again;
                        break;
                    }
                    Err(error) if error.is_passing() => {}
                    Err(error) => return Err(error.into()),
                }
            },
            Some(Err(error)) => return Err(error.into()),
        }
    }
}

fn print_event(session: &Session, data: &str, timestamps: bool) -> anyhow::Result<()> {
    let Ok(json) = serde_json::from_str::<Value>(data) else { return Ok(()) };
    if session.output.for_programs() {
        return session.output.data_line(&json);
    }
    match serde_json::from_value::<LogLine>(json) {
        Ok(line) => session.output.log_line(&text(&line, timestamps)),
        Err(_) => Ok(()),
    }
}

fn text(line: &LogLine, timestamps: bool) -> String {
    let mut text = String::new();
    if timestamps {
        text.push_str(&time(line.timestamp));
        text.push(' ');
    }
    let from = [line.service_name.as_str(), short(&line.instance_id)];
    let from: Vec<&str> = from.into_iter().filter(|part| !part.is_empty()).collect();
    if !from.is_empty() {
        text.push_str(&from.join("/"));
        text.push_str(" | ");
    }
    text.push_str(&line.message);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line: LogLine = serde_json::from_value(serde_json::json!({
            "timestamp": "2023-11-14T22:13:20.123Z", "service_name": "web", "instance_id": "0198-abc", "message": "hello",
        }))
        .expect("a line");
        assert_eq!(text(&line, true), "2023-11-14T22:13:20.123Z web/abc | hello");
        assert_eq!(text(&LogLine { message: "x".into(), ..LogLine::default() }, false), "x");
    }
}
