//! Finds this node's container engine, and keeps looking while there is none.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::agent::EngineState;
use crate::engine::{self, Engine};
use crate::task::Supervisor;

/// Pause between two looks for an engine.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Looks until an engine is found and publishes it. A node without an engine still serves everything else.
pub(super) async fn search(
    options: engine::Options,
    found: watch::Sender<Option<Arc<dyn Engine>>>,
    state: EngineState,
    supervisor: Supervisor,
) -> Result<(), Infallible> {
    let quit = supervisor.stopping();
    loop {
        let looked = tokio::select! {
            looked = engine::find(&options, &supervisor) => looked,
            () = quit.cancelled() => return Ok(()),
        };
        match looked {
            Ok(engine) => {
                tracing::info!(engine = %engine.engine.describe(), how = engine.how, "container engine found");
                state.set_found(Ok(engine.engine.describe().to_string()));
                found.send_replace(Some(engine.engine));
                // Dropping the sender would tell everybody that the search is over for good.
                quit.cancelled().await;
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%error, "no container engine; looking again");
                state.set_found(Err(error.to_string()));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN_AFTER) => {}
            () = quit.cancelled() => return Ok(()),
        }
    }
}
