//! Notices that the engine does not answer, and that it does again.
//!
//! A hung engine keeps connections open and ends no stream, so it is asked again and again. What is noticed goes on record
//! only when it changes: nothing here enters the log while all is well.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::engine::{self, Engine, Kind};

use super::{EngineState, Parts};

/// Pause between two questions to an engine that answers. With the time limit of a ping (5 s) a hung engine is noticed
/// within 7 s.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Pause before one that did not answer is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// An engine that was silent no longer than this is not in trouble: a service that is restarted comes back at once.
const TOLERATED: Duration = Duration::from_secs(3);

/// Asks until told to stop. `wake` is told when an engine that was in trouble answers again.
pub(super) async fn keep_asking(parts: Parts, state: EngineState, wake: Arc<Notify>) -> Result<(), Infallible> {
    let quit = parts.supervisor.stopping();
    let work = async {
        let mut engines = parts.engine.clone();
        let mut answered_at = Instant::now();
        let mut in_trouble = false;
        loop {
            let Ok(engine) = engines.wait_for(Option::is_some).await.map(|engine| engine.clone()) else { return };
            let Some(engine) = engine else { continue };
            match engine.ping().await {
                Ok(()) => {
                    answered_at = Instant::now();
                    if in_trouble {
                        tracing::info!(engine = %engine.describe(), "the container engine answers again");
                        in_trouble = false;
                        state.set_silent(None);
                        wake.notify_one();
                    }
                    tokio::time::sleep(ASK_EVERY).await;
                }
                Err(error) => {
                    if !in_trouble && answered_at.elapsed() >= TOLERATED {
                        tracing::error!(%error, "the container engine does not answer; what runs is left alone");
                        in_trouble = true;
                        state.set_silent(Some(advice(&*engine, &error)));
                    }
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
            }
        }
    };
    quit.run_until_cancelled(work).await;
    Ok(())
}

/// What is seen, what it means and what to do. The same words as long as the trouble lasts.
fn advice(engine: &dyn Engine, error: &engine::Error) -> String {
    let program = match engine.describe().kind {
        Kind::Podman => "podman.socket",
        Kind::Docker | Kind::Fake => "docker",
    };
    format!(
        "{error}. Nothing is started or stopped here until it does, and nothing that runs is given up. Look at it with \
         `systemctl status {program}` and restart it with `systemctl restart {program}`, or however it was started"
    )
}
